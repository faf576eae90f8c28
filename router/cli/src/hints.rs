//! What somebody probably wants who types what is no command here: a tip beside clap's own error. It changes neither the grammar nor
//! the exit code.

use std::path::Path;

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Words of other programs, and what does the same here.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["init", "create", "setup", "add"], "a route to begin with is printed by `event-router new route NAME`; it goes into a file below `config/routes.d`"),
    (&["start", "serve", "server", "up", "daemon", "service"], "the service is `event-router run`"),
    (&["stop", "down", "shutdown"], "the service stops at SIGTERM; one route is held by `event-router routes pause NAME`"),
    (&["status", "ps", "list", "ls", "info"], "how everything stands is shown by `event-router routes`"),
    (&["send", "emit", "push", "post", "ingest"], "an event is taken in by `event-router publish`"),
    (&["validate", "lint", "verify", "test"], "the configuration is checked by `event-router check`, a route on one event by `event-router try`"),
    (&["log", "logs", "history", "tail", "follow", "archive"], "what came lately is shown by `event-router events`, what is coming in by `event-router watch`"),
    (&["reload"], "the running router loads its configuration anew by `event-router config reload`"),
    (&["retry", "redrive", "dlq"], "what was given up on is listed, and put back, by `event-router dead-letters`"),
    (&["why", "why-not", "trace"], "an event is explained by `event-router explain`"),
    (&["fsck", "repair", "backup", "vacuum", "compact"], "the file of the store is looked after by `event-router store`"),
    (&["pause", "resume", "flush", "enable", "disable"], "one route is commanded by `event-router routes`: see `event-router routes --help`"),
];

/// The same below `routes`.
const ROUTES: &[(&[&str], &str)] = &[
    (&["stop", "hold", "suspend"], "`event-router routes pause NAME` holds a route until it is resumed"),
    (&["start", "continue", "unpause"], "`event-router routes resume NAME` ends a pause"),
    (&["disable", "off"], "`enabled = false` in its file and `event-router config reload` switch a route off"),
    (&["add", "new", "create"], "`event-router new route NAME` prints a route to begin with"),
    (&["delete", "rm"], "`event-router routes remove NAME` deletes the queue of a route that is off or gone"),
];

/// The error, with a tip where there is one. A word of other programs means what it means there, however much it looks like a command.
pub(crate) fn with_tip(mut error: clap::Error, args: &[String]) -> clap::Error {
    let guesses = [ContextKind::Suggested, ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg];
    let is_guessed = guesses.iter().any(|kind| error.get(*kind).is_some());
    if let Some(tip) = tip(&error, args)
        && (!is_guessed || error.kind() == ErrorKind::InvalidSubcommand)
    {
        for kind in guesses {
            let _ = error.remove(kind);
        }
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

fn tip(error: &clap::Error, args: &[String]) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let said = |word: &str| args.iter().any(|arg| arg == word);
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand)?;
            let words = if said("routes") { ROUTES } else { COMMANDS };
            words.iter().find(|(words, _)| words.contains(&word)).map(|(_, tip)| (*tip).to_owned())
        }
        // `check FILE`, as other programs have it.
        ErrorKind::UnknownArgument => {
            let word = text(ContextKind::InvalidArg).filter(|word| !word.starts_with('-'))?;
            let takes_none = ["check", "run", "show", "reload", "health"].into_iter().any(said);
            let is_config = takes_none && (word.ends_with(".toml") || Path::new(word).exists());
            is_config.then(|| "the configuration is named by `-c FILE|DIR`".to_owned())
        }
        ErrorKind::MissingRequiredArgument if said("publish") => Some("`event-router publish --sample write` takes a built-in event in".to_owned()),
        ErrorKind::MissingRequiredArgument if said("explain") || said("try") => Some("`event-router events` lists the numbers of stored events".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::CommandLine;

    fn said(line: &str) -> String {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let error = CommandLine::try_parse_from(&args).expect_err("it is wrong");
        with_tip(error, &args).to_string()
    }

    #[test]
    fn words_of_other_programs_are_answered_with_those_of_this_one() {
        for (line, tip) in [
            ("event-router init", "event-router new route NAME"),
            ("event-router start", "event-router run"),
            ("event-router validate", "event-router check"),
            ("event-router backup", "event-router store"),
            ("event-router routes stop ci", "routes pause NAME"),
            ("event-router check router.toml", "`-c FILE|DIR`"),
            ("event-router publish", "--sample write"),
            ("event-router explain", "event-router events"),
        ] {
            let said = said(line);
            assert!(said.contains("tip: ") && said.contains(tip), "{line}: {said}");
        }
    }

    #[test]
    fn what_is_nearly_a_command_keeps_its_own_tip_and_the_rest_has_none() {
        assert!(said("event-router evnts").contains("'events'"));
        assert!(!said("event-router frobnicate").contains("tip:"));
        assert!(!said("event-router check word").contains("-c FILE|DIR`"));
    }

    #[test]
    fn every_tip_names_commands_that_there_are() {
        let known: Vec<String> = <CommandLine as clap::CommandFactory>::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        for (words, tip) in COMMANDS.iter().chain(ROUTES) {
            let named: Vec<&str> = tip.split("`event-router ").skip(1).filter_map(|rest| rest.split([' ', '`']).next()).collect();
            assert!(named.iter().all(|name| known.iter().any(|known| known == name)), "{tip}");
            assert!(!words.is_empty());
        }
        for (words, _) in COMMANDS {
            assert!(words.iter().all(|word| !known.iter().any(|known| known == word)), "{words:?} has a command");
        }
    }
}
