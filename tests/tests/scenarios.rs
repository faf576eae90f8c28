//! Scenario files: `tests/scenarios/*.toml` say which events come to which routes, and how each of them ends.
//!
//! They run in process: the configuration is loaded as `run` loads it, with the shipped plugins, and the whole router works on a
//! transport in memory, a virtual clock, and effects that are answered by the file. What a file does not expect must not happen.
//! The format is described in `tests/scenarios/README.md`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use plugins as _;
use router_api::{
    CommandReply, DecodeLimits, EffectClass, EffectError, EffectReply, EffectRequest, Envelope, Fate, HttpReply, Publication, Registry, RoutingKey,
};
use router_core::{
    config::{self, FixedEnvironment},
    explain::explain,
    observe::RouterEvent,
};
use router_testkit::{Ending, FakeEffects, TestRouter};
use router_tests::workspace;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// What it shows.
    #[allow(dead_code, reason = "every file must say what it is for; only people read it")]
    description: String,
    /// A file of the repository to take the configuration from, instead of the tables here.
    config: Option<String>,
    #[serde(default)]
    defaults: Option<toml::Table>,
    #[serde(default)]
    route: Vec<toml::Table>,
    /// A recording of the repository to take events from, before those here.
    session: Option<String>,
    #[serde(default)]
    event: Vec<Event>,
    #[serde(default)]
    answer: Vec<Answer>,
    #[serde(default)]
    expect: Vec<Expect>,
    #[serde(default)]
    emitted: Vec<String>,
    /// How many events no route wants.
    #[serde(default)]
    unmatched: usize,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Event {
    key: String,
    /// Since the beginning.
    #[serde(default)]
    at_ms: u64,
    body: Option<toml::Value>,
    /// A body of `tests/fixtures/events`.
    fixture: Option<String>,
    /// Bytes that need not be JSON.
    raw: Option<String>,
    /// How often it comes, at once.
    #[serde(default = "once")]
    times: usize,
}

fn once() -> usize {
    1
}

/// How an effect is answered. Without one: success with an empty answer.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// The name of the effect, such as `run`, `webhook`, `launch`.
    effect: String,
    /// For the next so many; always if absent.
    times: Option<u32>,
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    json: Option<toml::Value>,
    exit_code: Option<i32>,
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stderr: String,
    /// Fails without an answer: `unreachable`, `timeout`, `failed`, `refused`.
    fails: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    route: String,
    /// Every ending, in order.
    #[serde(default)]
    endings: Vec<Ended>,
    /// Every effect, in order; those of a shadow route begin with `would`.
    #[serde(default)]
    effects: Vec<String>,
    /// Parts of what is sent or said by the effects, in any order.
    #[serde(default)]
    sent: Vec<String>,
    /// Failed attempts that were retried, by their class.
    #[serde(default)]
    failed: Vec<String>,
    /// How often the target was found down.
    #[serde(default)]
    paused: usize,
    #[serde(default)]
    not_matched: Vec<NotMatched>,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Ended {
    /// `handled`, `skipped`, `shadowed`, `filtered`, `duplicate`, or `buried`.
    outcome: String,
    /// The attempt that ended it.
    #[serde(default = "one")]
    attempts: u32,
    /// The size of the burst.
    #[serde(default = "once")]
    events: usize,
    /// A part of the reason or the last error.
    reason: Option<String>,
}

fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NotMatched {
    /// The number of the event, from 1.
    event: usize,
    /// A part of what `explain` says.
    clause: String,
}

/// What happened on one route, in the words of a scenario file.
#[derive(Debug, Default)]
struct Happened {
    endings: Vec<Ended>,
    recorded: Vec<String>,
    performed: Vec<String>,
    sent: String,
    failed: Vec<String>,
    paused: usize,
}

/// `@dir@` in a file is a directory that exists.
const DIRECTORY: &str = "@dir@";

fn json(value: &toml::Value) -> Value {
    serde_json::to_value(value).expect("TOML without dates is JSON")
}

impl Event {
    fn bytes(&self) -> Result<Bytes, String> {
        match (&self.body, &self.fixture, &self.raw) {
            (Some(body), None, None) => Ok(json(body).to_string().into()),
            (None, Some(name), None) => {
                let path = workspace().join("tests/fixtures/events").join(name);
                fs::read(&path).map(Bytes::from).map_err(|error| format!("{}: {error}", path.display()))
            }
            (None, None, Some(raw)) => Ok(raw.clone().into()),
            _ => Err(format!("the event `{}` needs one of `body`, `fixture` and `raw`", self.key)),
        }
    }
}

impl Answer {
    fn set(&self, effects: &FakeEffects) -> Result<(), String> {
        let answer = self.clone();
        let class = match self.fails.as_deref() {
            None => None,
            Some("unreachable") => Some(EffectClass::Unreachable),
            Some("timeout") => Some(EffectClass::Timeout),
            Some("failed") => Some(EffectClass::Failed),
            Some("refused") => Some(EffectClass::Refused),
            Some(other) => return Err(format!("an effect cannot fail by `{other}`")),
        };
        let reply = move |effect: &router_api::Effect| match (class, &effect.request) {
            (Some(class), _) => Err(EffectError::new(class, "the scenario says so")),
            (None, EffectRequest::Command(_)) => {
                let reply = CommandReply::exit(answer.exit_code.unwrap_or(0));
                Ok(EffectReply::Command(CommandReply { stdout: answer.stdout.clone().into(), stderr: answer.stderr.clone().into(), ..reply }))
            }
            (None, _) => {
                let body = answer.json.as_ref().map_or_else(String::new, |body| json(body).to_string());
                let mut reply = HttpReply::new(answer.status.unwrap_or(200), body);
                reply.headers = answer.headers.clone().into_iter().collect();
                Ok(EffectReply::Http(reply))
            }
        };
        match self.times {
            None => effects.always(&self.effect, reply),
            Some(times) => {
                for _ in 0..times {
                    effects.once(&self.effect, reply.clone());
                }
            }
        }
        Ok(())
    }
}

impl Ended {
    fn of(ending: &Ending) -> (String, Self) {
        let ended = |outcome: &str, attempts, events, reason| Self { outcome: outcome.to_owned(), attempts, events, reason };
        match ending {
            Ending::Finished { route, fate, attempt, events, .. } => {
                let (outcome, reason) = match fate {
                    Fate::Handled { .. } => ("handled", None),
                    Fate::Skipped { reason } => ("skipped", Some(reason.clone())),
                    Fate::Shadowed { .. } => ("shadowed", None),
                    Fate::Filtered => ("filtered", None),
                    Fate::Duplicate { .. } => ("duplicate", None),
                };
                (route.to_string(), ended(outcome, *attempt, *events, reason))
            }
            Ending::Buried { route, reason, error, attempts, events, .. } => {
                (route.to_string(), ended("buried", *attempts, *events, Some(format!("{reason}: {error}"))))
            }
            Ending::Filtered { route, .. } => (route.to_string(), ended("filtered", 1, 1, None)),
            Ending::Duplicate { route, .. } => (route.to_string(), ended("duplicate", 1, 1, None)),
            other => panic!("the test has no words for {other:?}"),
        }
    }

    /// Is this what was expected? Of a reason a part is enough, and none need be given.
    fn fits(&self, expected: &Self) -> bool {
        let reason = expected.reason.as_ref().is_none_or(|part| self.reason.as_ref().is_some_and(|reason| reason.contains(part)));
        (&self.outcome, self.attempts, self.events) == (&expected.outcome, expected.attempts, expected.events) && reason
    }
}

/// The configuration that a scenario runs with.
fn configuration(scenario: &Scenario) -> Result<String, String> {
    match &scenario.config {
        Some(path) if scenario.route.is_empty() => fs::read_to_string(workspace().join(path)).map_err(|error| format!("`{path}`: {error}")),
        Some(_) => Err("`config` and `[[route]]` are both given".to_owned()),
        None => {
            let mut tables = toml::Table::new();
            if let Some(defaults) = &scenario.defaults {
                tables.insert("defaults".to_owned(), defaults.clone().into());
            }
            tables.insert("route".to_owned(), scenario.route.iter().cloned().map(toml::Value::Table).collect::<Vec<_>>().into());
            toml::to_string(&tables).map_err(|error| error.to_string())
        }
    }
}

/// Events in the order of their times; those of a recording first where times are the same.
fn all_events(scenario: &Scenario) -> Result<Vec<(u64, RoutingKey, Bytes)>, String> {
    let key = |text: &str| RoutingKey::new(text).map_err(|error| format!("`{text}`: {error}"));
    let mut events = Vec::new();
    if let Some(path) = &scenario.session {
        let text = fs::read_to_string(workspace().join(path)).map_err(|error| format!("`{path}`: {error}"))?;
        let mut at = 0;
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).map_err(|error| format!("`{path}`: {error}"))?;
            at += line["after_ms"].as_u64().unwrap_or(0);
            events.push((at, key(line["key"].as_str().unwrap_or_default())?, Bytes::from(line["body"].to_string())));
        }
    }
    for event in &scenario.event {
        for _ in 0..event.times {
            events.push((event.at_ms, key(&event.key)?, event.bytes()?));
        }
    }
    events.sort_by_key(|(at, ..)| *at);
    Ok(events)
}

/// Long after the last event: nothing that the routes of a scenario wait for takes longer.
const AFTERWARDS: Duration = Duration::from_secs(6 * 3_600);

/// Runs one scenario and returns everything that was not as it says.
async fn run(text: &str) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let scenario: Scenario = toml::from_str(&text.replace(DIRECTORY, &directory.path().display().to_string())).map_err(|error| error.to_string())?;
    let events = all_events(&scenario)?;
    let toml = configuration(&scenario)?;
    let effects = FakeEffects::new();
    // What is given later is asked first, so the lasting answers come before those for one occasion.
    let (some_times, always): (Vec<&Answer>, Vec<&Answer>) = scenario.answer.iter().partition(|answer| answer.times.is_some());
    for answer in always.into_iter().chain(some_times) {
        answer.set(&effects)?;
    }
    let test = TestRouter::with_config(&toml).linked_plugins().effects(effects.clone()).try_build().await.map_err(|problems| problems.report.render(false))?;

    let mut wrong = Vec::new();
    let mut unmatched = 0;
    let mut now = 0;
    for (at, key, body) in &events {
        test.advance(Duration::from_millis(at - now)).await;
        now = *at;
        let published = test.publish_raw(Publication::new(key.clone(), body.clone())).await;
        unmatched += usize::from(!published.routed);
    }
    let expected: usize = scenario.expect.iter().map(|expect| expect.endings.len()).sum();
    test.advance(AFTERWARDS).await;
    test.idle().await;
    let endings = test.untold();
    if endings.len() != expected {
        wrong.push(format!("{} endings, where {expected} are expected", endings.len()));
    }
    if unmatched != scenario.unmatched {
        wrong.push(format!("{unmatched} events that no route wants, where {} are expected", scenario.unmatched));
    }

    let mut happened = happened(&test, &effects, &endings);
    let mut emitted = Vec::new();
    for event in test.observer().events() {
        if let RouterEvent::Emitted { route, key, .. } = event {
            emitted.push(format!("{route}: {key}"));
        }
    }
    if emitted != scenario.emitted {
        wrong.push(format!("emitted is {emitted:?}, expected {:?}", scenario.emitted));
    }
    for expect in &scenario.expect {
        compare(expect, &happened.remove(&expect.route).unwrap_or_default(), &mut wrong);
    }
    for (route, happened) in happened {
        wrong.push(format!("route `{route}` is not expected to do anything, and this happened: {happened:#?}"));
    }
    not_matched(&scenario, &toml, &events, directory.path(), &effects, &mut wrong).await?;
    test.end().await;
    Ok(wrong)
}

fn happened(test: &TestRouter, effects: &FakeEffects, endings: &[Ending]) -> BTreeMap<String, Happened> {
    let mut happened: BTreeMap<String, Happened> = BTreeMap::new();
    for (route, ended) in endings.iter().map(Ended::of) {
        happened.entry(route).or_default().endings.push(ended);
    }
    for event in test.observer().events() {
        match event {
            RouterEvent::Finished { route, effects, .. } => {
                let of = happened.entry(route.to_string()).or_default();
                of.recorded.extend(effects.iter().map(router_api::RecordedEffect::sentence));
                effects.iter().for_each(|effect| of.sent.push_str(&wire(&effect.request)));
            }
            RouterEvent::Failed { route, class, .. } => happened.entry(route.to_string()).or_default().failed.push(class.name().to_owned()),
            RouterEvent::RoutePaused { route, .. } => happened.entry(route.to_string()).or_default().paused += 1,
            _ => {}
        }
    }
    for requested in effects.requests() {
        let of = happened.entry(requested.route.clone()).or_default();
        of.performed.push(requested.to_string());
        of.sent.push_str(&wire(&requested.request));
    }
    happened
}

/// What a target gets to see, as text to search in.
fn wire(request: &EffectRequest) -> String {
    match request {
        EffectRequest::Http(request) => {
            let headers: String =
                request.headers.iter().map(|header| format!("{}: {}\n", header.name, if header.secret { "…" } else { &header.value })).collect();
            format!("{headers}{}\n", String::from_utf8_lossy(&request.body))
        }
        EffectRequest::Command(request) => format!("{request:?}\n"),
        other => format!("{other:?}\n"),
    }
}

fn compare(expect: &Expect, happened: &Happened, wrong: &mut Vec<String>) {
    let route = &expect.route;
    let all_fit = happened.endings.len() == expect.endings.len() && happened.endings.iter().zip(&expect.endings).all(|(ended, expected)| ended.fits(expected));
    if !all_fit {
        wrong.push(format!("endings of `{route}` are {:#?}\nexpected {:#?}", happened.endings, expect.endings));
    }
    let effects: Vec<&String> = happened.performed.iter().chain(&happened.recorded).collect();
    if effects != expect.effects.iter().collect::<Vec<_>>() {
        wrong.push(format!("effects of `{route}` are {effects:#?}\nexpected {:#?}", expect.effects));
    }
    for part in expect.sent.iter().filter(|part| !happened.sent.contains(part.as_str())) {
        wrong.push(format!("`{route}` did not send {part}\nbut {}", happened.sent));
    }
    if happened.failed != expect.failed {
        wrong.push(format!("failed attempts of `{route}` are {:?}, expected {:?}", happened.failed, expect.failed));
    }
    if happened.paused != expect.paused {
        wrong.push(format!("`{route}` paused {} times, expected {}", happened.paused, expect.paused));
    }
}

async fn not_matched(
    scenario: &Scenario,
    toml: &str,
    events: &[(u64, RoutingKey, Bytes)],
    directory: &Path,
    effects: &FakeEffects,
    wrong: &mut Vec<String>,
) -> Result<(), String> {
    let file = directory.join("router.toml");
    fs::write(&file, toml).map_err(|error| error.to_string())?;
    let registry = Registry::linked().map_err(|error| error.to_string())?;
    let located = config::locate(&[file], None, directory);
    let loaded = config::load(&located, &registry, Arc::new(effects.clone()), &FixedEnvironment::default()).await;
    let config = loaded.map_err(|problems| problems.report.render(false))?.config;
    for expect in &scenario.expect {
        for NotMatched { event, clause } in &expect.not_matched {
            let (_, key, body) = event.checked_sub(1).and_then(|index| events.get(index)).ok_or_else(|| format!("there is no event {event}"))?;
            let decoded = Envelope::decode(key.clone(), body.clone(), DecodeLimits::default());
            let explanation = explain(&config.routes, decoded.as_ref(), key);
            let verdict = explanation
                .routes
                .iter()
                .find(|verdict| verdict.route.as_str() == expect.route)
                .ok_or_else(|| format!("there is no route `{}`", expect.route))?;
            let told = verdict.lines().join("\n");
            if verdict.verdict.fires() || !told.contains(clause.as_str()) {
                wrong.push(format!("of event {event} and `{}` it is said:\n{told}\nexpected {clause}", expect.route));
            }
        }
    }
    Ok(())
}

fn files() -> Vec<PathBuf> {
    let directory = workspace().join("tests/scenarios");
    let entries = fs::read_dir(&directory).expect("the scenarios are there").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    files.sort();
    files
}

/// Each on a thread of its own, since a virtual clock wants a runtime of its own, and so that one that panics does not hide the rest.
fn verdict(text: String) -> Result<(), String> {
    let running = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        runtime.block_on(run(&text))
    });
    match running.join() {
        Ok(Ok(wrong)) if wrong.is_empty() => Ok(()),
        Ok(Ok(wrong)) => Err(wrong.join("\n")),
        Ok(Err(error)) => Err(format!("the scenario cannot be run: {error}")),
        Err(_) => Err("the scenario panicked; its message stands above".to_owned()),
    }
}

#[test]
fn every_scenario_ends_as_its_file_says() {
    let files = files();
    assert!(files.len() >= 10, "{files:?}");
    let mut failures = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a scenario can be read");
        if let Err(wrong) = verdict(text) {
            failures.push(format!("=== {}\n{wrong}", file.file_name().unwrap_or_default().to_string_lossy()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

const SMALL: &str = r#"
description = "A failing effect, tried again."
unmatched = 1
[[route]]
name = "a"
on = ["a.#"]
when = { tool_name = ["Write"] }
handler = "webhook"
with = { url = "http://hooks.example/x" }
[[event]]
key = "a.b"
body = { tool_name = "Write" }
[[event]]
key = "a.b"
body = { tool_name = "Read" }
[[answer]]
effect = "webhook"
times = 1
status = 500
[[expect]]
route = "a"
endings = [{ outcome = "handled", attempts = 2 }]
effects = ["POST http://hooks.example/x", "POST http://hooks.example/x"]
failed = ["error"]
sent = ["{\"tool_name\":\"Write\"}"]
not_matched = [{ event = 2, clause = "`tool_name` is \"Read\"" }]
"#;

#[test]
fn a_scenario_that_says_something_else_than_what_happens_fails() {
    assert_eq!(verdict(SMALL.to_owned()), Ok(()));
    for (from, to, told) in [
        ("attempts = 2", "attempts = 1", "endings of `a`"),
        ("outcome = \"handled\"", "outcome = \"skipped\"", "endings of `a`"),
        ("failed = [\"error\"]", "failed = []", "failed attempts of `a`"),
        ("\"Read\\\"", "\"Edit\\\"", "of event 2"),
        ("event = 2, clause", "event = 1, clause", "of event 1"),
        ("[\"POST http://hooks.example/x\", ", "[", "effects of `a`"),
        ("sent = [\"{", "sent = [\"nothing of this {", "did not send"),
        ("unmatched = 1", "unmatched = 0", "no route wants"),
        ("route = \"a\"", "route = \"b\"", "there is no route `b`"),
        ("times = 1", "times = 2", "endings of `a`"),
        ("unmatched = 1", "unmatched = 1\nemitted = [\"a: b\"]", "emitted is []"),
        ("status = 500", "stauts = 500", "unknown field"),
    ] {
        assert!(SMALL.contains(from), "{from}");
        let wrong = verdict(SMALL.replacen(from, to, 1)).expect_err(to);
        assert!(wrong.contains(told), "`{to}` gives\n{wrong}");
    }
    let (without, _) = SMALL.split_once("[[expect]]").expect("it expects something");
    let wrong = verdict(without.to_owned()).expect_err("nothing is expected");
    assert!(wrong.contains("route `a` is not expected to do anything"), "{wrong}");
}
