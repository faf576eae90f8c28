//! What outlives a process: the queues, the store's content, the time, and the oracle that watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use router_api::{Clock, RouteName, Subscription};
use router_testkit::{MemoryState, MemoryStore, VirtualClock};
use tokio::sync::Notify;

use crate::{
    broker::{Hand, Letter, Queue},
    draw::{Dice, dice},
    oracle::Oracle,
    plan::{Kind, Plan},
};

/// See the module.
pub struct World {
    pub plan: Plan,
    pub clock: VirtualClock,
    pub disk: MemoryState,
    pub changed: Notify,
    is_tracing: bool,
    inner: Mutex<Inner>,
}

/// What is behind the lock.
pub struct Inner {
    /// Counts processes, from 1.
    pub life: u64,
    /// The process of this life is dead: nothing that it still asks for is done.
    pub is_dead: bool,
    /// Calls of ports until the process dies.
    pub crash_in: Option<u64>,
    pub queues: BTreeMap<RouteName, Queue>,
    pub bound: BTreeMap<RouteName, Subscription>,
    pub hands: BTreeMap<u64, Hand>,
    pub letters: Vec<Letter>,
    /// Letters so far, which their ids count.
    pub letters_ever: u64,
    pub last_number: u64,
    pub refuses_until: Duration,
    /// The events of frozen bursts.
    pub bursts: BTreeMap<(RouteName, String), Vec<String>>,
    /// Ids of what handlers emitted, and the numbers that the schedule has for them.
    pub emitted: BTreeMap<String, u64>,
    /// The keys of the handlings that emit events of these numbers.
    pub emitters: BTreeMap<u64, String>,
    pub oracle: Oracle,
    /// How often each kind of question was asked.
    asked: BTreeMap<&'static str, u64>,
    trace: Vec<String>,
}

impl World {
    pub fn new(plan: &Plan, is_tracing: bool) -> Arc<Self> {
        Arc::new(Self {
            plan: plan.clone(),
            clock: VirtualClock::default(),
            disk: MemoryState::new(),
            changed: Notify::new(),
            is_tracing,
            inner: Mutex::new(Inner {
                life: 0,
                is_dead: true,
                crash_in: None,
                queues: BTreeMap::new(),
                bound: BTreeMap::new(),
                hands: BTreeMap::new(),
                letters: Vec::new(),
                letters_ever: 0,
                last_number: 0,
                refuses_until: Duration::ZERO,
                bursts: BTreeMap::new(),
                emitted: BTreeMap::new(),
                emitters: BTreeMap::new(),
                oracle: Oracle::new(plan),
                asked: BTreeMap::new(),
                trace: Vec::new(),
            }),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the world")
    }

    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub fn is_calm(&self) -> bool {
        self.now() >= self.plan.calm_at
    }

    /// The index of a route in the plan.
    pub fn route(&self, name: &RouteName) -> usize {
        self.plan.routes.iter().position(|route| route.name == name.as_str()).expect("every route is in the plan")
    }

    /// Writes a line of the trace.
    pub fn tell(&self, inner: &mut Inner, line: impl FnOnce() -> String) {
        if self.is_tracing {
            let line = format!("{:>9.3} s  life {}  {}", self.now().as_secs_f64(), inner.life, line());
            inner.trace.push(line);
        }
    }

    pub fn trace(&self, line: impl FnOnce() -> String) {
        self.tell(&mut self.lock(), line);
    }

    pub fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().trace)
    }

    /// The dice of the next question of a kind.
    pub fn ask(&self, inner: &mut Inner, what: &'static str) -> Dice {
        let asked = inner.asked.entry(what).or_default();
        *asked += 1;
        dice(self.plan.seed, what, &[*asked])
    }

    /// The next process begins.
    pub fn begin_life(self: &Arc<Self>) -> Port {
        let mut inner = self.lock();
        inner.life += 1;
        inner.is_dead = false;
        inner.crash_in = None;
        self.tell(&mut inner, || "the process begins".to_owned());
        Port { life: inner.life, world: Arc::clone(self) }
    }

    /// The process is dead: what it held goes back, and what it ran is suspected.
    pub fn end_life(&self) {
        let mut inner = self.lock();
        inner.is_dead = true;
        if self.plan.kind == Kind::File {
            inner.oracle.check_what_a_death_repeats();
        }
        let hands: Vec<u64> = inner.hands.keys().copied().collect();
        for hand in hands {
            inner.lose(self, hand);
        }
        let marked = self.store().running();
        let mut crashed = Vec::new();
        for (route, identity) in marked {
            let members = identity.strip_prefix("burst:").and_then(|burst| inner.bursts.get(&(route.clone(), burst.to_owned())).cloned());
            let index = self.route(&route);
            for identity in members.unwrap_or_else(|| vec![identity.clone()]) {
                crashed.push((index, number_of(&identity)));
            }
            self.tell(&mut inner, || format!("{identity} of {route} ran when the process died"));
        }
        inner.oracle.crashed(crashed.into_iter());
        drop(inner);
        self.disk.crash();
    }

    pub fn store(&self) -> MemoryStore {
        MemoryStore::new(&self.disk)
    }

    /// Ids of events that the inbox of a route knows now.
    pub fn done_keys(&self, route: &RouteName, ids: impl Iterator<Item = u64>) -> BTreeSet<u64> {
        use futures_util::FutureExt;
        use router_api::Store;
        let (store, now) = (self.store(), self.clock.now());
        let is_done = |id: &u64| store.inbox_contains(route, &event_id(*id), now).now_or_never().is_some_and(|known| known.unwrap_or(false));
        ids.filter(is_done).collect()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("plan", &self.plan.seed).finish_non_exhaustive()
    }
}

/// The id that an event has.
pub fn event_id(number: u64) -> String {
    format!("event-{number}")
}

impl Inner {
    /// The number of the event that has this id.
    pub fn number_of_id(&self, id: &str) -> Option<u64> {
        let planned = || id.strip_prefix("event-").and_then(|number| number.parse().ok());
        self.emitted.get(id).copied().or_else(planned)
    }
}

/// The number of the event that a delivery's identity names.
pub fn number_of(identity: &str) -> u64 {
    identity.split(['n', 'p']).nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What one process reaches the world through. When it is dead, nothing that it does has an effect any more.
#[derive(Debug, Clone)]
pub struct Port {
    pub world: Arc<World>,
    pub life: u64,
}

impl Port {
    pub fn is_alive(&self) -> bool {
        let inner = self.world.lock();
        inner.life == self.life && !inner.is_dead
    }

    /// A call is made. Never returns to a process that is dead, or that dies by this call.
    pub async fn pass(&self, what: &'static str) {
        if !self.step(what) {
            std::future::pending::<()>().await;
        }
    }

    /// False for a process that is dead.
    pub fn step(&self, what: &'static str) -> bool {
        let mut inner = self.world.lock();
        if inner.life != self.life || inner.is_dead {
            return false;
        }
        match &mut inner.crash_in {
            Some(0) => {
                inner.is_dead = true;
                self.world.tell(&mut inner, || format!("the process dies at {what}"));
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// Sleeps, and never wakes in a process that is dead.
    pub async fn sleep(&self, duration: Duration, what: &'static str) {
        if !duration.is_zero() {
            self.world.clock.sleep(duration).await;
        }
        self.pass(what).await;
    }

    /// The dice of the next question of a kind; none where nothing goes wrong any more.
    pub fn trouble(&self, what: &'static str) -> Option<Dice> {
        let mut inner = self.world.lock();
        let dice = self.world.ask(&mut inner, what);
        (!self.world.is_calm()).then_some(dice)
    }
}
