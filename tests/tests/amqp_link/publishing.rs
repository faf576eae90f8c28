//! What is published is safe, or somebody hears that it is not.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use router_amqp::AmqpTransport;
use router_api::{Published, Transport, TransportError};
use router_tests::Broker;
use serde_json::json;
use tokio::time::Instant;

use crate::house::{EXCHANGE, PATIENCE, collector, event, options, publish_until_safe, reached, until, within};

/// Publishes `number` events from so many tasks at once; what `of` makes of each number goes out. Answers by number.
async fn publish_from(
    transport: &Arc<AmqpTransport>,
    tasks: usize,
    number: usize,
    of: impl Fn(usize) -> (String, String) + Send + Sync + 'static,
) -> Vec<(usize, Result<Published, TransportError>)> {
    let of = Arc::new(of);
    let work = (0..tasks).map(|task| {
        let (transport, of) = (Arc::clone(transport), Arc::clone(&of));
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for at in (task..number).step_by(tasks) {
                let (key, body) = of(at);
                answers.push((at, transport.publish(event(&key, body)).await));
            }
            answers
        })
    });
    within("all tasks have published", join_all(work)).await.into_iter().flat_map(|answers| answers.expect("no task panics")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_publishes_what_nobody_wants_is_told_so_however_many_publish_at_once() {
    let vhost = Broker::shared().vhost();
    let client = collector(&vhost.url(), "wanted", "wanted.#").await;
    let transport = reached(options(&vhost.url())).await;
    let answers = publish_from(&transport, 64, 3_000, |at| {
        // Without an id of their own, and in many places the same twice.
        let word = if at % 3 == 0 { "unwanted" } else { "wanted" };
        (format!("{word}.k{}", at % 7), format!("{{\"number\":{at}}}"))
    })
    .await;
    for (at, answer) in answers {
        let published = answer.expect("the broker is well");
        assert_eq!(published.routed, at % 3 != 0, "event {at}");
    }
    let lain: HashSet<String> = client.drain("wanted").await.into_iter().map(|message| String::from_utf8(message.body).expect("text")).collect();
    assert_eq!(lain.len(), 2_000);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_persistent_and_carries_its_type() {
    let vhost = Broker::shared().vhost();
    let client = collector(&vhost.url(), "all", "#").await;
    let transport = reached(options(&vhost.url())).await;
    assert!(transport.publish(event("a.b", r#"{"id":"8b3c2c1e-6a51-4b0c-9f0e-000000000001","type":"a"}"#)).await.expect("it is safe").routed);
    let message = client.get("all").await.expect("it lies there");
    assert_eq!(message.properties.delivery_mode(), &Some(2));
    assert_eq!(message.properties.content_type().as_ref().map(|text| text.as_str().to_owned()).as_deref(), Some("application/json"));
    assert!(message.id().is_some());
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_keeps_its_order_even_without_waiting() {
    let vhost = Broker::shared().vhost();
    let client = collector(&vhost.url(), "all", "#").await;
    let transport = reached(options(&vhost.url())).await;
    let answers = within("all are published", join_all((0..3_000).map(|at| transport.publish(event("a.b", at.to_string()))))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|published| published.routed)));
    let lain: Vec<usize> =
        client.drain("all").await.into_iter().map(|message| String::from_utf8(message.body).expect("text").parse().expect("a number")).collect();
    assert_eq!(lain, (0..3_000).collect::<Vec<_>>());
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirms_are_pipelined() {
    let vhost = Broker::shared().vhost();
    let _client = collector(&vhost.url(), "all", "#").await;
    let proxy = vhost.broker().proxy();
    let transport = reached(options(&vhost.url_through(&proxy))).await;
    let away = Duration::from_millis(20);
    proxy.delay(away);
    let begun = Instant::now();
    let answers = publish_from(&transport, 64, 2_000, |at| ("a.b".to_owned(), at.to_string())).await;
    let took = begun.elapsed();
    assert!(answers.iter().all(|(_, answer)| answer.as_ref().is_ok_and(|published| published.routed)));
    // There and back for each would be 80 s.
    assert!(took < away * 2 * 2_000 / 2, "{took:?}");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_on_which_the_broker_takes_nothing_any_more_is_left_for_another() {
    let vhost = Broker::shared().vhost();
    let proxy = vhost.broker().proxy();
    let _client = collector(&vhost.url(), "all", "#").await;
    let transport = reached(options(&vhost.url_through(&proxy))).await;
    assert!(publish_until_safe(&transport, "a.b", "1").await.routed);
    // As RabbitMQ does where a stream has another leader than when the channel first published to it.
    proxy.refuse_on_one_channel();
    let answer = transport.publish(event("a.b", "2")).await;
    assert!(matches!(answer, Err(TransportError::Full(_))), "{answer:?}");
    assert!(publish_until_safe(&transport, "a.b", "2").await.routed, "on another channel");
    assert_eq!(transport.condition().reconnects, 0, "no connection is spent on it");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_full_refuses_and_takes_again() {
    let vhost = Broker::shared().vhost();
    let client = collector(&vhost.url(), "other", "other.#").await;
    client.declare_queue("small", &json!({"x-max-length": 1, "x-overflow": "reject-publish"})).await;
    client.bind("small", EXCHANGE, "small.#").await;
    let transport = reached(options(&vhost.url())).await;
    assert!(transport.publish(event("small.a", "1")).await.expect("there is room").routed);
    within("the queue is full", async {
        loop {
            match transport.publish(event("small.a", "2")).await {
                Err(TransportError::Full(sentence)) => {
                    assert!(sentence.contains("did not take"), "{sentence}");
                    return;
                }
                other => drop(other.expect("it is taken until the queue is full")),
            }
        }
    })
    .await;
    assert!(transport.publish(event("other.a", "3")).await.expect("others are not affected").routed);
    client.purge("small").await;
    publish_until_safe(&transport, "small.a", "4").await;
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_finds_too_large_is_refused_and_takes_no_other_with_it() {
    let broker = Broker::options().line("max_message_size = 65536").start();
    let vhost = broker.vhost();
    let client = collector(&vhost.url(), "all", "#").await;
    let transport = reached(options(&vhost.url())).await;
    let answers = publish_from(&transport, 32, 500, |at| {
        let body = if at == 250 { "x".repeat(65_537) } else { at.to_string() };
        ("a.b".to_owned(), body)
    })
    .await;
    for (at, answer) in answers {
        match answer {
            Err(TransportError::Refused(sentence)) if at == 250 => assert!(sentence.contains("65537") && sentence.contains("65536"), "{sentence}"),
            Ok(published) if at != 250 => assert!(published.routed),
            other => panic!("event {at}: {other:?}"),
        }
    }
    assert!(transport.publish(event("a.b", "y".repeat(65_536))).await.expect("it fits").routed);
    let lain: HashSet<Vec<u8>> = client.drain("all").await.into_iter().map(|message| message.body).collect();
    assert_eq!(lain.len(), 500, "499 numbers and the one that just fits");
    // From now on it is known, and nobody is asked: there is nobody.
    broker.stop();
    let known = transport.publish(event("a.b", "x".repeat(65_537))).await;
    assert!(matches!(known, Err(TransportError::Refused(_))), "{known:?}");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_gone_fails_at_once_and_is_used_again_when_it_is_back() {
    let vhost = Broker::shared().vhost();
    let client = collector(&vhost.url(), "all", "#").await;
    let transport = reached(router_amqp::AmqpOptions { topology: router_amqp::Topology::Off, ..options(&vhost.url()) }).await;
    client.delete_exchange(EXCHANGE).await;
    let answers = publish_from(&transport, 16, 64, |at| ("a.b".to_owned(), at.to_string())).await;
    let mut named = 0;
    for (at, answer) in answers {
        let Err(TransportError::Unavailable(sentence)) = answer else { panic!("event {at}: {answer:?}") };
        named += usize::from(sentence.contains("no exchange"));
    }
    // Not all: a frame that lapin had queued when it answered the broker's close of the channel reaches a channel that is closed, for which
    // the broker ends the whole connection (504). Who publishes before it is there again is told that.
    assert!(named > 0, "nobody was told what is wrong");
    client.declare_exchange(EXCHANGE, "topic", &json!({})).await;
    client.bind("all", EXCHANGE, "#").await;
    assert!(publish_until_safe(&transport, "a.b", "again").await.routed);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_write_is_refused_and_others_on_the_channel_are_not() {
    let vhost = Broker::shared().vhost();
    let client = collector(&vhost.url(), "all", "#").await;
    client.declare_exchange("closed", "topic", &json!({})).await;
    vhost.broker().add_user("reader", "reads");
    vhost.broker().permit("reader", vhost.name(), ".*", "^$", ".*");
    let options = router_amqp::AmqpOptions { topology: router_amqp::Topology::Off, ..options(&vhost.url_as("reader", "reads")) };
    let transport = reached(options).await;
    let answer = transport.publish(event("a.b", "1")).await;
    let Err(TransportError::Refused(sentence)) = answer else { panic!("{answer:?}") };
    assert!(sentence.contains("ACCESS_REFUSED") && sentence.contains(EXCHANGE), "{sentence}");
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirm_that_never_comes_ends_in_an_answer_and_publishing_goes_on() {
    let vhost = Broker::shared().vhost();
    let client = collector(&vhost.url(), "all", "#").await;
    let proxy = vhost.broker().proxy();
    let transport = reached(options(&vhost.url_through(&proxy))).await;
    proxy.drop_confirms();
    let answer = within("an answer", transport.publish(event("a.b", "1"))).await;
    let Err(TransportError::Unavailable(sentence)) = answer else { panic!("{answer:?}") };
    assert!(sentence.contains("confirmed nothing"), "{sentence}");
    assert_eq!(client.depth("all").await, Some(1), "it is there all the same");
    proxy.heal();
    assert!(publish_until_safe(&transport, "a.b", "1").await.routed);
    transport.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_short_of_memory_or_disk_blocks_who_publishes_and_nobody_else() {
    let broker = Broker::start();
    let vhost = broker.vhost();
    let client = collector(&vhost.url(), "all", "#").await;
    let transport = reached(options(&vhost.url())).await;
    assert!(transport.publish(event("a.b", "before")).await.expect("all is well").routed);
    for (resource, raise, end) in [
        ("memory", Broker::raise_memory_alarm as fn(&Broker), Broker::end_memory_alarm as fn(&Broker)),
        ("disk", Broker::raise_disk_alarm, Broker::end_disk_alarm),
    ] {
        raise(&broker);
        until("the alarm is on", || !broker.alarms().is_empty()).await;
        // The broker only tells who publishes. That one hears it long before a confirm would be late.
        let begun = Instant::now();
        let sentence = within("it is told", async {
            loop {
                match transport.publish(event("a.b", "during")).await {
                    Err(TransportError::Unavailable(sentence)) => return sentence,
                    // The broker takes the one by which it notices, and may confirm it before it has said that it takes no more.
                    other => drop(other.expect("it is taken or held back")),
                }
            }
        })
        .await;
        let low = format!("low on {resource}");
        assert!(sentence.contains(&low), "{sentence}");
        println!("blocked for want of {resource} was told after {:?}", begun.elapsed());
        let condition = transport.condition();
        assert!(condition.reachable && !condition.accepts, "{condition:?}");
        assert!(condition.troubles.iter().any(|trouble| trouble.contains(&low)), "{condition:?}");
        assert!(matches!(transport.publish(event("a.b", "during")).await, Err(TransportError::Unavailable(_))));
        assert!(transport.reached(PATIENCE).await.is_ok(), "it is there, and events can be taken from it");
        end(&broker);
        until("events are taken again", || transport.condition().accepts).await;
    }
    assert!(publish_until_safe(&transport, "a.b", "after").await.routed);
    let lain: Vec<String> = client.drain("all").await.into_iter().map(|message| String::from_utf8(message.body).expect("text")).collect();
    assert_eq!((lain.first().map(String::as_str), lain.last().map(String::as_str)), (Some("before"), Some("after")), "{lain:?}");
    transport.close().await;
}
