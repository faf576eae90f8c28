//! Runs a schedule: one process after the other, each on a runtime of its own whose end is the death of the process.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::SignedDuration;
use router_api::{Clock, DeadLetterSelection, Publication, RedriveRequest, RouteCommand, RouteName};
use router_core::{
    Router,
    observe::{Observer, RouterEvent},
};
use router_testkit::{Quiet, QuietRuntime, SeededChance, event};
use tokio::task::JoinHandle;

use crate::{
    handler,
    oracle::Track,
    plan::{Act, EventPlan, Kind, Plan},
    routes,
    store::SimStore,
    transport::SimTransport,
    world::{Port, World, event_id},
};

/// When a schedule that has come to no end is given up, on its own clock.
const PATIENCE: Duration = Duration::from_secs(6 * 3_600);

/// For bursts that were frozen, and whose members do not come again.
const REST: Duration = Duration::from_secs(60);

/// Moves of the clock that one process may take.
const MOVES_MAX: u64 = 200_000;

/// What came of a schedule.
#[derive(Debug, Default)]
pub struct Report {
    /// What must not be, if anything.
    pub finding: Option<String>,
    pub trace: Vec<String>,
    pub lives: u64,
    pub handled: u64,
    pub repeated: u64,
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Died,
    Stopped,
    /// Everything has its fate.
    Over,
    Finding,
}

/// Runs a schedule to its end.
pub fn run(plan: &Plan, is_tracing: bool) -> Report {
    let world = World::new(plan, is_tracing);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_in(&world))).unwrap_or_else(|_| {
        handler::enter(None);
        let panic = crate::panics::take().unwrap_or_default();
        Report { finding: Some(format!("the simulator itself panicked: {panic}")), ..Report::default() }
    })
}

fn run_in(world: &Arc<World>) -> Report {
    let plan = &world.plan;
    routes::read();
    let mut to_come = ToCome::of(plan);
    loop {
        let port = world.begin_life();
        handler::enter(Some(port.clone()));
        let runtime = QuietRuntime::new();
        let end = runtime.block_on(live(&port, runtime.quiet(), &mut to_come));
        // What is dropped from here on is a dead process.
        world.lock().is_dead = true;
        drop(runtime);
        handler::enter(None);
        if let Some(panic) = crate::panics::take() {
            world.lock().oracle.find(format!("the router panicked: {panic}"));
        }
        if end == End::Over {
            let mut inner = world.lock();
            inner.oracle.check_the_end();
            drop(inner);
            check_leftovers(world);
        }
        world.end_life();
        if matches!(end, End::Over | End::Finding) || world.lock().oracle.finding().is_some() {
            break;
        }
    }
    let inner = world.lock();
    let report = Report {
        finding: inner.oracle.finding().map(str::to_owned),
        lives: inner.life,
        handled: inner.oracle.handled,
        repeated: inner.oracle.repeated,
        trace: Vec::new(),
    };
    drop(inner);
    Report { trace: world.take_trace(), ..report }
}

/// What the schedule has still to bring.
struct ToCome {
    events: Vec<EventPlan>,
    acts: Vec<(Duration, Act)>,
    /// How each route is now.
    variants: Vec<u8>,
    is_calmed: bool,
}

impl ToCome {
    fn of(plan: &Plan) -> Self {
        let (mut events, mut acts) = (plan.events.clone(), plan.acts.clone());
        events.reverse();
        acts.reverse();
        Self { events, acts, variants: vec![0; plan.routes.len()], is_calmed: false }
    }

    fn next_at(&self, plan: &Plan) -> Option<Duration> {
        let calm = (!self.is_calmed).then_some(plan.calm_at);
        [self.events.last().map(|event| event.at), self.acts.last().map(|(at, _)| *at), calm].into_iter().flatten().min()
    }
}

/// What the process is doing beside handling.
#[derive(Default)]
struct Doing {
    tasks: Vec<JoinHandle<()>>,
    draining: Option<JoinHandle<()>>,
    is_last: bool,
}

async fn live(port: &Port, quiet: Quiet, to_come: &mut ToCome) -> End {
    let world = Arc::clone(&port.world);
    let plan = &world.plan;
    let transport = SimTransport { port: port.clone() };
    let store = SimStore { port: port.clone(), store: world.store() };
    let router = Router::builder(
        routes::registry(),
        Arc::new(transport),
        Arc::new(store),
        handler::effects(),
        Arc::new(world.clock.clone()),
        Arc::new(SeededChance::new(plan.seed ^ port.life)),
    )
    .observer(Arc::new(Watcher { world: Arc::clone(&world) }))
    .fingerprint_key([7; 32])
    .host("simulated")
    .build();
    let router = Arc::new(router);
    let mut doing = Doing::default();
    if to_come.is_calmed {
        // Who was on his way out when it became calm has heard nothing of it.
        calm(&world, &router, to_come, &mut doing);
    } else {
        doing.tasks.push(reload(&world, &router, &to_come.variants));
    }
    for _ in 0..MOVES_MAX {
        quiet.wait().await;
        {
            let inner = world.lock();
            if inner.oracle.finding().is_some() {
                return End::Finding;
            }
            if inner.is_dead {
                return End::Died;
            }
        }
        if crate::panics::is_there() {
            return End::Finding;
        }
        doing.tasks.retain(|task| !task.is_finished());
        if doing.draining.as_ref().is_some_and(JoinHandle::is_finished) {
            world.trace(|| "the process stops".to_owned());
            return if doing.is_last { End::Over } else { End::Stopped };
        }
        let now = world.now();
        if now > PATIENCE {
            let what = format!("there is no end: {}", still_there(&world));
            world.lock().oracle.find(what);
            return End::Finding;
        }
        if to_come.next_at(plan).is_some_and(|at| at <= now) {
            happen(&world, &router, to_come, &mut doing, now);
            continue;
        }
        let is_over = to_come.next_at(plan).is_none() && doing.tasks.is_empty() && world.lock().queues.values().all(|queue| queue.items.is_empty());
        let rests_until = is_over.then_some(plan.calm_at + REST);
        if rests_until.is_some_and(|until| until <= now) && doing.draining.is_none() {
            doing.is_last = true;
            doing.draining = Some(drain(&router));
            continue;
        }
        let next = to_come.next_at(plan).into_iter().chain(rests_until.filter(|until| *until > now)).min().map(|at| at.saturating_sub(now));
        match [next, world.clock.next_due()].into_iter().flatten().min() {
            Some(left) => world.clock.advance(left),
            None => {
                let what = format!("nothing moves any more: {}", still_there(&world));
                world.lock().oracle.find(what);
                return End::Finding;
            }
        }
    }
    let what = format!("{MOVES_MAX} moves of the clock, and no end: {}", still_there(&world));
    world.lock().oracle.find(what);
    End::Finding
}

fn still_there(world: &World) -> String {
    let inner = world.lock();
    let items = inner.queues.iter().flat_map(|(route, queue)| {
        queue.items.values().map(move |item| format!("event {} of {route}{}", item.number, if item.holder.is_some() { " in hand" } else { "" }))
    });
    format!("{}; consumers of {:?}", items.collect::<Vec<_>>().join(", "), inner.hands.values().map(|hand| hand.route.as_str()).collect::<Vec<_>>())
}

/// Brings what is due.
fn happen(world: &Arc<World>, router: &Arc<Router>, to_come: &mut ToCome, doing: &mut Doing, now: Duration) {
    if to_come.events.last().is_some_and(|event| event.at <= now) {
        if let Some(event) = to_come.events.pop() {
            publish(world, &event);
        }
        return;
    }
    let (_, act) = match to_come.acts.last() {
        Some((at, _)) if *at <= now => to_come.acts.pop().expect("there is a last one"),
        _ => {
            calm(world, router, to_come, doing);
            return;
        }
    };
    world.trace(|| format!("now: {act:?}"));
    let name = |route: usize| -> RouteName { world.plan.routes[route].name.parse().expect("the name of a plan is a name") };
    let mut command = |route: usize, command: RouteCommand| {
        let (admin, route) = (router.admin(), name(route));
        // One that is refused says so; there is nobody to tell.
        doing.tasks.push(tokio::spawn(async move { drop(admin.command(&route, command).await) }));
    };
    match act {
        Act::Pause(route) => command(route, RouteCommand::Pause),
        Act::Resume(route) => command(route, RouteCommand::Resume),
        Act::Flush(route) => command(route, RouteCommand::Flush),
        Act::DropBurst(route) => {
            world.lock().oracle.may_drop(route);
            command(route, RouteCommand::DropBurst);
        }
        Act::Reload(variants) => {
            to_come.variants = variants;
            doing.tasks.push(reload(world, router, &to_come.variants));
        }
        Act::LoseSession(route) => {
            let route = name(route);
            let mut inner = world.lock();
            let hands: Vec<u64> = inner.hands.iter().filter(|(_, hand)| hand.route == route).map(|(number, _)| *number).collect();
            for hand in hands {
                inner.lose(world, hand);
            }
        }
        Act::RefusePublications(duration) => world.lock().refuses_until = now + duration,
        Act::Restart if doing.draining.is_none() => doing.draining = Some(drain(router)),
        Act::Restart => {}
        Act::Crash(calls) => world.lock().crash_in = Some(calls),
        Act::Redrive(route) => {
            let (admin, route) = (router.admin(), name(route));
            let request =
                RedriveRequest { selection: DeadLetterSelection { route: Some(route), ..DeadLetterSelection::default() }, ..RedriveRequest::default() };
            doing.tasks.push(tokio::spawn(async move { drop(admin.redrive(&request).await) }));
        }
        Act::Discard(route) => {
            let (admin, route) = (router.admin(), name(route));
            let selection = DeadLetterSelection { route: Some(route), ..DeadLetterSelection::default() };
            doing.tasks.push(tokio::spawn(async move { drop(admin.discard(&selection).await) }));
        }
        Act::JumpWall(seconds) => world.clock.jump_wall(SignedDuration::from_secs(seconds)),
    }
}

/// From now on nothing goes wrong, and everything is on.
fn calm(world: &Arc<World>, router: &Arc<Router>, to_come: &mut ToCome, doing: &mut Doing) {
    world.trace(|| "calm".to_owned());
    to_come.is_calmed = true;
    world.lock().crash_in = None;
    to_come.variants = vec![0; world.plan.routes.len()];
    let (router, config) = (Arc::clone(router), routes::config(&world.plan, &to_come.variants));
    let names: Vec<RouteName> = config.routes.iter().map(|route| route.name.clone()).collect();
    let world = Arc::clone(world);
    doing.tasks.push(tokio::spawn(async move {
        apply(&world, &router, config).await;
        for name in names {
            drop(router.admin().command(&name, RouteCommand::Resume).await);
        }
    }));
}

fn drain(router: &Arc<Router>) -> JoinHandle<()> {
    let router = Arc::clone(router);
    tokio::spawn(async move {
        router.drain().await;
    })
}

fn reload(world: &Arc<World>, router: &Arc<Router>, variants: &[u8]) -> JoinHandle<()> {
    let (world, router, config) = (Arc::clone(world), Arc::clone(router), routes::config(&world.plan, variants));
    tokio::spawn(async move { apply(&world, &router, config).await })
}

async fn apply(world: &World, router: &Router, config: router_core::config::Config) {
    match router.apply(config).await {
        Ok(_) | Err(router_core::ApplyError::Stopping) => {}
        Err(error) => world.lock().oracle.find(format!("the configuration is refused: {error}")),
    }
}

/// A producer publishes an event.
fn publish(world: &World, plan: &EventPlan) {
    let mut inner = world.lock();
    let id = plan.repeats.unwrap_or(plan.number);
    let payload = serde_json::json!({ "n": plan.number, "kind": if plan.wanted { "wanted" } else { "other" } });
    let built = event(plan.key).id(event_id(id)).session(&format!("s{}", plan.lane)).payload(payload).time(world.clock.now());
    let mut publication: Publication = built.publication();
    if plan.is_garbage {
        publication.body = Bytes::from(format!("garbage {}", plan.number));
    }
    let track = || Track { lane: plan.lane, id, wanted: plan.wanted, key: plan.key.to_owned(), is_garbage: plan.is_garbage, ..Track::default() };
    inner.publish(world, &publication, plan.number, &track, world.plan.kind == Kind::File);
}

/// Nothing is left of what is done: marks, notes and frozen bursts would pile up.
fn check_leftovers(world: &World) {
    use futures_util::FutureExt;
    use router_api::Store;
    let store = world.store();
    let running = store.running();
    if !running.is_empty() {
        world.lock().oracle.find(format!("still marked as running: {running:?}"));
    }
    let has_died = world.plan.acts.iter().any(|(_, act)| matches!(act, Act::Crash(_)));
    if world.plan.rates.store + world.plan.rates.cut > 0 || has_died {
        // What is settled is forgotten afterwards: in between comes a death, or the end of a session, or the store fails.
        return;
    }
    for route in &world.plan.routes {
        let name: RouteName = route.name.parse().expect("the name of a plan is a name");
        let noted = store.noted_attempts(&name).now_or_never().and_then(Result::ok).unwrap_or_default();
        let frozen = store.frozen(&name).now_or_never().and_then(Result::ok).unwrap_or_default();
        let suspects = store.suspects(&name).now_or_never().and_then(Result::ok).unwrap_or_default();
        if !noted.is_empty() || !frozen.is_empty() || !suspects.is_empty() {
            let what = format!("{name} keeps something of what is done: {noted:?}, {frozen:?}, {suspects:?}");
            world.lock().oracle.find(what);
        }
    }
}

/// Writes what the router says into the trace, and hears of its bugs.
struct Watcher {
    world: Arc<World>,
}

impl Observer for Watcher {
    fn observe(&self, event: &RouterEvent) {
        let mut inner = self.world.lock();
        match event {
            RouterEvent::ConsumerLost { route, error, .. } => {
                if error.contains("panicked") {
                    inner.oracle.find(format!("{route}: {error}"));
                }
                self.world.tell(&mut inner, || format!("{route} has lost its consumer: {error}"));
            }
            RouterEvent::RoutePaused { route, delay, .. } => self.world.tell(&mut inner, || format!("{route} pauses for {delay:?}")),
            RouterEvent::SettlementDelayed { route, error } => self.world.tell(&mut inner, || format!("{route} settles later: {error}")),
            RouterEvent::StoreTrouble { error } => self.world.tell(&mut inner, || format!("the router says: {error}")),
            RouterEvent::RouteHeldUp { route, lane } => self.world.tell(&mut inner, || format!("{route} is held up by lane {lane}")),
            _ => {}
        }
    }
}
