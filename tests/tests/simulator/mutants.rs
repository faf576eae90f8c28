//! Mistakes that the simulator must find: each is a small change to the sources, kept in `mutants/`, and made in a copy of what the
//! simulator needs. Where a change fits is looked up by its text, so that it survives a file that is split.
//!
//! The copies are compiled, so they are for the long form of the tests; that each change still fits is checked always.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{is_long, life, panics, plan::Plan};

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

/// What the simulator needs, and nothing else, so that a mutant is compiled quickly.
fn workspace(at: &Path) {
    for part in ["config", "router/api", "router/core", "router/testkit", "router/amqp/src", "tests/tests/simulator"] {
        copy(&root().join(part), &at.join(part));
    }
    let whole = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let begin = whole.find("members = [").expect("the workspace has members");
    let end = begin + whole[begin..].find(']').expect("the list has an end");
    let members = "members = [\"router/api\", \"router/core\", \"router/testkit\", \"tests\"";
    let manifest = format!("{}{members}{}", &whole[..begin], &whole[end..]);
    // Those are not in the copy.
    let manifest: String = manifest.lines().filter(|line| !line.starts_with("default-members")).map(|line| format!("{line}\n")).collect();
    fs::write(at.join("Cargo.toml"), manifest).expect("the manifest can be written");
    fs::copy(root().join("Cargo.lock"), at.join("Cargo.lock")).expect("the lock can be copied");
    let used = [
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
    ];
    let used: String = used.iter().map(|name| format!("{name}.workspace = true\n")).collect();
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
fn the_simulator_finds_each_mistake_and_the_same_seed_passes_without_it() {
    if !is_long() {
        return;
    }
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
