//! What is told of events that no route wants, that wait on the broker, or that are tried again one first.

use router_tests::{eventually, post};

use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waits_on_the_broker_is_told_as_waiting_and_not_as_wanted_by_none() {
    let world = World::new(ROUTES);
    let service = world.serve();
    let _ = world.run(&["routes", "pause", "kept"]).code(0);
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "waiting-1")).unwrap());
    service.send("nobody.wants.this", &serde_json::from_slice(&event("nobody.wants.this", "unwanted-1")).unwrap());
    let told = eventually("the archive has both", || {
        let told = world.run(&["events"]).code(0).stdout;
        (told.contains("waiting-1") && told.contains("unwanted-1")).then_some(told)
    });
    assert_eq!(told.matches("no route wanted it").count(), 1, "{told}");
    assert!(told.contains("kept  waits in its queue, or another router has it"), "{told}");
    let json = world.run(&["events", "--key", "kept.#", "--json"]).code(0).json();
    assert_eq!(json["events"][0]["deliveries"][0]["state"]["state"], "unsettled", "{json:#}");
    let explained = world.run(&["explain", "waiting-1"]).code(0).stdout;
    assert!(explained.contains("waits in its queue, or another router has it") && !explained.contains("not queued for it"), "{explained}");
    let _ = service.stop();
    // Without the router the same is told.
    let told = world.run(&["events"]).code(0).stdout;
    assert!(told.contains("waits in its queue, or another router has it"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_again_stops_the_redrive_and_one_that_cannot_be_followed_moves_nothing() {
    let world = World::new(ROUTES);
    let service = world.serve();
    for number in 1..=2 {
        service.send("poison.pill", &serde_json::from_slice(&event("poison.pill", &format!("poison-{number}"))).unwrap());
    }
    let list = ["dead-letters", "list", "--flat", "--json"];
    let before = eventually("two letters are there", || Some(letters(world.run(&list))).filter(|letters| letters.len() == 2));
    eventually("the archive knows of both", || {
        let events = world.run(&["events", "--json"]).code(0).json();
        (events["events"].to_string().matches("\"dead\"").count() == 2).then_some(())
    });
    let redriven = world.run(&["dead-letters", "redrive", "--all", "--canary", "1", "--json"]);
    assert!(
        redriven.stdout.contains("failed again") && redriven.stdout.contains("\"redriven\": 1") || redriven.stdout.contains("\"redriven\":1"),
        "{redriven:?}"
    );
    let after = eventually("the canary is back", || Some(letters(world.run(&list))).filter(|letters| letters.len() == 2));
    let stayed = after.iter().filter(|letter| before.iter().any(|old| old["id"] == letter["id"])).count();
    assert_eq!(stayed, 1, "the other one was not touched: {after:#?}");
    let _ = service.stop();

    // A router that knows nothing of the letters.
    let stranger = world.neighbour("[[route]]\nname = \"poisoned\"\non = [\"poison.#\"]\nhandler = \"log\"\n");
    stranger.configure("archive = { enabled = false }", "[[route]]\nname = \"poisoned\"\non = [\"poison.#\"]\nhandler = \"log\"\n");
    let service = stranger.serve();
    let refused = stranger.run(&["dead-letters", "redrive", "--all", "--canary", "1"]);
    assert!(refused.code != Some(0) && refused.stderr.contains("nothing was moved"), "{refused:?}");
    assert_eq!(letters(stranger.run(&list)).len(), 2);
    let _ = service.stop();
}

/// What the door answers to an event of this key.
fn sent(address: std::net::SocketAddr, key: &str) -> serde_json::Value {
    let answer = post(address, &format!("/events?key={key}"), &String::from_utf8(event(key, key)).unwrap()).expect("the door answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_route_wants_is_told_so_with_the_archive_and_without() {
    for archive in ["", "archive = { enabled = false }"] {
        let world = World::new(ROUTES);
        world.configure(archive, ROUTES);
        let service = world.serve();
        let address = service.address();
        assert_eq!(world.queue_names().iter().any(|name| name == "services.router.sys.archive"), archive.is_empty());
        assert_eq!(sent(address, "kept.one")["routed"], true, "{archive}");
        assert_eq!(sent(address, "nobody.wants.this")["routed"], false, "{archive}");
        let metrics = get(address, "/metrics").body;
        assert!(metrics.contains("event_router_unmatched_events_total 1\n"), "{archive}: {metrics}");
        let told = world.run(&["publish", "--sample", "write", "--key", "nobody.wants.this"]).code(0).stdout;
        assert!(told.contains("no route wants it") && !told.contains("no router runs"), "{archive}: {told}");
        let _ = service.stop();
        let told = world.run(&["publish", "--sample", "write", "--key", "nobody.wants.this"]).code(0).stdout;
        assert!(told.contains("no route wants it") && told.contains("no router runs on"), "{archive}: {told}");
    }
}
