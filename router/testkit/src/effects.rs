//! Outside work that is not done: requests are kept in order, answers come from the test.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    BoxFuture, BuildError, Clock, CommandReply, CommandRequest, Effect, EffectClass, EffectContext, EffectError, EffectKind, EffectPort, EffectReply,
    EffectRequest, HttpReply, HttpRequest, OwnWork, Program,
};
use serde_json::Value;
use tokio::sync::Notify;

/// Requests kept at most; the oldest go.
const REQUESTS_MAX: usize = 100_000;

/// One effect that a handler asked for.
#[derive(Debug, Clone)]
pub struct Requested {
    /// The route.
    pub route: String,
    /// The handling's idempotency key.
    pub handling: String,
    /// The effect's name within the handling.
    pub name: String,
    /// Read or write.
    pub kind: EffectKind,
    /// What was asked for.
    pub request: EffectRequest,
}

impl fmt::Display for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.request)
    }
}

type Answer = Arc<dyn Fn(&Effect, &EffectContext) -> BoxFuture<'static, Option<Result<EffectReply, EffectError>>> + Send + Sync>;

struct Rule {
    matches: Box<dyn Fn(&Effect) -> bool + Send + Sync>,
    answer: Answer,
    /// How often it applies; `None` for always.
    times: Option<u32>,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Requested>,
    rules: Vec<Rule>,
    missing: HashSet<String>,
    in_progress: usize,
    most_in_progress: usize,
}

/// An [`EffectPort`] that does nothing outside. Clones share requests and answers.
///
/// Without a rule an HTTP call is answered with an empty 200, a command with exit code 0 (one that is kept alive with `done`), and a plugin's own work with null
/// (it is not run). Rules given later come first; a rule that is used up makes room for the ones before.
///
/// ```
/// use router_api::{CommandReply, EffectReply};
/// use router_testkit::FakeEffects;
///
/// let effects = FakeEffects::new();
/// effects.always("command", |_| Ok(EffectReply::Command(CommandReply::exit(0))));
/// effects.once("command", |_| Ok(EffectReply::Command(CommandReply::exit(1))));
/// ```
#[derive(Clone, Default)]
pub struct FakeEffects {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl fmt::Debug for FakeEffects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeEffects").field("requests", &self.sentences()).finish_non_exhaustive()
    }
}

impl FakeEffects {
    /// Answers everything with success.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the effects")
    }

    fn rule(&self, matches: impl Fn(&Effect) -> bool + Send + Sync + 'static, times: Option<u32>, answer: Answer) {
        self.lock().rules.push(Rule { matches: Box::new(matches), answer, times });
    }

    /// Answers every effect called `name` (without a name of its own: `http`, `command`).
    pub fn always(&self, name: &str, answer: impl Fn(&Effect) -> Result<EffectReply, EffectError> + Send + Sync + 'static) {
        self.when(named(name), answer);
    }

    /// Answers the next effect called `name`, which has no other rule for one occasion: several of them apply in the order given.
    pub fn once(&self, name: &str, answer: impl Fn(&Effect) -> Result<EffectReply, EffectError> + Send + Sync + 'static) {
        let answer: Answer = Arc::new(move |effect, _| ready(answer(effect)));
        let rule = Rule { matches: Box::new(named(name)), answer, times: Some(1) };
        let mut state = self.lock();
        // Rules apply from the end: before the run of one-time rules that ends the list, so that the first given comes first.
        let place = state.rules.iter().rposition(|rule| rule.times.is_none()).map_or(0, |index| index + 1);
        state.rules.insert(place, rule);
    }

    /// Answers every effect that fulfils `matches`.
    pub fn when(
        &self,
        matches: impl Fn(&Effect) -> bool + Send + Sync + 'static,
        answer: impl Fn(&Effect) -> Result<EffectReply, EffectError> + Send + Sync + 'static,
    ) {
        self.rule(matches, None, Arc::new(move |effect, _| ready(answer(effect))));
    }

    /// The next `times` effects called `name` fail with `class`.
    pub fn fail(&self, name: &str, times: u32, class: EffectClass, message: &str) {
        let message = message.to_owned();
        self.rule(named(name), Some(times), Arc::new(move |_, _| ready(Err(EffectError::new(class, message.clone())))));
    }

    /// Every effect called `name` takes `duration` of `clock` before the other rules are asked; a cancelled one ends early.
    pub fn slow(&self, name: &str, clock: Arc<dyn Clock>, duration: Duration) {
        let answer: Answer = Arc::new(move |_, cx| {
            let (sleep, cancellation) = (clock.sleep(duration), cx.cancellation.clone());
            Box::pin(async move {
                tokio::select! {
                    () = sleep => None,
                    () = cancellation.cancelled() => Some(Err(cancelled())),
                }
            })
        });
        self.rule(named(name), None, answer);
    }

    /// Effects called `name` never answer; a cancelled one ends.
    pub fn hang(&self, name: &str) {
        let answer: Answer = Arc::new(|_, cx| {
            let cancellation = cx.cancellation.clone();
            Box::pin(async move {
                cancellation.cancelled().await;
                Some(Err(cancelled()))
            })
        });
        self.rule(named(name), None, answer);
    }

    /// Takes back all rules.
    pub fn forget_rules(&self) {
        self.lock().rules.clear();
    }

    /// From now on there is no program `name`.
    pub fn no_program(&self, name: &str) {
        self.lock().missing.insert(name.to_owned());
    }

    /// Everything that was asked for, in the order of the beginnings; the last 100,000.
    #[must_use]
    pub fn requests(&self) -> Vec<Requested> {
        self.lock().requests.iter().cloned().collect()
    }

    /// [`FakeEffects::requests`] as lines for people: `pytest -q`, `POST http://…`.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        self.lock().requests.iter().map(ToString::to_string).collect()
    }

    /// The commands among the requests.
    #[must_use]
    pub fn commands(&self) -> Vec<CommandRequest> {
        let only = |requested: Requested| match requested.request {
            EffectRequest::Command(request) => Some(request),
            _ => None,
        };
        self.requests().into_iter().filter_map(only).collect()
    }

    /// The HTTP calls among the requests.
    #[must_use]
    pub fn http(&self) -> Vec<HttpRequest> {
        let only = |requested: Requested| match requested.request {
            EffectRequest::Http(request) => Some(request),
            _ => None,
        };
        self.requests().into_iter().filter_map(only).collect()
    }

    /// Effects that have begun and not ended.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        self.lock().in_progress
    }

    /// The most that were in progress at once.
    #[must_use]
    pub fn most_in_progress(&self) -> usize {
        self.lock().most_in_progress
    }

    /// Resolves with all requests once there are at least `count`.
    pub async fn wait_for(&self, count: usize) -> Vec<Requested> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let requests = self.requests();
            if requests.len() >= count {
                return requests;
            }
            changed.await;
        }
    }

    /// Counts this effect as in progress until the guard is dropped, which a cancelled handling does too.
    fn begin(&self, effect: &Effect, cx: &EffectContext) -> InProgress {
        let requested =
            Requested { route: cx.route.clone(), handling: cx.handling.clone(), name: effect.name.clone(), kind: effect.kind, request: effect.request.clone() };
        let mut state = self.lock();
        if state.requests.len() == REQUESTS_MAX {
            state.requests.pop_front();
        }
        state.requests.push_back(requested);
        state.in_progress += 1;
        state.most_in_progress = state.most_in_progress.max(state.in_progress);
        drop(state);
        self.changed.notify_waiters();
        InProgress { effects: self.clone() }
    }

    /// The answers to try, in order; one-time rules are used up by being here.
    fn answers(&self, effect: &Effect) -> Vec<Answer> {
        let mut state = self.lock();
        let mut answers = Vec::new();
        let mut used_once = false;
        for rule in state.rules.iter_mut().rev() {
            if !(rule.matches)(effect) {
                continue;
            }
            match &mut rule.times {
                None => answers.push(Arc::clone(&rule.answer)),
                // At most one of them: the others are for later effects.
                Some(left) if *left > 0 && !used_once => {
                    *left -= 1;
                    used_once = true;
                    answers.push(Arc::clone(&rule.answer));
                }
                Some(_) => {}
            }
        }
        state.rules.retain(|rule| rule.times != Some(0));
        answers
    }
}

fn named(name: &str) -> impl Fn(&Effect) -> bool + Send + Sync + 'static {
    let name = name.to_owned();
    move |effect| effect.name == name
}

fn ready(result: Result<EffectReply, EffectError>) -> BoxFuture<'static, Option<Result<EffectReply, EffectError>>> {
    Box::pin(std::future::ready(Some(result)))
}

fn cancelled() -> EffectError {
    EffectError::new(EffectClass::Cancelled, "the handling was cancelled")
}

struct InProgress {
    effects: FakeEffects,
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.effects.lock().in_progress -= 1;
        self.effects.changed.notify_waiters();
    }
}

#[async_trait]
impl EffectPort for FakeEffects {
    async fn perform(&self, effect: Effect, _work: Option<OwnWork<'_>>, cx: &EffectContext) -> Result<EffectReply, EffectError> {
        let _in_progress = self.begin(&effect, cx);
        for answer in self.answers(&effect) {
            let Some(result) = answer(&effect, cx).await else { continue };
            if let Ok(reply) = &result {
                let in_kind = matches!(
                    (&effect.request, reply),
                    (EffectRequest::Http(_), EffectReply::Http(_))
                        | (EffectRequest::Command(_), EffectReply::Command(_))
                        | (EffectRequest::Own { .. }, EffectReply::Own(_))
                );
                assert!(in_kind, "the test answers effect `{}` ({}) with a reply of another kind: {reply:?}", effect.name, effect.request);
            }
            return result;
        }
        Ok(match effect.request {
            EffectRequest::Http(_) => EffectReply::Http(HttpReply::new(200, "")),
            EffectRequest::Command(CommandRequest { keep_alive: Some(keep_alive), .. }) => {
                let answer = serde_json::json!({ "id": keep_alive.id, "outcome": "done" });
                EffectReply::Command(CommandReply { stdout: answer.to_string().into(), ..CommandReply::exit(0) })
            }
            EffectRequest::Command(_) => EffectReply::Command(CommandReply::exit(0)),
            EffectRequest::Own { .. } => EffectReply::Own(Value::Null),
        })
    }

    fn resolve_program(&self, name: &str, _base_dir: &Path) -> Result<Program, BuildError> {
        if self.lock().missing.contains(name) {
            return Err(BuildError::at("", format!("there is no program `{name}`")).help("the test took it away"));
        }
        Ok(Program::resolved(name, Path::new("/fake/bin").join(name)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use router_api::{Cancellation, Canceller};

    use super::*;
    use crate::VirtualClock;

    fn command(name: &str) -> Effect {
        let request = EffectRequest::Command(CommandRequest::new(Program::unresolved("pytest")).args(["-q"]));
        Effect { name: name.to_owned(), kind: EffectKind::Write, request, dry_run_reply: None }
    }

    fn context(cancellation: Cancellation) -> EffectContext {
        EffectContext { route: "ci".to_owned(), handling: "h".to_owned(), remaining: Duration::from_secs(60), cancellation }
    }

    async fn code(effects: &FakeEffects, name: &str) -> Option<i32> {
        match effects.perform(command(name), None, &context(Cancellation::never())).await {
            Ok(EffectReply::Command(reply)) => reply.code,
            _ => None,
        }
    }

    fn exit(code: i32) -> impl Fn(&Effect) -> Result<EffectReply, EffectError> {
        move |_| Ok(EffectReply::Command(CommandReply::exit(code)))
    }

    #[tokio::test]
    async fn without_rules_everything_succeeds_and_is_recorded_in_order() {
        let effects = FakeEffects::new();
        assert_eq!((code(&effects, "first").await, code(&effects, "second").await), (Some(0), Some(0)));
        assert_eq!(effects.requests().iter().map(|requested| requested.name.as_str()).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(effects.sentences(), ["pytest -q", "pytest -q"]);
    }

    #[tokio::test]
    async fn answers_for_one_occasion_come_in_the_order_given_and_before_the_lasting_one() {
        let effects = FakeEffects::new();
        effects.always("run", exit(9));
        effects.once("run", exit(1));
        effects.once("run", exit(2));
        let mut codes = Vec::new();
        for _ in 0..4 {
            codes.push(code(&effects, "run").await.unwrap());
        }
        assert_eq!(codes, [1, 2, 9, 9]);
        assert_eq!(code(&effects, "other").await, Some(0));
    }

    #[tokio::test]
    async fn planned_failures_end_after_their_number() {
        let effects = FakeEffects::new();
        effects.fail("run", 2, EffectClass::Unreachable, "connection refused");
        let codes = [code(&effects, "run").await, code(&effects, "run").await, code(&effects, "run").await];
        assert_eq!(codes, [None, None, Some(0)]);
    }

    #[tokio::test]
    async fn a_slow_effect_takes_the_time_of_the_clock_and_then_its_answer() {
        let (effects, clock) = (FakeEffects::new(), VirtualClock::default());
        effects.always("run", exit(3));
        effects.slow("run", Arc::new(clock.clone()), Duration::from_secs(5));
        assert_eq!(clock.run_until(code(&effects, "run")).await, Some(3));
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_hanging_effect_ends_when_it_is_cancelled() {
        let effects = FakeEffects::new();
        effects.hang("run");
        let (canceller, cancellation) = Canceller::new();
        let cx = context(cancellation);
        let mut running = effects.perform(command("run"), None, &cx);
        assert!((&mut running).now_or_never().is_none());
        assert_eq!(effects.in_progress(), 1);
        canceller.cancel();
        assert_eq!(running.await.unwrap_err().class, EffectClass::Cancelled);
        assert_eq!((effects.in_progress(), effects.most_in_progress()), (0, 1));
    }

    #[test]
    fn programs_are_there_unless_taken_away() {
        let effects = FakeEffects::new();
        effects.no_program("pytest");
        assert!(effects.resolve_program("imi", Path::new(".")).is_ok());
        assert!(effects.resolve_program("pytest", Path::new(".")).unwrap_err().to_string().contains("`pytest`"));
    }
}
