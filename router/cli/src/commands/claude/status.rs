//! `claude status`: which settings call the publisher, and with what.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    VARIABLES, publisher,
    settings_file::{SettingsFile, project_directory, user_directory},
    wiring::{self, EVENTS, Whose},
};
use crate::{
    Ended,
    args::{ClaudeStatusArgs, Global},
    terminal::{BAD, BOLD, DIM, GOOD, Output, WARN, harmless, styled},
};

/// What one settings file says.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Level {
    /// `user`, `project` or `local`.
    pub(super) level: &'static str,
    pub(super) path: PathBuf,
    pub(super) exists: bool,
    /// Why it could not be read; the rest is empty then.
    pub(super) error: Option<String>,
    /// Hooks that call the publisher.
    pub(super) wired: Vec<String>,
    /// Hooks that should, where some do.
    pub(super) missing: Vec<&'static str>,
    /// What they call.
    pub(super) programs: Vec<String>,
    /// Hooks that call the original shell publisher.
    pub(super) original: Vec<String>,
    /// Of `env`, what is for the publisher.
    pub(super) env: Map<String, Value>,
    pub(super) hooks_disabled: bool,
}

impl Level {
    fn read(level: &'static str, path: PathBuf) -> Self {
        let mut read = Self {
            level,
            path: path.clone(),
            exists: false,
            error: None,
            wired: Vec::new(),
            missing: Vec::new(),
            programs: Vec::new(),
            original: Vec::new(),
            env: Map::new(),
            hooks_disabled: false,
        };
        if let Err(error) = read.fill(path) {
            read.error = Some(format!("{error:#}"));
        }
        read
    }

    fn fill(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let file = SettingsFile::read(path)?;
        self.exists = file.text.is_some();
        let settings = file.json()?;
        let value = settings.value();
        self.hooks_disabled = value["disableAllHooks"] == true;
        let is_ours = |name: &str| VARIABLES.contains(&name) || name.starts_with("BLOODBANK_") || name.starts_with("EVENT_ROUTER_");
        if let Some(env) = value["env"].as_object() {
            // A token is nobody's to read over a shoulder.
            let shown = |name: &str, value: &Value| if name.contains("TOKEN") { "***".into() } else { value.clone() };
            self.env = env.iter().filter(|(name, _)| is_ours(name)).map(|(name, value)| (name.clone(), shown(name, value))).collect();
        }
        for found in wiring::found(&settings).map_err(|wrong| file.refuse(&wrong))? {
            match found.whose {
                Whose::Original => self.original.push(found.event),
                Whose::Ours => {
                    let program = found.handler["command"].as_str().unwrap_or_default().to_owned();
                    if !self.programs.contains(&program) {
                        self.programs.push(program);
                    }
                    if !self.wired.contains(&found.event) {
                        self.wired.push(found.event);
                    }
                }
            }
        }
        if !self.wired.is_empty() {
            self.missing = EVENTS.iter().map(|(name, ..)| *name).filter(|name| !self.wired.iter().any(|wired| wired == name)).collect();
        }
        Ok(())
    }
}

/// Every settings file that Claude Code reads here, the weakest first.
pub(super) fn levels(project: Option<&std::path::Path>) -> anyhow::Result<Vec<Level>> {
    let project = project_directory(project)?.join(".claude");
    let user = user_directory()?;
    let mut levels = vec![Level::read("user", user.join("settings.json"))];
    if project != user {
        levels.push(Level::read("project", project.join("settings.json")));
        levels.push(Level::read("local", project.join("settings.local.json")));
    }
    Ok(levels)
}

pub(super) fn run(_: &Global, args: &ClaudeStatusArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let levels = levels(args.project.as_deref())?;
    let hook = publisher(None);
    if args.json.json {
        let (program, error) = hook.map_or_else(|error| (None, Some(format!("{error:#}"))), |hook| (Some(hook), None));
        out.json(&serde_json::json!({ "schema": "event-router.claude-status.v1", "publisher": program, "publisher_error": error, "settings": levels }))?;
        return Ok(Ended::Well);
    }
    match hook {
        Ok(hook) => out.line(format_args!("publisher  {}", harmless(&hook)))?,
        Err(error) => out.line(format_args!("publisher  {}", styled(BAD, harmless(&format!("{error:#}")))))?,
    }
    for level in &levels {
        out.line(format_args!("{:<9}  {}", level.level, styled(BOLD, harmless(&level.path.display().to_string()))))?;
        tell(level, out)?;
    }
    Ok(Ended::Well)
}

fn tell(level: &Level, out: &mut Output) -> anyhow::Result<()> {
    if let Some(error) = &level.error {
        return Ok(out.line(format_args!("           {}", styled(BAD, harmless(error))))?);
    }
    if !level.exists {
        return Ok(out.line(styled(DIM, "           is not there"))?);
    }
    if level.hooks_disabled {
        out.line(format_args!("           {}", styled(WARN, "`disableAllHooks` is true: no hook runs")))?;
    }
    if level.wired.is_empty() && level.original.is_empty() {
        out.line(styled(DIM, "           calls no publisher (`event-router claude install`)"))?;
    }
    if !level.wired.is_empty() {
        out.line(format_args!("           {} {} by {}", styled(GOOD, "✓"), level.programs.join(", "), level.wired.join(", ")))?;
    }
    if !level.missing.is_empty() {
        out.line(format_args!("           {} not by {}", styled(WARN, "!"), level.missing.join(", ")))?;
    }
    if !level.original.is_empty() {
        out.line(format_args!("           {} the original shell publisher by {}", styled(WARN, "!"), level.original.join(", ")))?;
    }
    for (name, value) in &level.env {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.line(styled(DIM, format_args!("           {}={}", harmless(name), harmless(&value))))?;
    }
    Ok(())
}
