//! The moment in which a broker is back, or a session new, and not everything on it stands again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use router_amqp::AmqpTransport;
use router_api::{Publication, RoutingKey, Store, Transport, TransportError};
use router_tests::{AmqpClient, Broker};
use serde_json::json;

use crate::{archive::*, house::*};

/// Restarts of one node.
const RESTARTS: u32 = 4;
/// Published one after the other with each restart.
const BATCH: u32 = 40;

fn event(key: &str, id: &str) -> Publication {
    Publication::new(RoutingKey::new(key).expect("a key"), json!({ "event_id": id, "event_type": "test", "payload": {} }).to_string())
}

/// Publishes an event in the end; its id.
async fn push(transport: &AmqpTransport, id: String) -> String {
    publish(transport, "k.one", &json!({ "event_id": id, "event_type": "test", "payload": {} }).to_string()).await;
    id
}

/// Waits until all of these are in the archive.
async fn await_kept(what: &str, store: &dyn Store, published: &BTreeSet<String>) {
    let mut missing: Vec<String> = Vec::new();
    let all = async {
        loop {
            let there: BTreeSet<String> = kept(store).await.iter().map(|event| id_of(&event.body)).collect();
            missing = published.difference(&there).cloned().collect();
            if missing.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, all).await;
    assert!(came.is_ok(), "{what}: {} of {} were confirmed and are not in the archive: {missing:?}", missing.len(), published.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_in_the_first_moment_after_each_restart_of_the_broker_is_in_the_archive() {
    let broker = Broker::start();
    let vhost = broker.vhost();
    let store = memory();
    // Without a queue of a route to declare, it publishes as soon as it is let in.
    let transport = follower_at(&vhost.url(), Arc::clone(&store) as _, 0, &[]).await;
    collecting(&vhost).await;
    let mut published = BTreeSet::new();
    for restart in 0..RESTARTS {
        published.insert(push(&transport, format!("before-{restart}")).await);
        if restart % 2 == 0 {
            broker.stop();
        } else {
            broker.kill();
        }
        // They are on their way before the ports are open again.
        let pushing = tokio::spawn({
            let transport = Arc::clone(&transport);
            async move {
                let mut pushed = Vec::new();
                for at in 0..BATCH {
                    pushed.push(push(&transport, format!("{restart}-{at}")).await);
                }
                pushed
            }
        });
        broker.begin();
        published.extend(pushing.await.expect("all are published in the end"));
        await_kept(&format!("restart {restart}"), &*store, &published).await;
    }
    until("it is well again", || transport.condition().accepts && transport.condition().troubles.is_empty()).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_session_publishes_nothing_before_the_archive_takes_events() {
    let vhost = Broker::shared().vhost();
    let proxy = vhost.broker().proxy();
    let store = memory();
    let transport = follower_at(&vhost.url_through(&proxy), Arc::clone(&store) as _, 0, &[]).await;
    collecting(&vhost).await;
    let mut published = BTreeSet::from([push(&transport, "before".to_owned()).await]);
    // The stream is there and gets nothing, as in the moment after a start of the broker; each answer takes its time, and what is asked
    // before the stream is bound again takes one more than a publication.
    let client = AmqpClient::connect(&vhost.url()).await;
    client.unbind(STREAM, EXCHANGE, "#").await;
    proxy.delay(Duration::from_millis(100));
    proxy.cut();
    for at in 0..3 {
        published.insert(push(&transport, format!("after-{at}")).await);
    }
    proxy.heal();
    await_kept("a new session", &*store, &published).await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_comes_back_although_a_route_wants_it_is_not_safe_and_arrives_once_the_binding_is_mended() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k.#"])]).await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    client.unbind("services.router.a", EXCHANGE, "k.#").await;
    match within("an answer", house.transport.publish(event("k.one", "1"))).await {
        Err(TransportError::Unavailable(sentence)) => {
            assert!(sentence.contains("`k.one`") && sentence.contains("not up on the broker, or not bound"), "{sentence}")
        }
        other => panic!("it is in no queue: {other:?}"),
    }
    // What no route wants is no failure meanwhile.
    let unwanted = within("an answer", house.transport.publish(event("other.one", "2"))).await.expect("it is safe");
    assert!(!unwanted.routed);
    house.publish("k.one", "1").await;
    assert_eq!(house.keys("services.router.a"), ["k.#"], "the declaration was mended");
    let consumer = house.consume("a").await;
    let delivery = take(&consumer).await;
    assert_eq!((id_of(&delivery.body).as_str(), delivery.key.as_str()), ("1", "k.one"));
    done(&consumer, delivery).await;
    house.transport.close().await;
}
