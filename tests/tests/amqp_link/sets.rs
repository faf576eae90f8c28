//! What is bound when a set is refused, and channels that are refused again and again.

use std::{sync::Arc, time::Duration};

use router_api::{Destination, Envelope, Matcher, QueueWish, Subscription, Transport, TransportError};
use router_tests::{AmqpClient, Broker};
use serde_json::json;

use crate::house::{event, options, publish_until_safe, reached, until};

struct All;

impl Matcher for All {
    fn matches(&self, _: &Envelope) -> bool {
        true
    }

    fn lane(&self, _: &Envelope) -> Option<String> {
        None
    }
}

fn subscription(route: &str, pattern: &str) -> Subscription {
    Subscription {
        route: route.parse().expect("a route name"),
        patterns: vec![pattern.parse().expect("a pattern")],
        matcher: Arc::new(All),
        queue: QueueWish::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_is_refused_changes_nothing_not_even_with_the_next_session() {
    let vhost = Broker::shared().vhost();
    let client = AmqpClient::connect(&vhost.url()).await;
    client.declare_queue("services.router.new", &json!({ "x-max-length": 7 })).await;
    let transport = reached(options(&vhost.url())).await;
    transport.bind(&[subscription("old", "a.#")]).await.expect("it is possible");

    let patterns = |queue: &str| {
        let mut keys: Vec<String> = vhost
            .bindings()
            .into_iter()
            .filter(|binding| binding.source == "bloodbank.events.v1" && binding.destination == queue)
            .map(|binding| binding.key)
            .collect();
        keys.sort();
        keys
    };
    let refused = transport.bind(&[subscription("old", "b.#"), subscription("new", "c.#")]).await;
    assert!(matches!(&refused, Err(TransportError::Refused(why)) if why.contains("services.router.new")), "{refused:?}");
    assert_eq!(patterns("services.router.old"), ["a.#"], "what the refused set has added is taken away");

    let reconnects = transport.condition().reconnects;
    vhost.close_connections("a new session, please");
    until("there is another session", || transport.condition().reachable && transport.condition().reconnects > reconnects).await;
    assert!(publish_until_safe(&transport, "a.b", "{}").await.routed, "the old route collects");
    assert_eq!(patterns("services.router.old"), ["a.#"]);
    assert_eq!(transport.condition().troubles, [""; 0], "nothing of the refused set is wanted");
    assert!(transport.consume(&"new".parse().expect("a route name"), 8).await.is_err());
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_are_refused_do_not_wear_out_a_connection() {
    let vhost = Broker::shared().vhost();
    // Each refusal costs the number of its channel for good; with few of them that is seen soon.
    let url = format!("{}?channel_max=64", vhost.url());
    let transport = reached(options(&url)).await;
    transport.bind(&[subscription("kept", "a.#")]).await.expect("it is possible");
    let stranger = Destination::Route { route: "nobody".parse().expect("a route name"), delay: Duration::ZERO };
    let mut refused = 0;
    for number in 0..150 {
        let publication = router_api::Publication { to: stranger.clone(), ..event("a.b", "{}") };
        match transport.publish(publication).await {
            Err(TransportError::Refused(why)) => {
                assert!(why.contains("no queue `services.router.nobody`"), "the answer to another question, at {number}: {why}");
                refused += 1;
            }
            Err(TransportError::Unavailable(why)) => {
                assert!(why.contains("no channel left") || why.contains("not reached") || why.contains("is lost"), "at {number}: {why}");
                until("the connection is opened anew", || transport.condition().reachable).await;
            }
            other => panic!("at {number}: {other:?}"),
        }
    }
    assert!(refused > 100, "most were answered: {refused}");
    assert!(transport.condition().reconnects > 0, "the numbers ran out, and another connection was opened");
    assert!(publish_until_safe(&transport, "a.b", "{}").await.routed);
    transport.close().await;
}
