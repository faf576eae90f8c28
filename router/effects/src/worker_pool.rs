//! Programs that stay: which process is asked, when one is started, and how long it waits after a failure.
//!
//! Requests of one lease and route with the same argument vector, directory and variables share processes. One process itself is in
//! `worker`.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use router_api::{CommandReply, CommandRequest, EffectClass, EffectContext, EffectError, KeepAlive, Leased};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    command::{Commands, Times, rounded, shown_program},
    worker::{Asked, IN_FLIGHT_MAX, Worker},
};

/// Processes of one lease, whatever they run.
const PROCESSES_MAX: usize = 64;
/// After the first failure; doubled by each further one that follows without an answer between.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Beyond the grace, for processes to be gone when the router ends.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// All programs that stay.
pub(crate) struct Workers {
    commands: Arc<Commands>,
    pool: Arc<Pool>,
}

struct Pool {
    slots: Mutex<Slots>,
    /// A process has ended.
    changed: Notify,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    /// Leases whose end is watched.
    leases: HashSet<u64>,
    closed: bool,
}

/// What requests must have in common to be given to the same process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    lease: u64,
    route: String,
    argv: Vec<String>,
    cwd: Option<PathBuf>,
    below: Vec<PathBuf>,
    env: Vec<(String, String)>,
}

#[derive(Default)]
struct Slot {
    workers: Vec<Arc<Worker>>,
    /// Ends that were no wish, without an answer between.
    failures: u32,
    not_before: Option<Instant>,
}

/// What to do with a request now.
enum Choice {
    Asked(Asked),
    Wait { until: Option<Instant>, why: &'static str },
}

impl Slots {
    /// Forgets the processes that are gone, and slots that say nothing any more.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.by_key.retain(|_, slot| {
            slot.workers.retain(|worker| !worker.is_over());
            // A failure is remembered for a while after its wait, for the next wait to be longer.
            !slot.workers.is_empty() || slot.not_before.is_some_and(|instant| instant + BACKOFF_MAX > now)
        });
    }

    fn workers(&self, lease: u64) -> impl Iterator<Item = &Arc<Worker>> {
        self.by_key.iter().filter(move |(key, _)| key.lease == lease).flat_map(|(_, slot)| &slot.workers)
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().expect("no code panics while it holds the workers")
    }

    /// A process has ended; if nobody wanted that, the next one of its kind waits.
    fn ended(&self, key: &Key, worker: &Worker) {
        if let Some(slot) = self.lock().by_key.get_mut(key).filter(|_| !worker.was_told_to_end()) {
            slot.failures = if worker.answered() > 0 { 1 } else { slot.failures.saturating_add(1) };
            slot.not_before = Some(Instant::now() + backoff(slot.failures));
        }
        self.changed.notify_waiters();
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX)
}

impl Workers {
    pub(crate) fn new(commands: Arc<Commands>) -> Self {
        Self { commands, pool: Arc::new(Pool { slots: Mutex::default(), changed: Notify::new() }) }
    }

    /// Gives the request's line to a process that runs it, and waits for the answer.
    pub(crate) async fn ask(&self, request: CommandRequest, keep_alive: KeepAlive, cx: &EffectContext) -> Result<CommandReply, EffectError> {
        self.commands.check(&request)?;
        let name = shown_program(&request);
        let cancelled = || EffectError::new(EffectClass::Cancelled, format!("the handling was cancelled while `{name}` worked on it"));
        if cx.cancellation.is_cancelled() {
            return Err(cancelled());
        }
        let times = Times::of(request.timeout, cx.remaining, self.commands.grace());
        if times.limit.is_zero() {
            return Err(EffectError::new(EffectClass::Timeout, format!("no time was left to ask `{name}`")));
        }
        let begun = Instant::now();
        let limit = begun + times.limit;
        let late = |what: &str| {
            let whose = if times.is_own { "its own time limit" } else { "the time that was left for the handling" };
            EffectError::new(EffectClass::Timeout, format!("`{name}` {what} within {}, {whose}", rounded(times.limit)))
        };
        let key = Key {
            lease: keep_alive.leased.number(),
            route: cx.route.clone(),
            argv: request.display_argv(),
            cwd: request.cwd.clone(),
            below: request.below.clone(),
            env: request.env.clone(),
        };
        let mut is_first = true;
        loop {
            let mut asked = loop {
                let changed = self.pool.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let (until, why) = match self.choose(&key, &request, &keep_alive)? {
                    Choice::Asked(asked) => break asked,
                    Choice::Wait { until, why } => (until, why),
                };
                tokio::select! {
                    () = &mut changed => {}
                    () = sleep_until(until.unwrap_or(limit).min(limit)) => {}
                    () = cx.cancellation.cancelled() => return Err(cancelled()),
                }
                if Instant::now() >= limit {
                    return Err(late(why));
                }
            };
            let answer = tokio::select! {
                answer = asked.answer() => answer,
                () = sleep_until(limit) => {
                    // The event must not be handled again while it still is.
                    let _ = timeout(times.grace, asked.give_up()).await;
                    return Err(late("was ended, since it did not answer"));
                }
                () = cx.cancellation.cancelled() => {
                    let _ = timeout(times.grace, asked.give_up()).await;
                    return Err(cancelled());
                }
            };
            match answer {
                Ok(line) => return Ok(CommandReply { stdout: line, elapsed: begun.elapsed(), ..CommandReply::exit(0) }),
                Err(ended) if ended.had_enough && is_first => is_first = false,
                Err(ended) => {
                    let mut error = EffectError::new(EffectClass::Failed, format!("`{name}` {}", ended.how));
                    error.detail = ended.detail;
                    return Err(error);
                }
            }
        }
    }

    fn choose(&self, key: &Key, request: &CommandRequest, keep_alive: &KeepAlive) -> Result<Choice, EffectError> {
        let wait = |until, why| Ok(Choice::Wait { until, why });
        let line = request.stdin.clone().unwrap_or_default();
        let mut slots = self.pool.lock();
        if slots.closed || keep_alive.leased.over().is_cancelled() {
            return Err(EffectError::new(EffectClass::Cancelled, "the route or the router is ending"));
        }
        slots.sweep();
        let in_use = slots.workers(key.lease).count();
        let slot = slots.by_key.entry(key.clone()).or_default();
        let mut by_load: Vec<_> = slot.workers.iter().filter_map(|worker| Some((worker.load()?, Arc::clone(worker)))).collect();
        by_load.sort_by_key(|(load, _)| *load);
        if let Some(asked) = by_load.first().filter(|(load, _)| *load == 0).and_then(|(_, worker)| worker.submit(&keep_alive.id, line.clone())) {
            return Ok(Choice::Asked(asked));
        }
        let processes = keep_alive.processes.map_or(PROCESSES_MAX, |processes| usize::from(processes.get()).min(PROCESSES_MAX));
        // One that is about to end counts: two must not overlap where one was asked for.
        if slot.workers.len() < processes && in_use < PROCESSES_MAX {
            if let Some(instant) = slot.not_before.filter(|instant| *instant > Instant::now()) {
                return wait(Some(instant), "failed, and was not started again");
            }
            let (worker, asked) = self.start(key, request, keep_alive, line)?;
            slot.workers.push(worker);
            Self::watch(&mut slots, &self.pool, &keep_alive.leased);
            return Ok(Choice::Asked(asked));
        }
        let shared = by_load.into_iter().filter(|(load, _)| *load < IN_FLIGHT_MAX).find_map(|(_, worker)| worker.submit(&keep_alive.id, line.clone()));
        if let Some(asked) = shared {
            return Ok(Choice::Asked(asked));
        }
        if in_use >= PROCESSES_MAX {
            // Another directory or argument of the same route has them all: the one longest without work makes room.
            let idle = slots.workers(key.lease).filter(|worker| worker.load() == Some(0)).min_by_key(|worker| worker.quiet_since());
            if let Some(worker) = idle {
                worker.close();
            }
        }
        wait(None, "was not free")
    }

    fn start(&self, key: &Key, request: &CommandRequest, keep_alive: &KeepAlive, line: Bytes) -> Result<(Arc<Worker>, Asked), EffectError> {
        let started = self.commands.start(request, &format!("kept alive for {}", key.route))?;
        let (pool, ended_key) = (Arc::clone(&self.pool), key.clone());
        let ended = move |worker: &Worker| pool.ended(&ended_key, worker);
        let first = (keep_alive.id.as_str(), line);
        Ok(Worker::supervise(started, key.route.clone(), first, self.commands.output_bytes_max(), keep_alive.idle, self.commands.grace(), ended))
    }

    /// Closes the processes of a lease once it is over.
    fn watch(slots: &mut Slots, pool: &Arc<Pool>, leased: &Leased) {
        if !slots.leases.insert(leased.number()) {
            return;
        }
        let (pool, leased) = (Arc::downgrade(pool), leased.clone());
        tokio::spawn(async move {
            leased.over().cancelled().await;
            let Some(pool) = pool.upgrade() else { return };
            let mut slots = pool.lock();
            slots.leases.remove(&leased.number());
            slots.workers(leased.number()).for_each(|worker| worker.close());
        });
    }

    /// Ends all of them, orderly, and starts no more.
    pub(crate) async fn close(&self) {
        let workers: Vec<Arc<Worker>> = {
            let mut slots = self.pool.lock();
            slots.closed = true;
            slots.by_key.drain().flat_map(|(_, slot)| slot.workers).collect()
        };
        workers.iter().for_each(|worker| worker.close());
        let all_over = async {
            for worker in &workers {
                worker.over().await;
            }
        };
        if timeout(self.commands.grace() * 2 + CLOSE_WAIT, all_over).await.is_err() {
            tracing::warn!("a program that was kept running did not end in time");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let slots = self.pool.lock();
        slots.by_key.values().flat_map(|slot| &slot.workers).for_each(|worker| worker.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_after_failures_doubles_up_to_its_limit() {
        let waits = [1, 2, 3, 9, 10, 1_000, u32::MAX].map(|failures| backoff(failures).as_millis());
        assert_eq!(waits, [100, 200, 400, 25_600, 30_000, 30_000, 30_000]);
    }
}
