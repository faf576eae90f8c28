//! The grammar of the command line: one verb for each thing.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use jiff::Timestamp;
use router_api::{RouteName, RoutingKey, RoutingPattern};
use router_core::config::LogFormat;

use crate::commands::{
    health::HealthUrl,
    replay::{speed_of, time_of},
};
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

#[derive(Debug, Args)]
pub(crate) struct PluginsArgs {
    /// The plugin whose reference to show
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Which schemas
    #[arg(value_enum)]
    pub(crate) of: Option<SchemaOf>,
    /// Write the generated schemas and references below `config/` and `docs/` instead
    #[arg(long, conflicts_with = "of")]
    pub(crate) write: bool,
    /// The repository for `--write`
    #[arg(long, value_name = "DIR", default_value = ".", requires = "write")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaOf {
    /// The shapes of events that are known
    Events,
    /// The HTTP endpoints and the admin API, as an OpenAPI document
    Openapi,
}

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

/// Names of plugins are made as those of routes are.
fn plugin_name(text: &str) -> Result<RouteName, String> {
    text.parse().map_err(|_| "no name of a plugin: use 1 to 63 of `a` to `z`, `0` to `9` and `-`, beginning with a letter".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum NewCommand {
    /// Make a crate with a plugin, a program that links it, a test and an example route
    Plugin {
        /// What routes will call it
        #[arg(value_parser = plugin_name)]
        name: RouteName,
        /// Where to make it; `./NAME` if not given. Nothing that is there is overwritten
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
        /// The router's sources, on which the crate depends; else they are looked for around the new crate and the working directory
        #[arg(long, value_name = "DIR")]
        router_path: Option<PathBuf>,
    },
    /// Print a commented route for a plugin, with all its options
    Route {
        /// Its name
        name: RouteName,
        /// The plugin
        #[arg(long, value_name = "PLUGIN", default_value = "log")]
        handler: String,
        /// A pattern of routing keys that it listens to; may be given more than once
        #[arg(long, value_name = "PATTERN", default_value = "session.thread.agent.action")]
        on: Vec<RoutingPattern>,
        /// Append it to this file instead, such as `config/routes.d/mine.toml`
        #[arg(long, value_name = "FILE")]
        append: Option<PathBuf>,
    },
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
