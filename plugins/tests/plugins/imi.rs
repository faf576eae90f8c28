//! `imi`: which worktree is found, by whom, and what is told of it.

use plugins::imi::Imi;
use router_api::{EffectClass, EffectKind, HandlerError};
use router_testkit::{EventBuilder, Handled, TestContext, event};
use serde_json::{Value, json};

use crate::{built, class, end, is_done, skipped, wrong_fields};

const LISTING: &str = "worktree /code/demo/trunk\nHEAD 1\nbranch refs/heads/main\n\nworktree /code/demo/feat-auth\nHEAD 2\nbranch refs/heads/feat/auth\n\n";

fn start() -> EventBuilder {
    event("session.thread.start").session("s-1").working_directory("/code/demo/trunk").git_branch("feat/auth")
}

fn found(target: &str) -> String {
    format!("{{\n  \"success\": true,\n  \"data\": {{ \"target_path\": \"{target}\" }}\n}}\n")
}

fn synced(handled: &Handled) -> &Value {
    assert!(is_done(handled), "{:?}", handled.result);
    assert_eq!(handled.emits[0].key.as_str(), "worktree.synced");
    &handled.emits[0].body["payload"]
}

#[tokio::test]
async fn git_finds_the_worktree_by_reading_alone() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({})).await;
    end(&test.effects, "list", 0, LISTING, "");
    let handled = test.handle(handler.as_ref(), [start()]).await;
    assert_eq!(
        synced(&handled),
        &json!({ "branch": "feat/auth", "path": "/code/demo/feat-auth", "repository": "/code/demo/trunk", "session_id": "s-1", "changed": true })
    );
    assert_eq!(test.effects.sentences(), ["git -C /code/demo/trunk worktree list --porcelain"]);
    assert_eq!(test.effects.requests()[0].kind, EffectKind::Read);
}

#[tokio::test]
async fn a_second_session_on_the_branch_changes_nothing_and_a_repeat_says_the_same_again() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({})).await;
    let first = start();
    for (event, changed) in
        [(first.clone(), true), (first, true), (start(), false), (start().git_branch("main"), true), (start().git_branch("refs/heads/main"), false)]
    {
        end(&test.effects, "list", 0, LISTING, "");
        assert_eq!(synced(&test.handle(handler.as_ref(), [event]).await)["changed"], changed);
    }
}

#[tokio::test]
async fn what_names_no_branch_or_is_elsewhere_is_skipped() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({})).await;
    for branch in ["", "unknown", "HEAD"] {
        assert_eq!(skipped(&test.handle(handler.as_ref(), [start().git_branch(branch)]).await), "the event names no branch");
    }
    assert_eq!(skipped(&test.handle(handler.as_ref(), [start().with("git_branch", Value::Null)]).await), "the event names no branch");
    assert!(test.effects.requests().is_empty());

    end(&test.effects, "list", 128, "", "fatal: cannot change to '/code/demo/trunk': No such file or directory\n");
    assert!(skipped(&test.handle(handler.as_ref(), [start()]).await).starts_with("not on this machine"));
    end(&test.effects, "list", 128, "", "fatal: not a git repository (or any of the parent directories): .git\n");
    assert!(skipped(&test.handle(handler.as_ref(), [start()]).await).contains("no git repository"));
    end(&test.effects, "list", 0, LISTING, "");
    assert!(skipped(&test.handle(handler.as_ref(), [start().git_branch("feat/other")]).await).contains("no worktree"));
}

#[tokio::test]
async fn a_git_that_fails_otherwise_is_tried_again() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({})).await;
    end(&test.effects, "list", 128, "", "fatal: unable to read tree\n");
    assert_eq!(class(&test.handle(handler.as_ref(), [start()]).await), EffectClass::Failed);
}

#[tokio::test]
async fn hostile_branches_and_directories_go_to_the_dead_letters() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "roots": ["/code"] })).await;
    for branch in ["--upload-pack=x", "a\nb", "a b"] {
        let handled = test.handle(handler.as_ref(), [start().git_branch(branch)]).await;
        assert!(matches!(handled.result, Err(HandlerError::Reject { .. })), "{branch}");
    }
    for directory in ["/etc", "/code/../etc", "code"] {
        assert_eq!(class(&test.handle(handler.as_ref(), [start().working_directory(directory)]).await), EffectClass::Forbidden, "{directory}");
    }
    end(&test.effects, "list", 0, "worktree /code/demo\nHEAD 1\nbranch refs/heads/main\n\nworktree /tmp/x\nHEAD 2\nbranch refs/heads/feat/auth\n", "");
    assert_eq!(class(&test.handle(handler.as_ref(), [start()]).await), EffectClass::Forbidden);
}

#[tokio::test]
async fn what_imi_answers_is_checked_with_git() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "backend": "imi", "imi": ["/opt/imi", "--quiet"], "repo": "demo" })).await;
    end(&test.effects, "list", 0, LISTING, "");
    end(&test.effects, "go", 0, &format!("Selected\n{}", found("/office/demo/feat-auth")), "✅ Selected");
    end(&test.effects, "check", 0, "feat/auth\n", "");
    let handled = test.handle(handler.as_ref(), [start()]).await;
    assert_eq!(synced(&handled)["path"], "/office/demo/feat-auth");
    assert_eq!(test.effects.sentences()[1..], ["/opt/imi --quiet go feat/auth --json --repo demo", "git -C /office/demo/feat-auth symbolic-ref --short HEAD"]);
    assert!(test.effects.commands()[1].timeout.unwrap().as_secs() < 30, "iMi itself waits 30 s for its database");
}

#[tokio::test]
async fn a_near_match_of_imi_is_not_taken() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "backend": "imi" })).await;
    end(&test.effects, "list", 0, LISTING, "");
    end(&test.effects, "go", 0, &found("/office/demo/fix-login"), "");
    end(&test.effects, "check", 0, "fix/login\n", "");
    let handled = test.handle(handler.as_ref(), [start().git_branch("l")]).await;
    assert!(skipped(&handled).contains("no worktree"));
}

#[tokio::test]
async fn what_imi_does_not_know_is_looked_up_with_git() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "backend": "imi" })).await;
    for told in ["Error: No worktrees or repositories found matching 'main'", "Error: IO error: not a terminal"] {
        end(&test.effects, "list", 0, LISTING, "");
        end(&test.effects, "go", 1, "", told);
        assert_eq!(synced(&test.handle(handler.as_ref(), [start().git_branch("main")]).await)["path"], "/code/demo/trunk");
    }
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
}

#[tokio::test]
async fn a_missing_worktree_is_made_only_when_asked_to() {
    let test = TestContext::new();
    let handler = built::<Imi>(&test, json!({ "create": true })).await;
    end(&test.effects, "list", 0, LISTING, "");
    let handled = test.handle(handler.as_ref(), [start().git_branch("feat/new/part")]).await;
    assert_eq!(synced(&handled)["path"], "/code/demo/feat-new-part");
    assert_eq!(test.effects.sentences()[1], "git -C /code/demo/trunk worktree add -- /code/demo/feat-new-part feat/new/part");
    assert_eq!(test.effects.requests()[1].kind, EffectKind::Write);

    let handler = built::<Imi>(&test, json!({ "create": true, "backend": "imi" })).await;
    end(&test.effects, "list", 0, LISTING, "");
    end(&test.effects, "go", 1, "", "Error: No worktrees or repositories found matching 'fix/y'");
    end(&test.effects, "add", 0, "Creating\n{\"success\":true,\"data\":{\"worktree_name\":\"fix-y\",\"worktree_path\":\"/office/demo/fix-y\"}}\n", "");
    end(&test.effects, "check", 0, "fix/y\n", "");
    assert_eq!(synced(&test.handle(handler.as_ref(), [start().git_branch("fix/y")]).await)["path"], "/office/demo/fix-y");
    assert!(test.effects.sentences().contains(&"imi add fix y --json".to_owned()));
}

#[tokio::test]
async fn a_dry_run_reads_but_creates_nothing_and_remembers_nothing() {
    let test = TestContext::new().shadow();
    let handler = built::<Imi>(&test, json!({ "create": true })).await;
    end(&test.effects, "list", 0, LISTING, "");
    let handled = test.handle(handler.as_ref(), [start().git_branch("feat/new")]).await;
    assert_eq!((is_done(&handled), handled.would), (true, vec!["would run: git -C /code/demo/trunk worktree add -- /code/demo/feat-new feat/new".to_owned()]));
    for _ in 0..2 {
        end(&test.effects, "list", 0, LISTING, "");
        assert_eq!(synced(&test.handle(handler.as_ref(), [start()]).await)["changed"], true);
    }
}

#[tokio::test]
async fn all_that_is_wrong_with_the_options_comes_at_once() {
    let test = TestContext::new();
    test.effects.no_program("nogit");
    let options = json!({ "backend": "imi", "git": "nogit", "imi": [], "repo": "-x", "timeout_ms": 0 });
    assert_eq!(wrong_fields::<Imi>(&test, options).await, ["git", "imi", "repo", "timeout_ms"]);
    let options = json!({ "git": "{{ git_branch }}" });
    assert!(wrong_fields::<Imi>(&test, options).await.contains(&"git".to_owned()));
}
