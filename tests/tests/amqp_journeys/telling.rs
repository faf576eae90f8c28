//! What is told of events that no route wants, that wait on the broker, or that are tried again one first.

use router_tests::{AmqpClient, eventually, post};

use crate::world::*;

/// What is said of an event of which this router knows no end.
const UNSETTLED: &str = "not settled here: it waits in its queue, another router has it, or the route did not listen to it yet";

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_waits_on_the_broker_is_told_as_waiting_and_not_as_wanted_by_none() {
    let world = World::new(ROUTES);
    let service = world.serve();
    let _ = world.run(&["routes", "pause", "kept"]).code(0);
    // What comes between the command and its effect may still be handled.
    eventually("the route is paused", || {
        let routes = world.run(&["routes", "list", "--json"]).code(0).json()["status"]["routes"].clone();
        routes.as_array()?.iter().any(|route| route["name"] == "kept" && route["state"] == "paused").then_some(())
    });
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "waiting-1")).unwrap());
    service.send("nobody.wants.this", &serde_json::from_slice(&event("nobody.wants.this", "unwanted-1")).unwrap());
    let told = eventually("the archive has both", || {
        let told = world.run(&["events"]).code(0).stdout;
        (told.contains("waiting-1") && told.contains("unwanted-1")).then_some(told)
    });
    assert_eq!(told.matches("no route wanted it").count(), 1, "{told}");
    assert!(told.contains(&format!("kept  {UNSETTLED}")), "{told}");
    let json = world.run(&["events", "--key", "kept.#", "--json"]).code(0).json();
    assert_eq!(json["events"][0]["deliveries"][0]["state"]["state"], "unsettled", "{json:#}");
    let explained = world.run(&["explain", "waiting-1"]).code(0).stdout;
    // Longer than a line.
    assert!(one_line(&explained).contains(UNSETTLED) && !explained.contains("not queued for it"), "{explained}");
    let _ = service.stop();
    // Without the router the same is told.
    let told = world.run(&["events"]).code(0).stdout;
    assert!(told.contains(UNSETTLED), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_older_than_its_route_is_not_told_as_waiting() {
    let world = World::new(ROUTES);
    let service = world.serve();
    service.send("later.one", &serde_json::from_slice(&event("later.one", "older-1")).unwrap());
    eventually("the archive has it", || world.run(&["events"]).code(0).stdout.contains("older-1").then_some(()));
    let _ = service.stop();
    let later = "\n[[route]]\nname = \"later\"\non = [\"later.#\"]\nhandler = \"log\"\n";
    world.configure("", &format!("{ROUTES}{later}"));
    let service = world.serve();
    for told in [world.run(&["events"]), world.run(&["explain", "older-1"])] {
        let told = one_line(&told.code(0).stdout);
        assert!(told.contains(UNSETTLED), "{told}");
    }
    let _ = service.stop();
    assert_eq!(world.vhost.queue("services.router.later").map(|queue| queue.ready), Some(0), "nothing waits there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_among_the_lost_is_told_beside_the_routes() {
    let world = World::new(ROUTES);
    let service = world.serve();
    assert!(!world.run(&["routes"]).code(0).stdout.contains("sys.lost"));
    let client = AmqpClient::connect(&world.vhost.url()).await;
    // As what waited for a queue that was deleted.
    assert!(client.publish("", "services.router.sys.lost", &event("kept.one", "lost-1")).await);
    let told = eventually("it is told", || {
        let told = world.run(&["routes"]).code(0).stdout;
        told.contains("services.router.sys.lost").then_some(told)
    });
    assert!(told.contains("1 event came back for a queue that is gone"), "{told}");
    let json = world.run(&["routes", "list", "--json"]).code(0).json();
    assert!(json["status"]["condition"]["troubles"].to_string().contains("services.router.sys.lost"), "{json:#}");
    let _ = service.stop();
}

/// An event that fails once, and is handled when there is a file `mended`.
const FAILING: &str = r#"
[[route]]
name = "kept"
on = ["kept.#"]
retry = { attempts_max = 1_000, first_delay_ms = 1_000, max_delay_ms = 1_000 }
handler = "exec"
with = { command = ["sh", "-c", "cat >> ../tried; test -e ../mended"] }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_strange_binding_brings_is_filtered_and_what_comes_back_from_a_wait_has_its_own_key() {
    let world = World::new(FAILING);
    let service = world.serve();
    let client = AmqpClient::connect(&world.vhost.url()).await;
    // Left by somebody, or by a pattern of long ago.
    client.bind("services.router.kept", EXCHANGE, "strange.#").await;
    assert!(client.publish(EXCHANGE, "strange.one", &event("strange.one", "strange-1")).await);
    assert!(client.publish(EXCHANGE, "kept.one", &event("kept.one", "own-1")).await);
    // It has been away and come back by the name of its queue, which `on` does not have.
    eventually("it was tried again", || (world.home.read("tried").matches("\"own-1\"").count() >= 2).then_some(()));
    world.home.write("mended", "");
    let told = eventually("what became of both is told", || {
        let told = world.run(&["events", "--json"]).code(0).json();
        let fate =
            |id: &str| told["events"].as_array()?.iter().find(|event| event["id"] == id).map(|event| (event["key"].clone(), event["deliveries"].to_string()));
        let (own, strange) = (fate("own-1")?, fate("strange-1")?);
        own.1.contains("handled").then_some((own, strange))
    });
    assert_eq!((&told.0.0, &told.1.0), (&"kept.one".into(), &"strange.one".into()), "{told:?}");
    assert!(!world.home.read("tried").contains("strange-1"), "no handler has seen it");
    let queue = eventually("nothing waits", || world.vhost.queue("services.router.kept").filter(|queue| queue.ready + queue.unacked == 0));
    assert_eq!(queue.unacked, 0);
    let metrics = get(service.address(), "/metrics").body;
    let filtered = metrics.lines().find(|line| line.starts_with("event_router_filtered") && line.contains("kept"));
    assert!(filtered.is_some_and(|line| line.ends_with(" 1")), "{filtered:?}\n{metrics}");
    let _ = service.stop();
}
