//! `claude doctor`: a session of its own goes the whole way, from the hook's program to the store, and what is broken is said with what
//! mends it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use router_api::{
    Cancellation, Chance as _, Clock as _, CommandReply, CommandRequest, Effect, EffectContext, EffectKind, EffectPort, EffectReply, EffectRequest, EventQuery,
    Program,
};
use router_core::config::Config;
use router_effects::{Performer, PerformerOptions};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    config, publisher,
    status::{Level, levels},
    url_of,
};
use crate::{
    Ended,
    access::{Access, Purpose},
    args::{ClaudeDoctorArgs, Global},
    commands::{block_on, health},
    system::{OsChance, SystemClock},
    terminal::{Output, counted, harmless},
};

/// For one call of the hook: as long as the settings allow it.
const HOOK_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks for an event.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    ok: bool,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn well(&mut self, name: impl Into<String>) {
        self.0.push(Check { name: name.into(), ok: true, problem: None, fix: None });
    }

    fn badly(&mut self, name: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Check { name: name.into(), ok: false, problem: Some(problem.into()), fix: Some(fix.into()) });
    }
}

pub(super) fn run(global: &Global, args: &ClaudeDoctorArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let mut checks = Checks::default();
    let config = config(global);
    let levels = levels(args.project.as_deref())?;
    let url = args.url.clone().or_else(|| set(&levels, "BLOODBANK_URL")).or_else(|| super::settings_file::variable("BLOODBANK_URL"));
    let url = url.unwrap_or_else(|| url_of(config.as_ref()));
    reached(&url, config.as_ref(), &mut checks);
    let hook = program(args.hook.as_deref(), &levels, &mut checks);
    wired(&levels, &mut checks);
    if let Some(hook) = hook {
        let wait = Duration::from_secs(args.wait.into());
        Chain { hook, url, config: config.as_ref(), levels: &levels, wait }.try_it(&mut checks)?;
    }
    let ok = checks.0.iter().all(|check| check.ok);
    if args.json.json {
        out.json(&json!({ "schema": "event-router.claude-doctor.v1", "ok": ok, "checks": checks.0 }))?;
    } else {
        for check in &checks.0 {
            out.line(format_args!("{} {}", if check.ok { "✅" } else { "❌" }, harmless(&check.name)))?;
            for text in [&check.problem, &check.fix].into_iter().flatten() {
                out.prose(3, format_args!("   {}", harmless(text)))?;
            }
        }
    }
    Ok(if ok { Ended::Well } else { Ended::Badly })
}

/// What the settings say last of a variable.
fn set(levels: &[Level], name: &str) -> Option<String> {
    levels.iter().rev().find_map(|level| level.env.get(name)?.as_str().map(str::to_owned))
}

fn reached(url: &str, config: Option<&Config>, checks: &mut Checks) {
    const NAME: &str = "Bloodbank is running";
    match health::answers(&format!("{}/healthz", url.trim_end_matches('/'))) {
        Ok(()) => checks.well(NAME),
        Err(why) => {
            let listens = config.is_some_and(|config| config.http.listen.is_none());
            let fix = if listens {
                "the configuration has `[http] listen = \"off\"`: name an address there, or set `BLOODBANK_URL` to the Bloodbank that is meant".to_owned()
            } else {
                "start it with `event-router run`, or set `BLOODBANK_URL` (`event-router claude install --url URL`) to where it listens".to_owned()
            };
            checks.badly(NAME, why, fix);
        }
    }
}

/// What the settings call, as Claude Code would find it; else what `install` would write.
fn program(named: Option<&Path>, levels: &[Level], checks: &mut Checks) -> Option<PathBuf> {
    const NAME: &str = "Hook script is executable";
    let text = match named {
        Some(named) => Ok(named.display().to_string()),
        None => levels.iter().rev().flat_map(|level| level.programs.first()).next().cloned().map_or_else(|| publisher(None), Ok),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            checks.badly(NAME, format!("{error:#}"), "install `event-router-hook` beside `event-router`, then run `event-router claude install`");
            return None;
        }
    };
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let found = match Performer::new(PerformerOptions::default()) {
        Ok(performer) => performer.resolve_program(&text, &cwd).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match found.map(|program| program.path().map(Path::to_owned)) {
        Ok(Some(path)) => {
            checks.well(NAME);
            Some(path)
        }
        Ok(None) => {
            checks.badly(NAME, format!("`{text}` is not found"), "run `event-router claude install` again: it names the program where it is now");
            None
        }
        Err(why) => {
            checks.badly(NAME, format!("`{text}`: {why}"), "run `event-router claude install` again: it names the program where it is now");
            None
        }
    }
}

fn wired(levels: &[Level], checks: &mut Checks) {
    const NAME: &str = "Settings call the hook";
    for level in levels {
        let path = level.path.display();
        if let Some(error) = &level.error {
            checks.badly(format!("The {} settings can be read", level.level), error.clone(), "mend the file: Claude Code cannot read it either");
        }
        if level.hooks_disabled {
            checks.badly("Hooks are switched on", format!("`disableAllHooks` is true in `{path}`"), "take it out of that file");
        }
        if !level.missing.is_empty() {
            checks.badly(
                format!("All hooks of the {} settings are wired", level.level),
                format!("`{path}` does not call it at {}", level.missing.join(", ")),
                again(level),
            );
        }
    }
    let wired = levels.iter().map(|level| level.wired.len()).max().unwrap_or(0);
    let original: Vec<&Level> = levels.iter().filter(|level| !level.original.is_empty()).collect();
    if wired > 0 {
        checks.well(format!("{NAME} ({})", counted(wired as u64, "event", "events")));
    } else if original.is_empty() {
        checks.badly(NAME, "no settings file here calls it", "run `event-router claude install`, or `event-router claude install --user` for all projects");
    }
    for level in original {
        let path = level.path.display();
        if wired > 0 {
            let problem =
                format!("`{path}` calls the original shell publisher at {}, beside the new one: every event is told twice", level.original.join(", "));
            checks.badly("Only one publisher is wired", problem, again(level));
        } else {
            checks.badly(NAME, format!("`{path}` still calls the original shell publisher at {}", level.original.join(", ")), again(level));
        }
    }
    if set(levels, "BLOODBANK_ENABLED").is_some_and(|value| ["false", "0", "no", "off"].contains(&value.to_ascii_lowercase().as_str())) {
        checks.badly(
            "Publishing is switched on",
            "`BLOODBANK_ENABLED` is false in the settings: hooks tell nothing",
            "set it to \"true\" in `env` of that file",
        );
    }
}

fn again(level: &Level) -> String {
    match level.level {
        "user" => "run `event-router claude install --user`".to_owned(),
        "project" => "run `event-router claude install`".to_owned(),
        _ => format!("take those hooks out of `{}` by hand", level.path.display()),
    }
}

/// The way of one session.
struct Chain<'a> {
    hook: PathBuf,
    url: String,
    config: Option<&'a Config>,
    levels: &'a [Level],
    wait: Duration,
}

/// The hooks of a short session, the event that each becomes, and the document's line.
const STEPS: [(&str, &str, &str); 3] = [
    ("SessionStart", "session.thread.start", "Session start event processed"),
    ("PostToolUse", "session.thread.agent.action", "Tool action event processed"),
    ("SessionEnd", "session.thread.end", "Session end event processed"),
];

impl Chain<'_> {
    fn try_it(&self, checks: &mut Checks) -> anyhow::Result<()> {
        let performer = Performer::new(PerformerOptions {
            env_allow: ["BLOODBANK_*", "EVENT_ROUTER_*", "CLAUDE_*", "XDG_STATE_HOME"].map(str::to_owned).into(),
            ..PerformerOptions::default()
        })?;
        let performer: Arc<dyn EffectPort> = performer;
        // A project of its own: the files of a real session are left alone.
        let project = tempfile::Builder::new().prefix("event-router-doctor-").tempdir()?;
        let id = Uuid::from_u64_pair(OsChance.next_u64(), OsChance.next_u64());
        let session = uuid::Builder::from_random_bytes(id.into_bytes()).into_uuid().to_string();
        let mut told = Vec::new();
        for (event, key, line) in STEPS {
            match self.call(&performer, project.path(), &session, event) {
                Ok(()) => told.push((key, line)),
                Err(why) => checks.badly(line, why, "run the hook by hand with `BLOODBANK_DEBUG=true`, which tells what it does"),
            }
        }
        let missing = self.seen(&session, &told, checks)?;
        if !missing.is_empty() {
            for (line, why) in missing {
                let fix =
                    "see that the router runs and that `BLOODBANK_URL` is its address; events that were told meanwhile wait in the spool and are not lost";
                checks.badly(line, why, fix);
            }
        }
        let state = project.path().join(".claude/sessions").join(format!("{session}.json"));
        if !told.is_empty() {
            match std::fs::read(&state).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
                Some(_) => checks.well("Session state is kept"),
                None => checks.badly(
                    "Session state is kept",
                    "the hook left no file `.claude/sessions/{session-id}.json`",
                    "see that the project's directory can be written to",
                ),
            }
        }
        Ok(())
    }

    /// Calls the hook as Claude Code does: without a shell, the event on the standard input.
    fn call(&self, performer: &Arc<dyn EffectPort>, project: &Path, session: &str, event: &str) -> Result<(), String> {
        let mut input = json!({ "session_id": session, "transcript_path": project.join("none.jsonl"), "cwd": project, "hook_event_name": event });
        let extra = match event {
            "SessionStart" => json!({ "source": "startup", "model": "event-router-doctor" }),
            "PostToolUse" => {
                json!({ "tool_name": "Test", "tool_input": { "description": "event-router claude doctor" }, "tool_response": {}, "tool_use_id": format!("toolu_{session}"), "duration_ms": 1 })
            }
            _ => json!({ "reason": "other" }),
        };
        if let (Some(input), Value::Object(extra)) = (input.as_object_mut(), extra) {
            input.extend(extra);
        }
        let mut request = CommandRequest::new(Program::resolved("event-router-hook", &self.hook)).cwd(project);
        request.stdin = Some(input.to_string().into());
        request.timeout = Some(HOOK_LIMIT);
        request.env = self.env(project, session);
        let effect = Effect { name: "hook".to_owned(), kind: EffectKind::Read, request: EffectRequest::Command(request), dry_run_reply: None };
        let cx = EffectContext { route: "claude-doctor".to_owned(), handling: session.to_owned(), remaining: HOOK_LIMIT, cancellation: Cancellation::never() };
        let reply = block_on(async { Ok(performer.perform(effect, None, &cx).await) }).map_err(|error| format!("{error:#}"))?;
        match reply {
            Ok(EffectReply::Command(CommandReply { code: Some(0), stdout, .. })) if stdout.is_empty() => Ok(()),
            Ok(EffectReply::Command(CommandReply { code: Some(0), .. })) => Err(format!("the hook printed something at `{event}`, which Claude would read")),
            Ok(EffectReply::Command(CommandReply { code, stderr, .. })) => {
                let said = String::from_utf8_lossy(&stderr).lines().next().unwrap_or_default().to_owned();
                Err(format!("the hook ended with {} at `{event}`: {said}", code.map_or_else(|| "a signal".to_owned(), |code| format!("code {code}"))))
            }
            Ok(_) => Err("the hook is no command".to_owned()),
            Err(error) => Err(format!("the hook at `{event}`: {error}")),
        }
    }

    /// As Claude Code sets it: the `env` of the settings, and its own.
    fn env(&self, project: &Path, session: &str) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> = Vec::new();
        for level in self.levels {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            env.extend(level.env.iter().filter(|(name, _)| !name.contains("TOKEN")).filter_map(|(name, value)| Some((name.clone(), text(value)?))));
        }
        env.push(("BLOODBANK_URL".to_owned(), self.url.clone()));
        env.push(("CLAUDE_PROJECT_DIR".to_owned(), project.display().to_string()));
        env.push(("CLAUDE_CODE_SESSION_ID".to_owned(), session.to_owned()));
        env.push(("CLAUDECODE".to_owned(), "1".to_owned()));
        env
    }

    /// Looks for the events in the store. What has not come in time is the answer.
    fn seen(&self, session: &str, told: &[(&'static str, &'static str)], checks: &mut Checks) -> anyhow::Result<Vec<(&'static str, String)>> {
        if told.is_empty() {
            return Ok(Vec::new());
        }
        let Some(config) = self.config else {
            let why = "the configuration cannot be used, so nobody can look whether it came (`event-router check`)";
            return Ok(told.iter().map(|(_, line)| (*line, why.to_owned())).collect());
        };
        let query = EventQuery { last: Some(100), session: Some(session.to_owned()), ..EventQuery::default() };
        let found = block_on(async {
            let begun = SystemClock.monotonic();
            loop {
                let looked = async {
                    let access = Access::open(config, Purpose::Read).await?;
                    let events = access.admin().events(&query).await;
                    access.close().await;
                    Ok::<_, anyhow::Error>(events?)
                };
                let events = looked.await;
                let keys = |key: &str| events.as_ref().is_ok_and(|events| events.iter().any(|event| event.key.as_str() == key));
                let all = told.iter().all(|(key, _)| keys(key));
                if all || SystemClock.monotonic() - begun > self.wait {
                    let missing: Vec<_> = told.iter().filter(|(key, _)| !keys(key)).copied().collect();
                    return Ok((missing, events.err().map(|error| format!("{error:#}"))));
                }
                SystemClock.sleep(LOOK_AGAIN).await;
            }
        });
        let (missing, error) = found?;
        for (_, line) in told.iter().filter(|told| !missing.contains(told)) {
            checks.well(*line);
        }
        let why = |key: &str| match &error {
            Some(error) => format!("`{key}` was told by the hook, and the store cannot be asked: {error}"),
            None => format!("`{key}` was told by the hook, and did not come to the store within {} s", self.wait.as_secs()),
        };
        Ok(missing.into_iter().map(|(key, line)| (line, why(key))).collect())
    }
}
