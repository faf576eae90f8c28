//! What was found wrong with a store: what keeps it from being opened, and what it can be used with nevertheless.

use std::fmt;

use jiff::Timestamp;
use router_api::RouteName;

/// Something that a person should know about the store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// Events that had been accepted are not there: the file was replaced by an older one, or the disk lost what it said it had.
    EventsMissing {
        /// The number of the first one.
        first: u64,
        /// The number of the last one.
        last: u64,
    },
    /// The side file with the last accepted number was written beside another store, which reached `last`.
    SideFileOfAnother {
        /// The last number of the other store.
        last: u64,
    },
    /// The end of the log is not there, and the store is one that need not wait for the disk (`synchronous = "normal"`).
    CommitsMissing {
        /// Frames that were written to the log and are not there.
        frames: u32,
    },
    /// Another program has written in the store while no router had it; a check found nothing wrong.
    WrittenByAnother,
    /// The side file with the last accepted number cannot be read, so nobody can tell whether the newest events are there.
    SideFileUnreadable,
    /// The sums of the pages were not of this state of the store; everything was looked at instead, and is well.
    SumsUnreadable,
    /// The stored bytes of an event are not those that were written. Its deliveries go to the dead letters as undecodable.
    EventDamaged {
        /// Its number.
        seq: u64,
        /// A route that it was to go to.
        route: RouteName,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventsMissing { first, last } => {
                write!(f, "{} accepted events are missing from the store, numbers {first} to {last}", last.saturating_sub(*first) + 1)
            }
            Self::SideFileOfAnother { last } => {
                write!(f, "the store is not the one that lay here before, which had accepted events up to number {last}")
            }
            Self::CommitsMissing { frames } => {
                write!(f, "the last {frames} frames of the log are missing (`synchronous = \"normal\"`): what was settled in them is handled again")
            }
            Self::WrittenByAnother => {
                f.write_str("another program has written in the store since the router left it; a check of everything found nothing wrong")
            }
            Self::SideFileUnreadable => {
                f.write_str("the side file `.seq` cannot be read, so nobody can tell whether the newest events are there; it is made anew")
            }
            Self::SumsUnreadable => {
                f.write_str("the sums in `.sums` are not of this state of the store; a check of everything found nothing wrong, and they are made anew")
            }
            Self::EventDamaged { seq, route } => write!(f, "the stored bytes of event {seq} are damaged; route `{route}` gave it up"),
        }
    }
}

/// Findings kept at most; later ones are only logged.
pub(crate) const FINDINGS_MAX: usize = 1_000;

/// Why a store is not opened: something that was accepted is not there, or what is there is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Accepted events are not there.
    EventsMissing {
        /// The number of the first one.
        first: u64,
        /// The number of the last one.
        last: u64,
        /// When the last event before them was stored.
        after: Option<Timestamp>,
        /// When the last accepted number was noted.
        until: Option<Timestamp>,
    },
    /// SQLite would read the log up to a damaged frame and take that for its end.
    LogCut {
        /// The frame.
        frame: u32,
        /// Whole frames behind it.
        frames: u32,
        /// Commits that would be lost.
        commits: u32,
    },
    /// SQLite would read nothing of the log.
    LogHeader {
        /// Whole frames in it.
        frames: u32,
        /// Commits in it.
        commits: u32,
    },
    /// The log ends before its noted end.
    LogShort {
        /// Its frames.
        found: u32,
        /// That were written.
        noted: u32,
    },
    /// The log is gone, or another lies in its place.
    LogGone {
        /// Frames that were written to it.
        noted: u32,
    },
    /// Pages of the file are not what was written.
    Pages {
        /// How many.
        count: u64,
        /// The first of them, counted from 1.
        first: Vec<u32>,
    },
    /// The file is gone or empty; what lies beside it says that it was not.
    FileGone {
        /// The last accepted number, if that is known.
        last: Option<u64>,
    },
    /// SQLite's own check found this.
    Structure {
        /// What it says, the first few.
        problems: Vec<String>,
    },
    /// Rows of events that are not what was written.
    Events {
        /// How many.
        count: u64,
        /// The number of the first one.
        first: u64,
        /// The number of the last one.
        last: u64,
        /// When the first one was stored, as far as it can be read.
        from: Option<Timestamp>,
        /// When the last one was stored, as far as it can be read.
        until: Option<Timestamp>,
    },
    /// Rows whose event is not there.
    Orphans {
        /// How many.
        count: u64,
    },
    /// A repair was interrupted after its last step but one.
    RepairUnfinished,
}

impl Damage {
    /// Its name for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::EventsMissing { .. } => "events-missing",
            Self::LogCut { .. } => "log-cut",
            Self::LogHeader { .. } => "log-header",
            Self::LogShort { .. } => "log-short",
            Self::LogGone { .. } => "log-gone",
            Self::Pages { .. } => "pages",
            Self::FileGone { .. } => "file-gone",
            Self::Structure { .. } => "structure",
            Self::Events { .. } => "events",
            Self::Orphans { .. } => "orphans",
            Self::RepairUnfinished => "repair-unfinished",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventsMissing { first, last, after, until } => {
                let (count, numbers) = numbers(*first, *last);
                write!(f, "{count} missing, {numbers}{}", Span { from: *after, until: *until, word: "accepted" })
            }
            Self::LogCut { frame, frames, commits } => {
                write!(f, "the log `-wal` is damaged at frame {frame}: {frames} whole frames behind it, with {}, would be cut off", counted(*commits, "commit"))
            }
            Self::LogHeader { frames, commits } => {
                write!(f, "the header of the log `-wal` is damaged: its {frames} frames, with {}, would not be read", counted(*commits, "commit"))
            }
            Self::LogShort { found, noted } => write!(f, "the log `-wal` ends after frame {found} of {noted} that were written"),
            Self::LogGone { noted } => write!(f, "the log `-wal` with the last {noted} frames is gone"),
            Self::Pages { count, first } => {
                let shown: Vec<String> = first.iter().map(u32::to_string).collect();
                let more = if *count > first.len() as u64 { ", …" } else { "" };
                let (pages, are) = if *count == 1 { ("page", "is") } else { ("pages", "are") };
                write!(f, "{count} {pages} of the file {are} not what was written ({}{more})", shown.join(", "))
            }
            Self::FileGone { last: Some(last) } => write!(f, "the file is gone or empty, and up to {last} events had been accepted"),
            Self::FileGone { last: None } => write!(f, "the file is gone or empty, and what lies beside it says that it was not"),
            Self::Structure { problems } => write!(f, "SQLite finds: {}", problems.join("; ")),
            Self::Events { count, first, last, from, until } => {
                let (events, numbers) = (counted(u32::try_from(*count).unwrap_or(u32::MAX), "event"), numbers(*first, *last).1);
                write!(f, "{events} not what was written, {numbers}{}", Span { from: *from, until: *until, word: "stored" })
            }
            Self::Orphans { count } => write!(f, "{count} rows belong to events or routes that are not there"),
            Self::RepairUnfinished => f.write_str("a repair was interrupted; give the command again to end it"),
        }
    }
}

/// How many numbers there are from `first` to `last`, and which.
fn numbers(first: u64, last: u64) -> (String, String) {
    match last.saturating_sub(first).saturating_add(1) {
        1 => ("1 accepted event is".to_owned(), format!("number {first}")),
        count => (format!("{count} accepted events are"), format!("numbers {first} to {last}")),
    }
}

fn counted(count: u32, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// A range of times, as far as it is known.
struct Span {
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    word: &'static str,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.until) {
            (Some(from), Some(until)) if from <= until => write!(f, ", {} between {from:.0} and {until:.0}", self.word),
            (Some(from), _) => write!(f, ", {} after {from:.0}", self.word),
            (None, Some(until)) => write!(f, ", {} before {until:.0}", self.word),
            (None, None) => Ok(()),
        }
    }
}

/// All of it as one sentence.
pub(crate) fn sentence(damages: &[Damage]) -> String {
    let all: Vec<String> = damages.iter().map(ToString::to_string).collect();
    all.join("; ")
}
