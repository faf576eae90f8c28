//! A filter on the command line: `FIELD=VALUE`, or the table of a route's `when`, in TOML as in the configuration or in JSON.

use router_core::filter::EventFilter;
use serde_json::{Map, Value, json};

use crate::WrongUsage;

/// The filter that all of `texts` together are; none where there is none.
///
/// # Errors
///
/// [`WrongUsage`] for what is neither, and for what no event could fit.
pub(crate) fn tree(texts: &[String]) -> Result<Option<Value>, WrongUsage> {
    let mut when = Map::new();
    for text in texts {
        let part = if text.trim_start().starts_with('{') { table(text)? } else { field(text)? };
        for (name, value) in part {
            if when.contains_key(&name) {
                return Err(WrongUsage(format!("`{name}` is asked for twice; several values of one field are a list: `{{ {name} = [\"a\", \"b\"] }}`")));
            }
            when.insert(name, value);
        }
    }
    if when.is_empty() {
        return Ok(None);
    }
    let when = Value::Object(when);
    EventFilter::compile(&when).map_err(|problems| {
        let problems: Vec<String> = problems
            .into_iter()
            .map(|problem| {
                let help = problem.help.map(|help| format!(" ({help})")).unwrap_or_default();
                let place = problem.path.join(".");
                if place.is_empty() { format!("{}{help}", problem.message) } else { format!("`{place}`: {}{help}", problem.message) }
            })
            .collect();
        WrongUsage(format!("the filter is wrong: {}", problems.join("; ")))
    })?;
    Ok(Some(when))
}

/// `FIELD=VALUE`. A number or a truth value fits both itself and its text, so that nobody has to know how the producer wrote it.
pub(crate) fn field(text: &str) -> Result<Map<String, Value>, WrongUsage> {
    let Some((name, value)) = text.split_once('=').map(|(name, value)| (name.trim(), value)).filter(|(name, _)| !name.is_empty()) else {
        return Err(WrongUsage(format!("`{text}` is not of the form FIELD=VALUE")));
    };
    let mut values = vec![json!(value)];
    values.extend(serde_json::from_str::<Value>(value).ok().filter(|value| value.is_number() || value.is_boolean()));
    Ok(Map::from_iter([(name.to_owned(), Value::Array(values))]))
}

fn table(text: &str) -> Result<Map<String, Value>, WrongUsage> {
    if let Ok(map) = serde_json::from_str(text) {
        return Ok(map);
    }
    #[derive(serde::Deserialize)]
    struct Line {
        when: Map<String, Value>,
    }
    match toml::from_str::<Line>(&format!("when = {}", text.trim())) {
        Ok(line) => Ok(line.when),
        Err(error) => Err(WrongUsage(format!("`{text}` is no table of a filter: {}", error.message().lines().next().unwrap_or_default()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Result<Option<Value>, String> {
        tree(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).map_err(|wrong| wrong.0)
    }

    #[test]
    fn fields_and_tables_are_read_and_joined() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["tool_name=Write"]), Ok(Some(json!({ "tool_name": ["Write"] }))));
        assert_eq!(of(&["payload.count=3"]), Ok(Some(json!({ "payload.count": ["3", 3] }))));
        let toml = of(&["{ tool_name = [\"Write\"], file_path = [{ suffix = \".py\" }] }", "session_id=s-1"]).unwrap();
        assert_eq!(toml, Some(json!({ "tool_name": ["Write"], "file_path": [{ "suffix": ".py" }], "session_id": ["s-1"] })));
        assert_eq!(of(&[r#"{"tool_name":["Write"]}"#]), Ok(Some(json!({ "tool_name": ["Write"] }))));
    }

    #[test]
    fn what_is_no_filter_is_said_to_be_none() {
        for (texts, part) in [
            (&["Write"][..], "FIELD=VALUE"),
            (&["=x"], "FIELD=VALUE"),
            (&["a=1", "a=2"], "asked for twice"),
            (&["{ tool_name = [ }"], "no table of a filter"),
            (&["{ tool_name = [{ sufix = \".py\" }] }"], "the filter is wrong"),
        ] {
            let said = of(texts).unwrap_err();
            assert!(said.contains(part), "{texts:?}: {said}");
        }
    }
}
