//! What loading a configuration promises, over whole files and plugins of its own.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, Context, Effect, EffectContext, EffectError, EffectPort, EffectReply, Envelope, FailureClass, Handler, HandlerError, Outcome,
    OwnWork, Plugin, Program, Registration, Registry, RouteMode,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Config, FixedEnvironment, Loaded, OnExhausted, Origin, Problems, Report, RetryAction, Secret, WhenBusy, config_schema, load,
    locate::{BUILT_IN, Located},
    plugin_reference,
};
use crate::spent::processor_time;

/// Prints.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Print {
    /// Before each line.
    #[serde(default)]
    #[allow(dead_code, reason = "only its schema matters here")]
    prefix: String,
}

/// Runs a command.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Run {
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    command: Vec<String>,
    /// Where to send what it prints.
    #[serde(default)]
    target: Option<Target>,
    /// How often at most.
    #[serde(default)]
    #[schemars(range(max = 9))]
    #[allow(dead_code, reason = "only its schema matters here")]
    tries: u8,
    /// Milliseconds between two of them.
    #[serde(default)]
    #[allow(dead_code, reason = "only its schema matters here")]
    pause_ms: u64,
    /// A secret.
    #[serde(default)]
    token: Option<String>,
    /// A text with rules that no schema tells.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    #[allow(dead_code, reason = "only its parser matters here")]
    pattern: Option<router_api::RoutingPattern>,
}

/// A target.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema matters here")]
enum Target {
    /// A file.
    File {
        /// Its path.
        path: String,
    },
    /// Nowhere.
    Null {},
}

struct Nothing;

#[async_trait]
impl Handler for Nothing {
    async fn handle(&self, _: &Envelope, _: &Context) -> Result<Outcome, HandlerError> {
        Ok(Outcome::Done)
    }
}

#[async_trait]
impl Plugin for Print {
    const NAME: &'static str = "print";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(Nothing))
    }
}

#[async_trait]
impl Plugin for Run {
    const NAME: &'static str = "run";

    async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut problems = BuildError::default();
        problems.collect(cx.program("command.0", &self.command[0]));
        if let Some(token) = self.token.filter(|token| token.contains(' ')) {
            problems.collect::<()>(Err(BuildError::at("token", format!("`{token}` has a space")).help(format!("`{}`?", token.replace(' ', "")))));
        }
        if self.command.iter().any(|argument| argument == "panic") {
            panic!("as asked");
        }
        if self.target.is_some() && self.command.len() > 3 {
            problems.collect::<()>(Err(BuildError::at("target.path", "no target for so many arguments")));
        }
        problems.into_result().map(|()| Box::new(Nothing) as _)
    }
}

/// Knows one program.
struct OneProgram;

#[async_trait]
impl EffectPort for OneProgram {
    async fn perform(&self, _: Effect, _: Option<OwnWork<'_>>, _: &EffectContext) -> Result<EffectReply, EffectError> {
        unreachable!("loading a configuration performs nothing")
    }

    fn resolve_program(&self, name: &str, _: &Path) -> Result<Program, BuildError> {
        if name == "true" { Ok(Program::resolved(name, "/bin/true")) } else { Err(BuildError::at("", format!("no program `{name}`"))) }
    }
}

fn registry() -> Registry {
    Registry::of([Registration::of::<Print>(), Registration::of::<Run>()]).expect("two plugins")
}

pub(super) fn environment() -> FixedEnvironment {
    FixedEnvironment::default().with("TOKEN", "s3cr3t-t0ken").with("SPACED", "s3cr3t with space").with("PATTERN", "session.#").with("STAR", "s3cr3t*")
}

/// Writes the files into a directory of their own and loads them.
pub(super) async fn load_files(files: &[(&str, &str)], environment: &FixedEnvironment) -> Result<Loaded, Problems> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("router-core-config-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("created");
    for (name, text) in files {
        std::fs::write(dir.join(name), text).expect("written");
    }
    let located = Located {
        origin: Origin::CommandLine,
        files: files.iter().map(|(name, _)| dir.join(name)).collect(),
        cwd: dir.clone(),
        state: dir.join("state"),
        problems: Vec::new(),
    };
    let loaded = load(&located, &registry(), Arc::new(OneProgram), environment).await;
    std::fs::remove_dir_all(dir).expect("removed");
    loaded
}

async fn loaded(text: &str) -> Loaded {
    load_files(&[("router.toml", text)], &environment()).await.unwrap_or_else(|problems| panic!("{problems}"))
}

async fn config(text: &str) -> Config {
    loaded(text).await.config
}

pub(super) fn lines(report: &Report) -> Vec<String> {
    let line = |diagnostic: &super::Diagnostic| {
        let place = diagnostic.place.as_ref().map_or_else(String::new, |place| format!("{}:{} ", place.line, place.column));
        let help = diagnostic.help.as_ref().map_or_else(String::new, |help| format!(" | {help}"));
        format!("{place}{}: {}{help}", diagnostic.code, diagnostic.message)
    };
    report.diagnostics().iter().map(line).collect()
}

/// What is wrong with a text, one line each.
async fn problems(text: &str) -> Vec<String> {
    match load_files(&[("router.toml", text)], &environment()).await {
        Ok(loaded) => lines(&loaded.report),
        Err(problems) => lines(&problems.report),
    }
}

/// What is wrong with a route of these further lines; line numbers count from the first of them.
async fn route_problems(text: &str) -> Vec<String> {
    problems(&format!("{text}\n[[route]]\nname = \"other\"\non = [\"o\"]\nhandler = \"print\"\n")).await
}

const ROUTE: &str = "[[route]]\nname = \"a\"\non = [\"a.#\"]\nhandler = \"print\"\n";

#[tokio::test]
async fn the_systems_configuration_means_the_same_store_in_the_service_and_in_a_shell() {
    // Without its routes, whose plugins are elsewhere.
    let (shipped, _) = BUILT_IN.split_once("[[route]]").expect("it has routes");
    let dir = std::env::temp_dir().join(format!("router-core-system-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("created");
    std::fs::write(dir.join("router.toml"), shipped).expect("written");
    // What is found in `/etc/event-router`: see `locate`.
    let (files, state) = (vec![dir.join("router.toml")], "/var/lib/event-router".into());
    let located = Located { origin: Origin::System, files, cwd: dir.clone(), state, problems: Vec::new() };
    for environment in [FixedEnvironment::default(), FixedEnvironment::default().with("STATE_DIRECTORY", "/var/lib/event-router")] {
        let loaded = load(&located, &registry(), Arc::new(OneProgram), &environment).await.unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.config.store.path, Path::new("/var/lib/event-router/router.db"));
    }
    std::fs::remove_dir_all(dir).expect("removed");
}

#[tokio::test]
async fn a_route_of_four_lines_has_all_the_documented_defaults() {
    let config = config(ROUTE).await;
    let route = &config.routes[0];
    assert_eq!((route.concurrency, route.prefetch, route.hops_max, route.crashes_max), (8, 500, 8, 5));
    assert_eq!((route.timeout, route.drain, route.max_age), (Duration::from_secs(60), Duration::from_secs(30), None));
    assert_eq!((route.retry.attempts_max, route.retry.first_delay, route.retry.max_delay), (8, Duration::from_secs(1), Duration::from_secs(600)));
    assert_eq!((route.breaker.first_delay, route.breaker.max_delay), (Duration::from_secs(5), Duration::from_secs(300)));
    assert_eq!((route.enabled, route.mode, route.on_exhausted, route.rate.is_none()), (true, RouteMode::Live, OnExhausted::DeadLetter, true));
    assert_eq!(route.dedup.as_ref().map(|dedup| (dedup.by.len(), dedup.window)), Some((0, Duration::from_secs(86_400))));
    assert_eq!(route.place, "router.toml:2");
    assert_eq!((config.store.sync, config.store.retention.age, config.store.retention.bytes_max), (true, Duration::from_secs(30 * 86_400), 1 << 30));
    assert_eq!(config.store.ledger_bytes_max, 64 << 20);
    assert_eq!(config.http.listen.map(|listen| listen.to_string()).as_deref(), Some("127.0.0.1:8682"));
    assert!(config.store.path.ends_with("state/router.db") && config.store.path.is_absolute(), "{:?}", config.store.path);
    assert!(config.redact.builtin && config.log.level == "info");
}

#[tokio::test]
async fn everything_that_can_be_written_arrives_in_the_model() {
    let text = r#"
[store]
path = "x/y.db"
synchronous = "normal"
retention_days = 2
retention_bytes_max = 2_000_000
ledger_bytes_max = 3_000_000
[http]
listen = "off"
[limits]
body_bytes_max = 2048
depth_max = 8
[redact]
paths = ["payload.user_prompt"]
patterns = ["x[0-9]+"]
builtin = false
[log]
level = "warn,router_core=debug"
format = "json"
[defaults]
timeout_ms = 5
[defaults.retry]
attempts_max = 3
[[route]]
name = "a"
description = "tells"
mode = "shadow"
on = ["a.*", "b.#"]
when = { tool_name = ["Write"], file_path = [{ suffix = ".py" }] }
coalesce = { by = "session_id", quiet_ms = 600_000 }
order_by = "session_id"
concurrency = 2
prefetch = 40
retry = { max_delay_ms = 2_000, on = { timeout = "dead-letter" } }
on_exhausted = "park"
when_busy = "cancel"
ledger = false
breaker = { first_delay_ms = 7 }
rate = { count = 5, per_ms = 60_000 }
drain_ms = 0
dedup = { by = ["session_id", "tool_name"], window_s = 60 }
max_age_s = 3_600
hops_max = 2
crashes_max = 1
handler = "run"
[route.with]
command = ["true"]
target = { kind = "file", path = "out" }
"#;
    let loaded = loaded(text).await;
    assert_eq!(lines(&loaded.report), [""; 0]);
    let config = loaded.config;
    assert!(config.store.path.ends_with("x/y.db") && !config.store.sync);
    assert_eq!((config.http.listen, config.limits.decode.body_bytes_max, config.limits.decode.depth_max), (None, 2_048, 8));
    assert_eq!((config.redact.paths.len(), config.redact.patterns.len(), config.redact.builtin), (1, 1, false));
    let route = &config.routes[0];
    assert_eq!((route.timeout.as_millis(), route.retry.attempts_max, route.retry.max_delay.as_secs()), (5, 3, 2));
    assert_eq!(route.retry.on.get(&FailureClass::Timeout), Some(&RetryAction::DeadLetter));
    let coalesce = route.coalesce.as_ref().expect("coalesces");
    assert_eq!((coalesce.by.as_str(), coalesce.max_wait.as_secs(), coalesce.events_max), ("session_id", 6_000, 10));
    assert_eq!((route.mode, route.on_exhausted, route.hops_max, route.crashes_max), (RouteMode::Shadow, OnExhausted::Park, 2, 1));
    assert_eq!((route.when_busy, route.ledger, config.store.ledger_bytes_max), (WhenBusy::Cancel, false, 3_000_000));
    assert_eq!(route.rate.as_ref().map(|rate| (rate.count, rate.per.as_secs())), Some((5, 60)));
    assert_eq!(route.dedup.as_ref().map(|dedup| dedup.by.len()), Some(2));
    assert_eq!(route.with["target"]["path"], "out");
    assert!(!route.when.is_empty());
}

#[tokio::test]
async fn a_door_beyond_loopback_needs_tokens_and_they_are_shown_nowhere() {
    let text = "[http]\nlisten = '0.0.0.0:80'\nallowed_hosts = ['router.lan', 'front:9000']\ntokens = { ci = 'a-literal-of-some-length', b = '${TOKEN}' }\n";
    let environment = FixedEnvironment::default().with("TOKEN", " kept-out-of-the-file ");
    let loaded = load_files(&[("a.toml", text)], &environment).await.expect("it is valid");
    let http = &loaded.config.http;
    assert_eq!(http.listen.map(|listen| listen.to_string()).as_deref(), Some("0.0.0.0:80"));
    let tokens: Vec<_> = http.tokens.iter().map(|(name, token)| (name.as_str(), token.reveal())).collect();
    assert_eq!(tokens, [("b", "kept-out-of-the-file"), ("ci", "a-literal-of-some-length")]);
    for shown in [&loaded.config.text, &format!("{:?}", loaded.config)] {
        assert!(!shown.contains("some-length") && !shown.contains("kept-out"), "{shown}");
    }
    assert!(loaded.config.text.contains("b = \"${TOKEN}\""), "{}", loaded.config.text);
}

#[tokio::test]
async fn admin_tokens_are_a_table_of_their_own_and_open_a_door_beyond_loopback_too() {
    let text =
        "[http]\nlisten = '0.0.0.0:80'\ntokens = { ci = 'a-literal-of-some-length' }\nadmin_tokens = { ci = '${TOKEN}', desk = 'another-literal-of-length' }\n";
    let environment = FixedEnvironment::default().with("TOKEN", "kept-out-of-the-file");
    let loaded = load_files(&[("a.toml", text)], &environment).await.expect("it is valid");
    let revealed = |tokens: &[(String, Secret)]| tokens.iter().map(|(name, token)| format!("{name} {}", token.reveal())).collect::<Vec<_>>();
    assert_eq!(revealed(&loaded.config.http.tokens), ["ci a-literal-of-some-length"]);
    assert_eq!(revealed(&loaded.config.http.admin_tokens), ["ci kept-out-of-the-file", "desk another-literal-of-length"]);
    for shown in [&loaded.config.text, &format!("{:?}", loaded.config)] {
        assert!(!shown.contains("-length") && !shown.contains("kept-out"), "{shown}");
    }
    assert!(loaded.config.text.contains("admin_tokens = { ci = \"${TOKEN}\", desk = "), "{}", loaded.config.text);
    let literals = lines(&loaded.report).into_iter().filter(|line| line.contains("secret-literal")).count();
    assert_eq!(literals, 2, "{:?}", lines(&loaded.report));
    let alone = text.replace("tokens = { ci = 'a-literal-of-some-length' }\n", "");
    assert!(load_files(&[("a.toml", &alone)], &environment).await.is_ok(), "a door for admins alone");
}

#[tokio::test]
async fn what_is_wrong_with_tokens_of_either_table_is_told_at_its_place() {
    let text = "[http]\ntokens = { a = 'of-one-who-may-send', b = 'short', c = 'of-one-who-may-send' }\n\
                admin_tokens = { a = 'short-too', d = 'of-one-who-may-send', e = 'with a blank in it', f = 'of-one-who-may-do-all', g = 'of-one-who-may-do-all' }\n";
    let found = problems(text).await.into_iter().filter(|line| line.contains("bad-token")).collect::<Vec<_>>();
    let help = "a good one comes from `openssl rand -hex 32`";
    assert_eq!(
        found,
        [
            format!("2:43 bad-token: the token of `b` has fewer than 16 bytes, so it can be guessed | {help}"),
            format!("2:56 bad-token: the token of `c` is that of `a` too, so nobody could tell the two apart | {help}"),
            format!("3:22 bad-token: the admin token of `a` has fewer than 16 bytes, so it can be guessed | {help}"),
            format!(
                "3:39 bad-token: the admin token of `d` is that of `a` in `tokens` too, so whoever may send events could do all that the commands do | {help}"
            ),
            format!("3:66 bad-token: the admin token of `e` has characters that a header cannot carry | {help}"),
            format!("3:121 bad-token: the admin token of `g` is that of `f` too, so nobody could tell the two apart | {help}"),
        ]
    );
}

#[tokio::test]
async fn each_mistake_is_one_sentence_at_its_place_with_a_way_out() {
    for (text, expected) in [
        ("[https]\n", "1:2 unknown-key: unknown key `https` | did you mean `http`?"),
        ("[log]\nlevle = 'info'\n", "2:1 unknown-key: unknown key `levle` in `[log]` | did you mean `level`?"),
        (
            "[log]\nlevel = 'infoo'\n",
            "2:9 bad-level: `infoo` is no level | levels are `off`, `error`, `warn`, `info`, `debug`, `trace`, and for one part `part=level`",
        ),
        ("[log]\nformat = 'jsno'\n", "2:10 unknown-value: `format` is `jsno`, but must be one of `text`, `json` | did you mean `json`?"),
        (
            "[http]\nlisten = '0.0.0.0:80'\n",
            "2:10 not-loopback: `0.0.0.0:80` is open to other machines, and there are no tokens to tell friend from foe | give each client one, `[http] tokens = { laptop = \"${file:…}\" }`, or listen on this machine only, `127.0.0.1:80`",
        ),
        (
            "[http]\ntokens = { ci = '${SPACED}' }\n",
            "2:17 bad-token: the token of `ci` has characters that a header cannot carry | a good one comes from `openssl rand -hex 32`",
        ),
        (
            "[http]\nallowed_hosts = ['https://x']\n",
            "2:18 bad-host: `https://x` is no host | write a name, with a port or without: `router.lan`, `router.lan:9000`",
        ),
        ("[http]\nlisten = 'localhost:80'\n", "2:10 bad-address: `localhost:80` is no address with a port | write it as `127.0.0.1:80`, or `off`"),
        ("[transport]\nkind = 'ampq'\n", "2:8 unknown-value: `kind` is `ampq`, but must be one of `embedded`, `amqp` | did you mean `amqp`?"),
        ("[limits]\ndepth_max = 500\n", "2:13 out-of-range: `depth_max` is 500, but must be from 1 to 128"),
        ("[limits]\nbody_bytes_max = '1M'\n", "2:18 wrong-type: `body_bytes_max` must be an integer, but is a string"),
        ("[store]\nretention = '2d'\n", "2:1 duration-unit: unknown key `retention`: durations are integers with a unit suffix | write `retention_days = 2`"),
        ("[redact]\npatterns = ['[']\n", "2:13 bad-redaction: "),
        ("[defaults]\nprefetch = '500'\n", "2:12 wrong-type: `prefetch` must be an integer, but is a string | without quotes: `prefetch = 500`"),
        ("[[route]]\non = ['a']\nhandler = 'print'\n", "1:1 missing-key: the route needs `name`"),
        (
            "[[route]]\nname = 'My Route'\non = ['a']\nhandler = 'print'\n",
            "2:8 bad-name: `My Route` is no name for a route | use 1 to 63 of `a` to `z`, `0` to `9` and `-`, beginning with a letter: `name = \"my-route\"`",
        ),
        ("[[route]]\nname = 'a'\non = 'a'\nhandler = 'print'\n", "3:6 wrong-type: `on` must be an array, but is a string | in brackets: `on = [\"a\"]`"),
        ("[[route]]\nname = 'a'\non = []\nhandler = 'print'\n", "3:6 out-of-range: `on` is empty | at least 1 element"),
        ("[[route]]\nname = 'a'\non = ['a', 5]\nhandler = 'print'\n", "3:12 wrong-type: `on[1]` must be a string, but is an integer"),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'pritn'\n",
            "4:11 unknown-handler: there is no plugin `pritn` | did you mean `print`? linked into this program: `print`, `run`",
        ),
        ("[[route]]\nname = 'a'\non = ['a']\nhandler = 'zzz'\n", "4:11 unknown-handler: there is no plugin `zzz` | linked into this program: `print`, `run`"),
        ("[[route]]\nname = 'a'\non = ['a']\norder_by = 'sesion_id'\nhandler = 'print'\n", "4:12 unknown-field: "),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\ntimeout = '5s'\n",
            "5:1 duration-unit: unknown key `timeout`: durations are integers with a unit suffix | write `timeout_ms = 5000`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\ntimeout_ms = '5s'\n",
            "5:14 wrong-type: `timeout_ms` must be an integer, but is a string | durations are integers with a unit suffix: `timeout_ms = 5000`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\ntimeout_ms = '${TOKEN}'\n",
            "5:14 wrong-type: `timeout_ms` must be an integer, but is a string | variables can only fill in strings; write the number itself",
        ),
        ("[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\ndedup = 'no'\n", "5:9 wrong-type: `dedup` must be a boolean or a table, but is a string"),
        ("[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\nrate = { count = 5 }\n", "5:1 missing-key: `rate` needs `per_ms`"),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\nprefetch = 8\ncoalesce = { by = 'key', quiet_ms = 1, events_max = 5 }\n",
            "6:53 burst-size: `events_max` is 5, but a burst has at most a quarter of `prefetch` (8): 2 | lower it, or set `prefetch = 20`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\norder_by = 'key'\ncoalesce = { by = 'session_id', quiet_ms = 1 }\n",
            "6:19 lane-key: `coalesce.by` and `order_by` name different fields, and a route has one kind of lane | a coalesced lane is ordered anyway: leave out `order_by`",
        ),
        ("[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\nwhen = { tool_nam = ['x'] }\n", "5:"),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\n[route.with]\nprefx = 'x'\n",
            "6:1 unknown-key: `print` has no option `prefx` | did you mean `prefix`?",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\n[route.with]\ncoalesce = { by = 'key', quiet_ms = 1 }\n",
            "6:1 misplaced-key: `coalesce` is a key of the route, no option of `print` | move it above `[route.with]`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\ncommand = ['true']\n",
            "5:1 misplaced-key: `command` is an option of `run` | move it below `[route.with]`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\ncommand = ['true', 'panic']\nwith = { tries = 1 }\n",
            "5:1 misplaced-key: `command` is an option of `run` | move it below `[route.with]`",
        ),
        ("[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\ncommand = ['true']\n", "5:1 unknown-key: unknown key `command` in `[[route]]`"),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = 'notify-send hi' }\n",
            "5:20 wrong-type: `command` must be an array, but is a string | in brackets: `command = [\"notify-send\", \"hi\"]`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = \"sh -c 'a  b' it's\" }\n",
            "5:20 wrong-type: `command` must be an array, but is a string | in brackets: `command = [\"sh\", \"-c\", \"a  b\", \"it's\"]`; no shell reads it, so each argument is one element, without the quotes of a shell",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = 'x ${TOKEN}' }\n",
            "5:20 wrong-type: `command` must be an array, but is a string | in brackets: `command = [\"x ${TOKEN}\"]`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\n[route.retry]\nattempts_max = 2\nhandler = 'print'\n",
            "6:1 misplaced-key: `handler` is a key of the route, none of `[route.retry]` | move it above `[route.retry]`",
        ),
        ("[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\n", "4:11 missing-key: `run` needs the option `command`"),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true'], pause = '2s' }\n",
            "5:30 duration-unit: unknown key `pause`: durations are integers with a unit suffix | write `pause_ms = 2000`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true'], tries = 300 }\n",
            "5:38 out-of-range: `tries` is 300, but must be from 0 to 9",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true'], target = { kind = 'fil' } }\n",
            "5:48 unknown-value: `kind` is `fil`, but must be one of `file`, `null` | did you mean `file`?",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true'], target = { path = 'x' } }\n",
            "5:30 unknown-value: `target` needs `kind`: one of `file`, `null`",
        ),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true'], target = { kind = 'file' } }\n",
            "5:30 missing-key: `target` needs `path`",
        ),
        ("[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['nope'] }\n", "5:21 bad-option: `command.0`: no program `nope`"),
        (
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true', 'panic'] }\n",
            "5:8 plugin-panic: the plugin `run` panicked over these options | this is a mistake in the plugin",
        ),
        (
            "[[route]]\nname = 'other'\non = ['a']\nhandler = 'print'\n",
            "7:8 duplicate-route: there are two routes called `other` | a route's queue and statistics go by its name",
        ),
        ("[route]\nname = 'a'\n", "1:1 wrong-type: `route` must be an array, but is a table | with two brackets: `[[route]]`"),
    ] {
        let mut found = if text.starts_with("[route]") { problems(text).await } else { route_problems(text).await };
        // A plugin is asked about what was meant, and the only program here is `true`.
        found.retain(|line| !expected.contains("`command` must be an array") || !line.contains("no program"));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{text}\nexpected {expected}\nfound    {found:#?}");
    }
}

#[tokio::test]
async fn a_value_that_only_its_own_parser_refuses_is_found_at_its_place() {
    let found = problems("[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true'], pattern = \"a\\u0001\" }\n").await;
    assert!(found.len() == 1 && found[0].starts_with("5:40 bad-option: `pattern`: "), "{found:#?}");
}

#[tokio::test]
async fn a_misplaced_required_key_is_not_also_reported_as_missing() {
    let found = problems("[[route]]\nname = 'a'\nhandler = 'print'\n[route.with]\non = ['a']\n").await;
    assert_eq!(found, ["5:1 misplaced-key: `on` is a key of the route, no option of `print` | move it above `[route.with]`"]);
}

#[tokio::test]
async fn all_problems_of_all_files_come_at_once_and_a_broken_file_hides_none_of_the_others() {
    let files = [
        ("a.toml", "[http\nlisten = 5\n"),
        ("b.toml", "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\nprefetch = 0\n"),
        ("c.toml", "[[route]]\nname = 'a'\non = ['a']\nhandler = 'nope'\nwhen = 5\n"),
    ];
    let problems = load_files(&files, &environment()).await.expect_err("three broken files");
    let found: Vec<_> = problems.report.diagnostics().iter().map(|found| (found.place.as_ref().map_or("", |place| &place.file), found.code)).collect();
    assert_eq!(
        found,
        [("a.toml", "syntax"), ("b.toml", "out-of-range"), ("c.toml", "duplicate-route"), ("c.toml", "unknown-handler"), ("c.toml", "wrong-type")],
        "{problems}"
    );
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let located =
        Located { origin: Origin::CommandLine, files: vec!["/none/router.toml".into()], cwd: "/none".into(), state: "/none".into(), problems: Vec::new() };
    let problems = load(&located, &registry(), Arc::new(OneProgram), &environment()).await.expect_err("no file");
    assert_eq!(lines(&problems.report), ["unreadable: the configuration file `router.toml` does not exist"]);
}

#[tokio::test]
async fn values_from_outside_reach_the_plugin_and_nothing_else() {
    let text =
        "[[route]]\nname = 'a'\non = ['${PATTERN}']\nhandler = 'run'\nwith = { command = ['true', 'Bearer ${TOKEN}', '$${HOME}'], token = '${TOKEN}' }\n";
    let config = config(text).await;
    assert_eq!(config.routes[0].with["command"][1], "Bearer s3cr3t-t0ken");
    assert_eq!(config.routes[0].with["command"][2], "${HOME}");
    assert_eq!(config.routes[0].on[0].as_str(), "session.#");
    assert!(!config.text.contains("s3cr3t"), "{}", config.text);
    assert!(config.text.contains("Bearer ${TOKEN}") && config.text.contains("$${HOME}") && config.text.contains("[\"${PATTERN}\"]"), "{}", config.text);
}

#[tokio::test]
async fn no_diagnostic_shows_a_value_from_outside() {
    for text in [
        "[[route]]\nname = '${SPACED}'\non = ['a']\nhandler = '${SPACED}'\nmode = '${SPACED}'\norder_by = '${SPACED}'\n",
        "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['${SPACED}'], token = '${SPACED}' }\n",
        "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\nwhen = { key = [{ suffx = '${SPACED}' }], '${SPACED}' = 1 }\n",
        "[[route]]\nname = 'a'\non = ['${SPACED}', '${STAR}', '${STAR}', '.${STAR}', '#.#.#.${STAR}']\nhandler = 'print'\nwhen = { key = { prefix = '${STAR}' } }\n",
        "[http]\nlisten = '${SPACED}'\n[log]\nlevel = '${SPACED}'\nformat = '${SPACED}'\n[redact]\npatterns = ['[${SPACED}']\n",
    ] {
        let found = problems(text).await;
        assert!(!found.is_empty());
        assert!(!found.concat().contains("s3cr3t") && !found.concat().contains("with space"), "{found:#?}");
    }
}

#[tokio::test]
async fn what_a_disabled_route_refers_to_may_be_missing() {
    let disabled = "[[route]]\nname = 'b'\nenabled = false\non = ['b']\nhandler = 'run'\nwith = { command = ['nope'], token = '${NONE}' }\n";
    let loaded = loaded(&format!("{ROUTE}{disabled}")).await;
    assert_eq!(lines(&loaded.report), [""; 0]);
    let enabled = disabled.replace("false", "true");
    assert_eq!(
        problems(&format!("{ROUTE}{enabled}")).await,
        [
            "10:38 missing-value: the variable `NONE` is not set | set it, in the environment or in a file for `--env-file`, or give a default: `${NONE:-default}`"
        ]
    );
    // Its mistakes are mistakes all the same.
    assert_eq!(problems(&format!("{ROUTE}{}", disabled.replace("command", "comand"))).await.len(), 1);
}

#[tokio::test]
async fn what_is_missing_is_told_once_wherever_it_stands() {
    let text = "[http]\nlisten = '${NONE}'\n[log]\nlevel = '${NONE}'\nformat = '${NONE}'\n[[route]]\nname = '${NONE}'\non = ['${NONE}']\nhandler = '${NONE}'\n\
                mode = '${NONE}'\norder_by = '${NONE}'\nretry = { on = { busy = '${NONE}' } }\nwith = { prefix = '${NONE}' }\n";
    let found = problems(text).await;
    assert_eq!(found.len(), 10, "{found:#?}");
    assert!(found.iter().all(|line| line.contains("missing-value: the variable `NONE` is not set")), "{found:#?}");
    let disabled = "[[route]]\nname = 'a'\nenabled = false\non = ['${NONE}']\nhandler = '${NONE}'\nmode = '${NONE}'\norder_by = '${NONE}'\n\
                    retry = { on = { busy = '${NONE}' } }\nwhen = { key = ['${NONE}'] }\nwith = { prefix = '${NONE}' }\n";
    let loaded = loaded(&format!("{ROUTE}{}", disabled.replace("'a'", "'b'"))).await;
    assert_eq!(lines(&loaded.report), [""; 0]);
    assert_eq!(loaded.config.routes.len(), 2);
}

#[tokio::test]
async fn a_mistake_in_the_defaults_is_told_once_however_many_routes_there_are() {
    let second = ROUTE.replace("name = \"a\"", "name = \"b\"").replace("a.#", "b.#");
    let found = problems(&format!("[defaults.dedup]\nby = ['nope']\n{ROUTE}{second}")).await;
    assert!(found.len() == 1 && found[0].starts_with("2:7 unknown-field"), "{found:#?}");
}

#[tokio::test]
async fn a_global_reference_that_is_missing_is_an_error() {
    assert_eq!(
        problems(&format!("[store]\npath = '${{NONE:?where to keep it}}'\n{ROUTE}")).await,
        ["2:8 missing-value: the variable `NONE` is not set: where to keep it | set it, in the environment or in a file for `--env-file`"]
    );
}

#[tokio::test]
async fn hashes_change_with_values_and_secrets_and_not_with_comments_or_places() {
    let text = "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true'], token = '${TOKEN}' }\n";
    let load_with = async |text: &str, token: &str| {
        let environment = FixedEnvironment::default().with("TOKEN", token);
        load_files(&[("router.toml", text)], &environment).await.unwrap_or_else(|problems| panic!("{problems}")).config
    };
    let base = load_with(text, "one").await;
    let other_token = load_with(text, "two").await;
    assert_ne!(base.routes[0].hash, other_token.routes[0].hash, "a route restarts with its new secret");
    let same_place = other_token.text.replace(&other_token.store.path.display().to_string(), &base.store.path.display().to_string());
    assert_eq!(base.text, same_place, "what is shown, and hashed for logs, tells nothing of the secret");
    assert_eq!(base.hash.len(), 64);
    let same_dir = async |text: &str| {
        let located = Located::built_in(Path::new("/"));
        let _ = (located, text);
        load_with(text, "one").await
    };
    let changed = same_dir(&text.replace("['a']", "['b']")).await;
    assert_ne!(base.routes[0].hash, changed.routes[0].hash);
}

#[tokio::test]
async fn comments_and_order_of_keys_do_not_change_a_routes_text() {
    let one = config("[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\nprefetch = 7\n").await;
    let two = config("# why\n[[route]]\nprefetch = 7 # so\nname = \"a\"\nhandler = \"print\"\non = [\n  'a',\n]\n").await;
    let routes = |config: &Config| config.text.split("[[route]]").nth(1).map(str::to_owned);
    assert_eq!(routes(&one), routes(&two));
}

#[tokio::test]
async fn the_effective_text_is_a_configuration_that_means_the_same() {
    let text = "[[route]]\nname = 'a'\ndescription = 'quo\"te'\non = ['a', 'b.#']\nhandler = 'run'\nwhen = { any = [{ key = ['x'] }, { tool_name = [{ prefix = 'y' }] }] }\n\
                coalesce = { by = 'key', quiet_ms = 5 }\nretry = { on = { busy = 'pause' } }\nrate = { count = 1, per_ms = 2 }\ndedup = false\nmax_age_s = 9\n\
                [route.with]\ncommand = ['true', \"new\\nline\", '$${x}']\ntarget.kind = 'null'\n";
    let first = config(text).await;
    let again = config(&first.text).await;
    assert_eq!(first.text, again.text);
    assert_eq!(first.routes[0].with, again.routes[0].with);
    assert_eq!(first.routes[0].retry, again.routes[0].retry);
}

#[tokio::test]
async fn later_files_win_key_by_key_and_say_so() {
    let files = [("a.toml", "[http]\nlisten = 'off'\n[log]\nlevel = 'warn'\n"), ("b.toml", "[http]\nlisten = '127.0.0.1:1'\n"), ("c.toml", ROUTE)];
    let loaded = load_files(&files, &environment()).await.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((loaded.config.http.listen.map(|listen| listen.port()), loaded.config.log.level.as_str()), (Some(1), "warn"));
    assert_eq!(lines(&loaded.report), ["2:1 overridden: `listen` is set again here, which is what counts"]);
    assert_eq!(loaded.report.diagnostics()[0].related[0].place.file.as_ref(), "a.toml");
}

#[tokio::test]
async fn what_is_hardly_meant_is_warned_about() {
    let route = |rest: &str| format!("[[route]]\nname = 'a'\nhandler = 'print'\n{rest}\n");
    for (text, expected) in [
        (route("on = ['#.a.#.b.#']"), "4:7 pattern-hashes: "),
        (route("on = ['a.b*']"), "4:7 pattern-literal-wildcard: `b*` is taken literally"),
        (route("on = ['a*.b']"), "4:7 pattern-literal-wildcard: `a*` is taken literally"),
        (route("on = ['a.>']"), "4:7 pattern-literal-wildcard: `>` is taken literally"),
        (route("on = ['']"), "4:7 pattern-empty: "),
        (route("on = ['a..b']"), "4:7 pattern-empty-word: the pattern `a..b` has an empty word"),
        (route("on = ['a.']"), "4:7 pattern-empty-word: "),
        (route("on = [' a.b']"), "4:7 pattern-blank: the pattern ` a.b` begins or ends with a blank"),
        (route("on = ['a, b']"), "4:7 pattern-blank: the pattern `a, b` has a blank in it"),
        (
            route("on = ['a']\nwhen = { file_path = ['x', { suffix = '*.py' }] }"),
            "5:39 filter-literal-wildcard: a `*` is literal in `suffix` | use `wildcard = \"*.py\"`",
        ),
        (
            route("on = ['a']\nwhen = { any = [{ key = { prefix = 'a*b' } }] }"),
            "5:36 filter-literal-wildcard: a `*` is literal in `prefix` | use `wildcard = \"a*b*\"`",
        ),
        (route("on = ['a']\nwhen = { key = { anything-but = { suffix = 'a?' } } }"), "5:44 filter-literal-wildcard: a `?` is literal in `suffix` | "),
        (route("on = ['a']\nwhen = { key = { prefix = '${STAR}' } }"), "5:27 filter-literal-wildcard: a `*` is literal in `prefix` | use `wildcard = \"…\"`"),
        (route("on = ['a', 'a']"), "4:12 duplicate-pattern: "),
        (route("on = ['a']\ncoalesce = { by = 'key', quiet_ms = 5, max_wait_ms = 4 }"), "5:54 coalesce-wait: "),
        (route("on = ['a']\nretry = { first_delay_ms = 5, max_delay_ms = 4 }"), "5:28 retry-delays: "),
        (route("on = ['a']\non_exhausted = 'park'"), "5:16 park-unordered: "),
        (route("on = ['a']\nwhen_busy = 'cancel'"), "5:13 busy-unordered: "),
        (route("on = ['a']\nprefetch = 4"), "concurrency-unreachable"),
        (route("on = ['a']\nenabled = false"), "no-route: no route is enabled"),
        (String::new(), "no-route: there is no route"),
    ] {
        let found = problems(&text).await;
        assert!(found.len() == 1 && found[0].contains(expected), "{text}\nexpected {expected}\nfound    {found:#?}");
        assert!(load_files(&[("router.toml", &text)], &environment()).await.is_ok(), "a warning is no error");
    }
}

#[tokio::test]
async fn two_routes_that_do_the_same_fire_twice_unless_one_is_off_or_in_shadow() {
    let pair = |second: &str| {
        format!(
            "[[route]]\nname = 'a'\non = ['x', 'y']\nwhen = {{ key = ['k'] }}\nhandler = 'print'\n[[route]]\nname = 'b'\nwhen = {{ key = ['k'] }}\nhandler = 'print'\n{second}\n"
        )
    };
    let found = problems(&pair("on = ['y', 'x']")).await;
    assert_eq!(found, ["7:8 double-firing: `b` does the same for the same events as `a`: each of them is handled twice"]);
    for second in ["on = ['x']", "on = ['x', 'y']\nenabled = false", "on = ['x', 'y']\nmode = 'shadow'", "on = ['x', 'y']\nwith = { prefix = '2' }"] {
        assert_eq!(problems(&pair(second)).await, [""; 0], "{second}");
    }
}

#[tokio::test]
async fn nothing_in_a_table_of_secrets_is_shown_whatever_it_looks_like() {
    let text = "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = { command = ['true'], secret_headers = { x-plain = 'plainly written', n = ['${TOKEN}'] } }\n";
    let problems = load_files(&[("router.toml", text)], &environment()).await.expect_err("the plugin has no such option");
    let codes: Vec<_> = problems.report.diagnostics().iter().map(|found| found.code).collect();
    assert_eq!(codes, ["unknown-key", "secret-literal"]);
    assert!(!problems.to_string().contains("plainly written"), "{problems}");
}

#[tokio::test]
async fn a_secret_in_the_file_is_warned_about_and_never_printed() {
    let key = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8");
    let text = format!(
        "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\nwith = {{ command = ['true', 'x-{key}'], token = 'hunter22' }}\n[[route]]\nname = 'b'\non = ['b']\nhandler = 'run'\n\
         with = {{ command = ['true'], token = '${{TOKEN}}', oops = '{key}' }}\n"
    );
    let problems = load_files(&[("router.toml", &text)], &environment()).await.expect_err("an unknown option");
    let codes: Vec<_> = problems.report.diagnostics().iter().map(|found| found.code).collect();
    assert_eq!(codes, ["secret-literal", "secret-literal", "unknown-key", "secret-literal"]);
    let shown = problems.to_string();
    assert!(!shown.contains(&key) && !shown.contains("hunter22"), "{shown}");
    assert!(shown.contains("name = 'b'") || shown.contains("oops = **"), "{shown}");
    let good = loaded(&text.replace(", oops", ", token2").replace(&format!(", token2 = '{key}'"), "")).await;
    assert!(!good.config.text.contains(&key) && !good.config.text.contains("hunter22") && good.config.text.contains("[redacted]"), "{}", good.config.text);
}

#[tokio::test]
async fn a_thousand_routes_load_in_linear_work() {
    let routes = |count: usize| {
        use std::fmt::Write as _;
        let mut text = String::new();
        for number in 0..count {
            let _ = write!(
                text,
                "[[route]]\nname = \"route-{number}\"\non = [\"a.{number}.#\"]\nwhen = {{ tool_name = [\"Write\"] }}\nhandler = \"run\"\n[route.with]\ncommand = [\"true\", \"{number}\"]\n"
            );
        }
        text
    };
    let time = async |count: usize| {
        let text = routes(count);
        let begun = processor_time();
        assert_eq!(config(&text).await.routes.len(), count);
        processor_time() - begun
    };
    // Four times the routes: sixteen times the time if anything were quadratic. On a busy machine a single try may mislead.
    let mut tries = Vec::new();
    for _ in 0..5 {
        let (few, many) = (time(250).await, time(1_000).await);
        tries.push((few, many));
        if many < (few + Duration::from_millis(10)) * 8 && many < Duration::from_secs(20) {
            return;
        }
    }
    panic!("250 and 1000 routes took {tries:?}");
}

#[test]
fn the_schema_ties_with_to_its_handler_and_knows_every_reference() {
    let schema = config_schema(&registry());
    let conditions = schema["$defs"]["Route"]["allOf"].as_array().expect("conditions");
    assert_eq!(conditions.len(), 2);
    assert_eq!(conditions[1]["then"]["required"][0], "with");
    fn references<'a>(value: &'a serde_json::Value, found: &mut Vec<&'a str>) {
        match value {
            serde_json::Value::Object(object) => {
                found.extend(object.get("$ref").and_then(serde_json::Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&schema, &mut found);
    for reference in found {
        assert!(schema.pointer(&reference[1..]).is_some(), "{reference}");
    }
}

#[test]
fn the_plugin_reference_lists_every_option_with_its_comment() {
    let text = plugin_reference(&registry());
    assert!(text.contains("| `command` | array of strings | The program and its arguments. **Required.** |"), "{text}");
    assert!(text.contains("### `target`") && text.contains("| `tries` | integer, 0 to 9 |"), "{text}");
}

mod arbitrary {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let _ = runtime.block_on(problems(text));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn bytes_never_panic(text in "\\PC{0,200}") {
            check(&text);
        }

        #[test]
        fn lines_of_known_words_never_panic(
            lines in proptest::collection::vec(
                (
                    prop_oneof![Just("name"), Just("on"), Just("when"), Just("with"), Just("coalesce"), Just("dedup"), Just("retry"), Just("timeout"), Just("handler"), Just("x y")],
                    prop_oneof![
                        Just("'a'"), Just("5"), Just("-1"), Just("1e400"), Just("inf"), Just("true"), Just("[]"), Just("['#']"), Just("{}"), Just("{ by = 'key', quiet_ms = 0 }"), Just("'${'"),
                        Just("'${X:-}'"), Just("2020-01-01"), Just("[[[]]]"), Just("{ command = [1], target = [] }"), Just("'run'"), Just("'print'"), Just("\"\\u0000\"")
                    ],
                ),
                0..8,
            ),
            header in prop_oneof![Just("[[route]]"), Just("[route]"), Just("[route.with]"), Just("[defaults]"), Just("[store]"), Just("")],
        ) {
            let body: String = lines.iter().map(|(key, value)| format!("{} = {value}\n", if key.contains(' ') { format!("\"{key}\"") } else { (*key).to_owned() })).collect();
            check(&format!("{header}\n{body}"));
        }
    }
}
