//! `claude feedback [on|off]`: whether the last CI run comes back to the agent when it stops, and what it would be told now.

use router_claude::feedback::{PATIENCE, last_run, text};
use router_http::socket_path;
use serde_json::json;

use super::{FEEDBACK, SOCKET, Scope, config, install, json_text::Step, settings_file::SettingsFile, wiring};
use crate::{
    Ended,
    args::{ClaudeFeedbackArgs, FeedbackSwitch, Global},
    terminal::{BOLD, DIM, Output, WARN, harmless, harmless_lines, styled},
};

pub(super) fn run(global: &Global, args: &ClaudeFeedbackArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let scope = Scope::of(&args.place)?;
    let file = SettingsFile::read(scope.settings)?;
    let settings = file.json()?;
    let Some(switch) = args.switch else { return show(global, args, &settings, out) };
    let mut changed = settings.clone();
    match switch {
        FeedbackSwitch::On => {
            let is_wired =
                wiring::found(&settings).map_err(|wrong| file.refuse(&wrong))?.iter().any(|found| found.event == "Stop" && found.whose == wiring::Whose::Ours);
            if !is_wired {
                out.line(format_args!("{} no hook of this file calls the publisher at `Stop` yet: `event-router claude install`", styled(WARN, "note:")))?;
            }
            for (name, value, _) in install::feedback_variables(config(global).as_ref())? {
                changed = changed.set(&["env", name], &json!(value));
            }
        }
        FeedbackSwitch::Off => changed = wiring::unwired_variables(&changed, &[FEEDBACK, SOCKET]),
    }
    let done = if switch == FeedbackSwitch::On { "the agent is told of red CI runs when it stops" } else { "the agent is told of no CI runs" };
    let text = changed.as_str().to_owned();
    // An empty file that is not there need not be made to say nothing.
    let change = (file.text.is_some() || switch == FeedbackSwitch::On).then_some((file, text));
    install::carry_out(change, Vec::new(), args.yes, done, out)
}

/// What the switch is, and what the agent would be told.
fn show(global: &Global, args: &ClaudeFeedbackArgs, settings: &super::json_text::JsonText, out: &mut Output) -> anyhow::Result<Ended> {
    let variable = |name: &str| settings.get(&[Step::Key("env".to_owned()), Step::Key(name.to_owned())]).and_then(|value| value.as_str().map(str::to_owned));
    let on = variable(FEEDBACK).is_some_and(|value| !["", "0", "false", "no", "off"].contains(&value.as_str()));
    let socket = variable(SOCKET).map(std::path::PathBuf::from).or_else(|| config(global).map(|config| socket_path(&config.store.path)));
    let directory = std::env::current_dir()?;
    let asked = match &socket {
        Some(socket) => last_run(socket, &directory, PATIENCE * 8).map_err(|error| format!("no router answers at `{}`: {error}", socket.display())),
        None => Err("nobody knows where the router's socket is: the configuration cannot be used".to_owned()),
    };
    if args.json.json {
        let (last, error) = asked.map_or_else(|error| (None, Some(error)), |last| (last, None));
        let told = last.as_ref().and_then(|last| text(&last["run"]));
        out.json(&json!({ "schema": "event-router.claude-feedback.v1", "on": on, "socket": socket, "last_run": last, "text": told, "error": error }))?;
        return Ok(Ended::Well);
    }
    out.line(format_args!("feedback is {}", styled(BOLD, if on { "on" } else { "off (`event-router claude feedback on`)" })))?;
    match asked {
        Err(why) => out.line(styled(DIM, harmless(&why)))?,
        Ok(None) => out.line(styled(DIM, "the router knows of no CI run of this directory"))?,
        Ok(Some(last)) => match text(&last["run"]) {
            Some(text) => {
                out.line(format_args!("the last CI run of this directory, as an agent is told of it where it was red:\n\n{}", harmless_lines(&text)))?
            }
            None => out.line(styled(DIM, "the last CI run of this directory says neither that it passed nor that it failed"))?,
        },
    }
    Ok(Ended::Well)
}
