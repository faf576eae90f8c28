//! What most commands begin with: the linked plugins, the performer of effects, and the configuration.

use std::{fmt, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use router_api::{DryRun, EffectPort, Registry};
use router_core::config::{self, Config, Environment, Loaded, Located, Problems, Report, Severity};
use router_effects::{Performer, PerformerOptions};

use crate::{args::Global, env_file::FileEnvironment, unasked::Unasked};

/// A command's surroundings.
pub(crate) struct Setup {
    /// In force.
    pub(crate) config: Config,
    /// Warnings.
    pub(crate) report: Report,
    /// Where it was found.
    pub(crate) located: Located,
    /// The linked plugins.
    pub(crate) registry: Registry,
    /// For real.
    pub(crate) effects: Arc<dyn EffectPort>,
}

/// The configuration cannot be used: exit code 78.
#[derive(Debug)]
pub(crate) struct InvalidConfig {
    said: Said,
    /// What follows from it.
    then: Option<String>,
    /// Where its store is, if that can be told.
    pub(crate) store: Option<PathBuf>,
}

/// Everything that is wrong with it.
#[derive(Debug)]
enum Said {
    /// All that a check found.
    Report(Box<Report>),
    /// Sentences, each with its place.
    Text(String),
}

impl InvalidConfig {
    /// From sentences that say everything, each with its place.
    pub(crate) fn rendered(text: &str) -> Self {
        Self { said: Said::Text(text.to_owned()), then: None, store: None }
    }

    /// From an error that came to light when a route was built.
    pub(crate) fn message(message: impl fmt::Display) -> Self {
        Self { said: Said::Text(format!("error: {message}")), then: None, store: None }
    }

    /// With a sentence behind all that is wrong.
    pub(crate) fn and(mut self, sentence: String) -> Self {
        self.then = Some(sentence);
        self
    }

    /// How many things are wrong, if they were counted.
    pub(crate) fn errors(&self) -> Option<usize> {
        match &self.said {
            Said::Report(report) => Some(report.count(Severity::Error)),
            Said::Text(_) => None,
        }
    }

    /// For a terminal, perhaps with colours.
    pub(crate) fn shown(&self, colour: bool) -> String {
        let mut shown = match &self.said {
            Said::Report(report) => report.render(colour).trim_end().to_owned(),
            Said::Text(text) => text.clone(),
        };
        if let Some(then) = &self.then {
            shown.push('\n');
            shown.push_str(then);
        }
        shown
    }
}

impl From<Problems> for InvalidConfig {
    fn from(problems: Problems) -> Self {
        Self { said: Said::Report(Box::new(problems.report)), then: None, store: problems.store }
    }
}

/// Without colours: it goes into logs, and over the socket.
impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(false))
    }
}

impl std::error::Error for InvalidConfig {}

/// Loads the configuration that the arguments and the environment name.
///
/// # Errors
///
/// [`InvalidConfig`] with all problems at once.
pub(crate) fn load(global: &Global) -> anyhow::Result<Setup> {
    let located = locate(global)?;
    load_located(global, located)
}

/// Loads the configuration for a command that runs no handler, such as `explain`: a program that a route would run need not be on
/// this machine.
///
/// # Errors
///
/// [`InvalidConfig`] with all problems at once.
pub(crate) fn load_to_read(global: &Global) -> anyhow::Result<Setup> {
    load_with(locate(global)?, &environment(global)?, |effects| Arc::new(DryRun::over(effects)))
}

/// As [`load_to_read`], for a command that asks no broker, whose URL may be in no variable of whoever looks.
///
/// # Errors
///
/// [`InvalidConfig`] with all problems at once.
pub(crate) fn load_to_look(global: &Global) -> anyhow::Result<Setup> {
    load_with(locate(global)?, &Unasked(environment(global)?), |effects| Arc::new(DryRun::over(effects)))
}

/// Where the configuration is.
pub(crate) fn locate(global: &Global) -> anyhow::Result<Located> {
    let cwd = std::env::current_dir().context("the working directory is gone")?;
    let variable = environment(global)?.variable("EVENT_ROUTER_CONFIG").map_err(|reason| anyhow::anyhow!("`EVENT_ROUTER_CONFIG` {reason}"))?;
    Ok(config::locate(&global.config, variable.as_deref(), &cwd))
}

/// The variables that a configuration may refer to.
pub(crate) fn environment(global: &Global) -> Result<FileEnvironment, InvalidConfig> {
    FileEnvironment::read(&global.env_file)
}

/// The configuration that is compiled in, whatever lies around.
pub(crate) fn built_in() -> anyhow::Result<Located> {
    let cwd = std::env::current_dir().context("the working directory is gone")?;
    Ok(Located::built_in(&cwd))
}

/// Loads a configuration that is already found.
pub(crate) fn load_located(global: &Global, located: Located) -> anyhow::Result<Setup> {
    load_with(located, &environment(global)?, |effects| effects)
}

fn load_with(located: Located, environment: &dyn Environment, wrap: impl FnOnce(Arc<dyn EffectPort>) -> Arc<dyn EffectPort>) -> anyhow::Result<Setup> {
    let registry = Registry::linked()?;
    let effects = wrap(Performer::new(PerformerOptions::default())?);
    let loaded = crate::commands::block_on(async { Ok(config::load(&located, &registry, Arc::clone(&effects), environment).await) })?;
    match loaded {
        Ok(Loaded { config, report }) => Ok(Setup { config, report, located, registry, effects }),
        Err(problems) => Err(InvalidConfig::from(problems).into()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The configuration that a text makes, where the machine must have no programs for it.
    pub(crate) fn config(toml: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("router.toml");
        std::fs::write(&file, toml).unwrap();
        let located = config::locate(&[file], None, directory.path());
        match load_with(located, &FileEnvironment::default(), |effects| Arc::new(DryRun::over(effects))) {
            Ok(setup) => setup.config,
            Err(error) => panic!("{error}"),
        }
    }
}
