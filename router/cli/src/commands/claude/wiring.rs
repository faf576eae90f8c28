//! Which hooks of Claude Code call the publisher, how that stands in a settings file, and what else may stand there: other people's hooks,
//! which are left alone, and the original shell publisher, which is replaced.

use serde_json::{Map, Value, json};

use super::json_text::{JsonText, Step, Wrong};

/// The program.
pub(super) const HOOK: &str = "event-router-hook";
/// The original one.
pub(super) const ORIGINAL: &str = "bloodbank-publisher.sh";

/// Each hook that says something of a session: its name, whether it is asked for by tool, and the seconds it may take. The end of a session
/// has a second and a half for all hooks together unless one asks for more.
pub(super) const EVENTS: &[(&str, bool, u64)] = &[
    ("SessionStart", false, 5),
    ("UserPromptSubmit", false, 5),
    ("PostToolUse", true, 5),
    ("PostToolUseFailure", true, 5),
    ("Stop", false, 5),
    ("StopFailure", false, 5),
    ("SubagentStop", false, 5),
    ("PostCompact", false, 5),
    ("PostModelSwitch", false, 5),
    ("SessionEnd", false, 10),
];

/// What calls the publisher: no shell, no arguments, the hook itself says what happened.
pub(super) fn handler(program: &str, seconds: u64) -> Value {
    json!({ "type": "command", "command": program, "args": [], "timeout": seconds })
}

/// All hooks, as a plugin's `hooks.json` has them.
pub(super) fn all(program: &str) -> Value {
    let hooks: Map<String, Value> =
        EVENTS.iter().map(|(name, by_tool, seconds)| ((*name).to_owned(), Value::Array(vec![group(program, *by_tool, *seconds)]))).collect();
    Value::Object(hooks)
}

fn group(program: &str, by_tool: bool, seconds: u64) -> Value {
    if by_tool { json!({ "matcher": "*", "hooks": [handler(program, seconds)] }) } else { json!({ "hooks": [handler(program, seconds)] }) }
}

/// One of the handlers of a settings file that are of interest here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) event: String,
    pub(super) path: Vec<Step>,
    pub(super) handler: Value,
    pub(super) whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The publisher's.
    Ours,
    /// The original shell publisher's.
    Original,
}

fn whose(handler: &Value) -> Option<Whose> {
    let command = handler.get("command")?.as_str()?;
    if command.contains(ORIGINAL) {
        return Some(Whose::Original);
    }
    // In exec form the command is the program; in a shell's it is the first word.
    let is_exec = handler.get("args").is_some();
    let program = if is_exec { command } else { command.split_whitespace().next().unwrap_or_default() }.trim_matches(['"', '\'']);
    (program.rsplit('/').next() == Some(HOOK)).then_some(Whose::Ours)
}

/// The handlers in a settings file that are the publisher's or the original's.
///
/// # Errors
///
/// Where the hooks do not have the shape that Claude Code knows: nothing can be added to such a file.
pub(super) fn found(settings: &JsonText) -> Result<Vec<Found>, Wrong> {
    let mut found = Vec::new();
    let hooks_path = [Step::Key("hooks".to_owned())];
    let Some(hooks) = settings.get(&hooks_path) else { return Ok(found) };
    let Value::Object(hooks) = hooks else { return Err(settings.place(&hooks_path, "`hooks` is no object")) };
    for (event, groups) in &hooks {
        let mut path = hooks_path.to_vec();
        path.push(Step::Key(event.clone()));
        let Value::Array(groups) = groups else { return Err(settings.place(&path, &format!("`hooks.{event}` is no list"))) };
        for (at, group) in groups.iter().enumerate() {
            let mut path = path.clone();
            path.extend([Step::Index(at), Step::Key("hooks".to_owned())]);
            let handlers = match group.get("hooks") {
                Some(Value::Array(handlers)) => handlers,
                _ => return Err(settings.place(&path, &format!("group {} of `hooks.{event}` has no list `hooks`", at + 1))),
            };
            for (index, handler) in handlers.iter().enumerate() {
                if let Some(whose) = whose(handler) {
                    let mut path = path.clone();
                    path.push(Step::Index(index));
                    found.push(Found { event: event.clone(), path, handler: handler.clone(), whose });
                }
            }
        }
    }
    Ok(found)
}

/// The settings with the publisher wired, the original one taken out, and `env` set. What is there already stays as it is.
///
/// # Errors
///
/// As [`found`].
pub(super) fn wired(settings: &JsonText, program: &str, env: &[(&str, String, bool)]) -> Result<JsonText, Wrong> {
    let mut settings = without(settings, |found| found.whose == Whose::Original)?;
    if let Some(value) = settings.get(&[Step::Key("env".to_owned())]).filter(|value| !value.is_object()) {
        let kind = if value.is_null() { "null" } else { "no object" };
        return Err(settings.place(&[Step::Key("env".to_owned())], &format!("`env` is {kind}: it must be an object")));
    }
    for (name, value, replaces) in env {
        let known = settings.get(&[Step::Key("env".to_owned()), Step::Key((*name).to_owned())]);
        if known.is_none() || (*replaces && known.as_ref().and_then(Value::as_str) != Some(value)) {
            settings = settings.set(&["env", name], &json!(value));
        }
    }
    for (name, by_tool, seconds) in EVENTS {
        let ours: Vec<Found> = found(&settings)?.into_iter().filter(|found| found.event == *name && found.whose == Whose::Ours).collect();
        let wanted = handler(program, *seconds);
        match ours.split_first() {
            None => settings = settings.push(&["hooks", name], &group(program, *by_tool, *seconds)),
            Some((first, more)) => {
                // From the last one on, so that the places of the others stay true.
                for further in more.iter().rev() {
                    settings = removed(&settings, &further.path);
                }
                if first.handler != wanted {
                    settings = settings.replace(&first.path, &wanted);
                }
            }
        }
    }
    Ok(settings)
}

/// The settings without those handlers, and without what is empty because of that.
///
/// # Errors
///
/// As [`found`].
pub(super) fn without(settings: &JsonText, gone: impl Fn(&Found) -> bool) -> Result<JsonText, Wrong> {
    let mut without = settings.clone();
    for found in found(settings)?.iter().rev().filter(|found| gone(found)) {
        without = removed(&without, &found.path);
    }
    Ok(without)
}

/// Without a handler, and without its group, its hook and all hooks if it was the last of them.
fn removed(settings: &JsonText, path: &[Step]) -> JsonText {
    let mut without = settings.remove(path);
    // `hooks`, the event, the group, its `hooks`, the handler.
    for (length, inner) in [(3, Some("hooks")), (2, None), (1, None)] {
        let above = &path[..length];
        let is_empty = match (without.get(above), inner) {
            (Some(Value::Object(group)), Some(inner)) => group.get(inner).and_then(Value::as_array).is_some_and(Vec::is_empty),
            (Some(Value::Array(items)), None) => items.is_empty(),
            (Some(Value::Object(members)), None) => members.is_empty(),
            _ => false,
        };
        if !is_empty {
            break;
        }
        without = without.remove(above);
    }
    without
}

/// The settings without the publisher and the variables that are for it.
///
/// # Errors
///
/// As [`found`].
pub(super) fn unwired(settings: &JsonText, variables: &[&str]) -> Result<JsonText, Wrong> {
    Ok(unwired_variables(&without(settings, |found| found.whose == Whose::Ours)?, variables))
}

/// The settings without those variables, and without `env` if it had no others.
pub(super) fn unwired_variables(settings: &JsonText, variables: &[&str]) -> JsonText {
    let mut settings = settings.clone();
    let env = [Step::Key("env".to_owned())];
    let had_any = settings.get(&env).and_then(|env| env.as_object().map(|env| !env.is_empty())).unwrap_or(false);
    for name in variables {
        settings = settings.remove(&[Step::Key("env".to_owned()), Step::Key((*name).to_owned())]);
    }
    if had_any && settings.get(&env) == Some(json!({})) { settings.remove(&env) } else { settings }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL_SETTINGS: &str = r#"{
  "env": {
    "BLOODBANK_ENABLED": "true",
    "BLOODBANK_DEBUG": "false",
    "BLOODBANK_URL": "http://localhost:8682"
  },
  "hooks": {
    "PostToolUse": [
      {
        "matcher": ".*",
        "hooks": [
          { "type": "command", "command": "cat | .claude/hooks/bloodbank-publisher.sh tool-action" }
        ]
      },
      {
        "matcher": "Write",
        "hooks": [
          { "type": "command", "command": "make fmt" }
        ]
      }
    ],
    "Stop": [
      { "hooks": [{ "type": "command", "command": "echo '{\"TODO\"}' | .claude/hooks/bloodbank-publisher.sh session-end user_stop" }] }
    ]
  },
  "model": "opus"
}
"#;

    fn env() -> Vec<(&'static str, String, bool)> {
        vec![("BLOODBANK_ENABLED", "true".to_owned(), false), ("BLOODBANK_URL", "http://localhost:9".to_owned(), false)]
    }

    #[test]
    fn the_original_is_replaced_others_stay_and_a_second_time_changes_nothing() {
        let before = JsonText::parse(ORIGINAL_SETTINGS).unwrap();
        let after = wired(&before, "/opt/event-router-hook", &env()).unwrap();
        assert!(!after.as_str().contains(ORIGINAL), "{}", after.as_str());
        assert!(after.as_str().contains("          { \"type\": \"command\", \"command\": \"make fmt\" }"), "{}", after.as_str());
        assert!(after.as_str().ends_with("  \"model\": \"opus\"\n}\n"));
        assert_eq!(after.value()["env"], before.value()["env"], "what is set stays");
        let ours: Vec<_> = found(&after).unwrap().into_iter().map(|found| (found.event, found.whose)).collect();
        assert_eq!(ours.len(), EVENTS.len());
        assert!(EVENTS.iter().all(|(name, ..)| ours.contains(&((*name).to_owned(), Whose::Ours))), "{ours:?}");
        assert_eq!(wired(&after, "/opt/event-router-hook", &env()).unwrap().as_str(), after.as_str());
        // Another place of the program, and one call too many.
        let moved = wired(&after.push(&["hooks", "Stop"], &group("event-router-hook", false, 1)), "event-router-hook", &env()).unwrap();
        assert_eq!(found(&moved).unwrap().len(), EVENTS.len());
        assert!(!moved.as_str().contains("/opt/"), "{}", moved.as_str());
    }

    #[test]
    fn what_was_added_goes_again_and_leaves_the_file_as_it_was() {
        for text in [
            "{}\n",
            "{\n  \"model\": \"opus\"\n}\n",
            "{\n\t\"hooks\": {\n\t\t\"Stop\": [\n\t\t\t{\"hooks\": [{\"type\": \"command\", \"command\": \"true\"}]}\n\t\t]\n\t}\n}",
        ] {
            let before = JsonText::parse(text).unwrap();
            let after = wired(&before, "event-router-hook", &env()).unwrap();
            assert_ne!(after.as_str(), text);
            assert_eq!(unwired(&after, &["BLOODBANK_ENABLED", "BLOODBANK_URL"]).unwrap().as_str(), text);
        }
    }

    #[test]
    fn only_the_programs_own_name_is_the_publisher() {
        for (handler, expected) in [
            (json!({ "command": "event-router-hook", "args": [] }), Some(Whose::Ours)),
            (json!({ "command": "/a b/event-router-hook", "args": [] }), Some(Whose::Ours)),
            (json!({ "command": "\"/opt/event-router-hook\" --feedback" }), Some(Whose::Ours)),
            (json!({ "command": "${CLAUDE_PROJECT_DIR}/.claude/hooks/bloodbank-publisher.sh tool-action" }), Some(Whose::Original)),
            (json!({ "command": "event-router-hook-2", "args": [] }), None),
            (json!({ "command": "echo event-router-hook" }), None),
            (json!({ "type": "prompt" }), None),
        ] {
            assert_eq!(whose(&handler), expected, "{handler}");
        }
    }

    #[test]
    fn hooks_of_another_shape_are_refused_with_their_place() {
        for (text, line, part) in [
            ("{\n  \"hooks\": []\n}", 2, "`hooks` is no object"),
            ("{\n  \"hooks\": {\n    \"Stop\": {}\n  }\n}", 3, "`hooks.Stop` is no list"),
            ("{\n  \"hooks\": {\n    \"Stop\": [\n      {}\n    ]\n  }\n}", 4, "group 1 of `hooks.Stop`"),
        ] {
            let wrong = wired(&JsonText::parse(text).unwrap(), "x", &[]).unwrap_err();
            assert_eq!(wrong.line, line, "{wrong}");
            assert!(wrong.message.contains(part), "{wrong}");
        }
        assert!(wired(&JsonText::parse("{\"env\": 1}").unwrap(), "x", &env()).unwrap_err().message.contains("`env`"));
    }
}
