//! Takes what hooks left in the spool of this machine, as if it had come in at a door: redacted, stored, and only then done with.
//!
//! One router at a time owns a spool. What it could not acknowledge before it was killed comes once more, under the same id, and the
//! routes' inboxes know it. Events of one session go one after the other, sessions side by side.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use jiff::Timestamp;
use router_api::{Admin, AdminError, Clock, Publication, RoutingKey, TransportError};
use router_claude::{
    Reaper, Record, Spool, default_spool, poke,
    settings::{ABANDONED_HOURS_DEFAULT, SPOOL_BYTES_MAX_DEFAULT},
    spool::{Batch, Drain},
    unread::{self, Finished},
};
use router_core::config::Environment;
use router_http::Readiness;
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Hooks poke; this is for those whose poke was lost, and for spools that others write.
const POLL: Duration = Duration::from_millis(500);

/// Between looks at a spool that is not there, or that another router owns, and after an error.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Events that are taken at once.
const EVENTS_MAX: usize = 256;
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Between looks for sessions that nobody ended.
const REAP: Duration = Duration::from_secs(5 * 60);

/// Bytes of a transcript that are read for the end of one session, whose numbers are null beyond that.
const TRANSCRIPT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// Which spool a router drains.
pub(crate) fn of_environment(environment: &dyn Environment) -> Option<Spool> {
    let variable = |name: &str| environment.variable(name).ok().flatten().filter(|value| !value.is_empty());
    let directory = match variable("EVENT_ROUTER_SPOOL") {
        Some(off) if off == "off" => None,
        Some(directory) => Some(directory.into()),
        None => default_spool(variable),
    }?;
    Some(Spool::at(&directory, SPOOL_BYTES_MAX_DEFAULT))
}

/// Hours of silence after which a session is abandoned.
pub(crate) fn abandoned_hours(environment: &dyn Environment) -> u64 {
    let said = environment.variable("BLOODBANK_ABANDONED_HOURS").ok().flatten();
    said.and_then(|value| value.parse().ok()).filter(|hours| *hours > 0).unwrap_or(ABANDONED_HOURS_DEFAULT)
}

/// What ends the abandoned sessions of a spool: as long after their last hook as hooks do it, and with the same prices.
pub(crate) fn reaper(environment: &dyn Environment, spool: &Spool, host: String) -> Reaper {
    let variable = |name: &str| environment.variable(name).ok().flatten().filter(|value| !value.is_empty());
    Reaper {
        spool: spool.clone(),
        hours: abandoned_hours(environment),
        host,
        home: variable("HOME").map(Into::into),
        prices: variable("EVENT_ROUTER_PRICES").map(Into::into),
    }
}

/// What monitors are told.
#[derive(Debug, Default)]
pub(crate) struct SpoolFigures {
    owned: AtomicBool,
    taken: AtomicU64,
    refused: AtomicU64,
    spool: Option<Spool>,
}

impl SpoolFigures {
    pub(crate) fn of(spool: Option<Spool>) -> Arc<Self> {
        Arc::new(Self { spool, ..Self::default() })
    }

    /// In Prometheus's text format.
    pub(crate) fn render(&self, out: &mut String) {
        let waiting = self.spool.as_ref().map(Spool::waiting).unwrap_or_default();
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
            // Writing to a string cannot fail.
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (labels, value) in samples {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let owned = u64::from(self.owned.load(Ordering::Relaxed));
        family("event_router_spool_owned", "gauge", "1 while this router drains the spool of hooks, else 0.", &[("", owned)]);
        family("event_router_spool_waiting_bytes", "gauge", "Bytes of events that hooks left and no router has taken yet.", &[("", waiting.bytes)]);
        let outcomes = [("{outcome=\"taken\"}", count(&self.taken)), ("{outcome=\"refused\"}", count(&self.refused))];
        family("event_router_spool_events_total", "counter", "Events from the spool, by outcome; refused ones are kept beside it.", &outcomes);
        let lost = [("{reason=\"full\"}", waiting.lost.full), ("{reason=\"damaged\"}", waiting.lost.damaged)];
        family("event_router_spool_lost_events", "gauge", "Events of hooks that were lost since the spool was made, by reason.", &lost);
    }
}

/// Drains the spool until `stopping`.
pub(crate) struct Draining {
    pub(crate) spool: Spool,
    pub(crate) reaper: Reaper,
    pub(crate) admin: Arc<dyn Admin>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) figures: Arc<SpoolFigures>,
    pub(crate) readiness: Readiness,
}

impl Draining {
    pub(crate) async fn run(self, stopping: CancellationToken) {
        tokio::select! {
            () = self.forever(&stopping) => {}
            () = stopping.cancelled() => {}
        }
        self.figures.owned.store(false, Ordering::Relaxed);
    }

    async fn forever(&self, stopping: &CancellationToken) {
        let (mut told_other, mut told_error) = (false, String::new());
        loop {
            // A spool is made by the first hook: a machine without hooks has none.
            if self.spool.directory().is_dir() {
                match self.own(stopping).await {
                    Ok(true) => {}
                    Ok(false) if !told_other => {
                        told_other = true;
                        let note = format!("the spool `{}` is drained by another router", self.spool.directory().display());
                        self.readiness.note(Some(note.clone()));
                        info!("{note}");
                    }
                    Ok(false) => {}
                    Err(error) => {
                        let error = format!("the spool `{}` cannot be drained: {error}", self.spool.directory().display());
                        if told_error != error {
                            warn!("{error}");
                            self.readiness.note(Some(error.clone()));
                            told_error = error;
                        }
                    }
                }
            }
            self.clock.sleep(LOOK_AGAIN).await;
        }
    }

    /// Drains as long as this router owns the spool; false when another one does.
    async fn own(&self, stopping: &CancellationToken) -> io::Result<bool> {
        let spool = self.spool.clone();
        let Some(_owned) = blocking(move || spool.own()).await? else { return Ok(false) };
        let spool = self.spool.clone();
        let pokes = UnixDatagram::from_std(blocking(move || poke::listen(&spool)).await?)?;
        self.figures.owned.store(true, Ordering::Relaxed);
        self.readiness.note(None);
        info!("events of Claude Code's hooks come in from the spool `{}`", self.spool.directory().display());
        let mut told_error = String::new();
        let mut reaped_at = None;
        loop {
            let now = self.clock.now();
            // Also when the clock was set back.
            if reaped_at.is_none_or(|at| now.duration_since(at).unsigned_abs() >= REAP) {
                reaped_at = Some(now);
                self.reap(now).await?;
            }
            let wait = match self.drain(stopping).await {
                Ok(()) => {
                    if !std::mem::take(&mut told_error).is_empty() {
                        info!("the spool is drained again");
                        self.readiness.note(None);
                    }
                    POLL
                }
                Err(error) => {
                    if told_error != error {
                        warn!("events stay in the spool: {error}");
                        self.readiness.note(Some(format!("events stay in the spool: {error}")));
                        told_error = error;
                    }
                    LOOK_AGAIN
                }
            };
            let mut bytes = [0; 16];
            tokio::select! {
                // Told of an error, a poke would only have it told again.
                result = pokes.recv(&mut bytes), if told_error.is_empty() => {
                    result?;
                    while pokes.try_recv(&mut bytes).is_ok() {}
                }
                () = self.clock.sleep(wait) => {}
            }
            if !self.spool.directory().is_dir() {
                return Ok(true);
            }
        }
    }

    /// Ends what was abandoned. The ends wait in the spool like everything else.
    async fn reap(&self, now: Timestamp) -> io::Result<()> {
        let reaper = self.reaper.clone();
        for session in blocking(move || Ok(reaper.reap(now))).await? {
            info!(session, "a session of Claude Code that nobody ended is ended as abandoned");
        }
        Ok(())
    }

    /// Takes everything that waits.
    async fn drain(&self, stopping: &CancellationToken) -> Result<(), String> {
        while !stopping.is_cancelled() {
            let spool = self.spool.clone();
            let taken = blocking(move || {
                let Some(drain) = spool.drain()? else { return Ok(None) };
                drain.batch(EVENTS_MAX, BYTES_MAX).map(|batch| Some((drain, batch)))
            });
            // A hook that hands over itself has it for a moment.
            let Some((drain, batch)) = taken.await.map_err(|error| error.to_string())? else { return Ok(()) };
            if batch.is_empty() {
                return Ok(());
            }
            self.take(drain, batch).await?;
        }
        Ok(())
    }

    async fn take(&self, drain: Drain, batch: Batch) -> Result<(), String> {
        let mut sessions: BTreeMap<&str, Vec<(usize, &Record)>> = BTreeMap::new();
        for (at, record) in batch.records.iter().enumerate() {
            sessions.entry(&record.session).or_default().push((at, record));
        }
        let ends = join_all(sessions.values().map(|records| self.in_order(records))).await;
        let mut refused = Vec::new();
        let (mut first_left, mut why) = (batch.records.len(), None);
        for end in ends {
            refused.extend(end.refused);
            if let Some((at, error)) = end.stopped.filter(|(at, _)| *at < first_left) {
                (first_left, why) = (at, Some(error));
            }
        }
        self.figures.taken.fetch_add((first_left - refused.iter().filter(|(at, _)| *at < first_left).count()) as u64, Ordering::Relaxed);
        refused.retain(|(at, _)| *at < first_left);
        self.figures.refused.fetch_add(refused.len() as u64, Ordering::Relaxed);
        for (at, error) in &refused {
            warn!("an event of a hook is none for the router, and is kept in `refused` beside the spool: {error} (`{}`)", batch.records[*at].key);
        }
        let acknowledged = blocking(move || {
            for (at, error) in &refused {
                drain.refuse(&batch.records[*at], error);
            }
            drain.acknowledge(&batch, first_left)
        });
        acknowledged.await.map_err(|error| error.to_string())?;
        why.map_or(Ok(()), Err)
    }

    /// Hands in one session's events, up to the first that cannot be taken now.
    async fn in_order(&self, records: &[(usize, &Record)]) -> End {
        let mut end = End::default();
        for (at, record) in records {
            match self.hand_in(record).await {
                Ok(()) => {}
                Err(Refusal::Ever(why)) => end.refused.push((*at, why)),
                Err(Refusal::Now(why)) => {
                    end.stopped = Some((*at, why));
                    break;
                }
            }
        }
        end
    }

    /// The end of a session with what its transcript comes to, where its hook had no time to read that to its end.
    async fn finished(&self, record: &Record) -> Vec<u8> {
        let body = record.body.clone();
        let finishing = blocking(move || {
            Ok(match unread::finish(&body, TRANSCRIPT_BYTES_MAX) {
                Finished::AsItWas => body,
                Finished::Whole(whole) => whole,
                Finished::NotYet => match unread::without_note(&body) {
                    Finished::Whole(without) => without,
                    Finished::AsItWas | Finished::NotYet => body,
                },
            })
        });
        finishing.await.unwrap_or_else(|_| record.body.clone())
    }

    async fn hand_in(&self, record: &Record) -> Result<(), Refusal> {
        let key = RoutingKey::new(record.key.as_str()).map_err(|error| Refusal::Ever(format!("its key is none: {error}")))?;
        let body = if record.key == unread::KEY { self.finished(record).await } else { record.body.clone() };
        match self.admin.accept(Publication::new(key, body)).await {
            Ok(_) => Ok(()),
            Err(error @ (AdminError::Invalid(_) | AdminError::Transport(TransportError::Unsupported(_)))) => Err(Refusal::Ever(error.to_string())),
            Err(error) => Err(Refusal::Now(error.to_string())),
        }
    }
}

/// How far one session's events came.
#[derive(Default)]
struct End {
    refused: Vec<(usize, String)>,
    stopped: Option<(usize, String)>,
}

enum Refusal {
    /// The event will never be taken.
    Ever(String),
    /// The transport takes nothing.
    Now(String),
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Variables(Vec<(&'static str, &'static str)>);

    impl Environment for Variables {
        fn variable(&self, name: &str) -> Result<Option<String>, String> {
            Ok(self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        }

        fn file(&self, _: &std::path::Path) -> Result<String, String> {
            Err("no files".into())
        }

        fn readable(&self, _: &std::path::Path) -> Result<(), String> {
            Err("no files".into())
        }
    }

    #[test]
    fn the_spool_is_the_hooks_own_unless_it_is_named_or_switched_off() {
        let of = |variables: &[(&'static str, &'static str)]| of_environment(&Variables(variables.to_vec())).map(|spool| spool.directory().to_owned());
        assert_eq!(of(&[("HOME", "/h")]), Some("/h/.local/state/event-router/spool".into()));
        assert_eq!(of(&[("HOME", "/h"), ("EVENT_ROUTER_SPOOL", "/s")]), Some("/s".into()));
        assert_eq!(of(&[("HOME", "/h"), ("EVENT_ROUTER_SPOOL", "off")]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn figures_are_there_before_the_first_event() {
        let mut out = String::new();
        SpoolFigures::of(None).render(&mut out);
        assert!(out.contains("event_router_spool_owned 0\n") && out.contains("{outcome=\"taken\"} 0\n"), "{out}");
    }
}
