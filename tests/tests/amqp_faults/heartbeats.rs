//! Handlers that block their threads, beside connections that live by their heartbeats.

use std::sync::Arc;

use router_tests::{AmqpClient, Broker, Service, amqp_client::persistent, hostile_binary, request};
use serde_json::json;

use crate::world::{EXCHANGE, QUEUE, World, until, wait};

fn get(service: &Service, path: &str) -> String {
    let address = service.address();
    let answer = request(address, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).expect("the door answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[test]
fn handlers_that_block_every_thread_they_have_cost_no_heartbeat_and_no_connection() {
    let vhost = Arc::new(Broker::shared().vhost());
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let routes = format!("\n[[route]]\nname = \"kept\"\non = [\"kept.#\"]\nconcurrency = {threads}\nhandler = \"hostile\"\nwith = {{ directory = \".\" }}\n");
    // Who is silent for two heartbeats loses the connection.
    let world = World::at(vhost, Some(url), "heartbeat_s = 2", &routes);
    let mut command = world.home.command_of(hostile_binary(), &["run", "--log-format", "json"]);
    command.env("RABBIT_URL", &world.url);
    let service = Service::start(command);
    let event = |number: usize| {
        let payload = json!({ "session_id": format!("s{number}"), "seq": number, "do": "block" });
        let event = json!({ "event_id": format!("00000000-0000-4000-8000-{number:012}"), "event_type": "kept.event", "payload": payload });
        ("kept.event".to_owned(), event.to_string().into_bytes(), persistent())
    };
    wait(async {
        let client = AmqpClient::connect(&world.vhost.url()).await;
        assert_eq!(client.publish_all(EXCHANGE, (0..threads).map(event)).await, threads, "a queue wants every event");
        client.close().await;
    });
    until("every thread of the handlers is blocked", || (world.home.read("blocked.log").lines().count() == threads).then_some(()));

    // Each of the two connections sends one when half of the time is over, so these are three times two seconds.
    let before = proxy.counters();
    let after = proxy.await_counters("heartbeats go on", |now| now.heartbeats_to_broker >= before.heartbeats_to_broker + 12);
    assert_eq!((after.accepted, after.open), (before.accepted, before.open), "no connection was lost, and none was opened");
    let _ = get(&service, "/healthz");
    let metrics = get(&service, "/metrics");
    assert!(metrics.contains("event_router_transport_up 1") && metrics.contains("event_router_transport_reconnects_total 0"), "{metrics}");

    world.home.write("gate", "");
    world.await_empty(QUEUE);
    assert_eq!(world.home.read("handled.log").lines().count(), threads, "each is handled once: it was in hand all the time");
    let _ = service.stop();
}
