//! What may have been meant where a clause fails: a value that differs only in letter case, or another place of the event that has
//! what is wanted.

use router_api::{Envelope, Field, FieldPath};
use serde_json::Value;

use super::{clause::Clause, show};

/// Values of a body that are looked at.
const VALUES_MAX: usize = 10_000;
/// Longer texts are contents, no names.
const TEXT_BYTES_MAX: usize = 512;

pub(super) fn of(field: &FieldPath, clauses: &[Clause], actual: Option<&Field<'_>>, event: &Envelope) -> Option<String> {
    if let Some(text) = actual.and_then(Field::as_str)
        && clauses.iter().any(|clause| clause.fits_in_another_case(text))
    {
        return Some("it differs only in upper and lower case".to_owned());
    }
    // Every text of a body fits these: nothing would be said by them.
    if !clauses.iter().all(Clause::names_texts) {
        return None;
    }
    let mut search = Search { clauses, except: actual.and_then(Field::as_str), left: VALUES_MAX, words: Vec::new() };
    let found = if std::ptr::eq(event.payload(), event.body()) { None } else { search.below("payload", event.payload()) };
    search.words.clear();
    let (path, text) = found.or_else(|| search.below("raw", event.body()))?;
    if path == field.as_str() {
        return None;
    }
    Some(format!("`{}` is {}", show::plain(&path), show::text(text)))
}

/// Looks for a text that fits.
struct Search<'s> {
    clauses: &'s [Clause],
    /// The value that does not fit, wherever it stands.
    except: Option<&'s str>,
    left: usize,
    words: Vec<String>,
}

impl Search<'_> {
    fn below<'v>(&mut self, root: &str, value: &'v Value) -> Option<(String, &'v str)> {
        let text = self.find(value)?;
        // Spelled as a filter would have to write it.
        let path = root.parse::<FieldPath>().ok()?;
        let path = self.words.iter().try_fold(path, |path, word| path.join(word)).ok()?;
        Some((path.as_str().to_owned(), text))
    }

    /// The nearest to the top in the order of the body; leaves the way to it in `words`. Events are not deeper than their limit.
    fn find<'v>(&mut self, value: &'v Value) -> Option<&'v str> {
        self.left = self.left.checked_sub(1)?;
        match value {
            Value::String(text) => {
                let is_name = text.len() <= TEXT_BYTES_MAX && !text.contains('\n') && self.except != Some(text);
                (is_name && self.clauses.iter().any(|clause| clause.fits(Some(&Field::Value(value))))).then_some(text)
            }
            Value::Object(members) => members.iter().find_map(|(name, value)| self.inside(name.clone(), value)),
            Value::Array(items) => items.iter().enumerate().find_map(|(place, value)| self.inside(place.to_string(), value)),
            _ => None,
        }
    }

    fn inside<'v>(&mut self, word: String, value: &'v Value) -> Option<&'v str> {
        self.words.push(word);
        let found = self.find(value);
        if found.is_none() {
            self.words.pop();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use router_api::DecodeLimits;
    use serde_json::json;

    use crate::filter::EventFilter;

    fn hint(when: serde_json::Value, payload: serde_json::Value) -> (Option<String>, Vec<String>) {
        let body = json!({ "event_id": "e", "event_type": "a.b", "payload": payload });
        let event = router_api::Envelope::decode("a.b".parse().unwrap(), body.to_string(), DecodeLimits::default()).unwrap();
        let failure = EventFilter::compile(&when).unwrap().first_failure(&event).unwrap();
        (failure.hint, failure.looked_in)
    }

    #[test]
    fn a_missing_field_says_where_it_was_looked_for_and_what_else_would_fit() {
        let (told, looked_in) = hint(json!({ "file_path": { "suffix": ".py" } }), json!({ "files_modified": ["/x/a.md", "/x/a.py"] }));
        assert_eq!(told.as_deref(), Some("`payload.files_modified.1` is \"/x/a.py\""));
        assert_eq!(looked_in[0], "payload.tool_metadata.tool_input.file_path");
        let (told, looked_in) = hint(json!({ "payload.x": "y" }), json!({ "z": "y" }));
        assert_eq!((told.as_deref(), looked_in.len()), (Some("`payload.z` is \"y\""), 0));
    }

    #[test]
    fn a_value_in_another_case_is_said_to_be_one() {
        for when in [json!({ "tool_name": "Write" }), json!({ "tool_name": { "prefix": "Wri" } }), json!({ "tool_name": ["Edit", { "wildcard": "W*te" }] })] {
            assert_eq!(hint(when, json!({ "tool_name": "write" })).0.as_deref(), Some("it differs only in upper and lower case"));
        }
        assert_eq!(hint(json!({ "tool_name": "Write" }), json!({ "tool_name": "Read" })).0, None);
    }

    #[test]
    fn contents_and_clauses_that_anything_fits_give_no_hint() {
        let content = format!("{}.py", "x".repeat(600));
        assert_eq!(hint(json!({ "file_path": { "suffix": ".py" } }), json!({ "content": content, "two": "lines\n.py" })).0, None);
        assert_eq!(hint(json!({ "file_path": { "anything-but": "a" } }), json!({ "b": "c" })).0, None);
        assert_eq!(hint(json!({ "file_path": { "exists": true } }), json!({ "b": "c" })).0, None);
    }
}
