//! Bindings that somebody takes away while nobody publishes through a router, who would hear of it.

use std::{sync::Arc, time::Duration};

use router_amqp::AmqpOptions;
use router_api::Transport;
use router_tests::{AmqpClient, Broker, CONSUME, QUEUE_BIND, QUEUE_DECLARE, Then};
use serde_json::json;

use crate::{archive::*, house::*};

const QUEUE: &str = "services.router.a";

/// Not to be waited for.
const SOON: Duration = Duration::from_millis(20);

/// Takes a binding away, and waits until it is there again: a round over all bindings has begun and come to it.
async fn is_bound_again(house: &House, client: &AmqpClient, queue: &str, exchange: &str, key: &str) {
    client.unbind(queue, exchange, key).await;
    is_there(house, queue, exchange, key).await;
}

async fn is_there(house: &House, queue: &str, exchange: &str, key: &str) {
    let is_it = |binding: &router_tests::broker::BindingFacts| binding.destination == queue && binding.source == exchange && binding.key == key;
    until(&format!("`{queue}` is bound to `{exchange}` with `{key}`"), || house.vhost.bindings().iter().any(is_it)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_unbinds_is_bound_again_though_only_others_publish() {
    let house = House::with(|options| options.rebind_every = SOON).await;
    let many: Vec<String> = (0..35).map(|at| format!("many.k{at}.#")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    house.bind(&[subscription("a", &["k.#", "l.*"]), subscription("b", &many)]).await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    client.bind(QUEUE, EXCHANGE, "foreign.#").await;
    let before = house.vhost.bindings();
    for key in ["k.#", "l.*"] {
        client.unbind(QUEUE, EXCHANGE, key).await;
    }
    for key in &many {
        client.unbind("services.router.b", EXCHANGE, key).await;
    }
    client.unbind(QUEUE, RETURN, QUEUE).await;
    client.unbind(LOST, LOST, "").await;
    let sorted = |mut bindings: Vec<router_tests::broker::BindingFacts>| {
        bindings.sort_by_key(|binding| format!("{binding:?}"));
        bindings
    };
    let before = sorted(before);
    until("everything is bound as before", || sorted(house.vhost.bindings()) == before).await;

    assert!(client.publish(EXCHANGE, "k.one", json!({ "event_id": "1" }).to_string().as_bytes()).await, "the queue takes it");
    let consumer = house.consume("a").await;
    let delivery = take(&consumer).await;
    assert_eq!(id_of(&delivery.body), "1");
    done(&consumer, delivery).await;
    let condition = house.transport.condition();
    assert_eq!((condition.reconnects, condition.troubles), (0, Vec::new()));
    house.transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_all_events_is_bound_again_too() {
    let vhost = Broker::shared().vhost();
    let store = memory();
    let options = AmqpOptions { rebind_every: SOON, archive: archive(), ..AmqpOptions::new(vhost.url()) };
    let transport = follower_with(options, Arc::clone(&store) as _, 0, &[subscription("a", &["k.#"])]).await;
    collecting(&vhost).await;
    let client = AmqpClient::connect(&vhost.url()).await;
    client.unbind(STREAM, EXCHANGE, "#").await;
    collecting(&vhost).await;
    // Confirmed, and in no queue of a route.
    assert!(client.publish(EXCHANGE, "other.one", json!({ "event_id": "1", "event_type": "test" }).to_string().as_bytes()).await);
    within("the archive has it", async {
        while kept(&*store).await.is_empty() {
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_that_is_taken_from_a_route_is_not_bound_again() {
    let house = House::with(|options| options.rebind_every = Duration::from_millis(1)).await;
    // More than are bound without a rest, so that a round is in their middle when they are wanted no more.
    let many: Vec<String> = (0..35).map(|at| format!("many.k{at}.#")).collect();
    let all: Vec<&str> = ["kept.#"].into_iter().chain(many.iter().map(String::as_str)).collect();
    let client = AmqpClient::connect(&house.vhost.url()).await;
    for _ in 0..3 {
        house.bind(&[subscription("a", &all)]).await;
        is_bound_again(&house, &client, QUEUE, EXCHANGE, "kept.#").await;
        house.bind(&[subscription("a", &["kept.#"])]).await;
        // The round that was under way has ended, and so has one after it.
        for _ in 0..2 {
            is_bound_again(&house, &client, QUEUE, EXCHANGE, "kept.#").await;
        }
        assert_eq!(house.keys(QUEUE), ["kept.#"]);
    }
    house.transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_of_a_route_that_is_refused_or_out_of_reach_is_not_touched() {
    let vhost = Broker::shared().vhost();
    let proxy = vhost.broker().proxy();
    let url = vhost.url_through(&proxy);
    let house = House::on(vhost, |options| (options.url, options.rebind_every) = (url, SOON)).await;
    house.bind(&[subscription("a", &["a.#"]), subscription("made", &["made.#"]), subscription("far", &["far.#"]), subscription("last", &["last.#"])]).await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    // Somebody makes one in another way, and of another one the broker says nothing more.
    client.delete_queue("services.router.made").await;
    client.declare_queue("services.router.made", &json!({ "x-max-length": 7 })).await;
    for method in [QUEUE_DECLARE, CONSUME] {
        proxy.trap(method, "services.router.far", Then::Lose);
    }
    proxy.trap(QUEUE_BIND, "services.router.far", Then::Cut);
    proxy.cut();
    let troubles = || house.transport.condition().troubles;
    until("both are known", || {
        let troubles = troubles().join("\n");
        troubles.contains("route `made` gets nothing") && troubles.contains("route `far` gets nothing")
    })
    .await;
    let reconnects = house.transport.condition().reconnects;
    // A round that was under way when the queue was made anew has bound it, before anybody could know.
    client.unbind("services.router.made", EXCHANGE, "made.#").await;
    for _ in 0..2 {
        is_bound_again(&house, &client, QUEUE, EXCHANGE, "a.#").await;
        is_bound_again(&house, &client, "services.router.last", EXCHANGE, "last.#").await;
    }
    assert_eq!(house.keys("services.router.made"), [""; 0], "it was refused");
    assert_eq!(house.transport.condition().reconnects, reconnects, "who binds the one out of reach loses the connection");
    proxy.heal();
    house.transport.close().await;
}
