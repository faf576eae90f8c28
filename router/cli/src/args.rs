//! The grammar of the command line: one verb for each thing. Here are the verbs, and what all of them understand; what a verb has of its
//! own is in `args/`, or beside the verb.

mod authoring;
mod claude;
mod dead_letters;
mod events;
mod routes;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use router_core::config::LogFormat;

pub(crate) use self::{
    authoring::{NewCommand, PluginsArgs, SchemaArgs, SchemaOf},
    claude::{ClaudeCommand, ClaudeDoctorArgs, ClaudeFeedbackArgs, ClaudeInstallArgs, ClaudeStatusArgs, ClaudeUninstallArgs, ClaudeWhere, FeedbackSwitch},
    dead_letters::{DeadLettersCommand, DiscardArgs, LettersArgs, RedriveArgs, SelectionArgs},
    events::{EventArgs, EventsArgs, ExplainArgs, PublishArgs, ReplayArgs, TryArgs, WatchArgs},
    routes::{BeginAt, EnableArgs, RoutesArgs, RoutesCommand, RoutesFormat, RoutesListArgs},
};
use crate::commands::health::HealthUrl;
pub(crate) use crate::commands::{sessions::args::SessionsCommand, store::args::StoreCommand};

/// Carries events from a bus to the things that must act on them.
#[derive(Debug, Parser)]
#[command(
    name = "event-router",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 78 invalid configuration.\nBegin with `event-router demo`."
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Stands behind the options of a command's own.
const GLOBAL: &str = "Options of every command";

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// A configuration file, or a directory with `router.toml` and `routes.d/*.toml`; may be given more than once. Else
    /// `$EVENT_ROUTER_CONFIG`, `./config`, `/etc/event-router`, or the built-in configuration
    #[arg(short, long, value_name = "FILE|DIR", global = true, action = ArgAction::Append, help_heading = GLOBAL)]
    pub(crate) config: Vec<PathBuf>,

    /// A file with variables for the configuration's references, a line `NAME=VALUE` each; may be given more than once. What the
    /// environment says counts before it
    #[arg(long, value_name = "FILE", global = true, action = ArgAction::Append, help_heading = GLOBAL, hide_short_help = true)]
    pub(crate) env_file: Vec<PathBuf>,

    /// Log more, twice for everything; `explain` tells all reasons and shows the body
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet", help_heading = GLOBAL)]
    pub(crate) verbose: u8,

    /// Log less; twice for errors only, three times for nothing
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GLOBAL, hide_short_help = true)]
    pub(crate) quiet: u8,

    /// When to colour the output; `NO_COLOR` is respected too
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto", env = "EVENT_ROUTER_COLOR", help_heading = GLOBAL, hide_short_help = true)]
    pub(crate) color: Colour,

    /// How the log looks; the configuration decides if it is not given
    #[arg(long, value_name = "FORMAT", global = true, env = "EVENT_ROUTER_LOG_FORMAT", help_heading = GLOBAL, hide_short_help = true)]
    pub(crate) log_format: Option<LogShape>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogShape {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl From<LogShape> for LogFormat {
    fn from(shape: LogShape) -> Self {
        match shape {
            LogShape::Text => Self::Text,
            LogShape::Json => Self::Json,
        }
    }
}

/// Answers for programs.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Json {
    /// Answer in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Be the service: take events in, store them, run the routes
    ///
    /// SIGTERM and SIGINT drain: what runs is finished, what waits stays queued. A second one cancels what still runs. The exit code is
    /// 0 either way, since nothing is lost.
    Run,
    /// Watch a recorded coding session flow through the shipped routes; nothing is sent or run
    Demo(DemoArgs),
    /// Check the configuration without touching a network: shows every problem at once
    ///
    /// With `--broker` it also asks RabbitMQ what `run` would change there, and changes nothing.
    Check(CheckArgs),
    /// List the linked plugins, or show the reference of one
    Plugins(PluginsArgs),
    /// Print the JSON Schema of the configuration, those of the events, or the OpenAPI document of the HTTP door
    Schema(SchemaArgs),
    /// Take an event in
    Publish(PublishArgs),
    /// Show the last events and what became of them
    Events(EventsArgs),
    /// Show events as they come, one line each; nobody's queue is touched
    ///
    /// With a running router its archive is followed, whichever transport it has, over its restarts too. On RabbitMQ without a router of this
    /// configuration a queue of one's own is bound beside all others, and goes with the command.
    Watch(WatchArgs),
    /// Show what a session did, in its order, or hand it to one route once more
    ///
    /// Nothing is handed to anybody without `--deliver`, and nothing to a live route without `--live`. What is delivered has a new id and
    /// is marked as replayed.
    Replay(ReplayArgs),
    /// Say for every route whether it wants an event, and if not why
    Explain(ExplainArgs),
    /// Put sessions of Claude Code on the bus: wire its hooks, and see whether they arrive
    Claude {
        #[command(subcommand)]
        command: ClaudeCommand,
    },
    /// Look at events that a route gave up on
    DeadLetters {
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// Show how the routes stand, or pause, resume, flush, enable or remove one
    #[command(args_conflicts_with_subcommands = true)]
    Routes(RoutesArgs),
    /// Show coding sessions: what they did, what they cost, and how that adds up
    Sessions {
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// Check, repair or copy the store's files, or give their free space back
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Run one event through one route, writing nothing outside unless `--live`
    Try(TryArgs),
    /// Look at the configuration in force
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Say whether a router answers, for containers and scripts: one line, exit code 0 or 1
    Health(HealthArgs),
    /// Begin a plugin or a route of one's own
    New {
        #[command(subcommand)]
        command: NewCommand,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// Was an answer for programs asked for?
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Check(args) => args.json.json,
            Self::Config { command: ConfigCommand::Show(json) } => json.json,
            Self::Plugins(args) => args.json.json,
            Self::Publish(args) => args.json.json,
            Self::Events(args) => args.json.json,
            Self::Watch(args) => args.json.json,
            Self::Replay(args) => args.json.json,
            Self::Claude { command: ClaudeCommand::Status(args) } => args.json.json,
            Self::Claude { command: ClaudeCommand::Doctor(args) } => args.json.json,
            Self::Claude { command: ClaudeCommand::Feedback(args) } => args.json.json,
            Self::Claude { .. } => false,
            Self::Explain(args) => args.json.json,
            Self::Try(args) => args.json.json,
            Self::DeadLetters { command: DeadLettersCommand::List(args) } => args.json.json,
            Self::DeadLetters { command: DeadLettersCommand::Show { json, .. } } => json.json,
            Self::DeadLetters { command: DeadLettersCommand::Redrive(args) } => args.json.json,
            Self::DeadLetters { command: DeadLettersCommand::Discard(args) } => args.json.json,
            Self::Config { command: ConfigCommand::Reload(json) } => json.json,
            Self::Routes(args) => match &args.command {
                None => args.list.json.json,
                Some(RoutesCommand::List(list)) => list.json.json,
                Some(RoutesCommand::Enable(args)) => args.json.json,
                Some(
                    RoutesCommand::Pause(args)
                    | RoutesCommand::Resume(args)
                    | RoutesCommand::Flush(args)
                    | RoutesCommand::DropBurst(args)
                    | RoutesCommand::Remove(args),
                ) => args.json.json,
            },
            Self::Health(args) => args.json.json,
            Self::Sessions { command } => command.wants_json(),
            Self::Store { command } => command.wants_json(),
            Self::Run | Self::Demo(_) | Self::Schema(_) | Self::New { .. } | Self::Completions { .. } => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Show what `run` would change on RabbitMQ, and what it would be refused there
    #[arg(long)]
    pub(crate) broker: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many times faster than recorded
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub(crate) speed: u32,
    /// Show that nothing is lost instead: a router is killed 20 times under load, and what it accepted is counted
    #[arg(long, conflicts_with = "speed")]
    pub(crate) crash: bool,
    /// What the handlers of `--crash` do: note a number in a file
    #[arg(long, hide = true, num_args = 2, value_names = ["FILE", "NUMBER"], conflicts_with_all = ["crash", "speed"])]
    pub(crate) note: Option<Vec<std::ffi::OsString>>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the effective configuration with all defaults filled in; values that came from outside are not shown
    Show(Json),
    /// Have the running router load its configuration anew, as SIGHUP does; a bad one changes nothing
    Reload(Json),
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The address to ask, such as `http://127.0.0.1:8682/healthz`; else the router on the configuration's store
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<HealthUrl>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_verb() {
        let before = CommandLine::try_parse_from(["event-router", "-c", "a", "-c", "b", "-v", "check", "--json"]).unwrap();
        assert_eq!((before.global.config.len(), before.global.verbose), (2, 1));
        let after = CommandLine::try_parse_from(["event-router", "check", "-c", "a", "-qq"]).unwrap();
        assert_eq!((after.global.config.len(), after.global.quiet), (1, 2));
    }

    #[test]
    fn publish_needs_an_event_and_only_one() {
        assert!(CommandLine::try_parse_from(["event-router", "publish"]).is_err());
        assert!(CommandLine::try_parse_from(["event-router", "publish", "-", "--sample", "write"]).is_err());
        assert!(CommandLine::try_parse_from(["event-router", "publish", "-", "--key", "a.b"]).is_ok());
    }
}
