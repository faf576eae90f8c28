//! The grammar of `sessions`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use router_api::{SessionState, StatsBy};

use crate::args::Json;

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Show the last sessions
    List(ListArgs),
    /// Show one session, and those that belong to it
    Show(ShowArgs),
    /// Add up turns, tokens, cost, files and commits
    ///
    /// Costs are estimates. A sum of which some price is not known has no cost; what is known of it stands behind a `>`.
    Stats(StatsArgs),
    /// Print sessions for other programs
    Export(ExportArgs),
    /// Read Claude Code's transcripts, show what they cost, and keep them as sessions
    ///
    /// Imported sessions are marked, and no route hears of them. What is imported again changes nothing.
    Import(ImportArgs),
}

impl SessionsCommand {
    /// Was an answer for programs asked for?
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::List(args) => args.json.json,
            Self::Show(args) => args.json.json,
            Self::Stats(args) => args.json.json,
            Self::Export(args) => args.json.json,
            Self::Import(args) => args.json.json,
        }
    }
}

/// Which sessions.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Of this project
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// On this branch
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// For this feature (`CLAUDE_FEATURE`)
    #[arg(long, value_name = "NAME")]
    pub(crate) feature: Option<String>,
    /// That name this ticket, such as `GOD-25` or `#12`
    #[arg(long, value_name = "TICKET")]
    pub(crate) ticket: Option<String>,
    /// With this model
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// In this state
    #[arg(long, value_enum)]
    pub(crate) state: Option<State>,
}

/// How far back.
#[derive(Debug, Args)]
pub(crate) struct Lately {
    /// What was done in the last so many days, today included
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=800))]
    pub(crate) days: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// It goes on, and no end was seen
    Active,
    /// The newest thing that was seen of it is an end
    Ended,
    /// It went on after an end
    Reopened,
}

impl From<State> for SessionState {
    fn from(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Ended => Self::Ended,
            State::Reopened => Self::Reopened,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// So many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) last: u32,
    /// That did something in the last so many days, today included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=800))]
    pub(crate) days: Option<u32>,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its id, or the beginning of it
    pub(crate) id: String,
    /// Show the sessions too that belong to it: parent and forks, same feature, ticket or branch
    #[arg(long)]
    pub(crate) related: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// By what
    #[arg(long, value_enum, default_value_t = By::Day)]
    pub(crate) by: By,
    /// Show the tokens by kind: read, written, put into the cache, taken from it
    #[arg(long)]
    pub(crate) tokens: bool,
    #[command(flatten)]
    pub(crate) lately: Lately,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// How often each was used, in whole sessions
    Tool,
    Model,
    Project,
    Branch,
    Day,
    /// As `CLAUDE_FEATURE` said
    Feature,
}

impl From<By> for StatsBy {
    fn from(by: By) -> Self {
        match by {
            By::Tool => Self::Tool,
            By::Model => Self::Model,
            By::Project => Self::Project,
            By::Branch => Self::Branch,
            By::Day => Self::Day,
            By::Feature => Self::Feature,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) lately: Lately,
    /// The form
    #[arg(long, value_enum, default_value_t = Format::Jsonl, conflicts_with = "json")]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line
    Jsonl,
    /// A table with a line of headings
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A transcript, or a directory with some: `~/.claude/projects`
    pub(crate) path: PathBuf,
    /// Of transcripts that were written to in the last so many days, today included
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=800))]
    pub(crate) days: u32,
    /// A file with prices that take the place of the built-in ones; without it, `[sessions] prices` of the configuration
    #[arg(long, value_name = "FILE", env = "EVENT_ROUTER_PRICES")]
    pub(crate) prices: Option<PathBuf>,
    /// Show what they cost, and keep nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Make a store where no configuration was found and none is
    #[arg(long)]
    pub(crate) new_store: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}
