//! Worktrees and session records over a real RabbitMQ. What they do is shown beside, on the embedded transport; here is that nothing of
//! it depends on the transport, counted where it has its effect.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
};

use router_tests::{Broker, Home, Vhost, eventually};
use serde_json::{Value, json};

use crate::{
    flume::{of_session, problems},
    imi::{Office, branch_at},
    server::Server,
};

/// The transport's table.
fn transport(vhost: &Vhost) -> String {
    format!("[transport]\nkind = \"amqp\"\nurl = \"{}\"\n\n", vhost.url())
}

fn letters(home: &Home) -> Value {
    home.run(&["dead-letters", "list", "--json"]).code(0).json()["dead_letters"].clone()
}

#[test]
fn a_worktree_is_made_told_of_and_found_again_and_what_is_not_here_is_skipped() {
    let vhost = Broker::shared().vhost();
    let office = Office::on(transport(&vhost));
    let service = office.serve("create = true\ncallback = [\"sh\", \"-c\", \"cat >> ../told.json; echo >> ../told.json\"]");
    let told = || -> Vec<Value> {
        let lines = fs::read_to_string(office.path("demo/told.json")).unwrap_or_default();
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let emitted = || -> Vec<Value> {
        office.home.read("emitted").lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(|event| event["payload"].clone()).collect()
    };
    // One session, so one after the other: when the last is told of, the others are through.
    for (id, branch, directory) in [
        ("gone", "feat/auth", "demo/gone"),
        ("head", "HEAD", "demo/trunk"),
        ("made", "feat/new", "demo/trunk"),
        ("known", "feat/new", "demo/feat-new"),
        ("other", "feat/auth", "demo/feat-new"),
    ] {
        service.send("session.thread.start", &office.start(id, branch, directory));
    }
    let emitted = eventually("three are told of", || Some(emitted()).filter(|emitted| emitted.len() >= 3));
    let of = |told: &[Value]| told.iter().map(|told| (told["branch"].clone(), told["path"].clone(), told["changed"].clone())).collect::<Vec<_>>();
    let (new, auth) = (json!(office.path("demo/feat-new")), json!(office.path("demo/feat-auth")));
    let expected = [(json!("feat/new"), new.clone(), json!(true)), (json!("feat/new"), new, json!(false)), (json!("feat/auth"), auth, json!(true))];
    assert_eq!(of(&emitted), expected);
    assert_eq!(of(&told()), [expected[0].clone(), expected[2].clone()], "who is called is told of changes only");
    assert_eq!(branch_at(&office.path("demo/feat-new")), "feat/new");
    service.stop();
    assert_eq!(letters(&office.home), json!([]));
}

#[test]
fn a_record_follows_its_session_over_a_kill_of_the_router_and_never_goes_back() {
    let vhost = Broker::shared().vhost();
    let records: Arc<Mutex<BTreeMap<String, Vec<Value>>>> = Arc::default();
    let kept = Arc::clone(&records);
    let server = Server::start(move |asked| {
        let mut kept = kept.lock().expect("no test panics here");
        let versions = kept.entry(asked.path.clone()).or_default();
        if versions.last().and_then(|record| record["version"].as_u64()) > asked.body["version"].as_u64() {
            return 409;
        }
        versions.push(asked.body.clone());
        204
    });
    let home = Home::new("");
    home.configure(&format!(
        "{}[[route]]\nname = \"records\"\non = [\"session.thread.#\"]\norder_by = \"session_id\"\nhandler = \"flume\"\nwith = {{ base = \"http://{}\" }}\n",
        transport(&vhost),
        server.address
    ));
    let record = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        eventually(what, || records.lock().expect("no test panics here").get("/sessions/s-1")?.last().filter(|record| wanted(record)).cloned())
    };
    let write = |n: u32| {
        let tool = json!({ "tool_name": "Write", "tool_input": { "file_path": format!("/srv/shop/{n}.py") }, "success": true });
        of_session(&format!("write-{n}"), "session.thread.agent.action", n, json!({ "tool_metadata": tool }))
    };
    let service = home.serve();
    for n in [20, 10, 10] {
        service.send("session.thread.agent.action", &write(n));
    }
    service.send("session.thread.start", &of_session("start", "session.thread.start", 1, json!({ "git_branch": "feat/x" })));
    service.send("session.thread.end", &of_session("end", "session.thread.end", 30, json!({ "git_commits": ["c1"] })));
    let ended = record("the record of the ended session", &|record| record["state"] == "ended" && record["events"] == 4);
    assert_eq!(problems(&ended), Vec::<String>::new());
    assert_eq!((&ended["tools"], &ended["files"], &ended["commits"]), (&json!({ "Write": 2 }), &json!(["10.py", "20.py"]), &json!(["c1"])));
    service.kill();
    let service = home.serve();
    service.send("session.thread.agent.action", &write(40));
    let reopened = record("the record of the session that goes on", &|record| record["state"] == "reopened");
    assert_eq!((&reopened["events"], &reopened["started_at"]), (&json!(5), &json!("2026-03-02T09:00:01Z")), "what was before the kill is in it");
    service.stop();
    let records = records.lock().expect("no test panics here");
    assert_eq!(records.keys().collect::<Vec<_>>(), ["/sessions/s-1"]);
    let versions: Vec<_> = records["/sessions/s-1"].iter().filter_map(|record| record["version"].as_u64()).collect();
    assert!(versions.is_sorted() && versions.len() >= 2, "{versions:?}");
    assert_eq!(letters(&home), json!([]));
}
