//! Worktrees of real repositories, on the built program.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use router_tests::{Home, Service, eventually};
use serde_json::{Value, json};

/// A directory with a repository `demo`: main worktree `trunk`, the worktree `feat-auth`, branches without one. The home is that of
/// nobody, so that no configuration of a developer counts.
pub(crate) struct Office {
    pub(crate) home: Home,
    /// What stands before the routes.
    transport: String,
}

impl Office {
    fn new() -> Self {
        Self::on(String::new())
    }

    pub(crate) fn on(transport: String) -> Self {
        let office = Self { home: Home::new(""), transport };
        office.repository("demo/trunk");
        office.git("demo/trunk", &["worktree", "add", "-q", "-b", "feat/auth", "../feat-auth"]);
        for branch in ["feat/new", "fix/late", "$(touch${IFS}evil)", "a;b'c\"d", "größe/ü"] {
            office.git("demo/trunk", &["branch", branch]);
        }
        office
    }

    /// Where repositories lie, as git names it.
    fn code(&self) -> PathBuf {
        let path = self.home.path().join("code");
        fs::create_dir_all(&path).expect("a directory of ours");
        path.canonicalize().expect("it is there")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.code().join(name)
    }

    fn repository(&self, name: &str) {
        fs::create_dir_all(self.path(name)).expect("a directory of ours");
        self.git(name, &["init", "-q", "-b", "main"]);
        fs::write(self.path(name).join("a.py"), "print(1)\n").expect("a file of ours");
        self.git(name, &["add", "a.py"]);
        self.git(name, &["commit", "-q", "-m", "first"]);
    }

    fn git(&self, directory: &str, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=ada", "-c", "user.email=ada@example.org"]).args(args).current_dir(self.path(directory));
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        let done = git.output().expect("git runs");
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Serves a route with these options; what it emits goes to a second one.
    pub(crate) fn serve(&self, options: &str) -> Service {
        let roots = format!("roots = [{:?}]", self.code());
        self.home.configure(&format!(
            "{}[[route]]\nname = \"worktree\"\non = [\"session.thread.start\"]\norder_by = \"session_id\"\nretry = {{ attempts_max = 2, first_delay_ms = 10 }}\nhandler = \"imi\"\n[route.with]\n{roots}\n{options}\n\n\
             [[route]]\nname = \"told\"\non = [\"worktree.synced\"]\norder_by = \"session_id\"\nconcurrency = 1\nhandler = \"exec\"\nwith = {{ command = [\"sh\", \"-c\", \"cat >> ../emitted; echo >> ../emitted\"] }}\n",
            self.transport
        ));
        self.home.serve()
    }

    pub(crate) fn start(&self, id: &str, branch: &str, directory: &str) -> Value {
        let directory = if directory.starts_with('/') { directory.to_owned() } else { self.path(directory).to_string_lossy().into_owned() };
        start(id, branch, &directory)
    }

    /// What became of an event: its note or reason, as JSON.
    fn fate(&self, id: &str) -> Value {
        eventually(&format!("`{id}` is settled"), || {
            let told = self.home.run(&["events", "--json", "--last", "200"]).code(0).json();
            let event = told["events"].as_array()?.iter().find(|event| event["id"] == id)?.clone();
            let state = event["deliveries"][0]["state"].clone();
            matches!(state["state"].as_str(), Some("finished" | "dead")).then_some(state)
        })
    }

    fn synced(&self) -> Vec<Value> {
        let told = self.home.run(&["events", "--json", "--last", "200"]).code(0).json();
        let events = told["events"].as_array().expect("a list");
        events.iter().rev().filter(|event| event["key"] == "worktree.synced").map(|event| event["event"]["payload"].clone()).collect()
    }
}

fn start(id: &str, branch: &str, directory: &str) -> Value {
    json!({ "event_id": id, "event_type": "session.thread.start", "timestamp": "2026-03-02T09:00:00Z", "version": "1.0.0",
        "source": { "host": "h", "type": "agent", "app": "claude-code" }, "correlation_ids": [], "agent_context": null,
        "payload": { "session_id": "s-1", "working_directory": directory, "git_branch": branch, "model": "m" } })
}

pub(crate) fn branch_at(path: &Path) -> String {
    let done = Command::new("git").args(["symbolic-ref", "--short", "HEAD"]).current_dir(path).output().expect("git runs");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

#[test]
fn the_worktree_of_a_branch_is_found_made_when_missing_and_made_again_when_gone() {
    let office = Office::new();
    let service = office.serve("create = true\ncallback = [\"sh\", \"-c\", \"cat > told.json\"]");
    // A hook of the repository must not run.
    let hook = office.path("demo/trunk/.git/hooks/post-checkout");
    fs::create_dir_all(hook.parent().expect("it has one")).expect("a directory of ours");
    fs::write(&hook, format!("#!/bin/sh\ntouch {:?}\n", office.path("hooked"))).expect("a file of ours");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("a file of ours");

    service.send("session.thread.start", &office.start("found", "feat/auth", "demo/trunk"));
    assert_eq!(office.fate("found")["fate"], "handled");
    let told: Value = serde_json::from_str(&fs::read_to_string(office.path("demo/feat-auth/told.json")).expect("the callback ran there")).expect("JSON");
    let expected =
        json!({ "branch": "feat/auth", "path": office.path("demo/feat-auth"), "repository": office.path("demo/trunk"), "session_id": "s-1", "changed": true });
    assert_eq!(told, expected);
    assert_eq!(eventually("it is told of", || office.synced().first().cloned()), expected);

    service.send("session.thread.start", &office.start("made", "feat/new", "demo/feat-auth"));
    assert_eq!(office.fate("made")["fate"], "handled");
    assert_eq!(branch_at(&office.path("demo/feat-new")), "feat/new");

    fs::remove_dir_all(office.path("demo/feat-new")).expect("it is there");
    service.send("session.thread.start", &office.start("again", "feat/new", "demo/trunk"));
    assert_eq!(office.fate("again")["fate"], "handled");
    assert_eq!(branch_at(&office.path("demo/feat-new")), "feat/new");
    assert!(!office.path("hooked").exists(), "a hook ran");

    service.send("session.thread.start", &office.start("nowhere", "feat/nobody", "demo/trunk"));
    assert!(office.fate("nowhere").to_string().contains("there is no branch `feat/nobody`"));
    fs::create_dir_all(office.path("demo/fix-late")).expect("a directory of ours");
    service.send("session.thread.start", &office.start("taken", "fix/late", "demo/trunk"));
    let state = office.fate("taken");
    assert_eq!(state["state"], "dead", "{state}");
    let letters = office.home.run(&["dead-letters", "list", "--json"]).code(0).json();
    assert!(letters.to_string().contains("is there already"), "{letters}");
    service.stop();
}

#[test]
fn what_is_not_here_or_no_repository_is_skipped_and_nothing_is_made_unasked() {
    let office = Office::new();
    let service = office.serve("");
    fs::create_dir_all(office.path("plain")).expect("a directory of ours");
    for (id, branch, directory, expected) in [
        ("gone", "feat/auth", "demo/gone", "not on this machine"),
        ("plain", "feat/auth", "plain", "is in no git repository"),
        ("unmade", "feat/new", "demo/trunk", "has no worktree"),
        ("head", "HEAD", "demo/trunk", "names no branch"),
    ] {
        service.send("session.thread.start", &office.start(id, branch, directory));
        let state = office.fate(id).to_string();
        assert!(state.contains("skipped") && state.contains(expected), "{id}: {state}");
    }
    assert!(!office.path("demo/feat-new").exists());
    assert_eq!(office.synced(), Vec::<Value>::new());
    service.stop();
}

#[test]
fn hostile_events_run_nothing_and_lead_nowhere() {
    let office = Office::new();
    let outside = office.home.path().canonicalize().expect("it is there").join("outside");
    fs::create_dir_all(&outside).expect("a directory of ours");
    symlink(&outside, office.path("escape")).expect("a link of ours");
    symlink(&outside, office.path("demo/feat-x")).expect("a link of ours");
    office.git("demo/trunk", &["branch", "feat/x"]);
    // A file `.git` that leads to a repository outside of the roots.
    fs::create_dir_all(office.path("trap")).expect("a directory of ours");
    let hidden = Command::new("git").args(["init", "-q"]).arg(outside.join("hidden")).status().expect("git runs");
    assert!(hidden.success());
    fs::write(office.path("trap/.git"), format!("gitdir: {}\n", outside.join("hidden/.git").display())).expect("a file of ours");
    let before = fs::read_dir(&outside).expect("it is there").count();
    let service = office.serve("create = true");
    let huge = "x".repeat(1 << 20);
    let outside = outside.to_string_lossy().into_owned();
    let climbing = format!("{}/../outside", office.code().display());
    for (id, branch, directory) in [
        ("option", "--upload-pack=touch evil", "demo/trunk"),
        ("option-2", "--detach", "demo/trunk"),
        ("climb", "../../outside/x", "demo/trunk"),
        ("url", "https://evil.example/x", "demo/trunk"),
        ("line", "feat/auth\nworktree /etc", "demo/trunk"),
        ("nul", "feat/auth\0x", "demo/trunk"),
        ("bidi", "feat/\u{202e}htua", "demo/trunk"),
        ("huge", huge.as_str(), "demo/trunk"),
        ("link", "main", "escape"),
        ("place", "feat/x", "demo/trunk"),
        ("trap", "main", "trap"),
        ("outside", "main", outside.as_str()),
        ("dots", "main", climbing.as_str()),
        ("etc", "main", "/etc"),
    ] {
        service.send("session.thread.start", &office.start(id, branch, directory));
        let state = office.fate(id);
        assert_eq!(state["state"], "dead", "{id}: {state}");
    }
    service.send("session.thread.start", &office.start("deep", "main", &format!("{}/{huge}", office.code().display())));
    assert_eq!(office.fate("deep")["state"], "dead");
    // What only a shell would mind is a branch like any other.
    for (id, branch) in [("dollar", "$(touch${IFS}evil)"), ("quotes", "a;b'c\"d"), ("umlaut", "größe/ü")] {
        service.send("session.thread.start", &office.start(id, branch, "demo/trunk"));
        assert_eq!(office.fate(id)["fate"], "handled", "{id}");
        assert_eq!(branch_at(&office.path(&format!("demo/{}", branch.replace('/', "-")))), branch);
    }
    assert_eq!(fs::read_dir(&outside).expect("it is there").count(), before, "something was made outside of the roots");
    for place in ["", "demo", "demo/trunk"] {
        assert!(!office.path(place).join("evil").exists(), "{place}");
    }
    assert!(!office.home.path().join("evil").exists());
    service.stop();
}

#[test]
fn a_repository_of_imi_is_found_through_its_recorded_answers_and_checked_with_git() {
    let office = Office::new();
    // Prints what iMi 2.0.2 prints, and notes what it was asked.
    let imi = office.home.write(
        "bin/imi",
        "#!/bin/sh\nprintf '%s\\n' \"$*\" >> \"$0.asked\"\ncase \"$*\" in\n\
         'go feat/auth --json') printf '\\342\\234\\205 Selected:  [feat/auth]\\n' >&2; printf '{\\n  \"success\": true,\\n  \"data\": {\\n    \"target_path\": \"CODE/demo/feat-auth\"\\n  }\\n}\\n';;\n\
         'go fix/l --json') printf '{\\n  \"success\": true,\\n  \"data\": {\\n    \"target_path\": \"CODE/demo/feat-auth\"\\n  }\\n}\\n';;\n\
         'add fix late --json') git worktree add -q ../fix-late fix/late && printf 'Auto-created branch removed\\n{\\n  \"success\": true,\\n  \"data\": {\\n    \"message\": \"Fix worktree created successfully\",\\n    \"worktree_name\": \"fix-late\",\\n    \"worktree_path\": \"CODE/demo/fix-late\"\\n  }\\n}\\n';;\n\
         'sync --json') printf '   Checking Git worktrees for repo: demo\\n{\\n  \"success\": true,\\n  \"data\": {\\n    \"message\": \"Database synced successfully\"\\n  }\\n}\\n';;\n\
         *) printf \"Error: No worktrees or repositories found matching '%s'\\n\" \"$2\" >&2; exit 1;;\nesac\n"
            .replace("CODE", &office.code().to_string_lossy())
            .as_str(),
    );
    fs::set_permissions(&imi, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    let service = office.serve(&format!("backend = \"imi\"\nimi = [{imi:?}]\ncreate = true"));
    for (id, branch, worktree) in [("known", "feat/auth", "feat-auth"), ("unknown-to-imi", "main", "trunk"), ("made", "fix/late", "fix-late")] {
        service.send("session.thread.start", &office.start(id, branch, "demo/trunk"));
        assert_eq!(office.fate(id)["fate"], "handled", "{id}");
        assert_eq!(branch_at(&office.path("demo").join(worktree)), branch);
    }
    service.send("session.thread.start", &office.start("near", "fix/l", "demo/trunk"));
    let state = office.fate("near").to_string();
    assert!(!state.contains("handled"), "a near match was taken: {state}");
    let paths = eventually("three are told of", || Some(office.synced()).filter(|told| told.len() == 3));
    assert_eq!(
        paths.iter().map(|told| told["path"].clone()).collect::<Vec<_>>(),
        ["feat-auth", "trunk", "fix-late"].map(|name| json!(office.path("demo").join(name)))
    );
    let asked = office.home.read("bin/imi.asked");
    assert!(asked.lines().any(|line| line == "sync --json") && asked.lines().any(|line| line == "add fix late --json"), "{asked}");
    service.stop();
}
