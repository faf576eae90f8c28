//! Taking an event in, looking at events, and asking about one: `publish`, `events`, `watch`, `replay`, `explain`, `try`.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use router_api::{RouteName, RoutingKey, RoutingPattern};

use super::Json;
use crate::commands::replay::{speed_of, time_of};

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// A file with one event, `-` for the standard input
    #[arg(value_name = "FILE|-", required_unless_present = "sample")]
    pub(crate) file: Option<PathBuf>,
    /// The routing key; `event_type` or `type` of the event if not given
    #[arg(long)]
    pub(crate) key: Option<RoutingKey>,
    /// A built-in event, with a fresh id and time; a wrong name lists them
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub(crate) sample: Option<String>,
    /// Make a store where no configuration was found and none is
    #[arg(long)]
    pub(crate) new_store: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) last: u32,
    /// With a routing key that fits this pattern
    #[arg(long, value_name = "PATTERN")]
    pub(crate) key: Option<RoutingPattern>,
    /// That no route wanted
    #[arg(long)]
    pub(crate) unmatched: bool,
    /// Of this session
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// With a routing key that fits; everything if not given
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: Option<RoutingPattern>,
    /// That fits: `FIELD=VALUE` of the normalised view, such as `tool_name=Write`, or the table of a route's `when`; all must fit
    #[arg(long, value_name = "FIELD=VALUE|TABLE")]
    pub(crate) when: Vec<String>,
    /// That this route would take
    #[arg(long)]
    pub(crate) route: Option<RouteName>,
    /// Of this session
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// Say below each event which routes want it, and why the others do not
    #[arg(long)]
    pub(crate) explain: bool,
    /// Begin with those that fit among the last N that are stored
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) last: Option<u32>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) json: JsonLines,
}

/// Answers for programs that read on.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct JsonLines {
    /// Answer in JSON, one document a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The session, as `events` or `sessions` names it
    #[arg(long, value_name = "ID")]
    pub(crate) session: String,
    /// From this time on: `2026-03-02T09:14:06Z`, `2026-03-02 09:14`, or `09:14` for today
    #[arg(long, value_name = "TIME", value_parser = time_of)]
    pub(crate) from: Option<Timestamp>,
    /// Up to this time
    #[arg(long, value_name = "TIME", value_parser = time_of)]
    pub(crate) to_time: Option<Timestamp>,
    /// Only what follows the event of this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) after: Option<u64>,
    /// As it went then, so many times as fast; else at once
    #[arg(long, value_name = "N", value_parser = speed_of)]
    pub(crate) speed: Option<f64>,
    /// The route that those events are for which it wants; without `--deliver` they are only named
    #[arg(long, value_name = "ROUTE")]
    pub(crate) to: Option<RouteName>,
    /// Deliver them to the route
    #[arg(long, requires = "to")]
    pub(crate) deliver: bool,
    /// To a live route, too: what it does is done for real again
    #[arg(long, requires = "deliver")]
    pub(crate) live: bool,
    #[command(flatten)]
    pub(crate) json: JsonLines,
}

/// An event, wherever it lies.
#[derive(Debug, Args)]
pub(crate) struct EventArgs {
    /// The number or id of a stored event, a file with one event, or `-` for the standard input
    #[arg(value_name = "ID|FILE|-")]
    pub(crate) event: String,
    /// The routing key of an event from a file; `event_type` or `type` of the event if not given
    #[arg(long)]
    pub(crate) key: Option<RoutingKey>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) event: EventArgs,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct TryArgs {
    /// The route
    pub(crate) route: RouteName,
    #[command(flatten)]
    pub(crate) event: EventArgs,
    /// Perform the effects instead of only showing them
    #[arg(long)]
    pub(crate) live: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}
