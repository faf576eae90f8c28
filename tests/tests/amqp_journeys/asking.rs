//! `publish`, `check --broker` and `--env-file`: commands that ask the broker themselves.

use router_tests::{AmqpClient, Ran};
use serde_json::{Value, json};

use crate::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_needs_no_store_and_no_router() {
    let world = World::new(ROUTES);
    let client = AmqpClient::connect(&world.vhost.url()).await;
    client.declare_exchange(EXCHANGE, "topic", &json!({})).await;
    client.declare_queue("collector", &json!({})).await;
    client.bind("collector", EXCHANGE, "session.#").await;

    let answer = world.run(&["publish", "--sample", "write", "--json"]).code(0).json();
    assert_eq!((&answer["schema"], &answer["routed"], &answer["seq"]), (&Value::from("event-router.published.v1"), &Value::from(true), &Value::Null));
    let message = client.get("collector").await.expect("it is on the broker");
    assert_eq!(message.id(), answer["event_id"].as_str());
    let unwanted = world.run(&["publish", "--sample", "write", "--key", "nobody.wants.this"]).code(0);
    assert!(unwanted.stdout.contains("is confirmed by the broker") && unwanted.stdout.contains("no route wants it"), "{unwanted:?}");
    assert!(unwanted.stdout.contains("no router runs on"), "{unwanted:?}");
    assert!(world.has_no_store(), "a command leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_works_beside_a_running_router() {
    let world = World::new(ROUTES);
    let service = world.serve();
    world.home.write("event.json", &String::from_utf8(event("kept.one", "by-command")).unwrap());
    let _ = world.run(&["publish", "event.json"]).code(0);
    let stranger = world.neighbour(ROUTES);
    stranger.home.write("event.json", &String::from_utf8(event("kept.one", "from-elsewhere")).unwrap());
    let _ = stranger.run(&["publish", "event.json"]).code(0);
    router_tests::eventually("both are handled", || {
        let seen = world.home.read("seen");
        (seen.contains("by-command") && seen.contains("from-elsewhere")).then_some(())
    });
    let _ = service.stop();
}

fn changes(ran: &Ran, change: &str) -> Vec<String> {
    let json = ran.json();
    let lines = json["plan"].as_array().expect("a plan");
    lines.iter().filter(|line| line["change"] == change).map(|line| line["object"].as_str().expect("a text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_broker_says_what_run_would_make_and_makes_nothing() {
    let world = World::new(ROUTES);
    let planned = world.run(&["check", "--broker", "--json"]).code(0);
    assert_eq!((&planned.json()["schema"], &planned.json()["possible"]), (&Value::from("event-router.plan.v1"), &Value::from(true)));
    let created = changes(&planned, "create");
    for object in [
        "exchange `bloodbank.events.v1`",
        "queue `services.router.kept`",
        "queue `services.router.kept.dead`",
        "binding `kept.#` of queue `services.router.kept`",
    ] {
        assert!(created.iter().any(|created| created == object), "{object} in {created:#?}");
    }
    assert!(world.queue_names().is_empty() && world.vhost.exchanges().is_empty() && world.has_no_store(), "{:?}", world.queue_names());

    let service = world.serve();
    let beside = world.run(&["check", "--broker", "--json"]).code(0);
    assert_eq!((changes(&beside, "create"), changes(&beside, "unknown")), (Vec::new(), Vec::new()), "{}", beside.stdout);
    assert!(changes(&beside, "keep").iter().any(|kept| kept == "binding `kept.#` of queue `services.router.kept`"), "{}", beside.stdout);
    world.configure("heartbeat_s = 11", ROUTES);
    let other = world.run(&["check", "--broker"]).code(0).stdout;
    assert!(other.contains("the router that runs holds the record") && !other.contains("our own record does not have it"), "{other}");
    world.configure("", ROUTES);
    let _ = service.stop();
    let shown = world.run(&["check", "--broker"]).code(0).stdout;
    assert!(shown.contains("nothing would change on amqp://") && shown.contains("queue `services.router.kept`"), "{shown}");

    // A pattern more, one less: what was bound is known from the record of the last run.
    world.configure("", &ROUTES.replace("on = [\"kept.#\"]", "on = [\"other.#\"]"));
    let planned = world.run(&["check", "--broker", "--json"]).code(0);
    assert_eq!(changes(&planned, "remove"), ["binding `kept.#` of queue `services.router.kept`"], "{}", planned.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_variables_of_a_file_say_where_the_broker_is() {
    let world = World::new(ROUTES);
    world.home.write("broker.env", &format!("# where the bus is\nRABBIT_URL='{}'\n", world.url));
    let _ = Ran::of(world.home.command(&["--env-file", "broker.env", "check", "--broker"]).output().expect("the program runs")).code(0);
    let missing = world.home.run(&["check", "--broker"]).code(78);
    assert!(missing.stdout.contains("the variable `RABBIT_URL` is not set"), "{missing:?}");
    world.home.write("broker.env", "export RABBIT_URL=amqp://u:hunter22@localhost/\n");
    let wrong = world.home.run(&["--env-file", "broker.env", "check"]).code(78);
    assert!(wrong.stderr.contains("broker.env:1: ") && wrong.stderr.contains("without `export`") && !wrong.stderr.contains("hunter22"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_amqp_cannot_tell_is_said_where_it_is_asked() {
    const UNTOLD: &str = "AMQP cannot tell how old";
    let off = ROUTES.replace("name = \"kept\"", "name = \"kept\"\nenabled = false");
    let world = World::new(&off);
    let service = world.serve();
    let told = world.run(&["routes"]).code(0);
    assert!(told.stdout.contains(UNTOLD), "{told:?}");
    let told = world.run(&["routes", "list", "--json"]).code(0).json();
    assert!(told["status"]["untold"].as_str().is_some_and(|untold| untold.starts_with(UNTOLD)), "{told}");

    // Who skips what waits is told what is not counted; who begins with it need not know.
    world.configure("", ROUTES);
    let told = world.run(&["routes", "enable", "kept", "--from", "now", "--json"]).code(0).json();
    let told = &told["result"];
    assert!(told["reloaded"].is_object() && told["untold"].as_str().is_some_and(|untold| untold.starts_with(UNTOLD)), "{told}");
    let _ = service.stop();
    for (from, is_told) in [("now", true), ("beginning", false)] {
        let told = world.run(&["routes", "enable", "kept", "--from", from]).code(0);
        assert_eq!(told.stdout.contains(UNTOLD), is_told, "{told:?}");
    }
}

#[test]
fn on_the_embedded_transport_there_is_no_broker_to_check() {
    let home = router_tests::Home::new("[[route]]\nname = \"a\"\non = [\"a\"]\nhandler = \"log\"\n");
    let ran = home.run(&["check", "--broker"]).code(1);
    assert!(ran.stderr.contains("there is no broker to ask"), "{ran:?}");
}
