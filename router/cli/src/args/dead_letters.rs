//! `dead-letters`: which of them, and what is to become of those.

use clap::{Args, Subcommand};
use router_api::RouteName;

use super::Json;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Show them by route and failure, those with the newest letter first; `--flat` lists each
    List(LettersArgs),
    /// Show one with its history and the event
    Show {
        /// Its id, as `list` shows it
        id: String,
        #[command(flatten)]
        json: Json,
    },
    /// Put letters back into the queues of their routes, oldest first; their history stays, their attempts start anew
    Redrive(RedriveArgs),
    /// Delete letters for good
    Discard(DiscardArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LettersArgs {
    /// Of this route
    #[arg(long)]
    pub(crate) route: Option<RouteName>,
    /// Of this reason: `undecodable`, `rejected`, `exhausted`, `too-old`, `crashed`, `loop`, `parked`, `dropped`
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Whose last failure is of this class: `error`, `timeout`, `panic`, `unreachable`, `busy`, `rejected`, `crash`
    #[arg(long)]
    pub(crate) class: Option<String>,
    /// Each letter on a line, newest first
    #[arg(long)]
    pub(crate) flat: bool,
    /// At most so many letters, with `--flat` and in JSON
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct SelectionArgs {
    /// Of this route
    #[arg(long)]
    pub(crate) route: Option<RouteName>,
    /// Of this reason, as `list` shows it
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Whose last failure is of this class: `error`, `timeout`, `panic`, `unreachable`, `busy`, `rejected`, `crash`
    #[arg(long)]
    pub(crate) class: Option<String>,
    /// Whose event fits: `FIELD=VALUE` of the normalised view, such as `session_id=s-1`; all must fit
    #[arg(long = "where", value_name = "FIELD=VALUE")]
    pub(crate) fields: Vec<String>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// All of them; needed where nothing else narrows the choice
    #[arg(long)]
    pub(crate) all: bool,
    /// These, as `list` shows them
    pub(crate) ids: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Only say which they are
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// At most so many a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// So many first, and the rest only when none of these fails again
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) canary: u32,
    /// Do again what was done for them already
    #[arg(long)]
    pub(crate) again: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    #[command(flatten)]
    pub(crate) json: Json,
}
