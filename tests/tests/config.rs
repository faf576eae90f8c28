//! The configurations that are shipped, what `check` says about one that is full of mistakes, and which store a command means.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use plugins as _;
use router_api::{BuildError, Effect, EffectContext, EffectError, EffectPort, EffectReply, OwnWork, Program, Registry, RouteMode};
use router_core::config::{FixedEnvironment, Loaded, Located, Origin, Problems, Severity, TransportConfig, generated_files, load, locate};
use router_tests::{AnyProgram, Home, Ran};

/// Finds no program.
struct NoProgram;

#[async_trait]
impl EffectPort for NoProgram {
    async fn perform(&self, effect: Effect, _: Option<OwnWork<'_>>, _: &EffectContext) -> Result<EffectReply, EffectError> {
        panic!("loading a configuration performs nothing, and this was asked for: {}", effect.request)
    }

    fn resolve_program(&self, name: &str, _: &Path) -> Result<Program, BuildError> {
        Err(BuildError::at("", format!("there is no program `{name}`")))
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_owned()
}

fn registry() -> Registry {
    Registry::linked().expect("the shipped plugins are linked")
}

async fn load_path(path: &str, effects: Arc<dyn EffectPort>, environment: &FixedEnvironment) -> Result<Loaded, Problems> {
    let located = locate(&[path.into()], None, &repository());
    assert_eq!(located.origin, Origin::CommandLine);
    load(&located, &registry(), effects, environment).await
}

fn by_route(loaded: &Loaded) -> Vec<(&str, &str, bool, RouteMode)> {
    loaded.config.routes.iter().map(|route| (route.name.as_str(), route.handler.as_str(), route.enabled, route.mode)).collect()
}

#[tokio::test]
async fn the_shipped_configuration_needs_nothing_and_acts_on_nothing() {
    let loaded = load_path("config/router.toml", Arc::new(NoProgram), &FixedEnvironment::default()).await.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.report.diagnostics(), [], "{}", loaded.report.render(false));
    assert_eq!(
        by_route(&loaded),
        [
            ("ci-on-python-writes", "ci", true, RouteMode::Shadow),
            ("worktree-on-session-start", "imi", true, RouteMode::Shadow),
            ("sync-session", "flume", true, RouteMode::Shadow),
            ("pipeline-on-session-end", "dagster", true, RouteMode::Shadow),
            ("log-everything", "log", false, RouteMode::Live),
        ]
    );
    assert_eq!(loaded.config.store.path, repository().join("state/router.db"));
}

#[tokio::test]
async fn the_shipped_routes_run_on_rabbitmq_with_the_lines_that_its_pages_give() {
    let shipped = fs::read_to_string(repository().join("config/router.toml")).expect("it is shipped");
    let (before, embedded) = shipped.split_once("[transport]\n").expect("it says which transport");
    let after = &embedded[embedded.find("\n[").expect("more follows")..];
    for page in ["README.md", "docs/rabbitmq.md"] {
        let text = fs::read_to_string(repository().join(page)).expect("the page is there");
        let lines = text.split("```toml\n").skip(1).filter_map(|block| block.split("```").next()).find(|block| block.contains("kind = \"amqp\""));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("router.toml");
        fs::write(&path, format!("{before}{}{after}", lines.expect("the page gives them"))).expect("it can be written");
        let environment = FixedEnvironment::default().with("RABBIT_URL", "amqp://router:secret@localhost:5672/");
        let loaded = load_path(path.to_str().expect("text"), Arc::new(NoProgram), &environment).await.unwrap_or_else(|problems| panic!("{page}: {problems}"));
        assert_eq!(loaded.report.diagnostics(), [], "{page}: {}", loaded.report.render(false));
        assert!(matches!(loaded.config.transport, TransportConfig::Amqp(_)), "{page}");
    }
}

#[tokio::test]
async fn the_shipped_routes_hear_the_keys_of_every_dialect() {
    let loaded = load_path("config/router.toml", Arc::new(NoProgram), &FixedEnvironment::default()).await.unwrap_or_else(|problems| panic!("{problems}"));
    let hears = |route: &str, key: &str| {
        let route = loaded.config.routes.iter().find(|found| found.name.as_str() == route).expect("a shipped route");
        route.on.iter().any(|pattern| pattern.matches(&key.parse().expect("a key")))
    };
    for (route, key) in [
        ("ci-on-python-writes", "session.thread.agent.action"),
        ("ci-on-python-writes", "tool.mutation.write"),
        ("ci-on-python-writes", "bloodbank.agent.tool.completed"),
        ("ci-on-python-writes", "bloodbank.evt.v1.agent.tool.completed"),
        ("worktree-on-session-start", "session.thread.start"),
        ("worktree-on-session-start", "bloodbank.evt.v1.agent.session.started"),
        ("sync-session", "session.thread.agent.action"),
        ("sync-session", "bloodbank.evt.v1.agent.session.ended"),
        ("pipeline-on-session-end", "session.thread.end"),
        ("pipeline-on-session-end", "bloodbank.evt.v1.agent.session.ended"),
        ("log-everything", "anything.at.all"),
    ] {
        assert!(hears(route, key), "`{route}` does not hear `{key}`");
    }
    assert!(!hears("ci-on-python-writes", "session.thread.start") && !hears("pipeline-on-session-end", "session.thread.start"));
}

#[tokio::test]
async fn without_any_file_the_built_in_configuration_counts_as_lying_in_config() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let located = Located::built_in(directory.path());
    let loaded = load(&located, &registry(), Arc::new(NoProgram), &FixedEnvironment::default()).await.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.config.store.path, directory.path().join("state/router.db"));
    assert_eq!(loaded.config.routes.len(), 5);
}

#[tokio::test]
async fn every_example_loads_by_itself_and_keeps_its_state_out_of_the_configuration() {
    let environment = FixedEnvironment::default()
        .with("WEBHOOK_URL", "https://ci.example/hooks")
        .with("WEBHOOK_TOKEN", "hook-token-of-this-test")
        .with("WEBHOOK_SECRET", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
        .with("CI_URL", "https://ci.example")
        .with("CI_TOKEN", "ci-token-of-this-test")
        .with("API_URL", "https://api.example/ingest")
        .with("REPORT_URL", "https://chat.example/hooks/errors")
        .with("GITLAB_URL", "https://gitlab.example")
        .with("GITLAB_TOKEN", "gitlab-token-of-this-test")
        .with("GITEA_URL", "https://gitea.example")
        .with("GITEA_TOKEN", "gitea-token-of-this-test")
        .with("JENKINS_URL", "https://jenkins.example")
        .with("JENKINS_BASIC", "amVua2luczp0b2tlbg==")
        .with("BUILDKITE_TOKEN", "buildkite-token-of-this-test")
        .with("WOODPECKER_URL", "https://woodpecker.example")
        .with("WOODPECKER_TOKEN", "woodpecker-token-of-this-test")
        .with("RABBIT_URL", "amqp://router:rabbit-password-of-this-test@localhost:5672/");
    let mut examples: Vec<_> = std::fs::read_dir(repository().join("config/examples"))
        .expect("the examples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    examples.sort();
    assert!(examples.len() >= 9, "{examples:?}");
    for example in examples {
        let name = example.to_string_lossy();
        let loaded = load_path(&name, Arc::new(AnyProgram), &environment).await.unwrap_or_else(|problems| panic!("{name}\n{problems}"));
        assert_eq!(loaded.report.diagnostics(), [], "{name}\n{}", loaded.report.render(false));
        assert_eq!(loaded.config.store.path, repository().join("state/router.db"), "{name}");
        for secret in ["MDEyMzQ1", "ci-token-of-this-test", "hook-token-of-this-test", "rabbit-password-of-this-test", "gitlab-token-of-this-test"] {
            assert!(!loaded.config.text.contains(secret), "{name}\n{}", loaded.config.text);
        }
        // What is shown can be loaded again, and means the same.
        let directory = tempfile::tempdir().expect("a temporary directory");
        let shown = directory.path().join("shown.toml");
        std::fs::write(&shown, &loaded.config.text).expect("written");
        let again = load_path(&shown.to_string_lossy(), Arc::new(AnyProgram), &environment).await.unwrap_or_else(|problems| panic!("{name}\n{problems}"));
        assert_eq!(again.config.text, loaded.config.text, "{name}");
    }
}

#[tokio::test]
async fn an_example_whose_secret_is_missing_says_which_and_what_to_do() {
    let path = "config/examples/ci-remote.toml";
    let problems = load_path(path, Arc::new(AnyProgram), &FixedEnvironment::default()).await.expect_err("no variable is set");
    let messages: Vec<_> = problems.report.diagnostics().iter().map(|found| found.message.as_str()).collect();
    assert_eq!(messages, ["the variable `CI_URL` is not set: the address of the CI server", "the variable `CI_TOKEN` is not set: a token of the CI server"]);
}

#[tokio::test]
async fn twelve_planted_errors_come_to_light_in_one_run_each_at_its_place() {
    let problems = load_path("tests/fixtures/config/twelve", Arc::new(AnyProgram), &FixedEnvironment::default()).await.expect_err("twelve errors");
    let found: Vec<String> = problems
        .report
        .diagnostics()
        .iter()
        .map(|found| {
            let place = found.place.as_ref().expect("every one of them has a place");
            let file = place.file.strip_prefix("tests/fixtures/config/twelve/").expect("shown relative to the working directory");
            format!("{file}:{}:{} {}", place.line, place.column, found.code)
        })
        .collect();
    let expected = [
        "router.toml:3:8 unknown-value",
        "router.toml:6:10 not-loopback",
        "router.toml:7:1 unknown-key",
        "router.toml:10:14 wrong-type",
        "routes.d/10-routes.toml:4:71 burst-size",
        "routes.d/10-routes.toml:5:10 bad-filter",
        "routes.d/10-routes.toml:8:1 unknown-key",
        "routes.d/10-routes.toml:9:1 misplaced-key",
        "routes.d/10-routes.toml:12:8 duplicate-route",
        "routes.d/10-routes.toml:14:12 unknown-field",
        "routes.d/10-routes.toml:15:11 unknown-handler",
        "routes.d/20-broken.toml:2:15 syntax",
    ];
    assert_eq!(found, expected, "\n{problems}");
    assert_eq!(problems.report.count(Severity::Error), 12);
    let shown = problems.to_string();
    for help in [
        "did you mean `embedded`?",
        "did you mean `command`?",
        "move it above `[route.with]`",
        "`timeout_ms = 5000`",
        "did you mean `tool_name`?",
        "did you mean `log`?",
    ] {
        assert!(shown.contains(help), "no {help} in\n{shown}");
    }
    assert!(shown.ends_with("12 errors\n"), "{shown}");
}

#[tokio::test]
async fn two_bad_templates_in_one_table_are_two_problems_at_their_places() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("router.toml");
    let text = "[[route]]\nname = \"a\"\non = [\"a\"]\nhandler = \"exec\"\n[route.with]\ncommand = [\"x\", \"{{ tool_nam }}\"]\ncwd = \"{{ \"\nenv = { A = \"{{ nope }}\" }\n";
    std::fs::write(&file, text).expect("written");
    let problems = load_path(&file.to_string_lossy(), Arc::new(AnyProgram), &FixedEnvironment::default()).await.expect_err("bad templates");
    let places: Vec<_> = problems.report.diagnostics().iter().map(|found| found.place.as_ref().map(|place| (place.line, place.column))).collect();
    assert_eq!(places, [Some((6, 17)), Some((7, 7)), Some((8, 13))], "{problems}");
}

#[test]
fn generated_files_are_those_that_the_source_generates() {
    let mut stale = Vec::new();
    for (path, content) in generated_files(&registry()) {
        let file = repository().join(path);
        if std::fs::read_to_string(&file).ok().as_deref() != Some(content.as_str()) {
            stale.push(path);
        }
    }
    assert!(stale.is_empty(), "{stale:?} are not what the source generates: run `event-router schema --write` and commit them");
}

#[test]
fn every_example_says_in_its_header_what_it_needs_and_where_its_store_is() {
    for entry in std::fs::read_dir(repository().join("config/examples")).expect("the examples") {
        let path = entry.expect("an entry").path();
        // `python` has an example of its own below, with the scripts that it runs.
        let path = if path.is_dir() { path.join("router.toml") } else { path };
        let text = std::fs::read_to_string(&path).expect("readable");
        let (header, rest) = text.split_once("\n[store]\n").unwrap_or_else(|| panic!("{path:?} says its store"));
        assert!(header.contains("The store is the one of the shipped configuration"), "{path:?}");
        let settings: Vec<&str> = rest.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let variables = settings.iter().flat_map(|line| line.split("${").skip(1)).filter(|reference| !reference.contains(":-"));
        let programs = settings.iter().filter_map(|line| line.strip_prefix("command = [\"")?.split('"').next());
        let needed: Vec<&str> = variables.filter_map(|reference| reference.split([':', '}']).next()).chain(programs).collect();
        for name in &needed {
            assert!(header.lines().any(|line| line.starts_with("# `check` and `run` need") && line.contains(&format!("`{name}`"))), "{path:?}: {name}");
        }
        assert_eq!(needed.is_empty(), header.contains("# It needs no program and no variable."), "{path:?}");
    }
}

#[tokio::test]
async fn a_store_that_nobody_names_lies_beside_config_or_with_the_file_that_was_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let home = directory.path();
    for name in ["config/router.toml", "mine/router.toml", "alone.toml"] {
        std::fs::create_dir_all(home.join(name).parent().expect("a directory")).expect("made");
        std::fs::write(home.join(name), "[[route]]\nname = \"a\"\non = [\"a\"]\nhandler = \"log\"\n").expect("written");
    }
    let nothing = FixedEnvironment::default();
    let systemd = FixedEnvironment::default().with("STATE_DIRECTORY", "/var/lib/of-the-unit");
    for (named, expected) in [(None, "state"), (Some("config"), "state"), (Some("mine"), "mine/state"), (Some("alone.toml"), "state")] {
        let located = locate(&named.map(PathBuf::from).into_iter().collect::<Vec<_>>(), None, home);
        let path = async |environment| {
            let loaded = load(&located, &registry(), Arc::new(NoProgram), environment).await.unwrap_or_else(|problems| panic!("{problems}"));
            loaded.config.store.path
        };
        assert_eq!(path(&nothing).await, home.join(expected).join("router.db"), "{named:?}");
        assert_eq!(path(&systemd).await, Path::new("/var/lib/of-the-unit/router.db"), "{named:?}");
    }
}

fn elsewhere(home: &Home, args: &[&str]) -> Ran {
    let elsewhere = home.path().join("elsewhere");
    std::fs::create_dir_all(&elsewhere).expect("made");
    Ran::of(home.command(args).current_dir(elsewhere).output().expect("the program runs"))
}

#[test]
fn no_event_goes_into_a_new_store_that_nobody_asked_for() {
    let home = Home::new("");
    let refused = elsewhere(&home, &["publish", "--sample", "write"]).code(1);
    for part in ["elsewhere/config`", "`/etc/event-router`", "`$EVENT_ROUTER_CONFIG`", "elsewhere/state/router.db`", "`-c`", "`--new-store`"] {
        assert!(refused.stderr.contains(part), "no {part} in {}", refused.stderr);
    }
    assert_eq!((refused.stderr.trim_end().lines().count(), refused.stdout.as_str()), (1, ""), "one sentence");
    assert!(!home.path().join("elsewhere/state").exists() && !home.store().exists());

    let asked = elsewhere(&home, &["publish", "--sample", "write", "--new-store"]).code(0);
    assert!(asked.stdout.contains("elsewhere/state/router.db` (configuration built-in)"), "{}", asked.stdout);
    // Now it is the store of that directory.
    let again = elsewhere(&home, &["publish", "--sample", "write"]).code(0);
    assert!(again.stdout.contains("stored as number 2"), "{}", again.stdout);
}

#[test]
fn without_a_router_the_store_and_the_configuration_are_named_whoever_wants_the_event() {
    let home = Home::new("[[route]]\nname = \"a\"\non = [\"a\"]\nhandler = \"log\"\n");
    let store = home.store().display().to_string();
    for (key, fate) in [("a", "the event waits there"), ("b", "the event is kept there")] {
        let said = home.run_with_input(&["publish", "-", "--key", key], b"{}").code(0).stdout;
        assert!(said.contains(&format!("no router runs on `{store}` (configuration `config/router.toml`): {fate}")), "{said}");
    }
    let named = elsewhere(&home, &["publish", "--sample", "write", "-c", "../config"]).code(0);
    assert!(named.stdout.contains("state/router.db` (configuration `") && named.stdout.contains("config/router.toml`)"), "{}", named.stdout);
}

#[test]
fn publishing_with_another_configuration_unbinds_no_route_of_the_store() {
    let route = |name: &str, on: &str| format!("[[route]]\nname = \"{name}\"\non = [\"{on}\"]\nhandler = \"log\"\n");
    let home = Home::new(&(route("mine", "a.*") + &route("dropped", "a.*")));
    home.write("other/router.toml", &format!("[store]\npath = \"../state/router.db\"\n{}", route("theirs", "b.*")));
    let publish = |key: &str, config: &[&str]| {
        let mut args = vec!["publish", "-", "--key", key, "--json"];
        args.extend(config);
        home.run_with_input(&args, b"{}").code(0).json()["routed"].clone()
    };
    assert_eq!(publish("a.1", &[]), true);
    assert_eq!(publish("b.1", &[]), false);
    // The other one adds its route, and the first one's still hear.
    assert_eq!(publish("b.2", &["-c", "other"]), true);
    assert_eq!(publish("a.2", &["-c", "other"]), true);
    assert_eq!(publish("b.3", &[]), true);
    // What a configuration names goes by that configuration.
    home.configure(&(route("mine", "a.*") + &route("dropped", "a.*").replace("handler", "enabled = false\nhandler")));
    assert_eq!(publish("a.3", &[]), true);
    let events = home.run(&["events", "--json"]).code(0).json();
    let mut heard: Vec<(String, Vec<String>)> = events["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| {
            let routes = event["deliveries"].as_array().expect("a list").iter().map(|delivery| delivery["route"].as_str().expect("a name").to_owned());
            (event["key"].as_str().expect("a key").to_owned(), routes.collect())
        })
        .collect();
    heard.sort();
    let heard: Vec<(&str, Vec<&str>)> = heard.iter().map(|(key, routes)| (key.as_str(), routes.iter().map(String::as_str).collect())).collect();
    assert_eq!(
        heard,
        [
            ("a.1", vec!["dropped", "mine"]),
            ("a.2", vec!["dropped", "mine"]),
            ("a.3", vec!["mine"]),
            ("b.1", vec![]),
            ("b.2", vec!["theirs"]),
            ("b.3", vec!["theirs"]),
        ]
    );
}

#[test]
fn the_program_of_the_plugin_tutorial_is_the_one_that_is_built_outside_the_tree() {
    let read = |path: &str| std::fs::read_to_string(repository().join(path)).expect("readable");
    let tutorial = read("router/api/README.md");
    assert!(tutorial.contains(&format!("```rust,ignore\n{}```", read("tests/out-of-tree-plugin/src/main.rs"))), "`main.rs` differs");
}
