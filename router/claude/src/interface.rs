//! How the hook is called: as Claude Code calls hooks today, or as the original shell script was called.

use crate::{input::HookInput, settings::Settings};

/// The first arguments of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interface {
    /// Without arguments: `hook_event_name` says what happened.
    Hook,
    /// `tool-action`.
    ToolAction,
    /// `session-start`.
    SessionStart,
    /// `session-end [reason]`.
    SessionEnd {
        /// The reason that is given.
        reason: Option<String>,
    },
}

impl Interface {
    /// From the arguments after the program's name and without options. `None` for words that are none of the interface.
    #[must_use]
    pub fn of(arguments: &[String]) -> Option<Self> {
        match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] | ["emit"] => Some(Self::Hook),
            ["tool-action"] => Some(Self::ToolAction),
            ["session-start"] => Some(Self::SessionStart),
            ["session-end"] => Some(Self::SessionEnd { reason: None }),
            ["session-end", reason, ..] => Some(Self::SessionEnd { reason: Some((*reason).to_owned()) }),
            _ => None,
        }
    }

    /// The input as a hook of today. An input that names its event is believed, whatever the argument says.
    pub(crate) fn understood(&self, hook: HookInput, settings: &Settings) -> HookInput {
        match self {
            Self::Hook => hook,
            Self::ToolAction => {
                let failed = hook.text("error").is_some() && hook.value()["tool_response"].is_null();
                hook.named(if failed { "PostToolUseFailure" } else { "PostToolUse" })
            }
            Self::SessionStart => hook.named("SessionStart"),
            Self::SessionEnd { reason } => {
                // The original wiring calls this at `Stop`, which ends a turn: with a text that is no JSON, or with the hook itself.
                let reason = reason.as_deref().unwrap_or("user_stop");
                let at_stop = settings.inside_claude && reason == "user_stop";
                let mut hook = hook.named(if at_stop { "Stop" } else { "SessionEnd" });
                if hook.text("reason").is_none() {
                    hook.set("reason", reason.into());
                }
                hook
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(arguments: &[&str], input: &str, inside_claude: bool) -> (String, Option<String>) {
        let settings = Settings::from_environment(|name| (inside_claude && name == "CLAUDECODE").then(|| "1".to_owned()));
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let hook = HookInput::parse(input.as_bytes(), None).unwrap_or_else(|_| HookInput::empty());
        let hook = Interface::of(&arguments).unwrap().understood(hook, &settings);
        (hook.event_name().to_owned(), hook.text("reason").map(str::to_owned))
    }

    #[test]
    fn the_original_arguments_are_understood() {
        assert_eq!(understood(&["tool-action"], r#"{"tool_name":"Test"}"#, false).0, "PostToolUse");
        assert_eq!(understood(&["tool-action"], r#"{"tool_name":"Test","error":"no"}"#, false).0, "PostToolUseFailure");
        assert_eq!(understood(&["session-start"], "{}", false).0, "SessionStart");
        assert_eq!(understood(&["session-end", "manual"], "{}", false), ("SessionEnd".into(), Some("manual".into())));
        assert_eq!(understood(&["session-end"], "{}", false), ("SessionEnd".into(), Some("user_stop".into())));
        assert_eq!(Interface::of(&["publish".to_owned()]), None);
    }

    #[test]
    fn a_session_end_that_is_wired_to_stop_ends_a_turn() {
        assert_eq!(understood(&["session-end", "user_stop"], "{\"TODO\"}", true).0, "Stop");
        assert_eq!(understood(&["session-end"], r#"{"hook_event_name":"Stop"}"#, false).0, "Stop");
        assert_eq!(understood(&["session-end", "manual"], "{}", true).0, "SessionEnd");
        assert_eq!(
            understood(&["session-end", "user_stop"], r#"{"hook_event_name":"SessionEnd","reason":"clear"}"#, true),
            ("SessionEnd".into(), Some("clear".into()))
        );
    }
}
