//! `routes`: how they stand, and what an operator does to one.

use clap::{Args, Subcommand, ValueEnum};
use router_api::RouteName;

use super::Json;

#[derive(Debug, Args)]
pub(crate) struct RoutesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<RoutesCommand>,
    #[command(flatten)]
    pub(crate) list: RoutesListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RoutesListArgs {
    /// How to show them
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = RoutesFormat::Table, conflicts_with = "json")]
    pub(crate) format: RoutesFormat,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoutesFormat {
    /// Columns for people
    Table,
    /// The entries of the ecosystem's `services/registry.yaml`, from the configuration alone
    Registry,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoutesCommand {
    /// Show all routes: state, queue, what they did lately, whether the target answers, pending bursts
    List(RoutesListArgs),
    /// Finish what runs and start nothing more, over restarts too; events go on collecting
    Pause(RouteArgs),
    /// End a pause, an operator's or that of a target that was down
    Resume(RouteArgs),
    /// Close all bursts that collect, now
    Flush(RouteArgs),
    /// Give up on the bursts that fail and hold up their lanes; their events become dead letters
    ///
    /// Meant are bursts of which an attempt has failed, and on a route that handles nothing now (paused, or its target is down) those that
    /// were begun. A handling under way goes on to its end, and is not repeated if it fails. Bursts that still collect are left alone.
    DropBurst(RouteArgs),
    /// Start a route that the configuration switches on, and say where it begins
    ///
    /// The configuration file decides whether a route is on: write `enabled = true` there first. This command then has the running router
    /// load the configuration, as `config reload` does, and acts once: it changes no file and leaves no setting behind.
    Enable(EnableArgs),
    /// Delete the queue of a route that is off or gone, with what waits in it
    Remove(RouteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct EnableArgs {
    /// The route
    pub(crate) route: RouteName,
    /// With what waits in its queue, or with what comes from now on
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = BeginAt::Beginning)]
    pub(crate) from: BeginAt,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BeginAt {
    /// What waits is handled first, the oldest event before all others
    Beginning,
    /// What waits becomes dead letters
    Now,
}

#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// The route
    pub(crate) route: RouteName,
    #[command(flatten)]
    pub(crate) json: Json,
}
