//! Mistakes that the simulator must find: each is a small change to the sources, kept in `mutants/`, and made in a copy of what the
//! simulator needs. Where a change fits is looked up by its text, so that it survives a file that is split.
//!
//! The copies are compiled, so they are tried by `tests/run --mutants`; that each change still fits, and that the copy has all that it needs,
//! is checked always.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{life, panics, plan::Plan};

struct Mutant {
    name: String,
    changes: Vec<Change>,
}

struct Change {
    below: String,
    before: Vec<String>,
    after: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package of the tests lies in the workspace")
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn mutants() -> Vec<Mutant> {
    let directory = root().join("tests/tests/simulator/mutants");
    let mut mutants: Vec<Mutant> = fs::read_dir(directory)
        .expect("the mutants lie beside this file")
        .map(|entry| {
            let path = entry.expect("the entry can be read").path();
            let text = fs::read_to_string(&path).expect("a mutant is text");
            let changes = text.split("--- in ").skip(1).map(|change| {
                let (below, rest) = change.split_once('\n').expect("a change says where it is");
                let (before, after) = rest.split_once("--- becomes\n").expect("a change says what it becomes");
                Change { below: below.trim().to_owned(), before: lines(before), after: after.to_owned() }
            });
            Mutant { name: path.file_stem().expect("a name").to_string_lossy().into_owned(), changes: changes.collect() }
        })
        .collect();
    mutants.sort_by(|a, b| a.name.cmp(&b.name));
    mutants
}

fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).expect("the directory can be read") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

impl Change {
    /// The only place where it fits, with the text that it makes of the file there.
    fn applied(&self, root: &Path) -> Result<(PathBuf, String), String> {
        let mut files = Vec::new();
        sources(&root.join(&self.below), &mut files);
        let mut places = BTreeMap::new();
        for file in files {
            let text = fs::read_to_string(&file).expect("a source is text");
            let all: Vec<&str> = text.lines().collect();
            let fits = |at: &usize| {
                let mut rest = all[*at..].iter().map(|line| line.trim()).filter(|line| !line.is_empty());
                // The last line may go on.
                self.before.iter().enumerate().all(|(nth, wanted)| {
                    rest.next().is_some_and(|line| if nth + 1 == self.before.len() { line.starts_with(wanted.as_str()) } else { line == wanted })
                })
            };
            for at in (0..all.len()).filter(fits).filter(|at| !all[*at].trim().is_empty()) {
                let mut end = at;
                let mut matched = 0;
                while matched < self.before.len() {
                    matched += usize::from(!all[end].trim().is_empty());
                    end += 1;
                }
                // What follows on the last line stays.
                let rest = all[end - 1].trim().strip_prefix(self.before.last().map_or("", String::as_str)).unwrap_or_default();
                let changed = format!("{}\n{}{rest}\n{}\n", all[..at].join("\n"), self.after.trim_end(), all[end..].join("\n"));
                places.insert((file.clone(), at), changed);
            }
        }
        let count = places.len();
        match places.pop_first() {
            Some(((file, _), text)) if count == 1 => Ok((file, text)),
            _ => Err(format!("`{}` fits {count} places below {}, where it should fit one", self.before.join(" / "), self.below)),
        }
    }
}

#[test]
fn each_mistake_that_the_simulator_must_find_can_still_be_made() {
    let mutants = mutants();
    assert!(mutants.len() >= 4, "there are mutants");
    for mutant in mutants {
        assert!(!mutant.changes.is_empty(), "{} changes nothing", mutant.name);
        for change in &mutant.changes {
            if let Err(error) = change.applied(root()) {
                panic!("mutant `{}` does not fit any more; change it with the code: {error}", mutant.name);
            }
        }
    }
}

#[test]
fn the_copy_in_which_mistakes_are_made_has_all_that_the_simulator_needs() {
    let whole: toml::Table = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest").parse().expect("it is TOML");
    let lies_at = |name: &str| whole["workspace"]["dependencies"][name].get("path").and_then(|path| path.as_str().map(str::to_owned));
    for member in MEMBERS {
        let manifest: toml::Table = fs::read_to_string(root().join(member).join("Cargo.toml")).expect("a member").parse().expect("it is TOML");
        for kind in ["dependencies", "dev-dependencies"] {
            for path in manifest.get(kind).and_then(toml::Value::as_table).into_iter().flatten().filter_map(|(name, _)| lies_at(name)) {
                assert!(MEMBERS.contains(&path.as_str()), "{member} needs {path}, which is not in the copy: add it to `MEMBERS`");
            }
        }
    }
    let mut files = Vec::new();
    sources(&root().join("tests/tests/simulator"), &mut files);
    files.push(root().join("router/amqp/src/window.rs"));
    let known: BTreeSet<String> = USED.iter().map(|name| name.replace('-', "_")).chain(["std", "crate", "super"].map(str::to_owned)).collect();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source is text");
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("use ")) {
            let name: String = line.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // A name of the file itself begins with a capital letter, a module of its own stands there as one.
            let is_own = name.starts_with(char::is_uppercase) || name.is_empty() || text.contains(&format!("mod {name}"));
            assert!(is_own || known.contains(&name), "{} uses `{name}`, which is not in the copy: add it to `USED`", file.display());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("the directory can be read") {
        let path = entry.expect("the entry can be read").path();
        let name = path.file_name().expect("an entry has a name");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("a file can be copied");
        }
    }
}

/// The crates that the simulator is made of.
const MEMBERS: &[&str] = &["router/api", "router/core", "router/secrets", "router/testkit", "router/transcripts"];

/// What it reads besides: the shipped configuration, and the window of the AMQP transport.
const BESIDE: &[&str] = &["config", "router/amqp/src", "tests/tests/simulator"];

/// What its sources use.
const USED: &[&str] = &[
    "router-api",
    "router-core",
    "router-testkit",
    "async-trait",
    "bytes",
    "futures-util",
    "jiff",
    "proptest",
    "schemars",
    "serde",
    "serde_json",
    "tempfile",
    "tokio",
    "toml",
];

/// What the simulator needs, and nothing else, so that a mutant is compiled quickly.
fn workspace(at: &Path) {
    for part in MEMBERS.iter().chain(BESIDE) {
        copy(&root().join(part), &at.join(part));
    }
    let whole = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let begin = whole.find("members = [").expect("the workspace has members");
    let end = begin + whole[begin..].find(']').expect("the list has an end");
    let members = MEMBERS.iter().fold("members = [\"tests\"".to_owned(), |members, member| format!("{members}, \"{member}\""));
    let manifest = format!("{}{members}{}", &whole[..begin], &whole[end..]);
    // Those are not in the copy.
    let manifest: String = manifest.lines().filter(|line| !line.starts_with("default-members")).map(|line| format!("{line}\n")).collect();
    fs::write(at.join("Cargo.toml"), manifest).expect("the manifest can be written");
    fs::copy(root().join("Cargo.lock"), at.join("Cargo.lock")).expect("the lock can be copied");
    let used: String = USED.iter().map(|name| format!("{name}.workspace = true\n")).collect();
    let package = "[package]\nname = \"router-tests\"\nversion.workspace = true\nedition.workspace = true\nautotests = false\n\n[lib]\npath = \"empty.rs\"\n";
    let test = "\n[[test]]\nname = \"simulator\"\npath = \"tests/simulator/main.rs\"\n";
    fs::write(at.join("tests/Cargo.toml"), format!("{package}{test}\n[dependencies]\n{used}")).expect("the manifest can be written");
    fs::write(at.join("tests/empty.rs"), "").expect("the file can be written");
}

/// The first seed that fails in a copy, or what was said instead.
fn first_failure(at: &Path, target: &Path) -> Result<u64, String> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--package", "router-tests", "--test", "simulator", "--", "--nocapture", "--include-ignored", "every_schedule"])
        .current_dir(at)
        .env("CARGO_TARGET_DIR", target)
        .env("EVENT_ROUTER_SIMULATIONS", "20000")
        .env("EVENT_ROUTER_SIMULATION_SECONDS", "300")
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let seed = said.lines().find_map(|line| line.strip_prefix("  seed ")?.split(':').next()?.parse().ok());
    seed.ok_or_else(|| format!("{said}\n{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
#[ignore = "compiles a copy for each mistake, some minutes in all: tests/run --mutants"]
fn the_simulator_finds_each_mistake_and_the_same_seed_passes_without_it() {
    let target = tempfile::tempdir().expect("a directory for a while");
    let only = std::env::var("EVENT_ROUTER_SIMULATION_MUTANT").ok();
    for mutant in mutants().into_iter().filter(|mutant| only.as_ref().is_none_or(|only| *only == mutant.name)) {
        let directory = tempfile::tempdir().expect("a directory for a while");
        workspace(directory.path());
        for change in &mutant.changes {
            let (file, text) = change.applied(directory.path()).unwrap_or_else(|error| panic!("mutant `{}`: {error}", mutant.name));
            fs::write(file, text).expect("the copy can be written");
        }
        let seed = first_failure(directory.path(), target.path()).unwrap_or_else(|said| panic!("mutant `{}` was not found:\n{said}", mutant.name));
        panics::listen();
        let report = life::run(&Plan::of(seed), false);
        panics::ignore();
        assert_eq!(report.finding, None, "seed {seed}, which finds `{}`, fails without it too", mutant.name);
        println!("{}: found by seed {seed}", mutant.name);
    }
}
