//! `watch`: events as they come, while nobody's queue is touched.

use std::process::Command;

use router_api::{Admin as _, FollowRequest};
use router_http::AdminClient;
use router_tests::{Home, Service};
use serde_json::{Value, json};

use crate::{
    golden::golden,
    world::{ROUTES, finished, lived_in, poison, read, write},
};

const KEY: &str = "session.thread.agent.action";

/// A `watch` whose output is read line by line, and that sees everything from now on.
pub fn watching(home: &Home, args: &[&str]) -> Service {
    let watch = home.command(&[&["watch"], args].concat());
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 1>&2", "sh"]).arg(watch.get_program()).args(watch.get_args()).current_dir(home.path());
    let mut watch = Service::begin(shell);
    watch.wait_for("watching;").expect("it begins to watch");
    watch
}

fn line(watch: &mut Service, text: &str) -> String {
    watch.wait_for(text).unwrap_or_else(|| panic!("no line with `{text}` came; there were:\n{}", watch.log().join("\n")))
}

#[test]
fn every_event_is_shown_on_a_line_and_still_handled_over_a_restart_of_the_router() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    let mut watch = watching(&home, &[]);
    service.send(KEY, &write(1, "/home/ada/shop/cart.py"));
    let shown = line(&mut watch, "cart.py");
    assert!(shown.contains(KEY) && shown.contains("Write") && shown.contains("→ kept"), "{shown}");
    service.send("nobody.wants", &json!({ "event_type": "nobody.wants" }));
    assert!(line(&mut watch, "nobody.wants").contains("→ no route"));
    let answer = finished(&home);
    assert_eq!(answer["events"][1]["deliveries"][0]["state"]["state"], "finished", "{answer:#}");
    service.stop();
    line(&mut watch, "the router is away");
    let service = home.serve();
    service.send("after.the.restart", &json!({ "event_type": "after.the.restart" }));
    line(&mut watch, "after.the.restart");
    watch.signal(rustix::process::Signal::INT);
    assert_eq!(watch.wait().code(), Some(0));
    service.stop();
}

#[test]
fn events_can_be_chosen_by_key_content_route_and_session() {
    let (home, service) = lived_in();
    service.send(KEY, &read(2, "/home/ada/shop/cart.py"));
    let seen = |args: &[&str]| -> Vec<u64> {
        // The last event ends it, whatever was chosen.
        let all = home.run(&[&["watch", "--last", "100", "--json", "--count", "1"], args].concat()).code(0);
        let lines = all.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
        lines.map(|line| line["seq"].as_u64().expect("a number")).collect()
    };
    for (args, expected) in [
        (&[][..], 1),
        (&["poison.*"], 2),
        (&["--route", "poisoned"], 2),
        (&["--when", "tool_name=Read"], 4),
        (&["--when", "{ tool_name = [\"Read\"], file_path = [{ suffix = \".py\" }] }"], 4),
        (&["--route", "kept"], 1),
        (&["--session", "5f0c2f0e-7d0b-4b52-9a63-2f1f6f3a9c11", "--when", "tool_name=Read"], 4),
        (&["agent.#"], 3),
    ] {
        assert_eq!(seen(args), [expected], "{args:?}");
    }
    service.stop();
}

#[test]
fn an_event_is_told_to_programs_and_explained_to_people() {
    let (home, service) = lived_in();
    let json = home.run(&["watch", "--last", "10", "--count", "1", "--explain", "--json"]).code(0);
    assert_eq!(json.stdout.lines().count(), 1, "{}", json.stdout);
    golden(&home, "watch", &json.json());
    let text = home.run(&["watch", "poison.*", "--last", "10", "--count", "1", "--explain"]).code(0).stdout;
    assert!(text.contains("✓ poisoned  fires") && text.contains("2 routes listen to other keys"), "{text}");
    service.stop();
}

#[test]
fn whoever_cannot_watch_is_told_why() {
    let home = Home::new(ROUTES);
    let ran = home.run(&["watch"]).code(1);
    assert!(ran.stderr.contains("no router runs on") && ran.stderr.contains("event-router run"), "{}", ran.stderr);
    assert!(!home.path().join("state").exists(), "looking makes no store");
    assert!(home.run(&["watch", "--when", "nonsense"]).code(2).stderr.contains("FIELD=VALUE"));
    let service = home.serve();
    let ran = home.run(&["watch", "--route", "kpt"]).code(1);
    assert!(ran.stderr.contains("there is no route `kpt`; there are `kept`"), "{}", ran.stderr);
    service.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_falls_too_far_behind_is_told_how_many_events_he_missed() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    for number in 1..=7 {
        service.send("poison.pill", &poison(number));
    }
    let client = AdminClient::connect(&home.store()).await.expect("the router answers");
    let request = FollowRequest { after: Some(1), behind_max: Some(2), ..FollowRequest::default() };
    let followed = client.follow(&request).await.expect("an answer");
    let numbers: Vec<u64> = followed.events.iter().map(|event| event.seq).collect();
    assert_eq!((followed.missed, followed.next, followed.at_end), (4, 7, true), "{numbers:?}");
    assert_eq!(numbers, [6, 7]);
    // Page by page nothing is left out.
    let (mut request, mut numbers) = (FollowRequest { after: Some(0), limit: Some(3), ..FollowRequest::default() }, Vec::new());
    loop {
        let followed = client.follow(&request).await.expect("an answer");
        numbers.extend(followed.events.iter().map(|event| event.seq));
        request.after = Some(followed.next);
        if followed.at_end {
            break;
        }
    }
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
    // Of another store than the one whose number it is.
    let followed = client.follow(&FollowRequest { after: Some(1_000_000), ..FollowRequest::default() }).await.expect("an answer");
    assert_eq!((followed.next, followed.events.len()), (7, 0));
    service.stop();
}
