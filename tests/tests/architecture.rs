//! The invariants of `router/ARCHITECTURE.md` that a program can decide: who depends on whom, what appears where, which licences.
//!
//! Every check is a function from what it looks at to a list of problems, so that a planted violation shows that it can fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Each crate of the workspace and what it may depend on within it.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("router-api", &[]),
    // It reads a file of prices when it checks a configuration.
    ("router-core", &["router-api", "router-secrets", "router-transcripts"]),
    ("router-effects", &["router-api"]),
    ("router-amqp", &["router-api"]),
    ("router-embedded", &["router-api"]),
    ("router-http", &["router-api", "router-claude"]),
    ("router-secrets", &[]),
    ("router-testkit", &["router-api", "router-core"]),
    ("router-transcripts", &[]),
    ("plugins", &["router-api"]),
    (
        "event-router",
        &["router-api", "router-core", "router-effects", "router-amqp", "router-embedded", "router-http", "router-claude", "router-transcripts", "plugins"],
    ),
    ("router-claude", &["router-secrets", "router-transcripts"]),
    ("event-router-hook", &["router-claude"]),
    (
        "router-tests",
        &[
            "router-api",
            "router-claude",
            "router-core",
            "router-effects",
            "router-amqp",
            "router-embedded",
            "router-http",
            "router-secrets",
            "router-testkit",
            "router-transcripts",
            "plugins",
            "event-router",
        ],
    ),
];

/// What any crate may use for its own tests, beside its dependencies.
const FOR_TESTS: &[&str] = &["router-testkit"];

/// Libraries that one crate alone may use; the tests' package, which looks from outside, is exempt.
const OWNED: &[(&str, &str)] =
    &[("lapin", "router-amqp"), ("rusqlite", "router-embedded"), ("libsqlite3-sys", "router-embedded"), ("reqwest", "router-effects")];

/// What the tree of a plugin author has nothing of.
const NOT_IN_API: &[&str] = &["tokio", "tokio-util", "reqwest", "hyper", "rusqlite", "lapin", "axum", "async-std", "smol", "mio", "socket2"];

/// What a hook, which is started thousands of times a day, has no time for.
const NOT_IN_HOOK: &[&str] = &["tokio", "regex", "regex-automata", "reqwest", "hyper", "rustls", "rusqlite", "lapin", "tracing-subscriber", "clap"];

/// Licences of dependencies that we accept, each by itself.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Second TLS stacks, which need more than a C compiler.
const BANNED: &[&str] = &["aws-lc-sys", "aws-lc-rs", "openssl-sys", "openssl", "native-tls"];

/// What may stand at the top.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "router",
    "plugins",
    "config",
    "tests",
    "deploy",
    "docs",
    ".ci",
    ".gitignore",
    ".gitattributes",
    ".editorconfig",
    ".github",
    ".cargo",
    "rustfmt.toml",
];

/// What is made beside the sources and never committed.
const MADE: &[&str] = &[".git", "target", "state"];

/// A text that appears in named files only.
struct Rule {
    text: &'static str,
    files: &'static [&'static str],
    why: &'static str,
}

const CLOCK: &str = "time comes from the `Clock` port, so that tests run on a virtual clock";
const CHANCE: &str = "randomness comes from the `Chance` port, so that tests repeat";
const VARIABLES: &str = "the environment is read where the configuration and the effects are made";
const BOUNDED: &str = "every queue has a stated limit";

const RULES: &[Rule] = &[
    Rule { text: "SystemTime::now", files: &[], why: CLOCK },
    Rule {
        text: "Instant::now",
        files: &[
            // A broker answers, confirms and loses connections in real time, whatever clock the router has.
            "router/amqp/src/archive.rs",
            "router/amqp/src/consumer.rs",
            "router/amqp/src/dead_letters.rs",
            "router/amqp/src/link.rs",
            "router/amqp/src/publisher.rs",
            "router/amqp/src/pump.rs",
            "router/amqp/src/reach.rs",
            "router/amqp/src/routed.rs",
            "router/amqp/src/scratch.rs",
            "router/cli/src/system.rs",
            "router/effects/src/command.rs",
            "router/effects/src/http.rs",
            "router/effects/src/worker.rs",
            "router/effects/src/worker_pool.rs",
            // It only decides what shares a commit, and a virtual clock must not be driven on by that.
            "router/embedded/src/writer/thread.rs",
            // A hook is one call of a process, with limits in real time.
            "router/hook/src/system.rs",
        ],
        why: CLOCK,
    },
    Rule { text: "Timestamp::now", files: &["router/cli/src/system.rs", "router/hook/src/system.rs"], why: CLOCK },
    Rule { text: "Zoned::now", files: &[], why: CLOCK },
    // Killed processes need real time to go, and a hook that is debugged waits for a router. And a test lets threads stand still.
    Rule { text: "thread::sleep", files: &["router/effects/src/stragglers.rs", "router/hook/src/system.rs", "router/testkit/src/yielding.rs"], why: CLOCK },
    // What performs effects, serves sockets and speaks with a broker has real time-outs; what decides about events has none. The store's
    // writer tidies up when it has been idle for a while, which must not drive a virtual clock on.
    Rule {
        text: "tokio::time",
        files: &[
            "router/amqp/src/admin.rs",
            "router/amqp/src/archive.rs",
            "router/amqp/src/bound.rs",
            "router/amqp/src/connection.rs",
            "router/amqp/src/consumer.rs",
            "router/amqp/src/consumer/tending.rs",
            "router/amqp/src/dead_letters.rs",
            "router/amqp/src/dial.rs",
            "router/amqp/src/failure.rs",
            "router/amqp/src/link.rs",
            "router/amqp/src/lost.rs",
            "router/amqp/src/publisher.rs",
            "router/amqp/src/pump.rs",
            "router/amqp/src/reach.rs",
            "router/amqp/src/rebinding.rs",
            "router/amqp/src/routed.rs",
            "router/amqp/src/scratch.rs",
            "router/amqp/src/topology.rs",
            "router/amqp/src/transport.rs",
            "router/cli/",
            "router/effects/",
            "router/http/",
            "router/testkit/",
            "router/embedded/src/writer/thread.rs",
            // And how long it leaves a disk that failed alone.
            "router/embedded/src/writer/reopening.rs",
        ],
        why: CLOCK,
    },
    Rule { text: "Uuid::new_v4", files: &["router/cli/src/system.rs", "router/cli/src/commands/publish.rs"], why: CHANCE },
    Rule { text: "Uuid::now_v7", files: &[], why: CHANCE },
    Rule { text: "rand::", files: &[], why: CHANCE },
    Rule { text: "getrandom::", files: &[], why: CHANCE },
    Rule { text: "fastrand::", files: &[], why: CHANCE },
    Rule {
        text: "env::var",
        files: &["router/core/src/config/environment.rs", "router/effects/src/environment.rs", "router/hook/src/system.rs"],
        why: VARIABLES,
    },
    Rule { text: "unbounded", files: &[], why: BOUNDED },
    Rule { text: "mpsc::channel()", files: &[], why: BOUNDED },
    Rule {
        text: ".settle(",
        // What the broker has confirmed is settled in the pump, and no delivery. And a consumer over another one passes it on.
        files: &["router/amqp/src/pump.rs", "router/core/src/worker/settling.rs", "router/testkit/src/conformance/", "router/testkit/src/yielding.rs"],
        why: "a delivery is settled in one file",
    },
];

// ── what is looked at ───────────────────────────────────────────────────────────────────────────────────────────────────────

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package of the tests lies in the workspace")
}

fn metadata() -> Value {
    let host = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let host = String::from_utf8(host.stdout).expect("rustc speaks UTF-8");
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc says its host");
    // For this platform, whose packages are there already: no network is needed.
    let arguments = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo speaks JSON")
}

/// Path below the root, with `/`, and content. Files that are no text are left out.
type Files = BTreeMap<String, String>;

fn read_below(directory: &Path, wanted: &dyn Fn(&Path) -> bool, files: &mut Files) {
    for entry in fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the entry can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_symlink() || MADE.contains(&name) {
            continue;
        }
        if path.is_dir() {
            read_below(&path, wanted, files);
        } else if wanted(&path)
            && let Ok(text) = fs::read_to_string(&path)
        {
            let shown = path.strip_prefix(root()).expect("it lies below the root").to_string_lossy().replace('\\', "/");
            files.insert(shown, text);
        }
    }
}

/// The sources of what is shipped, without tests and comments.
fn production() -> Files {
    let mut files = Files::new();
    for directory in ["router", "plugins"] {
        read_below(&root().join(directory), &|path| path.extension().is_some_and(|extension| extension == "rs"), &mut files);
    }
    files.retain(|path, _| {
        let words: Vec<&str> = path.split('/').collect();
        let in_tests = |word: &&str| matches!(*word, "tests" | "benches" | "examples" | "tests.rs");
        words.contains(&"src") && !words.iter().any(in_tests)
    });
    files.values_mut().for_each(|text| *text = code_of(text));
    assert!(files.len() > 50, "only {} sources were found, so the checks would show nothing", files.len());
    files
}

/// The code without line comments, and without the test module that ends a file.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.trim_start().starts_with("mod tests {")) {
            break;
        }
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

// ── the checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn packages(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn is_ours(package: &Value) -> bool {
    package["source"].is_null()
}

/// Name and kind (`normal`, `dev`, `build`) of a package's direct dependencies.
fn direct(package: &Value) -> impl Iterator<Item = (&str, &str)> {
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    dependencies.iter().map(|dependency| (text(dependency, "name"), dependency["kind"].as_str().unwrap_or("normal")))
}

fn wrong_directions(metadata: &Value) -> Vec<String> {
    let ours: BTreeSet<&str> = packages(metadata).iter().filter(|package| is_ours(package)).map(|package| text(package, "name")).collect();
    let mut problems = Vec::new();
    for package in packages(metadata).iter().filter(|package| is_ours(package)) {
        let name = text(package, "name");
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(known, _)| *known == name) else {
            problems.push(format!("crate `{name}` is not in the table of directions: say what it may depend on"));
            continue;
        };
        for (other, kind) in direct(package).filter(|(other, _)| ours.contains(other)) {
            let for_tests = kind == "dev" && FOR_TESTS.contains(&other);
            if !allowed.contains(&other) && !for_tests {
                problems.push(format!("`{name}` depends on `{other}` ({kind})"));
            }
        }
    }
    problems
}

fn strangers(metadata: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages(metadata).iter().filter(|package| is_ours(package)) {
        let name = text(package, "name");
        for (library, owner) in OWNED {
            if name != *owner && name != "router-tests" && direct(package).any(|(other, _)| other == *library) {
                problems.push(format!("`{name}` depends on `{library}`, which is for `{owner}` alone"));
            }
        }
    }
    problems
}

/// The names of all packages that `name` needs in order to be built and run, without its tests.
fn tree<'a>(metadata: &'a Value, name: &str) -> BTreeSet<&'a str> {
    let name_of: BTreeMap<&str, &str> = packages(metadata).iter().map(|package| (text(package, "id"), text(package, "name"))).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let nodes: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(node, "id"), node)).collect();
    let mut open: Vec<&str> = name_of.iter().filter(|(_, known)| **known == name).map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten() {
            let kinds = dependency["dep_kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
            if kinds.iter().any(|kind| kind["kind"].as_str() != Some("dev")) {
                open.push(text(dependency, "pkg"));
            }
        }
    }
    seen.into_iter().filter_map(|id| name_of.get(id).copied()).collect()
}

fn too_much_for_api(metadata: &Value) -> Vec<String> {
    too_much_for(metadata, "router-api", NOT_IN_API)
}

fn too_much_for(metadata: &Value, name: &str, libraries: &[&str]) -> Vec<String> {
    let tree = tree(metadata, name);
    libraries.iter().filter(|library| tree.contains(*library)).map(|library| format!("the tree of `{name}` has `{library}`")).collect()
}

/// Does an SPDX expression allow us to use a package? `A/B` is the old way to write `A OR B`.
fn is_licence_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut position = 0;
    either(&words, &mut position).is_some_and(|allowed| allowed && position == words.len())
}

/// `None` for what is no expression.
fn either(words: &[&str], position: &mut usize) -> Option<bool> {
    let mut allowed = both(words, position)?;
    while words.get(*position) == Some(&"OR") {
        *position += 1;
        allowed |= both(words, position)?;
    }
    Some(allowed)
}

fn both(words: &[&str], position: &mut usize) -> Option<bool> {
    let mut allowed = licence(words, position)?;
    while words.get(*position) == Some(&"AND") {
        *position += 1;
        allowed &= licence(words, position)?;
    }
    Some(allowed)
}

fn licence(words: &[&str], position: &mut usize) -> Option<bool> {
    let word = words.get(*position)?;
    *position += 1;
    if *word == "(" {
        let allowed = either(words, position)?;
        let closed = words.get(*position) == Some(&")");
        *position += 1;
        return closed.then_some(allowed);
    }
    let mut name = (*word).to_owned();
    if words.get(*position) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*position + 1)?);
        *position += 2;
    }
    Some(LICENCES.contains(&name.as_str()))
}

fn foreign_licences(metadata: &Value) -> Vec<String> {
    let resolved = metadata["resolve"]["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let resolved: BTreeSet<&str> = resolved.iter().map(|node| text(node, "id")).collect();
    let used = packages(metadata).iter().filter(|package| resolved.contains(text(package, "id")));
    used.filter(|package| !is_licence_allowed(text(package, "license")))
        .map(|package| format!("`{}` {} has the licence `{}`", text(package, "name"), text(package, "version"), text(package, "license")))
        .collect()
}

/// The lock file tells of all platforms, not only of this one.
fn banned(lock: &str) -> Vec<String> {
    let named = |library: &&&str| lock.lines().any(|line| line == format!("name = \"{library}\""));
    BANNED.iter().filter(named).map(|library| format!("`{library}` is in the tree")).collect()
}

fn misplaced(files: &Files, rules: &[Rule]) -> Vec<String> {
    let mut problems = Vec::new();
    for rule in rules {
        for (path, text) in files {
            let is_named = |file: &str| path == file || (file.ends_with('/') && path.starts_with(file));
            if !rule.files.iter().any(|file| is_named(file)) {
                // What begins within a longer word is another word: `operand::`, not `rand::`.
                let begins =
                    |position: usize| !rule.text.starts_with(char::is_alphanumeric) || !text[..position].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                for (position, _) in text.match_indices(rule.text).filter(|(position, _)| begins(*position)) {
                    let line = text[position..].lines().next().unwrap_or_default();
                    problems.push(format!("{path} has `{}` ({}): {}", rule.text, line.trim(), rule.why));
                }
            }
        }
    }
    problems
}

/// An exception that nothing needs any more hides the next violation.
fn idle_exceptions(files: &Files, rules: &[Rule]) -> Vec<String> {
    let used = |rule: &Rule, file: &str| files.iter().any(|(path, text)| path.starts_with(file) && text.contains(rule.text));
    let idle = rules.iter().flat_map(|rule| rule.files.iter().filter(|file| !used(rule, file)).map(|file| (rule.text, *file)));
    idle.map(|(text, file)| format!("{file} is allowed `{text}` and does not have it")).collect()
}

/// Files that start processes, however they import what they need for it.
fn spawning(files: &Files) -> Vec<String> {
    let spawns = |text: &str| {
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_word = |rest: &str| rest.strip_prefix("Command").is_some_and(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_'));
        text.match_indices("process::").any(|(position, found)| {
            let rest = &text[position + found.len()..];
            match rest.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap_or_default().split(',').any(|name| is_word(name.trim())),
                None => is_word(rest),
            }
        })
    };
    let outside = files.iter().filter(|(path, text)| !path.starts_with("router/effects/") && spawns(text));
    outside.map(|(path, _)| format!("{path} starts processes, which is for `router/effects` alone")).collect()
}

fn out_of_place(entries: &[String]) -> Vec<String> {
    let unknown = entries.iter().filter(|entry| !TOP.contains(&entry.as_str()) && !MADE.contains(&entry.as_str()));
    unknown.map(|entry| format!("`{entry}` at the top: the layout is fixed")).collect()
}

fn machine_paths(files: &Files, places: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in files {
        for place in places {
            // A longer name that only begins alike is another place.
            let ends = |position: usize| !text[position + place.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
            if text.match_indices(place.as_str()).any(|(position, _)| ends(position)) {
                problems.push(format!("{path} names a place of this machine: `{place}`"));
            }
        }
    }
    problems
}

/// Where this workspace and what lies beside it are, and where cargo keeps its things.
fn places_of_this_machine() -> Vec<String> {
    let mut places = vec![root().to_path_buf()];
    if let Some(parent) = root().parent().filter(|parent| parent.parent().is_some())
        && let Ok(siblings) = fs::read_dir(parent)
    {
        places.extend(siblings.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    places.extend(home);
    let places = places.into_iter().filter(|place| place.is_absolute() && place.components().count() > 2);
    let places: BTreeSet<String> = places.filter_map(|place| place.to_str().map(str::to_owned)).collect();
    places.into_iter().collect()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

// ── the tree as it is ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn crates_depend_on_each_other_in_the_allowed_directions() {
    assert_none(&wrong_directions(&metadata()));
}

#[test]
fn the_broker_the_database_and_the_http_client_have_one_crate_each() {
    assert_none(&strangers(&metadata()));
}

#[test]
fn the_api_has_no_runtime_and_no_io_in_its_tree() {
    let metadata = metadata();
    assert!(tree(&metadata, "router-api").contains("serde"), "the tree of router-api is empty, so this check would show nothing");
    assert_none(&too_much_for_api(&metadata));
}

#[test]
fn the_hook_has_no_runtime_and_no_regular_expressions_in_its_tree() {
    let metadata = metadata();
    assert!(tree(&metadata, "event-router-hook").contains("serde_json"), "the tree of the hook is empty, so this check would show nothing");
    assert_none(&too_much_for(&metadata, "event-router-hook", NOT_IN_HOOK));
}

#[test]
fn licences_are_on_the_allow_list() {
    assert_none(&foreign_licences(&metadata()));
}

#[test]
fn no_second_tls_stack_is_in_the_tree() {
    assert_none(&banned(&fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is there")));
}

#[test]
fn time_chance_variables_channels_and_settlements_stand_where_they_are_allowed() {
    let files = production();
    assert_none(&misplaced(&files, RULES));
    assert_none(&idle_exceptions(&files, RULES));
}

#[test]
fn processes_are_started_by_the_effects_only() {
    assert_none(&spawning(&production()));
}

#[test]
fn the_top_level_is_fixed() {
    let entries = fs::read_dir(root()).expect("the root can be read");
    let names: Vec<String> = entries.map(|entry| entry.expect("the entry can be read").file_name().to_string_lossy().into_owned()).collect();
    assert_none(&out_of_place(&names));
}

#[test]
fn no_file_names_a_place_of_this_machine() {
    let mut files = Files::new();
    read_below(root(), &|_| true, &mut files);
    assert_none(&machine_paths(&files, &places_of_this_machine()));
}

#[test]
fn unsafe_code_is_forbidden_in_every_crate() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is there");
    assert!(manifest.contains("unsafe_code = \"forbid\""), "the workspace no longer forbids unsafe code");
    let problems: Vec<String> = packages(&metadata())
        .iter()
        .filter(|package| is_ours(package))
        .filter(|package| {
            let manifest = fs::read_to_string(text(package, "manifest_path")).unwrap_or_default();
            !manifest.contains("[lints]\nworkspace = true")
        })
        .map(|package| format!("`{}` does not take the lints of the workspace", text(package, "name")))
        .collect();
    assert_none(&problems);
}

// ── each check finds what it is for ─────────────────────────────────────────────────────────────────────────────────────────

mod planted {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> = dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        json!({ "name": name, "id": name, "version": "1.0.0", "source": null, "license": "MIT", "dependencies": dependencies })
    }

    fn files(path: &str, text: &str) -> Files {
        Files::from([(path.to_owned(), code_of(text))])
    }

    #[test]
    fn a_dependency_in_the_wrong_direction_is_found() {
        let wrong = |name, dependency| {
            let packages = [package(name, &[dependency]), package("router-core", &[]), package("router-api", &[]), package("router-testkit", &[])];
            wrong_directions(&json!({ "packages": packages })).len()
        };
        assert_eq!(wrong("plugins", ("router-core", None)), 1);
        assert_eq!(wrong("plugins", ("router-core", Some("dev"))), 1);
        assert_eq!(wrong("plugins", ("router-testkit", None)), 1);
        assert_eq!(wrong("plugins", ("router-testkit", Some("dev"))), 0);
        assert_eq!(wrong("plugins", ("router-api", None)), 0);
        assert_eq!(wrong("router-newcomer", ("router-api", None)), 1);
    }

    #[test]
    fn a_library_in_the_wrong_crate_is_found() {
        let strange = |name, library| strangers(&json!({ "packages": [package(name, &[(library, None)])] })).len();
        assert_eq!((strange("plugins", "reqwest"), strange("router-effects", "reqwest")), (1, 0));
        assert_eq!((strange("router-core", "rusqlite"), strange("router-tests", "rusqlite")), (1, 0));
    }

    #[test]
    fn a_runtime_deep_in_the_tree_of_the_api_is_found_unless_only_tests_use_it() {
        let with_kind = |kind: Option<&str>| {
            let needs = |of: &str, on: &str, kind: Option<&str>| json!({ "id": of, "deps": [{ "pkg": on, "dep_kinds": [{ "kind": kind }] }] });
            let packages = ["router-api", "innocent", "tokio"].map(|name| package(name, &[]));
            let nodes = [needs("router-api", "innocent", None), needs("innocent", "tokio", kind), json!({ "id": "tokio", "deps": [] })];
            too_much_for_api(&json!({ "packages": packages, "resolve": { "nodes": nodes } }))
        };
        assert_eq!((with_kind(None).len(), with_kind(Some("build")).len(), with_kind(Some("dev")).len()), (1, 1, 0));
    }

    #[test]
    fn licence_expressions_are_understood() {
        for allowed in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception", "MIT AND (Zlib OR X)"] {
            assert!(is_licence_allowed(allowed), "{allowed}");
        }
        for refused in
            ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND MPL-2.0", "GPL-2.0 WITH LLVM-exception", "MIT OR", "(MIT", "MIT MIT", "AGPL-3.0-only"]
        {
            assert!(!is_licence_allowed(refused), "{refused}");
        }
        let mut foreign = package("foreign", &[]);
        foreign["license"] = json!("SSPL-1.0");
        assert_eq!(foreign_licences(&json!({ "packages": [foreign], "resolve": { "nodes": [{ "id": "foreign" }] } })).len(), 1);
        let mut silent = package("silent", &[]);
        silent["license"] = Value::Null;
        assert_eq!(foreign_licences(&json!({ "packages": [silent], "resolve": { "nodes": [{ "id": "silent" }] } })).len(), 1);
    }

    #[test]
    fn a_banned_package_is_found_in_the_lock_file() {
        assert_eq!(banned("[[package]]\nname = \"aws-lc-sys\"\nversion = \"0.1.0\"\n").len(), 1);
        assert_eq!(banned("name = \"aws-lc-sys-not\"\n").len(), 0);
    }

    #[test]
    fn a_text_in_the_wrong_file_is_found_unless_it_is_a_comment_or_a_test() {
        for rule in RULES {
            let line = format!("fn f() {{ x = {}; }}", rule.text);
            assert_eq!(misplaced(&files("plugins/src/new.rs", &line), std::slice::from_ref(rule)).len(), 1, "{}", rule.text);
        }
        let innocent = "// Instant::now\n    /// env::var\nlet operand::x = 1;\n#[cfg(test)]\nmod tests {\n    Instant::now();\n}\n";
        assert_none(&misplaced(&files("plugins/src/new.rs", innocent), RULES));
    }

    #[test]
    fn an_exception_that_nothing_needs_is_found() {
        let rules = [Rule { text: "Instant::now", files: &["a.rs", "b/"], why: "" }];
        assert_eq!(idle_exceptions(&files("a.rs", "Instant::now()"), &rules).len(), 1);
        assert_eq!(idle_exceptions(&Files::from([("a.rs".into(), "Instant::now()".into()), ("b/c.rs".into(), "Instant::now()".into())]), &rules).len(), 0);
    }

    #[test]
    fn a_process_that_is_started_elsewhere_is_found_however_it_is_imported() {
        for code in [
            "use std::process::Command;",
            "use std::{\n    io,\n    process::{\n        Command, Stdio,\n    },\n};",
            "tokio::process::Command::new(\"sh\")",
            "use tokio::process::{Child, Command};",
        ] {
            assert_eq!(spawning(&files("plugins/src/new.rs", code)).len(), 1, "{code}");
            assert_eq!(spawning(&files("router/effects/src/command.rs", code)).len(), 0, "{code}");
        }
        for code in ["use std::process::{ExitCode, exit};", "use clap::Command;", "use std::os::unix::process::CommandExt;", "std::process::id()"] {
            assert_eq!(spawning(&files("plugins/src/new.rs", code)).len(), 0, "{code}");
        }
    }

    #[test]
    fn a_new_entry_at_the_top_is_found() {
        assert_eq!(out_of_place(&["utils".to_owned(), "router".to_owned(), "target".to_owned()]).len(), 1);
    }

    #[test]
    fn a_place_of_this_machine_is_found() {
        let place = root().to_str().expect("the path is text").to_owned();
        assert!(places_of_this_machine().contains(&place));
        assert_eq!(machine_paths(&Files::from([("README.md".to_owned(), format!("see {place}/notes.md"))]), std::slice::from_ref(&place)).len(), 1);
        assert_eq!(machine_paths(&Files::from([("README.md".to_owned(), format!("see {place}-elsewhere"))]), &[place]).len(), 0);
    }
}
