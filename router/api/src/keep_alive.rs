//! Programs that are started once and asked many times: what a [`crate::CommandRequest`] says about it, and how long they are wanted.
//!
//! Here is the description only. The processes are held by whoever performs effects.

use std::{
    num::NonZeroU16,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::Deserialize;

use crate::{Cancellation, Canceller};

/// Tells leases apart, within this process.
static LEASES: AtomicU64 = AtomicU64::new(1);

/// Makes a command one line to a program that stays.
///
/// The request's `stdin` is that line: a JSON object with the text `id` in it, no line break. The answer is the line of JSON that the
/// program prints with the same `id`, as the `stdout` of a reply with exit code 0. Requests with the same lease, route, argument
/// vector, directory and variables are given to the same processes.
#[derive(Debug, Clone)]
pub struct KeepAlive {
    /// What the line's `id` says; no other request that waits for the same process has it.
    pub id: String,
    /// How many processes there may be at most. All of them busy, one is given a further line. Without a number there is one for each
    /// request under way, up to the performer's limit.
    pub processes: Option<NonZeroU16>,
    /// A process that has had nothing to do for so long is ended, orderly; the next line starts another.
    pub idle: Duration,
    /// For how long the processes are wanted.
    pub leased: Leased,
}

impl KeepAlive {
    /// The `id` of a line that a program printed; none if it is no JSON object with such a text.
    #[must_use]
    pub fn id_of(line: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Answer {
            id: String,
        }
        serde_json::from_slice::<Answer>(line).ok().map(|answer| answer.id)
    }
}

/// Held by a handler: when it is dropped, the processes that were started under it are told to end.
pub struct Lease {
    canceller: Canceller,
    number: u64,
}

impl Lease {
    /// A lease of its own.
    #[must_use]
    pub fn new() -> Self {
        Self { canceller: Canceller::default(), number: LEASES.fetch_add(1, Ordering::Relaxed) }
    }

    /// For requests.
    #[must_use]
    pub fn leased(&self) -> Leased {
        Leased { number: self.number, over: self.canceller.listener() }
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}

/// What requests carry of a [`Lease`].
#[derive(Debug, Clone)]
pub struct Leased {
    number: u64,
    over: Cancellation,
}

impl Leased {
    /// The same for all requests of one lease, and for no others of this process.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Cancelled once the lease is over.
    #[must_use]
    pub fn over(&self) -> &Cancellation {
        &self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_when_it_is_dropped_and_no_two_are_the_same() {
        let (lease, other) = (Lease::new(), Lease::new());
        let leased = lease.leased();
        assert_eq!(leased.number(), lease.leased().number());
        assert_ne!(leased.number(), other.leased().number());
        assert!(!leased.over().is_cancelled());
        drop(lease);
        assert!(leased.over().is_cancelled() && !other.leased().over().is_cancelled());
    }

    #[test]
    fn an_answer_is_an_object_with_a_text_as_its_id() {
        assert_eq!(KeepAlive::id_of(br#"{"outcome": "done", "id": "a\u0062", "more": [1]}"#).as_deref(), Some("ab"));
        for other in ["", "done", "{}", "[]", r#"{"id": 7}"#, r#"{"id": "a""#, r#"{"id": "a"} x"#, "\u{ff}"] {
            assert_eq!(KeepAlive::id_of(other.as_bytes()), None, "{other}");
        }
        assert_eq!(KeepAlive::id_of(b"{\"id\": \"\xff\"}"), None);
    }
}
