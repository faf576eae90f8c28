//! What was found wrong with a store that can be used nevertheless.

use std::fmt;

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
            Self::EventDamaged { seq, route } => write!(f, "the stored bytes of event {seq} are damaged; route `{route}` gave it up"),
        }
    }
}

/// Findings kept at most; later ones are only logged.
pub(crate) const FINDINGS_MAX: usize = 1_000;
