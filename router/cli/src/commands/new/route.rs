//! `new route NAME`: a commented route for a plugin, made from the schema of its options.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use router_api::{Registry, RouteName, RoutingPattern, suggest};
use serde_json::Value;

use crate::{
    commands::plugins::{description, kind, resolved, summary},
    terminal::{GOOD, NAME, Output, harmless, styled},
};

/// Comments are broken before this column.
const COLUMNS: usize = 100;

/// Stands at each line that nobody but the author can fill in.
const FILL_IN: &str = "# fill in";

pub(super) fn run(name: &RouteName, handler: &str, on: &[RoutingPattern], append: Option<&Path>, out: &mut Output) -> anyhow::Result<()> {
    let registry = Registry::linked()?;
    let Some(plugin) = registry.get(handler) else {
        let linked: Vec<String> = registry.iter().map(|plugin| format!("`{}`", plugin.name)).collect();
        let near = suggest(handler, registry.iter().map(|plugin| plugin.name)).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        bail!("no plugin `{}` is linked into this program: {near}there are {}", harmless(handler), linked.join(", "));
    };
    let text = route(name, handler, on, &plugin.schema().to_value());
    let Some(file) = append else {
        out.text(text)?;
        return Ok(());
    };
    let before = match fs::read_to_string(file) {
        Ok(before) => before,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("`{}` cannot be read", file.display())),
    };
    if before.lines().any(|line| line.split('#').next().unwrap_or_default().replace(' ', "").trim() == format!("name=\"{name}\"")) {
        bail!("`{}` has something called `{name}` already: choose another name", file.display());
    }
    let gap = if before.is_empty() || before.ends_with("\n\n") {
        ""
    } else if before.ends_with('\n') {
        "\n"
    } else {
        "\n\n"
    };
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).with_context(|| format!("`{}` cannot be made", directory.display()))?;
    }
    let mut opened = OpenOptions::new().append(true).create(true).open(file).with_context(|| format!("`{}` cannot be written", file.display()))?;
    // In one piece: whoever reads the file meanwhile sees all of the route or nothing.
    opened.write_all(format!("{gap}{text}").as_bytes()).with_context(|| format!("`{}` cannot be written", file.display()))?;
    let to_do = text.lines().filter(|line| line.ends_with(FILL_IN)).count();
    out.line(format_args!("{} route {} in `{}`", styled(GOOD, "✓"), styled(NAME, name), harmless(&file.display().to_string())))?;
    if to_do > 0 {
        out.line(format_args!("Fill in what is marked `{FILL_IN}`, then `event-router check`"))?;
    }
    Ok(())
}

/// The route as TOML. It is in shadow mode, so that it may be switched on before all is thought of.
fn route(name: &RouteName, handler: &str, on: &[RoutingPattern], schema: &Value) -> String {
    let mut text = String::new();
    comment(&mut text, &summary(schema));
    let patterns: Vec<String> = on.iter().map(|pattern| quoted(pattern.as_str())).collect();
    let _ = writeln!(text, "[[route]]\nname = {}", quoted(name.as_str()));
    let _ =
        writeln!(text, "mode = \"shadow\"                       # decides on live events and writes nothing outside; take it out when you like what you see");
    let _ = writeln!(text, "on = [{}]", patterns.join(", "));
    let _ = writeln!(text, "# when = {{ tool_name = [\"Write\", \"Edit\"] }}      # which of these events; all of them without it");
    let _ = writeln!(text, "# order_by = \"session_id\"             # one after the other in a session");
    let _ = writeln!(text, "handler = {}", quoted(handler));

    let schema = resolved(schema, schema);
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let options: Vec<(&String, &Value)> = schema["properties"].as_object().into_iter().flatten().collect();
    if !options.is_empty() {
        text.push_str("\n[route.with]\n");
    }
    // What must be there first: TOML would put an option behind an inner table into that table.
    let (needed, free): (Vec<_>, Vec<_>) = options.into_iter().partition(|(option, _)| required.contains(&option.as_str()));
    for (option, property) in needed {
        about(&mut text, schema, property);
        let _ = writeln!(text, "{option} = {}    {FILL_IN}", sample(schema, property));
    }
    for (option, property) in free {
        about(&mut text, schema, property);
        match property.get("default").filter(|default| !default.is_null()).and_then(inline) {
            Some(default) => {
                let _ = writeln!(text, "# {option} = {default}");
            }
            None => {
                let _ = writeln!(text, "# {option} =    ({})", kind(schema, property));
            }
        }
    }
    text
}

fn about(text: &mut String, root: &Value, property: &Value) {
    let own = description(property);
    comment(text, &if own.is_empty() { description(resolved(root, property)) } else { own });
}

/// Lines of at most [`COLUMNS`], each behind `# `.
fn comment(text: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS && line != "#" {
            text.push_str(&line);
            text.push('\n');
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    if line != "#" {
        text.push_str(&line);
        text.push('\n');
    }
}

/// A value of the right type that says that it is none.
fn sample(root: &Value, property: &Value) -> String {
    let schema = resolved(root, property);
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()).or(schema.get("const")) {
        return inline(first).unwrap_or_else(|| "\"\"".to_owned());
    }
    if let Some(example) = schema["examples"].as_array().and_then(|examples| examples.first()).and_then(inline) {
        return example;
    }
    let format = schema["format"].as_str().unwrap_or_default();
    let kind = match &schema["type"] {
        Value::String(kind) => kind.as_str(),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("string"),
        _ => "string",
    };
    match kind {
        "array" => format!("[{}]", sample(root, &schema["items"])),
        "boolean" => "false".to_owned(),
        "integer" | "number" => schema["minimum"].as_u64().unwrap_or(0).max(1).to_string(),
        "object" => "{}".to_owned(),
        _ if format.contains("endpoint") || format.contains("url") || format.contains("uri") => quoted("http://fill-in.invalid/"),
        _ => quoted("fill-in"),
    }
}

/// A JSON value as TOML on one line; `None` for what TOML has no word for.
fn inline(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Option<Vec<_>>>()?.join(", ")),
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let pairs: Option<Vec<String>> = fields.iter().map(|(name, value)| Some(format!("{} = {}", quoted(name), inline(value)?))).collect();
            format!("{{ {} }}", pairs?.join(", "))
        }
    })
}

/// A JSON string is a TOML string, but for DEL.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn needed_options_stand_first_with_a_value_and_the_others_as_comments() {
        let schema = json!({
            "description": "Does it. And more.",
            "required": ["url", "command", "level"],
            "properties": {
                "a": { "type": "integer", "default": 3, "description": "How many." },
                "b": { "type": ["string", "null"] },
                "command": { "type": "array", "items": { "type": "string" } },
                "level": { "$ref": "#/$defs/Level" },
                "url": { "type": "string", "format": "endpoint" },
            },
            "$defs": { "Level": { "enum": ["low", "high"] } },
        });
        let text = route(&"r".parse().unwrap(), "it", &["a.#".parse().unwrap()], &schema);
        let with = text.split("[route.with]\n").nth(1).unwrap();
        let expected = "command = [\"fill-in\"]    # fill in\nlevel = \"low\"    # fill in\nurl = \"http://fill-in.invalid/\"    # fill in\n# How many.\n# a = 3\n# b =    (text)\n";
        assert_eq!(with, expected);
        assert!(text.starts_with("# Does it.\n[[route]]\nname = \"r\"\n"), "{text}");
    }

    #[test]
    fn long_texts_are_broken_into_lines_of_comments() {
        let mut text = String::new();
        comment(&mut text, &"word ".repeat(60));
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.starts_with("# word") && line.len() <= COLUMNS));
    }
}
