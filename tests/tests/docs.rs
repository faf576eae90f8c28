//! Every example in the documents is true: each fenced block is checked here, or in another test that this file names, and a block
//! that nobody checks fails. Links lead somewhere.
//!
//! A new block needs nothing where its kind is known: `toml` passes `check`, `console` runs, `json` parses. For another kind, show it
//! by a test and name that in [`ELSEWHERE`]; a command that cannot run here stands in [`NOT_RUN`] with its reason.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use router_tests::{Home, Ran, Service, binary, eventually, workspace};
use serde_json::{Value, json};

/// Blocks that another test shows: page, kind, that test, and a text by which it can be told that the test knows of the page.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    ("README.md", "text", "tests/tests/readme.rs", "README.md"),
    ("docs/http.md", "http", "tests/tests/doors.rs", "docs/http.md"),
    ("docs/claude-code.md", "console project", "tests/tests/journeys/claude.rs", "docs/claude-code.md"),
    ("docs/claude-code.md", "text", "tests/tests/journeys/claude.rs", "docs/claude-code.md"),
    ("docs/operations.md", "console", "tests/tests/deploy.rs", "docs/operations.md"),
    ("docs/operations.md", "text", "tests/tests/store/main.rs", "docs/operations.md"),
    ("docs/operations.md", "console build", "tests/tests/deploy.rs", "console build"),
    ("docs/operations.md", "console root", "tests/tests/deploy.rs", "console root"),
    ("docs/operations.md", "console docker", "tests/tests/deploy.rs", "console docker"),
    ("docs/operations.md", "console user manager", "tests/tests/deploy.rs", "console user manager"),
    ("README.md", "console broker", "tests/tests/amqp_journeys/documented.rs", "README.md"),
    ("docs/rabbitmq.md", "console broker", "tests/tests/amqp_journeys/documented.rs", "docs/rabbitmq.md"),
    ("docs/rabbitmq.md", "console rabbitmqctl", "tests/tests/amqp_journeys/documented.rs", "console rabbitmqctl"),
    ("router/cli/scaffold/plugin/readme.md", "console", "tests/tests/scaffold.rs", "new"),
    ("router/api/README.md", "rust", "router/api/src/lib.rs", "include_str!(\"../README.md\")"),
    ("router/api/README.md", "rust,ignore", "tests/tests/config.rs", "router/api/README.md"),
];

/// Pictures, which claim nothing that a program could decide.
const PICTURES: &[(&str, &str)] = &[("router/ARCHITECTURE.md", "text")];

/// Commands that are not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo run --release -- demo", "compiles for minutes; `demo` itself is run by readme.rs"),
    ("tests/run", "is what runs this"),
    ("cargo install --path router/cli", "compiles for minutes"),
    ("event-router run", "does not end; the service of this test is one"),
];

struct Block {
    page: String,
    line: usize,
    /// What stands behind the opening fence.
    kind: String,
    text: String,
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }
}

/// All Markdown files of the repository, by their paths in it.
fn pages() -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory of the repository can be read") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "state" | "node_modules") {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(workspace(), &mut found);
    found.sort();
    let relative = |path: &Path| path.strip_prefix(workspace()).expect("it lies in the repository").to_string_lossy().into_owned();
    found.into_iter().map(|path| (relative(&path), fs::read_to_string(&path).expect("a page is text"))).collect()
}

fn blocks_of(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        // In a list, a block is indented with its item.
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let inside: Vec<&str> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").map(|line| line.get(indent..).unwrap_or_default()).collect();
            blocks.push(Block { page: page.to_owned(), line: at + 1, kind: kind.trim().to_owned(), text: inside.join("\n") });
        }
    }
    blocks
}

fn blocks() -> Vec<Block> {
    pages().iter().flat_map(|(page, text)| blocks_of(page, text)).collect()
}

fn blocks_like(kind: &str) -> Vec<Block> {
    blocks().into_iter().filter(|block| block.kind == kind && shown_elsewhere(block).is_none()).collect()
}

fn shown_elsewhere(block: &Block) -> Option<&'static (&'static str, &'static str, &'static str, &'static str)> {
    ELSEWHERE.iter().find(|(page, kind, ..)| *page == block.page && *kind == block.kind)
}

/// `None`, or what is wrong with it.
fn problem_with(block: &Block) -> Option<String> {
    let here = ["toml", "json", "console", "yaml", "python"].contains(&block.kind.as_str());
    let picture = PICTURES.contains(&(block.page.as_str(), block.kind.as_str()));
    let elsewhere = shown_elsewhere(block).is_some();
    (!here && !picture && !elsewhere)
        .then(|| format!("{}: nothing shows that this block of kind `{}` is true; tests/tests/docs.rs says what to do", block.place(), block.kind))
}

#[test]
fn no_example_is_left_to_trust() {
    let blocks = blocks();
    assert!(blocks.len() > 50, "{} blocks", blocks.len());
    let problems: Vec<String> = blocks.iter().filter_map(problem_with).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    for (page, kind, test, mark) in ELSEWHERE {
        assert!(blocks.iter().any(|block| block.page == *page && block.kind == *kind), "`{kind}` in {page} is gone: take it from the list");
        let text = fs::read_to_string(workspace().join(test)).expect("the test is there");
        assert!(text.contains(mark), "{test} does not know of {page}");
    }
    for (page, kind) in PICTURES {
        assert!(blocks.iter().any(|block| block.page == *page && block.kind == *kind), "{page} has no picture any more: take it from the list");
    }
}

#[test]
fn a_block_that_nobody_shows_is_found() {
    let blocks = blocks_of("docs/new.md", "text\n\n```ini\n[a]\n```\n\n- item\n\n  ```toml\n  a = 1\n  ```\n");
    assert_eq!(
        blocks.iter().map(|block| (block.line, block.kind.as_str(), block.text.as_str())).collect::<Vec<_>>(),
        [(3, "ini", "[a]"), (9, "toml", "a = 1")]
    );
    assert!(problem_with(&blocks[0]).is_some_and(|problem| problem.starts_with("docs/new.md:3: ")));
    assert_eq!(problem_with(&blocks[1]), None);
}

// ── configuration ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Runs `check` on a fragment: what it does not say itself, a store beside it and a door on a free port, is put around it. Programs that
/// its routes run are there, and variables that it names have values.
fn check(fragment: &str) -> Result<Ran, String> {
    let table: toml::Table = fragment.parse().map_err(|error: toml::de::Error| format!("no TOML: {error}"))?;
    let home = Home::new("");
    let mut text = fragment.to_owned();
    for (name, settings) in [("store", "path = \"../state/router.db\""), ("http", "listen = \"127.0.0.1:0\"")] {
        if !table.contains_key(name) {
            text.push_str(&format!("\n[{name}]\n{settings}\n"));
        }
    }
    home.write("config/router.toml", &text);
    let routes = table.get("route").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    for route in routes {
        let first = |key: &str| route.get("with")?.get(key)?.as_array()?.first()?.as_str().map(str::to_owned);
        for program in [first("command"), first("imi")].into_iter().flatten().chain(["git".to_owned(), "imi".to_owned()]).filter(|name| !name.contains('/')) {
            let path = home.write(&format!("bin/{program}"), "#!/bin/sh\n");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
        }
    }
    let named: BTreeSet<&str> = text
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split(['}', ':']).next())
        .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    let path = format!("{}:{}", home.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut command = home.command(&["check"]);
    // No two alike: a token belongs to one client.
    let value = |name: &str| match name {
        "RABBIT_URL" => "amqps://router:a-password@broker.example:5671/".to_owned(),
        name => format!("a-value-that-is-long-enough-for-the-token-{name}"),
    };
    command.env("PATH", path).envs(named.into_iter().map(|name| (name, value(name))));
    Ok(Ran::of(command.output().expect("the program runs")))
}

#[test]
fn every_configuration_that_is_shown_passes_check() {
    let blocks = blocks_like("toml");
    assert!(blocks.len() >= 6);
    let mut checked = 0;
    for block in blocks {
        // A manifest of a crate, and a route for a plugin that is not linked here.
        if block.page == "router/api/README.md" {
            continue;
        }
        let ran = check(&block.text).unwrap_or_else(|error| panic!("{}: {error}", block.place()));
        assert_eq!(ran.code, Some(0), "{}:\n{}{}", block.place(), ran.stdout, ran.stderr);
        assert!(!ran.stderr.contains("warning["), "{}:\n{}", block.place(), ran.stderr);
        checked += 1;
    }
    assert!(checked >= 4, "{checked}");
    // It can fail.
    assert_eq!(check("[[route]]\nname = \"a\"\non = [\"b\"]\nhandler = \"lok\"\n").expect("it is TOML").code, Some(78));
}

#[test]
fn the_manifest_and_the_route_of_the_plugin_tutorial_are_those_that_are_built() {
    let text = |path: &str| fs::read_to_string(workspace().join(path)).expect("the file is there");
    let blocks: Vec<Block> = blocks_like("toml").into_iter().filter(|block| block.page == "router/api/README.md").collect();
    let [manifest, route] = blocks.as_slice() else { panic!("a manifest and a route") };
    assert!(text("tests/tests/out_of_tree.rs").contains(&route.text), "{}", route.text);
    let shown: toml::Table = manifest.text.parse().expect("it is TOML");
    let built: toml::Table = text("tests/out-of-tree-plugin/Cargo.toml").parse().expect("it is TOML");
    assert_eq!((&shown["package"]["name"], &shown["package"]["edition"]), (&built["package"]["name"], &built["package"]["edition"]));
    for (name, wanted) in shown["dependencies"].as_table().expect("a table") {
        let found = built["dependencies"].get(name).unwrap_or_else(|| panic!("`{name}` is not what it is built with"));
        let no_path = |value: &toml::Value| value.get("path").is_none().then(|| value.clone());
        assert_eq!(no_path(wanted), no_path(found), "{name}");
        if let Some(path) = found.get("path").and_then(toml::Value::as_str) {
            let shown = wanted.get("path").and_then(toml::Value::as_str).unwrap_or_default();
            assert_eq!(path.trim_start_matches("../"), shown.trim_start_matches("../event-router/"), "{name}");
        }
    }
}

/// What a plugin cannot do without, so that an option of it can be checked by itself.
fn needed(plugin: &str) -> &'static str {
    match plugin {
        "ci" | "exec" => "command = [\"true\"]\n",
        "dagster" => "url = \"http://127.0.0.1:3000/graphql\"\nlocation = \"a.py\"\n",
        "flume" => "base = \"http://127.0.0.1:8690\"\n",
        "webhook" => "url = \"http://127.0.0.1:9/\"\n",
        _ => "",
    }
}

#[test]
fn options_that_the_plugin_reference_shows_are_right() {
    let text = fs::read_to_string(workspace().join("config/PLUGINS.md")).expect("the reference is there");
    let (mut plugin, mut checked) = ("", 0);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## `").and_then(|rest| rest.strip_suffix('`')) {
            plugin = name;
        }
        // A cell of a table shows a bar by escaping it.
        let line = line.replace("\\|", "|");
        for code in line.split('`').skip(1).step_by(2).filter(|code| code.contains(" = ")) {
            let table: toml::Table = code.parse().unwrap_or_else(|error| panic!("config/PLUGINS.md, `{plugin}`: `{code}` is no TOML: {error}"));
            let option = table.keys().next().cloned().unwrap_or_default();
            let is_option = text.contains(&format!("\n| `{option}` |")) && !plugin.is_empty();
            let (route, with) = match option.as_str() {
                "coalesce" | "order_by" => (code, ""),
                // A row of `headers`, `tags`, `env`, shown in the sentence about the table.
                _ if !is_option => continue,
                _ => ("", code),
            };
            let with: String =
                needed(plugin).lines().filter(|line| !line.starts_with(&format!("{option} "))).map(|line| format!("{line}\n")).collect::<String>() + with;
            let fragment = format!("[[route]]\nname = \"a\"\non = [\"b\"]\nhandler = \"{plugin}\"\n{route}\n[route.with]\n{with}\n");
            let ran = check(&fragment).expect("it is TOML");
            assert_eq!(ran.code, Some(0), "{fragment}\n{}{}", ran.stdout, ran.stderr);
            checked += 1;
        }
    }
    assert!(checked >= 6, "{checked}");
}

// ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn every_command_that_is_shown_runs_or_is_listed() {
    let home = Home::new("[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n");
    let service = home.serve();
    let bin = binary().parent().expect("the program lies in a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let (mut ran, mut left_out) = (0, BTreeSet::new());
    for block in blocks_like("console") {
        for line in block.text.lines().filter_map(|line| line.strip_prefix("$ ")) {
            // What stands behind is for people.
            let command = line.split("  #").next().unwrap_or_default().trim();
            if let Some((listed, _)) = NOT_RUN.iter().find(|(listed, _)| *listed == command) {
                left_out.insert(*listed);
                continue;
            }
            let command = command.replace("http://127.0.0.1:8682", &format!("http://{}", service.address())).replace("curl -X", "curl --fail -sS -X");
            if command.starts_with("curl ") && Command::new("curl").arg("--version").output().is_err() {
                left_out.insert("curl");
                continue;
            }
            let done = Ran::of(Command::new("sh").args(["-c", &command]).current_dir(home.path()).env("PATH", &path).output().expect("a shell runs"));
            assert_eq!(done.code, Some(0), "{}: {command}: {done:?}", block.place());
            ran += 1;
        }
    }
    assert!(ran >= 3, "{ran} commands ran");
    for (listed, why) in NOT_RUN {
        assert!(left_out.contains(listed), "nobody shows `{listed}` any more, which is not run since it {why}: take it from the list");
    }
    service.stop();
}

// ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn only(page: &str, kind: &str) -> Vec<Block> {
    blocks().into_iter().filter(|block| block.page == page && block.kind == kind).collect()
}

/// Equal, except that `…` stands for anything.
fn text_fits(shown: &str, found: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = found.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn all_json_that_is_shown_is_json() {
    let mut count = 0;
    for block in blocks_like("json") {
        assert!(serde_json::from_str::<Value>(&block.text).is_ok(), "{}: {}", block.place(), block.text);
        count += 1;
    }
    assert!(count >= 3, "{count}");
}

#[test]
fn the_lines_of_a_program_that_stays_are_those_that_it_is_given_and_may_answer() {
    let blocks = only("docs/without-rust.md", "json");
    let [asked, answered] = blocks.as_slice() else { panic!("a question and an answer") };
    let answer: Value = serde_json::from_str(&answered.text).expect("JSON");
    assert_eq!(answer["id"], serde_json::from_str::<Value>(&asked.text).expect("JSON")["id"], "the answer is one to the question");
    // The answer of the page, word for word, but for the id.
    let (before, after) = answered.text.split_once(&format!("{}", answer["id"])).expect("the id is in it");
    let home = Home::new(
        "[[route]]\nname = \"cost\"\non = [\"session.thread.end\"]\nhandler = \"exec\"\nwith = { command = [\"sh\", \"stay.sh\"], keep_alive = true }\n",
    );
    home.write("config/before", before);
    home.write("config/after", after);
    home.write(
        "config/stay.sh",
        "while read -r line; do\n    printf '%s\\n' \"$line\" >> ../asked\n    id=${line#*\\\"id\\\":}\n    id=${id%%,*}\n    printf '%s%s%s\\n' \"$(cat before)\" \"$id\" \"$(cat after)\"\ndone\n",
    );
    let service = home.serve();
    service.send("session.thread.end", &json!({ "event_id": "0f2a" }));
    let events = eventually("it is handled", || {
        let answer = home.run(&["events", "--json"]).code(0).json();
        let handled = answer["events"].as_array()?.iter().any(|event| event["deliveries"][0]["state"]["fate"] == "handled");
        handled.then_some(answer)
    });
    service.stop();
    let line = home.read("asked");
    assert!(text_fits(&asked.text, line.trim_end()), "the page shows\n{}\nthe program is given\n{line}", asked.text);
    let events = events["events"].as_array().expect("a list");
    let handled = events.iter().find(|event| event["key"] == "session.thread.end").expect("the event");
    assert!(handled.to_string().contains(answer["note"].as_str().expect("a note")), "{handled}");
    let emitted = &answer["emit"][0];
    assert!(events.iter().any(|event| event["key"] == emitted["key"] && event["event"]["payload"] == emitted["payload"]), "{events:?}");
}

#[test]
fn the_function_in_python_answers_as_the_page_says() {
    let blocks = only("docs/without-rust.md", "python");
    let [block] = blocks.as_slice() else { panic!("one function") };
    if Command::new("python3").arg("--version").output().is_err() {
        skipped("the function in docs/without-rust.md, since there is no `python3`");
        return;
    }
    let home = Home::new("");
    home.write("handler.py", &fs::read_to_string(workspace().join("config/examples/python/handler.py")).expect("it is there"));
    home.write("launch.py", &block.text);
    let mut python =
        Command::new("python3").arg("launch.py").current_dir(home.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python runs");
    let mut input = python.stdin.take().expect("a pipe");
    for (id, files) in [("1", json!(["a.py"])), ("2", json!([]))] {
        writeln!(input, "{}", json!({ "id": id, "event": { "payload": { "files_modified": files } } })).expect("it reads");
    }
    drop(input);
    let answers = Ran::of(python.wait_with_output().expect("it ends")).code(0);
    let answers: Vec<Value> = answers.stdout.lines().map(|line| serde_json::from_str(line).expect("a verdict")).collect();
    assert_eq!(
        answers,
        [json!({ "id": "1", "outcome": "done", "note": "launched" }), json!({ "id": "2", "outcome": "skipped", "reason": "the session changed no file" })]
    );
}

#[expect(clippy::print_stderr, reason = "a test that is left out is said aloud")]
fn skipped(what: &str) {
    eprintln!("\n!!! NOT TESTED: {what} !!!\n");
}

#[test]
fn an_alert_has_the_members_that_its_page_shows() {
    let blocks = only("docs/metrics.md", "json");
    let [block] = blocks.as_slice() else { panic!("one alert") };
    let shown: Value = serde_json::from_str(&block.text).expect("JSON");
    let home = Home::new(
        "[[route]]\nname = \"ci\"\non = [\"poison\"]\nretry = { attempts_max = 1 }\nhandler = \"exec\"\nwith = { command = [\"false\"] }\n\n\
         [[route]]\nname = \"told\"\non = [\"system.dlq.alert\"]\nhandler = \"log\"\n",
    );
    let service = home.serve();
    service.send("poison", &json!({ "event_id": "p" }));
    let alert = eventually("an alert", || {
        let events = home.run(&["events", "--json"]).code(0).json();
        events["events"].as_array()?.iter().find(|event| event["key"] == "system.dlq.alert").map(|event| event["event"]["payload"].clone())
    });
    service.stop();
    let kinds = |value: &Value| {
        let kind = |value: &Value| {
            if value.is_number() {
                "number"
            } else if value.is_string() {
                "text"
            } else {
                "another"
            }
        };
        value.as_object().expect("an object").iter().map(|(name, value)| (name.clone(), kind(value))).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&shown), kinds(&alert), "the page on the left, a real one on the right: {alert}");
    assert_eq!((&alert["route"], &alert["reason"]), (&shown["route"], &shown["reason"]));
}

#[test]
fn the_settings_for_claude_code_lead_to_where_hooks_are_taken() {
    let blocks = only("docs/http.md", "json");
    let settings: Value = serde_json::from_str(&blocks.first().expect("the settings").text).expect("JSON");
    let home = Home::new("");
    let service: Service = home.serve();
    for (name, entries) in settings["hooks"].as_object().expect("hooks by their names") {
        for hook in entries.as_array().into_iter().flatten().flat_map(|entry| entry["hooks"].as_array().into_iter().flatten()) {
            assert_eq!(hook["type"], "http", "{hook}");
            let path = hook["url"].as_str().and_then(|url| url.strip_prefix("http://127.0.0.1:8682")).expect("the router's own address");
            let body = json!({ "session_id": format!("s-{name}"), "cwd": "/home/user", "hook_event_name": name, "tool_name": "Bash", "tool_use_id": name, "tool_input": {}, "prompt": "hello", "reason": "other" });
            let answer = router_tests::post(service.address(), path, &body.to_string()).expect("the door answers");
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
        }
    }
    let events = home.run(&["events", "--last", "100", "--json"]).code(0).stdout;
    for key in ["session.thread.start", "session.thread.agent.action", "session.thread.error", "session.thread.turn.completed", "session.thread.end"] {
        assert!(events.contains(&format!("\"{key}\"")), "no `{key}` came of it: {events}");
    }
    service.stop();
}

#[test]
fn the_scrape_configuration_asks_where_the_router_listens_by_default() {
    let built_in: toml::Table = fs::read_to_string(workspace().join("config/router.toml")).expect("it is there").parse().expect("it is TOML");
    let listen = built_in["http"]["listen"].as_str().expect("an address");
    let mut count = 0;
    for block in blocks_like("yaml") {
        // Prometheus asks `/metrics` unless it is told otherwise.
        assert!(block.text.contains(&format!("targets: [\"{listen}\"]")) && !block.text.contains("metrics_path"), "{}: {}", block.place(), block.text);
        count += 1;
    }
    assert!(count >= 1, "{count}");
}

// ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// As GitHub makes anchors of headings.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
}

/// Links of a page that lead nowhere.
fn broken_links(page: &str, text: &str) -> (usize, Vec<String>) {
    let mut outside_blocks = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            outside_blocks.push_str(line);
            outside_blocks.push('\n');
        }
    }
    let here = workspace().join(page);
    let directory = here.parent().expect("a page lies in a directory");
    let (mut count, mut broken) = (0, Vec::new());
    for link in outside_blocks.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://")) {
        count += 1;
        let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
        let target = if path.is_empty() { here.clone() } else { directory.join(path) };
        let has_heading = || {
            let text = if path.is_empty() { text.to_owned() } else { fs::read_to_string(&target).unwrap_or_default() };
            text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line.trim_start_matches('#')) == fragment)
        };
        if !target.exists() || (!fragment.is_empty() && !has_heading()) {
            broken.push(format!("{page}: `{link}` leads nowhere"));
        }
    }
    (count, broken)
}

#[test]
fn every_link_leads_somewhere() {
    let (mut count, mut broken) = (0, Vec::new());
    for (page, text) in pages() {
        let (links, nowhere) = broken_links(&page, &text);
        count += links;
        broken.extend(nowhere);
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(count > 20, "{count} links");
    let planted = broken_links("docs/http.md", "# A b\n[x](nowhere.md) [y](#a-b) [z](#c) [w](metrics.md#readiness) [v](metrics.md#none)\n").1;
    assert_eq!(planted.len(), 3, "{planted:?}");
}

#[test]
fn every_page_can_be_reached_from_the_readme() {
    let pages = pages();
    let (mut reached, mut next) = (BTreeSet::new(), vec!["README.md".to_owned()]);
    while let Some(page) = next.pop() {
        if !reached.insert(page.clone()) {
            continue;
        }
        let Some((_, text)) = pages.iter().find(|(name, _)| *name == page) else { continue };
        let directory = Path::new(&page).parent().unwrap_or(Path::new("")).to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()).filter(|link| link.ends_with(".md")) {
            let mut clean = PathBuf::new();
            for part in directory.join(link).components() {
                if part.as_os_str() == ".." {
                    clean.pop();
                } else {
                    clean.push(part)
                }
            }
            next.push(clean.to_string_lossy().into_owned());
        }
    }
    for (page, _) in pages.iter().filter(|(page, _)| page.starts_with("docs/")) {
        assert!(reached.contains(page), "no link leads to {page}");
    }
}

/// What a page says of tests: `a path of a source` and after it, up to the next path, `names_of_its_tests`.
fn tests_named_in(text: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    let mut file = None;
    for span in text.split('`').skip(1).step_by(2) {
        if span.ends_with(".rs") {
            file = Some(span.to_owned());
        } else if let Some(file) = &file
            // Sentences, not options or metrics.
            && span.matches('_').count() >= 3
            && !span.starts_with("event_router_")
            && span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            named.push((file.clone(), span.to_owned()));
        }
    }
    named
}

/// The tests of a source, and the cases of a suite, which are functions like any other.
fn tests_of(source: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_test = |at: usize| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
        above.clone().any(|line| line.starts_with("#[test") || line.starts_with("#[tokio::test"))
    };
    let name = |line: &str| line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?.split('(').next().map(str::to_owned);
    (0..lines.len()).filter(|at| is_test(*at)).filter_map(|at| name(lines[at])).collect()
}

#[test]
fn each_guarantee_names_tests_that_there_are() {
    let text = fs::read_to_string(workspace().join("docs/guarantees.md")).expect("the page is there");
    let named = tests_named_in(&text);
    assert!(named.len() >= 30, "the page names {} tests", named.len());
    let mut wrong = Vec::new();
    for (file, test) in &named {
        let source = fs::read_to_string(workspace().join(file)).unwrap_or_default();
        if !tests_of(&source).contains(test) {
            wrong.push(format!("`{file}` has no test `{test}`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Each promise has one: a bold sentence that no list of tests follows shows nothing.
    for section in text.split("\n**").skip(1) {
        let sentence = section.split("**").next().unwrap_or_default();
        assert!(!tests_named_in(section).is_empty(), "`{sentence}` is shown by no test");
    }
    // And so has each fault, a line of its table.
    let faults = text.split("\n## ").find(|section| section.starts_with("Fault by fault")).expect("the section is there");
    let lines: Vec<&str> = faults.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(lines.len() >= 40, "the table has {} faults", lines.len());
    for line in lines {
        assert!(!tests_named_in(line).is_empty(), "no test shows: {line}");
    }
}

/// What the second column of a page's tables names: files below `tests/tests` or of the workspace, each with its tests.
fn shown_by(page: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for cell in page.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split(" | ").nth(1)) {
        let mut file = String::new();
        for word in cell.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                file = if word.starts_with("router/") { word.to_owned() } else { format!("tests/tests/{word}") };
            } else {
                named.push((file.clone(), word.to_owned()));
            }
        }
    }
    named
}

#[test]
fn each_promise_on_rabbitmq_names_tests_that_there_are_and_every_fault_has_its_promise() {
    let text = fs::read_to_string(workspace().join("docs/rabbitmq-shown.md")).expect("the page is there");
    let named = shown_by(&text);
    assert!(named.len() >= 100, "the page names {} tests", named.len());
    let is_there = |(file, test): &&(String, String)| fs::read_to_string(workspace().join(file)).is_ok_and(|source| source.contains(&format!("fn {test}(")));
    let missing: Vec<_> = named.iter().filter(|named| !is_there(named)).collect();
    assert!(missing.is_empty(), "named, and not there: {missing:#?}");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.ends_with("| shown by |"));
    let bare: Vec<&str> = rows.filter(|line| shown_by(line).is_empty()).collect();
    assert!(bare.is_empty(), "shown by nothing: {bare:#?}");
    // The other way round: a fault that is tried shows something.
    let directory = workspace().join("tests/tests/amqp_faults");
    for entry in fs::read_dir(&directory).expect("the faults are there").map_while(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = format!("tests/tests/amqp_faults/{name}");
        let tests = tests_of(&fs::read_to_string(entry.path()).expect("a source can be read"));
        let unnamed: Vec<_> = tests.iter().filter(|test| name != "oracle.rs" && !named.contains(&(file.clone(), (*test).clone()))).collect();
        assert!(unnamed.is_empty(), "`{file}`: the page does not say what these show: {unnamed:?}");
    }
}

#[test]
fn a_test_that_is_not_there_is_found() {
    assert_eq!(tests_named_in("see `a.rs`: `one_is_not_two`, `max_wait_ms` and `B`"), [("a.rs".to_owned(), "one_is_not_two".to_owned())]);
    let source = "#[test]\nfn one_is_one() {}\n#[tokio::test]\nasync fn one_is_three() {}\nfn one_is_two() {}\n";
    assert_eq!(tests_of(source), ["one_is_one", "one_is_three"].map(str::to_owned).into());
}
