//! `imi`: which worktree is found, by whom, and what is told of it. With real repositories: `tests/tests/integrations/imi.rs`.

use plugins::imi::Imi;
use router_api::{CommandReply, EffectClass, EffectError, EffectKind, EffectReply, HandlerError, Store};
use router_testkit::{EventBuilder, FakeEffects, Handled, TestContext, event};
use serde_json::{Value, json};

use crate::{built, class, effect_error, end, is_done, polled, skipped, wrong_fields};

const LISTING: &str = "worktree /code/demo/trunk\nHEAD 1\nbranch refs/heads/main\n\nworktree /code/demo/feat-auth\nHEAD 2\nbranch refs/heads/feat/auth\n\n";
const GIT: &str = "git -c core.fsmonitor=false -c core.hooksPath=/dev/null";

fn start() -> EventBuilder {
    event("session.thread.start").session("s-1").working_directory("/code/demo/trunk").git_branch("feat/auth")
}

fn found(target: &str) -> String {
    format!("{{\n  \"success\": true,\n  \"data\": {{ \"target_path\": \"{target}\" }}\n}}\n")
}

/// The next worktree that is looked at is on `branch`.
fn on(effects: &FakeEffects, branch: &str) {
    end(effects, "check", 0, &format!("refs/heads/{branch}\n"), "");
}

/// The next `name` runs in a directory that is not here.
fn not_here(effects: &FakeEffects, name: &str) {
    effects.once(name, |_| Err(EffectError::new(EffectClass::Refused, "`/code/x` is not a directory on this machine")));
}

fn synced(handled: &Handled) -> &Value {
    assert!(is_done(handled), "{:?}", handled.result);
    assert_eq!(handled.emits[0].key.as_str(), "worktree.synced");
    &handled.emits[0].body["payload"]
}

fn rejected(handled: &Handled) -> &str {
    match &handled.result {
        Err(HandlerError::Reject { reason, .. }) => reason,
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test]
async fn git_finds_the_worktree_by_reading_alone_and_is_believed_after_a_look() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "roots": ["/code"] })).await;
    end(&test.effects, "list", 0, LISTING, "");
    on(&test.effects, "feat/auth");
    let handled = test.handle(handler.as_ref(), [start()]).await;
    assert_eq!(
        synced(&handled),
        &json!({ "branch": "feat/auth", "path": "/code/demo/feat-auth", "repository": "/code/demo/trunk", "session_id": "s-1", "changed": true })
    );
    assert_eq!(test.effects.sentences(), [format!("{GIT} worktree list --porcelain"), format!("{GIT} symbolic-ref --quiet HEAD")]);
    assert!(test.effects.requests().iter().all(|request| request.kind == EffectKind::Read));
    let commands = test.effects.commands();
    assert_eq!(
        commands.iter().map(|command| command.cwd.clone().unwrap()).collect::<Vec<_>>(),
        ["/code/demo/trunk", "/code/demo/feat-auth"].map(std::path::PathBuf::from)
    );
    assert!(commands.iter().all(|command| command.below == [std::path::PathBuf::from("/code")]), "no symbolic link leads out");
}

#[tokio::test]
async fn a_listed_worktree_that_is_on_another_branch_by_now_is_not_told_of() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({})).await;
    end(&test.effects, "list", 0, LISTING, "");
    on(&test.effects, "feat/other");
    assert!(skipped(&test.handle(handler.as_ref(), [start()]).await).contains("has no worktree"));
    end(&test.effects, "list", 0, LISTING, "");
    not_here(&test.effects, "check");
    assert!(skipped(&test.handle(handler.as_ref(), [start()]).await).contains("has no worktree"));
}

#[tokio::test]
async fn a_second_session_on_the_branch_changes_nothing_and_a_repeat_says_the_same_again() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({})).await;
    let first = start();
    for (event, branch, changed) in [
        (first.clone(), "feat/auth", true),
        (first, "feat/auth", true),
        (start(), "feat/auth", false),
        (start().git_branch("main"), "main", true),
        (start().git_branch("refs/heads/main"), "main", false),
    ] {
        end(&test.effects, "list", 0, LISTING, "");
        on(&test.effects, branch);
        assert_eq!(synced(&test.handle(handler.as_ref(), [event]).await)["changed"], changed);
    }
}

#[tokio::test]
async fn an_event_that_comes_late_takes_nothing_back() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "callback": ["tell"] })).await;
    let at = |minute: u32, branch: &str| start().git_branch(branch).time(format!("2026-01-02T03:{minute:02}:00Z"));
    for (event, branch, changed) in
        [(at(1, "main"), "main", true), (at(5, "feat/auth"), "feat/auth", true), (at(3, "main"), "main", false), (at(6, "feat/auth"), "feat/auth", false)]
    {
        end(&test.effects, "list", 0, LISTING, "");
        on(&test.effects, branch);
        assert_eq!(synced(&test.handle(handler.as_ref(), [event]).await)["changed"], changed);
    }
    assert_eq!(test.effects.sentences().iter().filter(|sentence| *sentence == "tell").count(), 2);
}

#[tokio::test]
async fn what_names_no_branch_or_is_elsewhere_is_skipped() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({})).await;
    for branch in ["", "unknown", "HEAD"] {
        assert_eq!(skipped(&test.handle(handler.as_ref(), [start().git_branch(branch)]).await), "the event names no branch");
    }
    assert_eq!(skipped(&test.handle(handler.as_ref(), [start().with("git_branch", Value::Null)]).await), "the event names no branch");
    assert_eq!(skipped(&test.handle(handler.as_ref(), [start().working_directory("")]).await), "the event names no working directory");
    assert!(test.effects.requests().is_empty());

    not_here(&test.effects, "list");
    assert!(skipped(&test.handle(handler.as_ref(), [start()]).await).starts_with("not on this machine"));
    end(&test.effects, "list", 128, "", "fatal: not a git repository (or any of the parent directories): .git\n");
    assert!(skipped(&test.handle(handler.as_ref(), [start()]).await).contains("no git repository"));
    end(&test.effects, "list", 0, LISTING, "");
    assert!(skipped(&test.handle(handler.as_ref(), [start().git_branch("feat/other")]).await).contains("no worktree"));
}

#[tokio::test]
async fn a_git_that_fails_is_tried_again_and_one_that_trusts_nobody_is_a_persons_business() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({})).await;
    end(&test.effects, "list", 128, "", "warning: x\nfatal: unable to read tree\n");
    let handled = test.handle(handler.as_ref(), [start()]).await;
    assert_eq!((class(&handled), effect_error(&handled).message.as_str()), (EffectClass::Failed, "git: unable to read tree"));
    end(&test.effects, "list", 128, "", "fatal: detected dubious ownership in repository at '/code/demo'\n");
    let handled = test.handle(handler.as_ref(), [start()]).await;
    assert_eq!(class(&handled), EffectClass::Refused);
    assert!(effect_error(&handled).message.contains("safe.directory"));
}

#[tokio::test]
async fn hostile_branches_and_directories_go_to_the_dead_letters_before_any_command_runs() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "roots": ["/code"] })).await;
    let huge = "x".repeat(1 << 20);
    for branch in ["--upload-pack=x", "-x", "a\nb", "a b", "../../etc", "a..b", "a:b", "ma\u{200b}in", "\u{202e}niam", "a\u{0}b", huge.as_str()] {
        let handled = test.handle(handler.as_ref(), [start().git_branch(branch)]).await;
        assert!(rejected(&handled).len() < 500, "{branch}");
    }
    for directory in ["/etc", "/code/../etc", "code", "--git-dir=/etc", "https://example.org/", "/code/a\u{0}b", "/codex"] {
        assert_eq!(class(&test.handle(handler.as_ref(), [start().working_directory(directory)]).await), EffectClass::Forbidden, "{directory:?}");
    }
    assert!(rejected(&test.handle(handler.as_ref(), [start().working_directory(&format!("/code/{huge}"))]).await).len() < 500);
    assert!(test.effects.requests().is_empty());
}

#[tokio::test]
async fn a_shell_would_see_much_in_a_branch_and_git_sees_a_branch() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "create": true, "roots": ["/code"] })).await;
    for branch in ["$(reboot)", "a;reboot", "`reboot`", "a|b&c", "it's\"quoted\"", "{{session_id}}"] {
        end(&test.effects, "list", 0, LISTING, "");
        not_here(&test.effects, "look");
        on(&test.effects, branch);
        assert_eq!(synced(&test.handle(handler.as_ref(), [start().git_branch(branch)]).await)["branch"], branch);
        let add = test.effects.commands().into_iter().rev().find(|command| command.args.contains(&"add".to_owned())).unwrap();
        assert_eq!(add.args[4..], ["worktree", "add", "--", &format!("/code/demo/{branch}"), branch].map(str::to_owned));
    }
}

#[tokio::test]
async fn a_repository_or_worktree_outside_of_the_roots_is_not_taken() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "roots": ["/code"] })).await;
    end(&test.effects, "list", 0, "worktree /code/demo\nHEAD 1\nbranch refs/heads/main\n\nworktree /tmp/x\nHEAD 2\nbranch refs/heads/feat/auth\n", "");
    assert_eq!(class(&test.handle(handler.as_ref(), [start()]).await), EffectClass::Forbidden);
    end(&test.effects, "list", 0, "worktree /elsewhere/demo\nHEAD 1\nbranch refs/heads/main\n", "");
    assert_eq!(class(&test.handle(handler.as_ref(), [start()]).await), EffectClass::Forbidden);
}

#[tokio::test]
async fn what_imi_answers_is_checked_with_git() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "backend": "imi", "imi": ["/opt/imi", "--quiet"], "repo": "demo" })).await;
    end(&test.effects, "list", 0, LISTING, "");
    end(&test.effects, "go", 0, &format!("Selected\n{}", found("/office/demo/feat-auth")), "✅ Selected");
    on(&test.effects, "feat/auth");
    let handled = test.handle(handler.as_ref(), [start()]).await;
    assert_eq!(synced(&handled)["path"], "/office/demo/feat-auth");
    assert_eq!(test.effects.sentences()[1..], ["/opt/imi --quiet go feat/auth --json --repo demo".to_owned(), format!("{GIT} symbolic-ref --quiet HEAD")]);
    assert!(test.effects.commands()[1].timeout.unwrap().as_secs() < 30, "iMi itself waits 30 s for its database");
}

#[tokio::test]
async fn a_near_match_of_imi_is_not_taken() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "backend": "imi" })).await;
    end(&test.effects, "list", 0, LISTING, "");
    end(&test.effects, "go", 0, &found("/office/demo/fix-login"), "");
    on(&test.effects, "fix/login");
    let handled = test.handle(handler.as_ref(), [start().git_branch("l")]).await;
    assert!(skipped(&handled).contains("no worktree"));
}

#[tokio::test]
async fn a_branch_of_the_same_name_in_another_repository_is_not_taken_unless_the_configuration_names_that() {
    let other = "worktree /code/other\nHEAD 1\nbranch refs/heads/feat/auth\n";
    for (repo, path) in [(None, "/code/demo/feat-auth"), (Some("other"), "/code/other")] {
        let test = TestContext::new();
        let handler = built::<Imi>(&test, json!({ "backend": "imi", "repo": repo })).await;
        end(&test.effects, "list", 0, LISTING, "");
        test.effects.once("list", move |_| Ok(EffectReply::Command(CommandReply { stdout: other.into(), ..CommandReply::exit(0) })));
        end(&test.effects, "go", 0, &found("/code/other"), "");
        on(&test.effects, "feat/auth");
        on(&test.effects, "feat/auth");
        assert_eq!(synced(&test.handle(handler.as_ref(), [start()]).await)["path"], path);
    }
}

#[tokio::test]
async fn what_imi_does_not_know_is_looked_up_with_git_and_made_known_to_it() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "backend": "imi" })).await;
    for told in ["Error: No worktrees or repositories found matching 'main'", "Error: IO error: not a terminal"] {
        end(&test.effects, "list", 0, LISTING, "");
        end(&test.effects, "go", 1, "", told);
        on(&test.effects, "main");
        end(&test.effects, "sync", 0, "✅ Sync complete:\n{\"success\":true,\"data\":{\"message\":\"Database synced successfully\"}}\n", "");
        assert_eq!(synced(&test.handle(handler.as_ref(), [start().git_branch("main")]).await)["path"], "/code/demo/trunk");
        assert_eq!(test.effects.sentences().last().unwrap(), "imi sync --json");
        assert_eq!(test.effects.commands().last().unwrap().cwd.as_deref(), Some(std::path::Path::new("/code/demo/trunk")));
    }
    end(&test.effects, "list", 0, LISTING, "");
    end(&test.effects, "go", 1, "", "Error: No worktrees or repositories found matching 'main'");
    on(&test.effects, "main");
    end(&test.effects, "sync", 1, "", "Error: Git repository not found at path: /tmp");
    let handled = test.handle(handler.as_ref(), [start().git_branch("main")]).await;
    assert!(is_done(&handled) && handled.note.unwrap().contains("iMi cannot be told"), "it is found, whatever iMi knows");
}

#[tokio::test]
async fn a_database_that_is_away_stops_the_route_and_other_failures_are_tried_again() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "backend": "imi" })).await;
    for (code, stdout, stderr, expected) in [
        (1, "", "Error: Failed to initialize database\n\nCaused by:\n    1: pool timed out while waiting for an open connection", EffectClass::Unreachable),
        (1, "", "Error: something else", EffectClass::Failed),
        (0, "no json at all", "", EffectClass::Failed),
        (0, "{\"success\":false,\"error\":\"x\"}", "", EffectClass::Failed),
    ] {
        end(&test.effects, "list", 0, LISTING, "");
        end(&test.effects, "go", code, stdout, stderr);
        assert_eq!(class(&test.handle(handler.as_ref(), [start()]).await), expected, "{stdout}{stderr}");
    }
    end(&test.effects, "list", 0, LISTING, "");
    test.effects.once("go", |_| Err(EffectError::new(EffectClass::Timeout, "`imi` was ended after 20 s, its own time limit")));
    let handled = test.handle(handler.as_ref(), [start()]).await;
    assert_eq!(class(&handled), EffectClass::Unreachable, "its own wait for the database is longer than its limit here");
    assert!(effect_error(&handled).message.contains("its own time limit"));
}

#[tokio::test]
async fn a_missing_worktree_is_made_only_when_asked_to() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "create": true, "roots": ["/code"] })).await;
    end(&test.effects, "list", 0, LISTING, "");
    not_here(&test.effects, "look");
    on(&test.effects, "feat/new/part");
    let handled = test.handle(handler.as_ref(), [start().git_branch("feat/new/part")]).await;
    assert_eq!(synced(&handled)["path"], "/code/demo/feat-new-part");
    assert_eq!(test.effects.sentences()[2], format!("{GIT} worktree add -- /code/demo/feat-new-part feat/new/part"));
    assert_eq!(test.effects.requests()[2].kind, EffectKind::Write);

    let handler = built::<Imi>(&test, json!({ "create": true, "backend": "imi", "roots": ["/code", "/office"] })).await;
    end(&test.effects, "list", 0, LISTING, "");
    end(&test.effects, "go", 1, "", "Error: No worktrees or repositories found matching 'fix/y'");
    end(&test.effects, "add", 0, "Creating\n{\"success\":true,\"data\":{\"worktree_name\":\"fix-y\",\"worktree_path\":\"/office/demo/fix-y\"}}\n", "");
    on(&test.effects, "fix/y");
    assert_eq!(synced(&test.handle(handler.as_ref(), [start().git_branch("fix/y")]).await)["path"], "/office/demo/fix-y");
    assert!(test.effects.sentences().contains(&"imi add fix y --json".to_owned()));

    end(&test.effects, "list", 0, LISTING, "");
    end(&test.effects, "go", 1, "", "Error: No worktrees or repositories found matching 'topic'");
    assert!(skipped(&test.handle(handler.as_ref(), [start().git_branch("topic")]).await).ends_with("iMi makes none of that name"));
}

#[tokio::test]
async fn what_hinders_the_making_is_told() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "create": true, "roots": ["/code/demo"] })).await;
    let new = || start().git_branch("feat/new");
    let making = |stderr: &str| {
        end(&test.effects, "list", 0, LISTING, "");
        not_here(&test.effects, "look");
        end(&test.effects, "add", 128, "", stderr);
    };
    making("Preparing worktree\nfatal: invalid reference: feat/new\n");
    assert!(skipped(&test.handle(handler.as_ref(), [new()]).await).starts_with("there is no branch `feat/new`"));
    making("fatal: could not create leading directories\n");
    assert_eq!(class(&test.handle(handler.as_ref(), [new()]).await), EffectClass::Failed);

    end(&test.effects, "list", 0, LISTING, "");
    let handled = test.handle(handler.as_ref(), [new()]).await;
    assert!(effect_error(&handled).message.contains("is there already"), "what is at the path is nobody's worktree for the branch");
    assert_eq!(class(&handled), EffectClass::Refused);

    end(&test.effects, "list", 0, LISTING, "");
    test.effects.once("look", |_| Err(EffectError::new(EffectClass::Forbidden, "leads out")));
    assert_eq!(class(&test.handle(handler.as_ref(), [new()]).await), EffectClass::Forbidden);

    end(&test.effects, "list", 0, LISTING, "");
    not_here(&test.effects, "look");
    on(&test.effects, "main");
    assert_eq!(class(&test.handle(handler.as_ref(), [new()]).await), EffectClass::Failed, "what was made is not what was asked for");

    end(&test.effects, "list", 0, &format!("{LISTING}worktree /code/demo/feat-new\nHEAD 1\nbranch refs/heads/feat/new\nlocked initializing\n"), "");
    assert!(effect_error(&test.handle(handler.as_ref(), [new()]).await).message.contains("is being made"));

    // The main worktree is a root itself, so nothing beside it may be made.
    end(&test.effects, "list", 0, "worktree /code/demo\nHEAD 1\nbranch refs/heads/main\n", "");
    assert_eq!(class(&test.handle(handler.as_ref(), [new()]).await), EffectClass::Forbidden);
}

#[tokio::test]
async fn a_worktree_whose_directory_is_gone_is_made_again() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "create": true, "roots": ["/code"] })).await;
    end(
        &test.effects,
        "list",
        0,
        &format!("{LISTING}worktree /code/demo/old\nHEAD 1\nbranch refs/heads/feat/new\nprunable gitdir file points to non-existent location\n"),
        "",
    );
    not_here(&test.effects, "look");
    on(&test.effects, "feat/new");
    assert_eq!(synced(&test.handle(handler.as_ref(), [start().git_branch("feat/new")]).await)["path"], "/code/demo/feat-new");
    assert_eq!(test.effects.sentences()[1], format!("{GIT} worktree prune"));
}

#[tokio::test]
async fn a_callback_is_told_of_changes_in_the_worktree_and_asked_again_until_it_succeeds() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "callback": ["tell", "--branch={{ git_branch }}"] })).await;
    let event = start();
    for code in [1, 0] {
        end(&test.effects, "list", 0, LISTING, "");
        on(&test.effects, "feat/auth");
        end(&test.effects, "callback", code, "", "no tmux");
        let handled = test.handle(handler.as_ref(), [event.clone()]).await;
        assert_eq!(is_done(&handled), code == 0);
    }
    let called = test.effects.commands().into_iter().rfind(|command| command.program.name() == "tell").unwrap();
    assert_eq!(
        (called.args.as_slice(), called.cwd.as_deref()),
        (["--branch=feat/auth".to_owned()].as_slice(), Some(std::path::Path::new("/code/demo/feat-auth")))
    );
    assert!(called.env.contains(&("WORKTREE_PATH".to_owned(), "/code/demo/feat-auth".to_owned())));
    let told: Value = serde_json::from_slice(&called.stdin.unwrap()).unwrap();
    assert_eq!((&told["branch"], &told["changed"]), (&json!("feat/auth"), &json!(true)));

    end(&test.effects, "list", 0, LISTING, "");
    on(&test.effects, "feat/auth");
    let before = test.effects.requests().len();
    assert!(is_done(&test.handle(handler.as_ref(), [start()]).await));
    assert_eq!(test.effects.requests().len(), before + 2, "nothing changed, so nobody is called");
}

#[tokio::test]
async fn a_dry_run_reads_but_creates_nothing_and_remembers_nothing() {
    let test = TestContext::new().shadow();
    let handler = built::<Imi>(&test, json!({ "create": true, "roots": ["/code"], "callback": ["tell"] })).await;
    end(&test.effects, "list", 0, LISTING, "");
    not_here(&test.effects, "look");
    let handled = test.handle(handler.as_ref(), [start().git_branch("feat/new")]).await;
    assert_eq!((is_done(&handled), handled.would), (true, vec![format!("would run: {GIT} worktree add -- /code/demo/feat-new feat/new")]));
    for _ in 0..2 {
        end(&test.effects, "list", 0, LISTING, "");
        on(&test.effects, "feat/auth");
        let handled = test.handle(handler.as_ref(), [start()]).await;
        assert_eq!((&synced(&handled)["changed"], handled.would.as_slice()), (&json!(true), ["would run: tell".to_owned()].as_slice()));
    }
}

#[tokio::test]
async fn all_that_is_wrong_with_the_options_comes_at_once() {
    let test = TestContext::new();
    test.effects.no_program("nogit");
    test.effects.no_program("notell");
    let options = json!({ "backend": "imi", "git": "nogit", "imi": [], "repo": "-x", "timeout_ms": 0, "create": true, "callback": ["notell"] });
    assert_eq!(wrong_fields::<Imi>(&test, options).await, ["callback.0", "create", "git", "imi", "repo", "timeout_ms"]);
    let options = json!({ "git": "{{ git_branch }}" });
    assert!(wrong_fields::<Imi>(&test, options).await.contains(&"git".to_owned()));
}

#[tokio::test]
async fn of_two_sessions_that_make_the_same_worktree_the_second_finds_that_of_the_first() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "create": true, "roots": ["/code"] })).await;
    let made = format!("{LISTING}worktree /code/demo/feat-new\nHEAD 3\nbranch refs/heads/feat/new\n\n");
    for (now, expected) in [(made.as_str(), None), (&format!("{made}locked initializing\n").replace("new\n\nlocked", "new\nlocked"), Some(EffectClass::Failed))]
    {
        end(&test.effects, "list", 0, LISTING, "");
        end(&test.effects, "look", 0, ".git\n", "");
        end(&test.effects, "list", 0, now, "");
        on(&test.effects, "feat/new");
        let handled = test.handle(handler.as_ref(), [start().git_branch("feat/new")]).await;
        match expected {
            None => assert_eq!(synced(&handled)["path"], "/code/demo/feat-new"),
            Some(expected) => assert_eq!((class(&handled), effect_error(&handled).message.contains("is being made")), (expected, true)),
        }
        assert!(test.effects.requests().iter().all(|request| request.name != "add"));
        test.effects.forget_rules();
    }
}

#[tokio::test]
async fn a_session_that_was_overtaken_while_its_callback_ran_leaves_the_record_of_the_newer_one() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "callback": ["tell"] })).await;
    let at = |time: &str, id: &str| start().id(id).time(time);
    let told = |id: &'static str| {
        end(&test.effects, "list", 0, LISTING, "");
        on(&test.effects, "feat/auth");
        id
    };
    // The newer session comes to its end while the callback of the older one is under way.
    let (store, route) = (test.store.clone(), "test".parse().unwrap());
    test.effects.once("callback", move |_| {
        let newer = json!({ "branch": "main", "path": "/code/demo/trunk", "changed": true, "by": "newer", "at": "2026-03-02T10:00:00Z" });
        polled(store.set_state(&route, "worktree:/code/demo/trunk", Some(newer))).expect("the store in memory never waits").unwrap();
        Ok(EffectReply::Command(CommandReply::exit(0)))
    });
    assert!(is_done(&test.handle(handler.as_ref(), [at("2026-03-02T09:00:00Z", told("older"))]).await));
    let kept = test.store.state(&"test".parse().unwrap(), "worktree:/code/demo/trunk").await.unwrap().unwrap();
    assert_eq!(kept["branch"], "main");
}
