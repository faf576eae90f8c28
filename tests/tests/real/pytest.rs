//! Real pytest in real git repositories with worktrees.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use router_tests::Service;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    programs::{installed, patiently},
    world::{TRANSPORTS, World, written},
};

fn git(directory: &Path, args: &[&str]) {
    let ran = Command::new("git").args(["-c", "user.name=t", "-c", "user.email=t@t", "-C"]).arg(directory).args(args).output().expect("git runs");
    assert!(ran.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A repository with a test that passes and, beside it, a worktree with one that does not.
fn repositories() -> (TempDir, String, String) {
    let home = TempDir::new().expect("a temporary directory");
    let main = home.path().join("main");
    fs::create_dir(&main).expect("made");
    fs::write(main.join("test_green.py"), "def test_green():\n    assert True\n").expect("written");
    fs::write(main.join(".gitignore"), "build/\n__pycache__/\n.pytest_cache/\n").expect("written");
    git(home.path(), &["init", "--quiet", "-b", "main", "main"]);
    git(&main, &["add", "."]);
    git(&main, &["commit", "--quiet", "-m", "begun"]);
    git(&main, &["worktree", "add", "--quiet", "-b", "feat/x", "../worktree"]);
    fs::write(home.path().join("worktree/test_red.py"), "def test_red():\n    assert 1 == 2\n").expect("written");
    for name in ["empty", "fresh"] {
        fs::create_dir(main.join(name)).expect("made");
    }
    let path = |name: &str| home.path().join(name).to_str().expect("a path of ours").to_owned();
    let (main, worktree) = (path("main"), path("worktree"));
    (home, main, worktree)
}

/// The writes of one burst, and how often so long a pause came between two of them that they may have been two bursts: this machine
/// stands still at times.
struct Writing<'w> {
    service: &'w Service,
    last: BTreeMap<String, Instant>,
    pauses: BTreeMap<String, usize>,
}

impl<'w> Writing<'w> {
    fn new(service: &'w Service) -> Self {
        Self { service, last: BTreeMap::new(), pauses: BTreeMap::new() }
    }

    fn write(&mut self, directory: &str, id: &str, file: &str) {
        self.service.send("session.thread.agent.action", &written(id, directory, file));
        let now = Instant::now();
        if self.last.insert(directory.to_owned(), now).is_some_and(|last| now - last >= QUIET / 2) {
            *self.pauses.entry(directory.to_owned()).or_default() += 1;
        }
    }

    /// Of these runs in `directory`: exactly one, where nothing stood still, and all of its events in any case.
    fn check(&self, runs: &[Value], directory: &str, writes: usize) {
        let events: u64 = runs.iter().filter_map(|run| run["events"].as_u64()).sum();
        assert_eq!(events, writes as u64, "{directory}: {runs:?}");
        let pauses = self.pauses.get(directory).copied().unwrap_or_default();
        assert!(!runs.is_empty() && runs.len() <= 1 + pauses, "{directory}: {} runs of one burst, {pauses} pauses", runs.len());
    }
}

const QUIET: Duration = Duration::from_secs(8);

/// The runs in `directory` that were told of.
fn runs_in(world: &World, directory: &str) -> Vec<Value> {
    world.told("told").into_iter().filter(|run| run["working_directory"] == directory).collect()
}

fn events_of(runs: &[Value]) -> u64 {
    runs.iter().filter_map(|run| run["events"].as_u64()).sum()
}

#[test]
#[ignore = "takes real programs: tests/run --real"]
fn two_hundred_writes_over_five_seconds_are_one_run_of_a_real_pytest_in_each_directory() {
    for transport in TRANSPORTS {
        let (home, main, worktree) = repositories();
        let routes = format!(
            "[[route]]\nname = \"ci\"\non = [\"session.thread.agent.action\"]\nprefetch = 1_000\ncoalesce = {{ by = \"working_directory\", quiet_ms = {}, max_wait_ms = 600_000, events_max = 250 }}\ntimeout_ms = 300_000\nhandler = \"ci\"\nwith = {{ command = [\"{}\", \"-q\"], roots = [\"{}\"] }}\n[[route]]\nname = \"told\"\non = [\"ci.run.finished\"]\nconcurrency = 1\nhandler = \"exec\"\nwith = {{ command = [\"sh\", \"-c\", \"cat >> ../told; echo >> ../told\"] }}\n",
            QUIET.as_millis(),
            installed("pytest").display(),
            home.path().display()
        );
        let world = World::new(transport, &routes);
        let service = world.serve();
        let mut writing = Writing::new(&service);
        let [empty, fresh, gone] = ["empty", "fresh", "gone"].map(|name| format!("{main}/{name}"));
        for n in 0..200 {
            writing.write(&main, &format!("w-{n}"), &format!("{main}/m{n}.py"));
            if n % 5 == 0 {
                writing.write(&worktree, &format!("x-{n}"), &format!("{worktree}/m{n}.py"));
            }
            // What is ignored, no Python file, or in a directory that is not on this machine is no reason to run.
            if n % 20 == 0 {
                for (id, directory, file) in
                    [("ignored", &empty, format!("{main}/build/x.py")), ("text", &empty, format!("{main}/README.md")), ("gone", &gone, format!("{gone}/x.py"))]
                {
                    service.send("session.thread.agent.action", &written(&format!("{id}-{n}"), directory, &file));
                }
            }
            std::thread::park_timeout(Duration::from_millis(25));
        }
        patiently("the runs of all writes", || (events_of(&runs_in(&world, &main)) >= 200 && events_of(&runs_in(&world, &worktree)) >= 40).then_some(()));
        for (directory, writes, status, code) in [(&main, 200, "passed", 0), (&worktree, 40, "failed", 1)] {
            let runs = runs_in(&world, directory);
            writing.check(&runs, directory, writes);
            assert_eq!(runs.iter().filter_map(|run| run["files"].as_array().map(Vec::len)).sum::<usize>(), writes, "{transport:?}");
            for run in runs {
                assert_eq!((&run["status"], &run["exit_code"]), (&json!(status), &json!(code)), "{transport:?}: {run}");
                assert_eq!(run["output_tail"].as_str().is_some_and(|tail| tail.contains("1 failed")), code == 1, "{run}");
            }
        }
        // What is written later is another run; where there is no test, that is what is told.
        let before = runs_in(&world, &main).len();
        let mut writing = Writing::new(&service);
        for n in 0..5 {
            writing.write(&main, &format!("later-{n}"), &format!("{main}/m{n}.py"));
            writing.write(&fresh, &format!("fresh-{n}"), &format!("{fresh}/new{n}.py"));
        }
        patiently("the later runs", || (events_of(&runs_in(&world, &main)) >= 205 && events_of(&runs_in(&world, &fresh)) >= 5).then_some(()));
        writing.check(&runs_in(&world, &main)[before..], &main, 5);
        let runs = runs_in(&world, &fresh);
        writing.check(&runs, &fresh, 5);
        assert!(runs.iter().all(|run| run["status"] == "no_tests"), "{runs:?}");
        service.stop();
        assert_eq!((runs_in(&world, &gone).len(), runs_in(&world, &empty).len(), world.letters("ci")), (0, 0, Vec::new()));
    }
}
