//! `claude`: wiring Claude Code's hooks.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Json;

#[derive(Debug, Subcommand)]
pub(crate) enum ClaudeCommand {
    /// Have Claude Code's hooks call the publisher; shows the difference first
    ///
    /// Other hooks, the order of keys and the way the file is written stay. The original shell publisher is replaced. What is installed
    /// already is not installed twice.
    Install(ClaudeInstallArgs),
    /// Take out what `install` wrote; shows the difference first
    Uninstall(ClaudeUninstallArgs),
    /// Show which settings call the publisher, and with which variables
    Status(ClaudeStatusArgs),
    /// Send a short session of its own through the whole chain, and say what mends what is broken
    ///
    /// It makes three events (start, a tool `Test`, end) of a session in a temporary directory; routes that want such events handle them.
    Doctor(ClaudeDoctorArgs),
    /// Show or switch whether the last CI run comes back to the agent when it stops
    Feedback(ClaudeFeedbackArgs),
}

/// Whose settings.
#[derive(Debug, Args)]
pub(crate) struct ClaudeWhere {
    /// The settings of a project; of the one around the working directory if not given
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".", conflicts_with = "user")]
    pub(crate) project: Option<PathBuf>,
    /// The user's settings, for all projects
    #[arg(long)]
    pub(crate) user: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClaudeInstallArgs {
    #[command(flatten)]
    pub(crate) place: ClaudeWhere,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Where events go, as `BLOODBANK_URL`; else where this configuration listens, unless the settings say something already
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The publisher; else `event-router-hook` beside this program, or on `PATH`
    #[arg(long, value_name = "FILE")]
    pub(crate) hook: Option<PathBuf>,
    /// Also tell the agent of red CI runs when it stops
    #[arg(long)]
    pub(crate) feedback: bool,
    /// Also write `.claude/hooks/bloodbank-publisher.sh` and `test-integration.sh`, one line each
    #[arg(long)]
    pub(crate) shims: bool,
    /// Write a plugin into this directory instead, as a marketplace of one
    #[arg(long, value_name = "DIR", conflicts_with_all = ["project", "user", "url", "feedback", "shims"])]
    pub(crate) plugin: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ClaudeUninstallArgs {
    #[command(flatten)]
    pub(crate) place: ClaudeWhere,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClaudeStatusArgs {
    /// The project; the one around the working directory if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct ClaudeDoctorArgs {
    /// The project; the one around the working directory if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    /// Where events go; else what the settings or the environment say
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The publisher; else what the settings call
    #[arg(long, value_name = "FILE")]
    pub(crate) hook: Option<PathBuf>,
    /// So many seconds for an event to come to the store
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) wait: u32,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct ClaudeFeedbackArgs {
    /// Switch it; else it is shown, with what an agent would be told
    #[arg(value_enum)]
    pub(crate) switch: Option<FeedbackSwitch>,
    #[command(flatten)]
    pub(crate) place: ClaudeWhere,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FeedbackSwitch {
    /// The agent is told of red runs
    On,
    /// It is told of none
    Off,
}
