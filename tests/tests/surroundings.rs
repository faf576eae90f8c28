//! The program in surroundings that are not its own: files of another user, a directory with nothing in it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use router_tests::{Home, Ran, Service, binary};

const ROUTE: &str = "[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n";

/// Who may do nothing: the user that every system has for that.
const NOBODY: &str = "65534";

fn close(path: &Path, mode: u32) -> Closed {
    let before = fs::metadata(path).expect("it is there").permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file of ours");
    Closed { path: path.to_owned(), before }
}

/// Opens it again, so that the directory can be taken away.
struct Closed {
    path: PathBuf,
    before: fs::Permissions,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.path, self.before.clone());
    }
}

/// Runs the program as a user to whom what is closed is closed: the superuser steps down for that.
struct Stranger {
    program: PathBuf,
    steps_down: bool,
}

impl Stranger {
    /// `None`, loudly, where the superuser cannot step down.
    fn new(home: &Home) -> Option<Self> {
        let steps_down = rustix::process::geteuid().is_root();
        if !steps_down {
            return Some(Self { program: binary().to_owned(), steps_down });
        }
        if !Command::new("setpriv").arg("--version").output().is_ok_and(|ran| ran.status.success()) {
            skipped("what a user without rights is told, since this is the superuser and there is no `setpriv` (util-linux)");
            return None;
        }
        // The built one may lie where only its owner looks.
        let program = home.path().join("event-router");
        // By a process of its own: whoever starts another one meanwhile would hold a file open that we write, which cannot be run then.
        let copied = Command::new("cp").arg(binary()).arg(&program).status().expect("`cp` runs");
        assert!(copied.success(), "the program can be copied");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("a directory of ours");
        Some(Self { program, steps_down })
    }

    fn run(&self, home: &Home, args: &[&str]) -> Ran {
        let mut command = if self.steps_down {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.args(args).current_dir(home.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        Ran::of(command.output().expect("the program runs"))
    }
}

#[expect(clippy::print_stderr, reason = "a test that is left out is said aloud")]
fn skipped(what: &str) {
    eprintln!("\n!!! NOT TESTED: {what} !!!\n");
}

#[test]
fn a_configuration_that_may_not_be_read_is_said_and_no_other_one_is_taken() {
    let home = Home::new(ROUTE);
    let Some(stranger) = Stranger::new(&home) else { return };
    for (closed, mode) in [("config/router.toml", 0o000), ("config", 0o000)] {
        let _closed = close(&home.path().join(closed), mode);
        for command in ["check", "run"] {
            let ran = stranger.run(&home, &[command]).code(78);
            let said = ran.stdout + &ran.stderr;
            assert!(said.contains("config") && said.contains("may not be read by this user: permission denied"), "{closed}: {said}");
            assert!(!said.contains("built-in"), "{closed}: {said}");
        }
    }
    let _ = stranger.run(&home, &["check"]).code(0);
}

#[test]
fn a_store_of_another_user_is_neither_taken_for_an_empty_one_nor_written_beside() {
    let home = Home::new(ROUTE);
    let Some(stranger) = Stranger::new(&home) else { return };
    let _ = home.run(&["publish", "--sample", "write"]).code(0);
    // The configuration may be read, the store is its owner's alone.
    {
        let _closed = close(&home.store(), 0o000);
        let _directory = close(&home.path().join("state"), 0o755);
        let ran = stranger.run(&home, &["events"]).code(1);
        assert!(ran.stderr.contains("is not yours to open") && ran.stderr.contains("run this as its owner"), "{}", ran.stderr);
    }
    {
        let _directory = close(&home.path().join("state"), 0o000);
        let ran = stranger.run(&home, &["events"]).code(1);
        assert!(ran.stderr.contains("cannot be seen") && ran.stderr.contains("lets you not pass"), "{}", ran.stderr);
    }
    let answer = home.run(&["events", "--json"]).code(0).json();
    assert_eq!(answer["events"].as_array().map(Vec::len), Some(1), "the owner finds what he left");
}

#[test]
fn a_store_that_cannot_be_made_is_said_with_what_to_do() {
    let home = Home::new(ROUTE);
    let Some(stranger) = Stranger::new(&home) else { return };
    let state = home.path().join("state");
    fs::create_dir(&state).expect("a directory of ours");
    let _closed = close(&state, 0o555);
    let ran = stranger.run(&home, &["run"]).code(1);
    assert!(ran.stderr.contains("state/router.db") && ran.stderr.contains("cannot be written: give the user of this program"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(&state).expect("it may be read").count(), 0);
}

#[test]
fn a_router_that_is_started_in_a_directory_with_nothing_in_it_says_where_it_made_its_store() {
    let home = Home::new(ROUTE);
    let empty = home.path().join("elsewhere");
    fs::create_dir(&empty).expect("a directory of ours");
    let begin = || {
        let mut command = home.command(&["run"]);
        command.current_dir(&empty);
        let mut service = Service::begin(command);
        let first = service.wait_for("event-router starts with").expect("it says so");
        // Its door is the default one, which somebody else may have: then it ends with a sentence, after this line all the same.
        let line = service.wait_for("the store is").expect("it says so");
        service.signal(rustix::process::Signal::TERM);
        let _ = service.wait();
        (first, line)
    };
    let (first, line) = begin();
    assert!(first.contains("the built-in configuration (there is none in"), "{first}");
    let store = empty.join("state/router.db");
    assert!(line.contains(&format!("the store is `{}`, made now", store.display())), "{line}");
    assert!(store.exists());
    let (_, again) = begin();
    assert!(again.contains(&format!("the store is `{}`", store.display())) && !again.contains("made now"), "{again}");
}
