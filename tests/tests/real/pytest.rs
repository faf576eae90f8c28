//! Real pytest in real git repositories with worktrees.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::json;
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
    fs::create_dir(main.join("empty")).expect("made");
    let path = |name: &str| home.path().join(name).to_str().expect("a path of ours").to_owned();
    let (main, worktree) = (path("main"), path("worktree"));
    (home, main, worktree)
}

#[test]
#[ignore = "takes real programs: tests/run --real"]
fn two_hundred_writes_in_two_directories_are_two_runs_of_a_real_pytest() {
    for transport in TRANSPORTS {
        let (home, main, worktree) = repositories();
        let routes = format!(
            "[[route]]\nname = \"ci\"\non = [\"session.thread.agent.action\"]\ncoalesce = {{ by = \"working_directory\", quiet_ms = 6_000, max_wait_ms = 120_000, events_max = 125 }}\ntimeout_ms = 300_000\nhandler = \"ci\"\nwith = {{ command = [\"{}\", \"-q\"], roots = [\"{}\"] }}\n[[route]]\nname = \"told\"\non = [\"ci.run.finished\"]\nhandler = \"exec\"\nwith = {{ command = [\"sh\", \"-c\", \"cat >> ../told; echo >> ../told\"] }}\n",
            installed("pytest").display(),
            home.path().display()
        );
        let world = World::new(transport, &routes);
        let service = world.serve();
        for n in 0..200 {
            let directory = if n % 2 == 0 { &main } else { &worktree };
            service.send("session.thread.agent.action", &written(&format!("w-{n}"), directory, &format!("{directory}/m{}.py", n / 2)));
            // What is ignored, outside or no Python file is no reason to run.
            if n % 20 == 0 {
                for (id, file) in [("ignored", format!("{main}/build/x.py")), ("text", format!("{main}/README.md"))] {
                    service.send("session.thread.agent.action", &written(&format!("{id}-{n}"), &format!("{main}/empty"), &file));
                }
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let runs = patiently("both runs", || Some(world.told("told")).filter(|runs| runs.len() >= 2));
        let of = |directory: &str| runs.iter().find(|run| run["working_directory"] == directory).unwrap_or_else(|| panic!("no run in {directory}: {runs:?}"));
        for (directory, status, code) in [(&main, "passed", 0), (&worktree, "failed", 1)] {
            let run = of(directory);
            assert_eq!((&run["status"], &run["exit_code"], &run["events"]), (&json!(status), &json!(code), &json!(100)), "{transport:?}: {run}");
            assert_eq!(run["files"].as_array().map(Vec::len), Some(100));
        }
        assert!(of(&worktree)["output_tail"].as_str().is_some_and(|tail| tail.contains("1 failed")));
        // Where there is no test, that is what is told.
        service.send("session.thread.agent.action", &written("e-1", &format!("{main}/empty"), &format!("{main}/empty/new.py")));
        let runs = patiently("the run without tests", || Some(world.told("told")).filter(|runs| runs.len() >= 3));
        service.stop();
        let statuses: Vec<_> = runs.iter().map(|run| run["status"].as_str().unwrap_or_default()).collect();
        assert_eq!((statuses.len(), statuses.iter().filter(|status| **status == "no_tests").count()), (3, 1), "{statuses:?}");
    }
}
