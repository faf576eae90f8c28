//! The example that reports errors: what a chat receives, and how often.

use std::fs;

use router_tests::{Home, eventually, workspace};
use serde_json::json;

use crate::server::Server;

#[test]
fn the_errors_of_a_session_are_one_report_as_the_page_shows_it() {
    let server = Server::start(|_| 200);
    let home = Home::new("");
    let example = fs::read_to_string(workspace().join("config/examples/error-report.toml")).expect("the example is there");
    // Time is the only thing that is not as shipped.
    let (_, routes) = example.split_once("[[route]]").expect("it has a route");
    let routes = routes.replace("quiet_ms = 5_000", "quiet_ms = 1_500");
    assert!(routes.contains("1_500"));
    home.configure(&format!("[[route]]{routes}"));
    let mut command = home.command(&["run", "--log-format", "json"]);
    command.env("REPORT_URL", format!("http://{}/hooks/errors", server.address));
    let service = router_tests::Service::start(command);
    let hostile = "no\n`such` \"file\" $(id) {{ key }} \u{202e}";
    for (n, message) in [(1, "a"), (2, "b"), (3, hostile)] {
        let body = json!({ "event_id": format!("e-{n}"), "event_type": "session.thread.error", "timestamp": "2026-03-02T09:00:00Z", "payload": {
            "session_id": "s-1", "git_branch": "feat/search", "working_directory": "/home/ada/shop", "error_type": "ToolError", "error_message": message } });
        service.send("session.thread.error", &body);
    }
    let asked = eventually("a report of all three", || {
        let asked = server.asked();
        let reported: u64 = asked.iter().filter_map(|asked| asked.body["errors"].as_u64()).sum();
        (reported == 3).then_some(asked)
    });
    service.stop();
    let last = asked.last().expect("there is one");
    let page = fs::read_to_string(workspace().join("docs/integrations/error-report.md")).expect("the page is there");
    let shown: serde_json::Value =
        serde_json::from_str(page.split("```json\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("a body")).expect("it is JSON");
    let fields = |value: &serde_json::Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&last.body), fields(&shown));
    assert_eq!(
        (&last.body["last"], &last.body["branch"], &last.body["directory"]),
        (&json!({ "type": "ToolError", "message": hostile }), &shown["branch"], &shown["directory"])
    );
    assert!(last.header("idempotency-key").is_some());
    // Three in a row are one report; a machine that stops for seconds between two of them may make more of it.
    assert!(asked.len() <= 3, "{}", asked.len());
}
