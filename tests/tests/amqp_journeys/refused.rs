//! Brokers that say no: a wrong password, no permission, a queue that is made otherwise, nobody there.

use router_tests::AmqpClient;
use serde_json::json;

use crate::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_ends_every_command_with_a_sentence_that_does_not_show_it() {
    let mut world = World::new(ROUTES);
    world.url = world.url.replace(PASSWORD, "wrong-and-never-shown");
    for args in [&["run"][..], &["publish", "--sample", "write"], &["dead-letters", "list"], &["check", "--broker"]] {
        let ran = world.run(args).code(1);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("check the user and the password"), "{args:?}: {said}");
        assert!(!said.contains("wrong-and-never-shown"), "{args:?}: {said}");
    }
    let (host, _) = world.url.rsplit_once('/').expect("a virtual host at the end");
    world.url = format!("{}/no-such-host", host.replace("wrong-and-never-shown", PASSWORD));
    let ran = world.run(&["run"]).code(1);
    assert!(ran.stderr.contains("virtual host") && !ran.stderr.contains("lapin"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_made_otherwise_is_refused_by_run_and_told_by_check() {
    let world = World::new(ROUTES);
    let client = AmqpClient::connect(&world.vhost.url()).await;
    client.declare_queue("services.router.kept", &json!({ "x-max-length": 7 })).await;
    let planned = world.run(&["check", "--broker", "--json"]).code(1);
    assert_eq!(planned.json()["possible"], false);
    let ran = world.run(&["run"]).code(1);
    for said in [planned.stdout.as_str(), ran.stderr.as_str()] {
        // Which of the differing arguments a broker names first is its own affair.
        assert!(said.contains("services.router.kept") && (said.contains("x-queue-type") || said.contains("x-max-length")), "{said}");
        assert!(said.contains("queue = ") || said.contains("shovel"), "a way out is named: {said}");
    }
    let shown = world.run(&["check", "--broker"]).code(1).stdout;
    assert!(shown.contains("refused") && shown.contains("would refuse 1 thing"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_verify_nothing_is_made_and_what_is_missing_is_named() {
    let world = World::new(ROUTES);
    world.configure("topology = \"verify\"", ROUTES);
    let ran = world.run(&["run"]).code(1);
    assert!(ran.stderr.contains("verify") || ran.stderr.contains("is not there"), "{ran:?}");
    let _ = world.run(&["check", "--broker"]).code(1);
    assert!(world.queue_names().is_empty() && world.vhost.exchanges().is_empty());
}

#[test]
fn a_broker_that_nobody_answers_for_is_told_with_what_to_look_at() {
    let home = router_tests::Home::new(
        "[transport]\nkind = \"amqp\"\nurl = \"amqp://router:${PW}@127.0.0.1:1/\"\n[[route]]\nname = \"a\"\non = [\"a\"]\nhandler = \"log\"\n",
    );
    for args in [&["publish", "--sample", "write"][..], &["dead-letters", "list"], &["check", "--broker"]] {
        let ran = home.run_with(&[("PW", PASSWORD)], args).code(1);
        assert!(ran.stderr.contains("is RabbitMQ running there") && !ran.stderr.contains(PASSWORD), "{args:?}: {ran:?}");
    }
}
