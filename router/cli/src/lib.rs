//! The command line of the event router, as a library: a program of one's own links its plugins and calls [`main`].
//!
//! Read `args.rs` for the grammar, `commands/` for one file a verb, `access.rs` for how a command reaches the store.

mod access;
mod args;
mod body_text;
mod broker;
mod commands;
mod env_file;
mod event_input;
mod event_line;
#[cfg(debug_assertions)]
mod failpoints;
mod fates;
mod filter_text;
mod handler_threads;
mod hints;
mod hook_prices;
mod log;
mod log_observer;
mod log_pipe;
mod management;
mod memory_store;
mod reach;
mod reload;
mod session;
mod setup;
mod spool;
mod store_file;
mod store_key;
mod system;
mod systemd;
mod telemetry;
mod terminal;
mod threads;
mod unasked;

use std::{
    io,
    process::{ExitCode, Termination as _},
};

use clap::Parser as _;
use router_http::ErrorAnswer;

use crate::{
    args::{Colour, Command, CommandLine, ConfigCommand, Global},
    setup::InvalidConfig,
    terminal::{BAD, BOLD, Output, harmless_lines, styled},
};
pub use crate::{
    handler_threads::HandlerThreads,
    system::{OsChance, SystemClock},
    threads::io_threads,
};

/// How a command ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Exit code 0.
    Well,
    /// Exit code 1: what failed is already on the screen.
    Badly,
    /// Exit code 78: what is wrong with the configuration is already on the screen.
    InvalidConfig,
}

/// The command line asks for what cannot be: exit code 2, as for what clap refuses.
#[derive(Debug)]
pub(crate) struct WrongUsage(pub(crate) String);

impl std::fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}

/// Of wrong usage, here and in clap.
const EXIT_USAGE: u8 = 2;

/// `EX_CONFIG`: service managers do not restart a program that ends with it.
const EXIT_CONFIG: u8 = 78;

/// The whole program: reads the arguments, runs the command, and gives the exit code.
///
/// A program with plugins of its own is a crate that links them and calls this:
///
/// ```no_run
/// // use my_plugins as _;
///
/// fn main() -> std::process::ExitCode {
///     event_router::main()
/// }
/// ```
#[must_use]
pub fn main() -> ExitCode {
    let line = CommandLine::try_parse().unwrap_or_else(|error| {
        let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
        hints::with_tip(error, &args).exit()
    });
    match line.global.color {
        Colour::Auto => anstream::ColorChoice::Auto,
        Colour::Always => anstream::ColorChoice::Always,
        Colour::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    // The first one wins; a program of one's own may have chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut out = Output::stdout();
    let wants_json = line.command.wants_json();
    let result = dispatch(line, &mut out).and_then(|ended| out.flush().map(|()| ended).map_err(Into::into));
    match result {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Badly) => ExitCode::FAILURE,
        Ok(Ended::InvalidConfig) => ExitCode::from(EXIT_CONFIG),
        // `event-router events | head` is no failure.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) => ().report(),
        Err(error) => {
            if wants_json {
                answer_error(&error, &mut out);
            }
            report(&error)
        }
    }
}

fn dispatch(line: CommandLine, out: &mut Output) -> anyhow::Result<Ended> {
    let CommandLine { global, command } = line;
    match command {
        Command::Run => commands::run::run(&global),
        Command::Demo(args) => commands::demo::run(&global, &args, out),
        Command::Check(args) => commands::check::run(&global, &args, out),
        Command::Plugins(args) => commands::plugins::run(&args, out),
        Command::Schema(args) => commands::schema::run(&args, out),
        Command::Publish(args) => commands::publish::run(&global, &args, out),
        Command::Events(args) => commands::events::run(&global, &args, out),
        Command::Claude { command } => commands::claude::run(&global, command, out),
        Command::Watch(args) => commands::watch::run(&global, &args, out),
        Command::Replay(args) => commands::replay::run(&global, &args, out),
        Command::Explain(args) => commands::explain::run(&global, &args, out),
        Command::Sessions { command } => commands::sessions::run(&global, &command, out),
        Command::Store { command } => commands::store::run(&global, command, out),
        Command::Routes(args) => commands::routes::run(&global, args, out),
        Command::DeadLetters { command } => commands::dead_letters::run(&global, command, out),
        Command::Try(args) => commands::try_route::run(&global, &args, out),
        Command::Config { command: ConfigCommand::Show(json) } => commands::config::show(&global, json, out),
        Command::Config { command: ConfigCommand::Reload(json) } => commands::config::reload(&global, json, out),
        Command::Health(args) => commands::health::run(&global, &args, out),
        Command::New { command } => commands::new::run(command, out),
        Command::Completions { shell } => commands::completions::run(shell, out),
    }
}

/// `event-router.error.v1` of a command that was asked for JSON.
#[derive(serde::Serialize)]
struct CommandError {
    schema: &'static str,
    /// For people.
    error: String,
}

fn answer_error(error: &anyhow::Error, out: &mut Output) {
    // A reader that is gone has no use for it, and the sentence stands on the standard error as well.
    let _ = out.json(&CommandError { schema: ErrorAnswer::SCHEMA, error: format!("{error:#}") }).and_then(|()| out.flush());
}

/// Says on the standard error why the command failed.
fn report(error: &anyhow::Error) -> ExitCode {
    let mut stderr = anstream::AutoStream::auto(io::stderr());
    if let Some(invalid) = error.downcast_ref::<InvalidConfig>() {
        // Colours are dropped again where they are not wanted.
        let _ = io::Write::write_fmt(&mut stderr, format_args!("{}\n", invalid.shown(true)));
        return ExitCode::from(EXIT_CONFIG);
    }
    let _ = io::Write::write_fmt(&mut stderr, format_args!("{}{} {}\n", styled(BAD.bold(), "error"), styled(BOLD, ":"), harmless_lines(&format!("{error:#}"))));
    if error.is::<WrongUsage>() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}

impl Global {
    /// Begins the log of a command that is no service: quiet unless asked.
    fn begin_quiet_log(&self) -> anyhow::Result<log::LogGuard> {
        let format = self.log_format.map(Into::into).unwrap_or_default();
        // What the broker says is the command's own answer.
        log::begin(&log::level("warn,router_amqp=off", self.verbose, self.quiet), format)
    }

    /// The same, but what a route writes into the log on purpose is shown.
    fn begin_log_of_try(&self) -> anyhow::Result<log::LogGuard> {
        let format = self.log_format.map(Into::into).unwrap_or_default();
        log::begin(&log::level("warn,plugins::log=info", self.verbose, self.quiet), format)
    }
}
