//! `run` on a broker that is there, that goes and comes back, and that is away at first.

use router_tests::{AmqpClient, Broker, FaultProxy, eventually, post};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_makes_its_queues_says_what_it_does_and_hands_over_what_comes() {
    let resting = "\n[[route]]\nname = \"resting\"\non = [\"resting.#\"]\nenabled = false\nhandler = \"log\"\n";
    let world = World::new(&format!("{ROUTES}{resting}"));
    let mut service = world.serve();
    let begun = service.log().join("\n");
    for said in ["the broker is `amqp://", "queue `services.router.kept`", "route `poisoned` is on", "switched off: resting"] {
        assert!(begun.contains(said), "{said}\n{begun}");
    }
    let names = world.queue_names();
    for name in ["services.router.kept", "services.router.kept.dead", "services.router.poisoned", "services.router.sys.wait.1", "services.router.sys.archive"] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }

    let client = AmqpClient::connect(&world.vhost.url()).await;
    assert!(client.publish(EXCHANGE, "kept.one", &event("kept.one", "from-the-bus")).await);
    let _ = service.wait_for("the first event for route `kept` has arrived: kept.one").expect("it is told");
    eventually("the event of the bus is handled", || world.home.read("seen").contains("from-the-bus").then_some(()));
    let answer = post(service.address(), "/events?key=kept.two", &String::from_utf8(event("kept.two", "from-the-door")).unwrap()).expect("the door answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually("the event of the door is handled", || world.home.read("seen").contains("from-the-door").then_some(()));

    let ready = get(service.address(), "/readyz");
    assert_eq!((ready.status, &ready.json()["transport"]["name"]), (200, &Value::from("amqp")), "{ready:?}");
    let metrics = get(service.address(), "/metrics").body;
    assert!(metrics.contains("event_router_transport_up 1") && metrics.contains("event_router_transport_reconnects_total 0"), "{metrics}");
    let status = world.run(&["routes", "list", "--json"]).code(0).json();
    let status = &status["status"];
    assert_eq!((&status["transport"], &status["condition"]["reachable"]), (&Value::from("amqp"), &Value::from(true)), "{status}");

    let log = service.stop().join("\n");
    assert!(!log.contains(PASSWORD) && log.contains(":***@"), "{log}");
    let kept = world.vhost.queue("services.router.kept").expect("the queue stays");
    assert_eq!((kept.ready, kept.unacked, kept.consumers), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_in_is_told_from_the_local_archive_with_the_broker_and_without() {
    let world = World::new(ROUTES);
    let service = world.serve();
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "archived-1")).unwrap());
    let seen = eventually("the archive has the event and what became of it", || {
        let events = world.run(&["events", "--json"]).code(0).json();
        let found = events["events"].as_array().and_then(|events| events.iter().find(|event| event["id"] == "archived-1").cloned());
        found.filter(|event| event["deliveries"].to_string().contains("handled"))
    });
    assert_eq!(seen["key"], "kept.one");
    let _ = service.stop();

    let mut away = world.command(&["explain", "archived-1", "--json"]);
    away.env("RABBIT_URL", "amqp://nobody:nothing@127.0.0.1:1/");
    let explained = router_tests::Ran::of(away.output().expect("the program runs")).code(0).json();
    assert!(explained.to_string().contains("kept"), "{explained}");

    // Whoever looks need not know where the broker is, whether the configuration names the variable or not.
    for transport in ["url = \"${RABBIT_URL}\"\n", ""] {
        world.home.configure(&format!("[transport]\nkind = \"amqp\"\n{transport}\n{ROUTES}"));
        for command in [&["events"][..], &["explain", "archived-1"]] {
            let told = world.home.run(command).code(0);
            assert!(told.stdout.contains("archived-1") && told.stdout.contains("handled"), "{told:?}");
            assert_eq!(told.stdout.matches("the broker was not asked").count(), 1, "{told:?}");
        }
        let events = world.home.run(&["events", "--json"]).code(0).json();
        assert!(events.to_string().contains("archived-1"), "{events}");
        let _ = world.home.run(&["dead-letters", "list"]).code(78);
    }
    let told = world.run(&["events"]).code(0);
    assert!(!told.stdout.contains("the broker was not asked"), "it is known where it is: {told:?}");
}

/// The ids of what the archive of this home has, oldest first.
fn archived(world: &World) -> Vec<String> {
    let events = world.run(&["events", "--last", "1000", "--json"]).code(0).json();
    let mut ids: Vec<String> = events["events"].as_array().into_iter().flatten().filter_map(|event| event["id"].as_str().map(str::to_owned)).collect();
    ids.reverse();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_stream_dropped_while_no_router_ran_is_told_with_its_number_and_the_archive_goes_on() {
    const STREAM: &str = "services.router.sys.archive";
    let world = World::new(ROUTES);
    world.configure("archive = { retention_days = 1, retention_bytes_max = 2_000_000 }", ROUTES);
    let service = world.serve();
    let stream = world.vhost.queue(STREAM).expect("it is made");
    let retention = json!({
        "x-queue-type": "stream", "x-max-age": "86400s", "x-max-length-bytes": 2_000_000, "x-stream-max-segment-size-bytes": 1_048_576,
    });
    assert_eq!((stream.kind.as_str(), json!(stream.arguments)), ("stream", retention));
    let mut expected = vec!["before-0".to_owned(), "before-1".to_owned(), "before-2".to_owned()];
    for id in &expected {
        service.send("kept.one", &serde_json::from_slice(&event("kept.one", id)).unwrap());
    }
    eventually("the archive has them", || (archived(&world) == expected).then_some(()));
    let _ = service.stop();

    // Whole segments go, of those that are full. The broker is shared, and no other stream on it drops anything.
    let first = || {
        let all = "lists:max([0 | [F || {{osiris_writer, _}, #{first_offset := F}} <- maps:to_list(osiris_counters:overview())]])";
        world.vhost.broker().ask("", all).as_u64().expect("a number")
    };
    let client = AmqpClient::connect(&world.vhost.url()).await;
    let mut published = 3;
    while first() <= 3 {
        assert!(published < 1_000, "nothing is dropped of {published}");
        for _ in 0..10 {
            let body = json!({ "event_id": format!("beside-{published}"), "event_type": "test", "payload": { "text": "x".repeat(100_000) } });
            assert!(client.publish(EXCHANGE, "nobody.wants", body.to_string().as_bytes()).await);
            published += 1;
        }
    }
    let gone_before = first();

    let mut service = world.serve();
    // Mostly it is told before the router is ready, and so in what was read until then.
    let is_it = |line: &String| line.contains("the stream has dropped up to ");
    let told = service.log().iter().find(|line| is_it(line)).cloned();
    let told = told.or_else(|| service.wait_for("the stream has dropped up to ")).expect("it is told");
    let rest = told.split("has dropped up to ").nth(1).and_then(|rest| rest.split(' ').next());
    let dropped: u64 = rest.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("a number of events: {told}"));
    assert!(dropped >= gone_before - 3, "{gone_before}: {told}");
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "afterwards")).unwrap());
    let ids = eventually("the archive goes on", || Some(archived(&world)).filter(|ids| ids.last().is_some_and(|id| id == "afterwards")));
    // What it had, and all that is left, each once. A stream counts things of its own among the events, so that fewer may be gone.
    let gone = published + 1 - ids.len() as u64;
    assert!((1..=dropped).contains(&gone), "{gone}: {told}");
    expected.extend((3 + gone..published).map(|number| format!("beside-{number}")));
    expected.push("afterwards".to_owned());
    assert_eq!(ids, expected);
    let _ = service.stop();
    // Who comes new has no more than that.
    let other = world.neighbour(ROUTES);
    let service = other.serve();
    let all_left = eventually("a new archive has all that is left", || Some(archived(&other)).filter(|ids| ids.last().is_some_and(|id| id == "afterwards")));
    assert!(ids.ends_with(&all_left), "{all_left:?} instead of the end of {ids:?}");
    let _ = service.stop();
    // Nothing is missing since.
    let service = world.serve();
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "at-last")).unwrap());
    expected.push("at-last".to_owned());
    eventually("the archive goes on", || (archived(&world) == expected).then_some(()));
    assert!(!service.stop().join("\n").contains("has dropped"), "it is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_an_operator_closes_is_opened_again_and_counted() {
    let world = World::new(ROUTES);
    let mut service = world.serve();
    assert!(world.vhost.close_connections("by an operator") >= 2);
    let _ = service.wait_for("by an operator").expect("it is told");
    eventually("the router is ready again", || (get(service.address(), "/readyz").status == 200).then_some(()));
    let afterwards = String::from_utf8(event("kept.one", "afterwards")).unwrap();
    eventually("the door takes events", || (post(service.address(), "/events?key=kept.one", &afterwards)?.status == 200).then_some(()));
    eventually("what came afterwards is handled", || world.home.read("seen").contains("afterwards").then_some(()));
    let metrics = get(service.address(), "/metrics").body;
    assert!(!metrics.contains("event_router_transport_reconnects_total 0"), "{metrics}");
    let _ = service.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_at_the_start_is_waited_for_with_open_doors() {
    let broker = Broker::shared();
    let proxy = FaultProxy::before(broker.address());
    proxy.refuse();
    let mut world = World::on(std::sync::Arc::new(broker.vhost()), ROUTES);
    world.url = world.url.replace(&broker.address().to_string(), &proxy.address().to_string());
    let (mut service, address) = world.begin();
    let _ = service.wait_for("the broker is away and is waited for").expect("it is said loudly");
    let body = String::from_utf8(event("kept.one", "too-early")).unwrap();
    let answer = post(address, "/events?key=kept.one", &body).expect("the door is open");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(get(address, "/healthz").status, 200);
    let ready = get(address, "/readyz");
    assert_eq!((ready.status, &ready.json()["transport"]["ready"]), (503, &Value::from(false)), "{ready:?}");
    assert!(ready.body.contains("the transport is away"), "{ready:?}");

    proxy.heal();
    let _ = service.wait_for("events are taken in and handled from now on").expect("it is told");
    eventually("the door takes events", || (post(address, "/events?key=kept.one", &body)?.status == 200).then_some(()));
    eventually("the event is handled", || world.home.read("seen").contains("too-early").then_some(()));
    eventually("the router is ready", || (get(address, "/readyz").status == 200).then_some(()));
    service.signal(Signal::TERM);
    let log = service.stop_asked().join("\n");
    assert!(!log.contains(PASSWORD), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_waits_for_its_broker_ends_when_it_is_asked_to() {
    let mut world = World::new(ROUTES);
    world.url = "amqp://router:hunter22-of-the-journeys@127.0.0.1:1/".to_owned();
    // Before the broker is given up on, and afterwards.
    for line in ["commands reach this router", "the broker is away and is waited for"] {
        let (mut service, _) = world.begin();
        let _ = service.wait_for(line).expect("it is said");
        service.signal(Signal::TERM);
        let log = service.stop_asked().join("\n");
        assert!(log.contains("event-router has stopped"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_names_another_broker_says_that_it_needs_a_restart_and_goes_on() {
    let world = World::new(ROUTES);
    let mut service = world.serve();
    world.configure("heartbeat_s = 20", ROUTES);
    service.signal(Signal::HUP);
    let _ = service.wait_for("`transport` has changed, which needs a restart").expect("it is said");
    service.send("kept.one", &serde_json::from_slice(&event("kept.one", "goes-on")).unwrap());
    eventually("the event is handled", || world.home.read("seen").contains("goes-on").then_some(()));
    let _ = service.stop();
}
