//! Hostile events through every shipped plugin and every shipped route: what they say is a value of what is asked for, and never a
//! part of it. With real programs and servers, the files beside show the same for imi and flume, and the last test here for commands.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

use plugins as _;
use router_api::{CommandReply, Effect, EffectClass, EffectPort, EffectReply, EffectRequest, HandlerError, HttpReply, Registry};
use router_core::config::{FixedEnvironment, load, locate};
use router_effects::{Performer, PerformerOptions};
use router_testkit::{EventBuilder, FakeEffects, Requested, TestContext, event};
use router_tests::{Home, eventually, workspace};
use serde_json::{Value, json};

/// A route as a configuration has it.
struct Shipped {
    name: String,
    handler: String,
    with: Value,
}

/// The routes of every file that is shipped, and one for each option that none of them has and that an event can fill.
async fn routes() -> Vec<Shipped> {
    let mut files: Vec<_> = fs::read_dir(workspace().join("config/examples")).expect("the examples").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.push(workspace().join("config/router.toml"));
    files.push(workspace().join("config/examples/python/router.toml"));
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let mut environment = FixedEnvironment::default().with("WEBHOOK_SECRET", secret).with("RABBIT_URL", "amqp://a:b@localhost:5672/");
    for name in ["CI", "GITLAB", "GITEA", "JENKINS", "WOODPECKER", "REPORT", "API", "WEBHOOK"] {
        environment = environment.with(&format!("{name}_URL"), &format!("https://{}.example", name.to_lowercase())).with(&format!("{name}_TOKEN"), "t0ken");
    }
    environment = environment.with("BUILDKITE_TOKEN", "t0ken").with("JENKINS_BASIC", "YTpi");
    let registry = Registry::linked().expect("the shipped plugins are linked");
    let programs: Arc<dyn EffectPort> = Arc::new(FakeEffects::new());
    let mut routes = Vec::new();
    for file in files {
        let located = locate(std::slice::from_ref(&file), None, workspace());
        let loaded = load(&located, &registry, Arc::clone(&programs), &environment).await.unwrap_or_else(|problems| panic!("{}\n{problems}", file.display()));
        routes.extend(loaded.config.routes.iter().map(|route| Shipped {
            name: format!("{} of {}", route.name, file.file_name().unwrap_or_default().to_string_lossy()),
            handler: route.handler.clone(),
            with: route.with.clone(),
        }));
    }
    let own = |handler: &str, with: Value| Shipped { name: format!("{handler} {with}"), handler: handler.to_owned(), with };
    routes.extend([
        own("ci", json!({ "command": ["ruff", "check", "{{ files }}"], "env": { "BRANCH": "{{ git_branch }}" }, "roots": ["/srv"] })),
        own("ci", json!({ "command": ["check", "--branch={{ git_branch }}", "{{ session_id }}"], "cwd": "/srv/{{ session_id }}", "roots": ["/srv"], "trigger": "any" })),
        own("ci", json!({ "provider": "github", "trigger": "any", "github": { "repository": "me/shop", "token": "t0ken", "workflow": "ci.yml", "inputs": { "event": "{{ id }}" } } })),
        own("ci", json!({ "provider": "github", "trigger": "any", "github": { "repository": "me/shop", "token": "t0ken", "event_type": "written" } })),
        own("ci", json!({ "provider": "buildbot", "trigger": "any", "buildbot": { "url": "http://b.example", "scheduler": "force", "properties": { "who": "{{ session_id }}" } } })),
        own("ci", json!({ "provider": "buildbot", "trigger": "any", "buildbot": { "url": "http://b.example", "change_hook": "base", "project": "{{ working_directory }}" } })),
        own("dagster", json!({ "url": "http://d.example/graphql", "location": "l", "tags": { "where": "{{ working_directory }}" }, "run_config": { "ops": { "a": { "config": { "all": "{{ payload }}" } } } } })),
        own("exec", json!({ "command": ["tell", "--of", "{{ session_id }}", "{{ file_path }}"], "env": { "BRANCH": "{{ git_branch }}" }, "cwd": "{{ working_directory }}", "roots": ["/srv"] })),
        own("flume", json!({ "base": "http://f.example/api" })),
        own("imi", json!({ "roots": ["/srv"], "create": true, "callback": ["tell", "{{ git_branch }}"] })),
        own("imi", json!({ "roots": ["/srv"], "backend": "imi", "create": true })),
        own("log", json!({ "template": "{{ session_id }} {{ payload.text }}" })),
        own("webhook", json!({ "url": "http://w.example/of/{{ session_id }}/{{ git_branch }}?file={{ file_path }}", "headers": { "x-branch": "{{ git_branch }}" } })),
    ]);
    routes
}

/// What a hostile producer may write into any field.
fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        "\"}} }}\" ... } mutation { terminateRun }",
        "' OR '1'='1'; DROP TABLE events; --",
        "line\r\nx-evil: 1\r\n\r\nbreak\n\u{0}\u{1b}[2J",
        "$(touch /tmp/evil); `id` && ${HOME} | tee x > y",
        "../../../etc/passwd",
        "/srv/app/../../etc",
        "..",
        "--collect-only",
        "-oProxyCommand=touch",
        "@/etc/passwd",
        "http://169.254.169.254/latest?a=b#c",
        "//evil.example/%2e%2e/x",
        "{{ raw }} {% for x in burst %} ${HOME} ${file:/etc/passwd}",
        "\u{202e}gpj.exe\u{200b}\u{feff}\u{0}\u{ffff}",
        "%s%n%00%0a",
        "&branch=main&token=x=;",
        "",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.push("x".repeat(1 << 20));
    texts
}

const LISTING: &str = "worktree /srv/app\nHEAD 1\nbranch refs/heads/main\n\nworktree /srv/feat\nHEAD 2\nbranch refs/heads/feat/x\n\n";

/// A context whose other side says yes to all.
fn test() -> TestContext {
    let test = TestContext::new().base_dir("/srv/config");
    let says = |name: &'static str, body: Value| test.effects.always(name, move |_| Ok(EffectReply::Http(HttpReply::new(200, body.to_string()))));
    says("launch", json!({ "data": { "launchRun": { "__typename": "LaunchRunSuccess", "run": { "runId": "r" } } } }));
    says("force", json!({ "id": 1, "jsonrpc": "2.0", "result": [1, { "1": 1 }] }));
    test.effects.always("change", |_| Ok(EffectReply::Http(HttpReply::new(200, "1 change found"))));
    let prints = |name: &'static str, text: &'static str| {
        test.effects.always(name, move |_| Ok(EffectReply::Command(CommandReply { stdout: text.into(), ..CommandReply::exit(0) })));
    };
    prints("list", LISTING);
    prints("check", "refs/heads/feat/x\n");
    prints("go", "{\"success\":true,\"data\":{\"target_path\":\"/srv/feat\"}}");
    prints("add", "{\"success\":true,\"data\":{\"worktree_path\":\"/srv/feat\"}}");
    test
}

/// An ordinary event, with one field of another text.
fn event_with(field: &str, text: &str) -> EventBuilder {
    let of = |name: &str, usual: &'static str| if name == field { text.to_owned() } else { usual.to_owned() };
    let texts = ["error_type", "error_message", "text", "summary", "reason", "status", "command", "model"];
    let mut payload = json!({ "files_modified": [of("files", "a.py")], "git_commits": [of("commits", "33d73bf")], "tools_used": { of("tools", "Write"): 1 } });
    for name in texts {
        payload[name] = of(name, "usual").into();
    }
    event("session.thread.end")
        .payload(payload)
        .id(of("id", "e-1"))
        .session(&of("session_id", "s-1"))
        .tool(&of("tool_name", "Write"))
        .file(&of("file_path", "/srv/app/a.py"))
        .working_directory(&of("working_directory", "/srv/app"))
        .git_branch(&of("git_branch", "feat/x"))
}

const FIELDS: [&str; 17] = [
    "id",
    "session_id",
    "tool_name",
    "file_path",
    "working_directory",
    "git_branch",
    "files",
    "commits",
    "tools",
    "error_type",
    "error_message",
    "text",
    "summary",
    "reason",
    "status",
    "command",
    "model",
];

/// What an event may not change of a request, by its name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// Method, scheme and host, number of segments of the path, names in the query, names of headers.
    Call(String, String, usize, Vec<String>, Vec<String>),
    /// Program, number of arguments before `--`, those of them that are options, names of variables.
    Command(String, usize, Vec<String>, Vec<String>),
}

fn shape(request: &EffectRequest) -> Option<Shape> {
    match request {
        EffectRequest::Http(request) => {
            let url = request.url.as_str();
            let (url, query) = url.split_once('?').unwrap_or((url, ""));
            let (scheme, rest) = url.split_once("://").expect("an absolute address");
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            assert!(!url.contains('#') && !path.split('/').any(|part| matches!(part, "." | "..")), "{url:.200}");
            assert!(url.bytes().chain(query.bytes()).all(|byte| byte.is_ascii_graphic()), "{url:.200}");
            let query = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default().to_owned()).collect();
            for header in &request.headers {
                assert!(header.value.bytes().all(|byte| byte >= b' ' && byte != 0x7f), "header `{}`: {:?}", header.name, header.value);
            }
            let mut names: Vec<_> = request.headers.iter().map(|header| header.name.to_lowercase()).collect();
            names.sort();
            Some(Shape::Call(format!("{:?}", request.method), format!("{scheme}://{host}"), path.split('/').count(), query, names))
        }
        EffectRequest::Command(request) => {
            let own: Vec<_> = request.args.iter().take_while(|arg| *arg != "--").collect();
            assert!(request.args.iter().chain(request.env.iter().map(|(_, value)| value)).all(|text| !text.contains('\0')), "a zero byte");
            if let Some(cwd) = &request.cwd {
                assert!(cwd.is_absolute() && !cwd.components().any(|part| part == std::path::Component::ParentDir), "{}", cwd.display());
                assert!(request.below.is_empty() || request.below.iter().any(|root| cwd.starts_with(root)), "{} is not below the roots", cwd.display());
            }
            let name = |option: &&&String| option.split('=').next().unwrap_or_default().to_owned();
            let options = own.iter().filter(|arg| arg.starts_with('-')).map(|arg| name(&arg)).collect();
            Some(Shape::Command(request.display_argv()[0].clone(), own.len(), options, request.env.iter().map(|(name, _)| name.clone()).collect()))
        }
        EffectRequest::Own { .. } => None,
    }
}

/// The requests that a handling made, by name; and what came of it.
async fn shapes(handler: &dyn router_api::Handler, event: EventBuilder) -> (BTreeSet<(String, Shape)>, Result<(), HandlerError>) {
    // Nothing is remembered of the one before.
    let test = test();
    let handled = test.handle(handler, [event]).await;
    // What the performer refuses for what it says is never begun.
    static PERFORMER: LazyLock<Arc<Performer>> = LazyLock::new(|| Performer::new(PerformerOptions::default()).expect("it can be made"));
    let is_begun = |requested: &Requested| {
        let (name, request) = (requested.name.clone(), requested.request.clone());
        PERFORMER.check(&Effect { name, kind: requested.kind, request, dry_run_reply: None }).is_ok()
    };
    let requests = test.effects.requests().into_iter().filter(is_begun);
    (requests.filter_map(|requested| Some((requested.name, shape(&requested.request)?))).collect(), handled.result.map(|_| ()))
}

#[tokio::test]
async fn whatever_an_event_says_every_shipped_route_asks_for_the_same_or_for_nothing() {
    let registry = Registry::linked().expect("the shipped plugins are linked");
    let (routes, texts) = (routes().await, hostile());
    let plugins: BTreeSet<_> = routes.iter().map(|route| route.handler.as_str()).collect();
    assert_eq!(plugins.len(), registry.iter().count(), "every plugin has a route: {plugins:?}");
    let mut handled = 0;
    for route in &routes {
        let plugin = registry.get(&route.handler).expect("it is linked");
        let handler = plugin.build(route.with.clone(), &test().build_context()).await.unwrap_or_else(|error| panic!("{}: {error}", route.name));
        // What it may ask for: with an ordinary event, with a branch that has no worktree, and with a file somewhere else.
        let mut usual = BTreeSet::new();
        for (field, text) in [("", ""), ("git_branch", "feat/none"), ("git_branch", "main"), ("file_path", "/srv/b.py"), ("working_directory", "/srv/feat")] {
            let (asked, ended) = shapes(handler.as_ref(), event_with(field, text)).await;
            assert!(ended.is_ok() || !field.is_empty(), "{}: {ended:?}", route.name);
            usual.extend(asked);
        }
        for field in FIELDS {
            for text in &texts {
                // A huge text is tried where programs and addresses are made of it.
                if text.len() > 1_000 && !matches!(field, "id" | "session_id" | "file_path" | "working_directory" | "git_branch" | "text") {
                    continue;
                }
                let (asked, ended) = shapes(handler.as_ref(), event_with(field, text)).await;
                let odd: Vec<_> = asked.difference(&usual).collect();
                assert!(odd.is_empty(), "{}: with {text:.60?} as `{field}` it asks for {odd:?}, and usually for {usual:?}", route.name);
                match ended {
                    Ok(()) | Err(HandlerError::Reject { .. }) => {}
                    Err(HandlerError::Effect(error)) if matches!(error.class, EffectClass::Refused | EffectClass::Forbidden) => {}
                    Err(error) => panic!("{}: {text:.60?} as `{field}` is tried again: {error:?}", route.name),
                }
                handled += 1;
            }
        }
    }
    assert!(handled > 5_000, "{handled}");
}

#[test]
fn hostile_names_of_files_run_nothing_in_a_real_check() {
    let home = Home::new("");
    let code = home.path().canonicalize().expect("it is there").join("code");
    fs::create_dir_all(&code).expect("a directory of ours");
    home.configure(&format!(
        "[[route]]\nname = \"check\"\non = [\"#\"]\nhandler = \"ci\"\nwith = {{ command = [\"sh\", \"-c\", \"printf '%s\\\\n' \\\"$@\\\" > last; echo x >> runs\", \"sh\", \"{{{{ files }}}}\"], paths = [\"*\"], roots = [{code:?}] }}\n"
    ));
    let service = home.serve();
    let names =
        ["$(touch evil).py", "`touch evil`.py", "a;touch evil;.py", "--collect-only.py", "-rf", "a\nb.py", "\u{202e}yp.x", "'\"\\.py", "*?.py", "{{ raw }}"];
    for (n, name) in names.iter().enumerate() {
        let payload = json!({ "session_id": "s", "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": code.join(name) }, "success": true }, "working_directory": code });
        service.send("session.thread.agent.action", &json!({ "event_id": format!("h-{n}"), "event_type": "session.thread.agent.action", "payload": payload }));
        let expected = format!("--\n{}\n", code.join(name).display());
        eventually(&format!("the check of {name:?}"), || (fs::read_to_string(code.join("last")).is_ok_and(|last| last == expected)).then_some(()));
    }
    for outside in ["/etc", "relative", "/srv/../etc", "", "-x"] {
        let payload = json!({ "session_id": "s", "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": "/etc/x.py" }, "success": true }, "working_directory": outside });
        service.send(
            "session.thread.agent.action",
            &json!({ "event_id": format!("o-{outside}"), "event_type": "session.thread.agent.action", "payload": payload }),
        );
    }
    eventually("what leads outside is a dead letter", || {
        let letters = home.run(&["dead-letters", "list", "--json"]).code(0).json();
        // An event without directory is skipped.
        (letters["dead_letters"].as_array()?.len() == 4).then_some(())
    });
    service.stop();
    assert_eq!(fs::read_to_string(code.join("runs")).expect("it ran").lines().count(), names.len());
    assert!(!code.join("evil").exists() && !home.path().join("evil").exists() && !Path::new("evil").exists());
}
