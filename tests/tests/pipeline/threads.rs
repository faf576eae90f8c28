//! What several threads do at once: the handlers have a runtime of their own, its threads and those of the router stand still now and then,
//! and nothing is lost, repeated or overtaken by that. Times are real here; nothing is said of how long anything takes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use router_api::{
    BoxFuture, BuildContext, BuildError, Chance, Clock, Context, Envelope, Handler, HandlerError, Outcome, Plugin, Registration, Registry, RouteCommand, Store,
    Transport,
};
use router_core::{Router, config::RouteConfig};
use router_testkit::{FakeEffects, MemoryState, MemoryStore, MemoryTransport, Pauses, SeededChance, VirtualClock, YieldingStore, YieldingTransport, event};

use crate::bench::{Answer, Bench, SECOND, config_of, ordered, route};

/// The machine's.
struct RealClock(Instant);

impl Clock for RealClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A route and a session.
type Lane = (String, String);

/// How many run in a lane, and what was done, in order.
type Seen = (u32, Vec<u32>);

/// What a run of the handler is held against.
struct Witness {
    chance: SeededChance,
    lanes: Mutex<BTreeMap<Lane, Seen>>,
    wrong: Mutex<Vec<String>>,
}

static WITNESSES: Mutex<BTreeMap<u64, Arc<Witness>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Restless {
    witness: u64,
}

struct RestlessHandler(Arc<Witness>);

#[async_trait]
impl Plugin for Restless {
    const NAME: &'static str = "restless";

    async fn build(self, _cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(RestlessHandler(Arc::clone(&WITNESSES.lock().unwrap()[&self.witness]))))
    }
}

/// One that runs in its lane.
struct Runs<'w>(&'w Witness, Lane);

impl<'w> Runs<'w> {
    fn begin(witness: &'w Witness, lane: Lane) -> Self {
        let mut lanes = witness.lanes.lock().unwrap();
        let runs = &mut lanes.entry(lane.clone()).or_default().0;
        *runs += 1;
        if *runs > 1 {
            witness.wrong.lock().unwrap().push(format!("{lane:?}: {runs} run at once"));
        }
        drop(lanes);
        Self(witness, lane)
    }
}

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.0.lanes.lock().unwrap().get_mut(&self.1).unwrap().0 -= 1;
    }
}

#[async_trait]
impl Handler for RestlessHandler {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let witness = &*self.0;
        let number: u32 = event.id().unwrap().as_str().parse().unwrap();
        let session = if cx.lane().is_some() { event.session_id().unwrap().to_owned() } else { number.to_string() };
        let lane = (cx.route().to_string(), session);
        let runs = Runs::begin(witness, lane.clone());
        // Long rows of quick ones, so that they take turns, and then some that are not.
        if number % 300 > 200 {
            let drawn = witness.chance.next_u64() % 100;
            match drawn {
                0..10 => tokio::task::yield_now().await,
                10..20 => tokio::time::sleep(Duration::from_millis(1)).await,
                20..30 => std::thread::sleep(Duration::from_micros(drawn * 200)),
                30..34 => panic!("restless"),
                34..40 => return Err(HandlerError::retry_after(Duration::from_millis(1), "restless")),
                _ => {}
            }
        }
        witness.lanes.lock().unwrap().get_mut(&lane).unwrap().1.push(number);
        drop(runs);
        Ok(Outcome::Done)
    }
}

const EVENTS: u32 = 800;
const SESSIONS: u32 = 7;

async fn run(seed: u64, is_bus: bool) {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let witness = Arc::new(Witness { chance: SeededChance::new(seed), lanes: Mutex::default(), wrong: Mutex::default() });
    WITNESSES.lock().unwrap().insert(id, Arc::clone(&witness));
    let handlers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (state, clock) = (MemoryState::new(), Arc::new(RealClock(Instant::now())));
    let memory = Arc::new(MemoryTransport::new(&state, Arc::clone(&clock) as _));
    let pauses = Pauses::blocking(seed, 2, Duration::from_micros(300));
    let transport: Arc<dyn Transport> = match is_bus {
        true => Arc::new(YieldingTransport::like_a_bus(Arc::clone(&memory) as _, Arc::clone(&pauses))),
        false => Arc::new(YieldingTransport::new(Arc::clone(&memory) as _, Arc::clone(&pauses))),
    };
    let store: Arc<dyn Store> = Arc::new(YieldingStore::new(Arc::new(MemoryStore::new(&state)), pauses));
    let registry = Registry::of([Registration::of::<Restless>()]).unwrap();
    let builder = Router::builder(registry, Arc::clone(&transport), store, Arc::new(FakeEffects::new()), clock, Arc::new(SeededChance::new(seed)));
    let router = builder.handlers(handlers.handle().clone()).build();
    let routes = |turn: u32| {
        let made = |route: RouteConfig| {
            let mut route = RouteConfig { handler: "restless".to_owned(), with: serde_json::json!({ "witness": id }), prefetch: 40, ..route };
            route.retry.attempts_max = 1_000;
            route.retry.first_delay = Duration::from_millis(1);
            route.retry.max_delay = Duration::from_millis(2);
            // Each in its turn, so that one restarts while the other goes on.
            route.concurrency = 8 + if (route.name.as_str() == "lanes") == turn.is_multiple_of(2) { turn } else { 0 };
            route
        };
        config_of(vec![made(ordered("lanes")), made(route("loose"))])
    };
    router.apply(routes(0)).await.unwrap();
    let admin = router.admin();
    let left = || {
        ["lanes", "loose"]
            .iter()
            .filter_map(|name| memory.queue(&name.parse().unwrap()))
            .map(|queue| queue.ready + queue.waiting + queue.in_flight)
            .sum::<u64>()
    };
    let begun = Instant::now();
    let until = async |most: u64| {
        while left() > most {
            let status = async || format!("{:?}", admin.status().await.unwrap().routes);
            assert!(begun.elapsed() < Duration::from_secs(120), "seed {seed}: it stands still: {}", status().await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    for number in 1..=EVENTS {
        let made = || event("session.thread.agent.action").id(number.to_string()).session(&format!("s{}", number % SESSIONS)).publication();
        memory.publish(made()).await.unwrap();
        if number % 10 == 0 {
            // Whoever is handled twice for this is told by its lane.
            memory.publish(made()).await.unwrap();
        }
        if number % 20 == 0 {
            // A long queue costs the memory more than it shows.
            until(120).await;
        }
        if number % 200 == 0 {
            router.apply(routes(number / 200)).await.unwrap();
        }
        if number % 350 == 0 {
            let name = if number % 700 == 0 { "lanes" } else { "loose" }.parse().unwrap();
            admin.command(&name, RouteCommand::Pause).await.unwrap();
            tokio::task::yield_now().await;
            admin.command(&name, RouteCommand::Resume).await.unwrap();
        }
    }
    until(0).await;
    assert_eq!(router.drain().await.cancelled, 0, "seed {seed}");
    assert_eq!(memory.misuses(), Vec::<String>::new(), "seed {seed}");
    assert_eq!(*witness.wrong.lock().unwrap(), Vec::<String>::new(), "seed {seed}");
    for ((route, lane), (runs, done)) in &*witness.lanes.lock().unwrap() {
        let expected: Vec<u32> = match route.as_str() {
            "lanes" => (1..=EVENTS).filter(|number| format!("s{}", number % SESSIONS) == *lane).collect(),
            _ => vec![lane.parse().unwrap()],
        };
        assert_eq!((*runs, done), (0, &expected), "seed {seed}, route {route}, lane {lane}");
    }
    assert_eq!(witness.lanes.lock().unwrap().len(), (SESSIONS + EVENTS) as usize, "seed {seed}");
    WITNESSES.lock().unwrap().remove(&id);
    handlers.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_file_and_on_a_bus_threads_that_stand_still_lose_repeat_and_misorder_nothing() {
    let seeds = std::env::var("EVENT_ROUTER_TESTS_SEED").ok().and_then(|text| text.parse().ok()).map_or(1..=2, |seed: u64| seed..=seed);
    for seed in seeds {
        for is_bus in [false, true] {
            run(seed, is_bus).await;
        }
    }
}

#[tokio::test]
async fn what_no_thread_has_come_to_before_its_time_was_over_is_charged_nothing() {
    let handlers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let handle = handlers.handle().clone();
    let bench = Bench::assembled(MemoryState::new(), VirtualClock::default(), |transport| transport, |router| router.handlers(handle));
    let (release, held) = mpsc::channel::<()>();
    let (held, blocked) = (Mutex::new(held), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&blocked);
    bench.behave(move |call| {
        if call.ids[0] == "blocks" && counted.fetch_add(1, Ordering::SeqCst) == 0 {
            let _ = held.lock().unwrap().recv();
        }
        Answer::Done
    });
    bench.apply(&[route("all")]).await;
    bench.send("a.b", "blocks").await;
    let begun = Instant::now();
    let within = |what: &str| assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
    while blocked.load(Ordering::SeqCst) == 0 {
        bench.settle_down().await;
        within("it does not begin");
    }
    bench.send("a.b", "waits").await;
    bench.settle_down().await;
    // Its limit is 60 s, and whoever blocks a thread is left behind a second later.
    for _ in 0..3 {
        bench.pass(62 * SECOND).await;
    }
    assert_eq!(bench.settled(), ["retry"], "only the one that has begun is charged for its time");
    release.send(()).unwrap();
    while bench.settled().iter().filter(|fate| *fate == "handled").count() < 2 {
        bench.pass(SECOND).await;
        within("they are not handled");
    }
    let attempt = bench.calls().into_iter().find(|call| call.ids[0] == "waits").map(|call| call.attempt);
    assert_eq!(attempt, Some(1));
    bench.drain().await;
    handlers.shutdown_background();
}
