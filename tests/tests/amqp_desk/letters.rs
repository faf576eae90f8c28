//! Dead letters.

use std::time::Duration;

use router_api::{DeadLetterQuery, DeadLetterReason, Transport, TransportError};
use router_tests::{AmqpClient, Broker};
use serde_json::json;

use crate::house::*;

const DEAD: &str = "services.router.a.dead";
const QUEUE: &str = "services.router.a";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_listed_newest_first_and_shown_with_their_history_and_looking_again_changes_nothing() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k.#"])]).await;
    house.bury("a", "k.one", &["1", "2", "3", "4", "5"]).await;

    let first = house.letters("a").await;
    assert_eq!(ids_of(&first), ["5", "4", "3", "2", "1"]);
    for _ in 0..3 {
        assert_eq!(house.letters("a").await.iter().map(|letter| &letter.id).collect::<Vec<_>>(), first.iter().map(|letter| &letter.id).collect::<Vec<_>>());
    }
    let shown = within("showing", house.transport.admin().dead_letter(&first[2].id)).await.unwrap().expect("it is there");
    assert_eq!((id_of(&shown.body).as_str(), shown.key.as_str(), shown.letter.reason), ("3", "k.one", DeadLetterReason::Exhausted));
    let letter = &shown.letter;
    assert_eq!((letter.error.as_str(), letter.detail.as_deref(), letter.attempts, letter.config_hash.as_str()), ("no use", Some("it said: no"), 2, "c0ffee"));
    assert_eq!(letter.history.iter().map(|attempt| attempt.error.as_str()).collect::<Vec<_>>(), ["attempt 1 took too long", "attempt 2 took too long"]);
    assert!(within("showing", house.transport.admin().dead_letter("a.0000")).await.unwrap().is_none());
    assert!(within("showing", house.transport.admin().dead_letter("17")).await.unwrap().is_none());

    // From outside: all are there, in their order, with their bytes.
    until("all have returned from the look", || house.depth(DEAD) == 5).await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    let lying: Vec<String> = client.look(DEAD).await.iter().map(|message| id_of(&message.body)).collect();
    assert_eq!(lying, ["1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_chosen_by_reason_class_and_number() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["a"]), subscription("b", &["b"])]).await;
    house.bury("a", "a", &["1", "2"]).await;
    house.bury("b", "b", &["3"]).await;
    let list = async |query: DeadLetterQuery| ids_of(&within("listing", house.transport.admin().dead_letters(&query)).await.unwrap());
    let all = DeadLetterQuery::default;
    assert_eq!(list(all()).await, ["3", "2", "1"]);
    assert_eq!(list(DeadLetterQuery { limit: Some(2), ..all() }).await, ["3", "2"]);
    assert_eq!(list(DeadLetterQuery { limit: Some(1), route: Some(route("a")), ..all() }).await, ["2"]);
    assert_eq!(list(DeadLetterQuery { reason: Some("exhausted".to_owned()), class: Some("timeout".to_owned()), ..all() }).await.len(), 3);
    assert!(list(DeadLetterQuery { reason: Some("rejected".to_owned()), ..all() }).await.is_empty());
    assert!(list(DeadLetterQuery { class: Some("panic".to_owned()), ..all() }).await.is_empty());
    assert!(list(DeadLetterQuery { route: Some(route("nobody")), ..all() }).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redriven_letter_comes_back_to_its_route_alone_past_its_patterns_with_its_history_and_no_attempt_counted() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k"]), subscription("b", &["k"])]).await;
    house.bury("a", "k", &["1", "2", "3", "4"]).await;
    let b = house.consume("b").await;
    for _ in 0..4 {
        let delivery = take(&b).await;
        done(&b, delivery).await;
    }
    // The route wants something else by now.
    house.bind(&[subscription("a", &["other"]), subscription("b", &["k"])]).await;
    let letters = house.letters("a").await;
    let chosen: Vec<String> = [&letters[3], &letters[1], &letters[1]].map(|letter| letter.id.clone()).to_vec();
    assert_eq!(within("redriving", house.transport.admin().redrive(&chosen)).await.unwrap(), 2);
    assert_eq!(ids_of(&house.letters("a").await), ["4", "2"]);

    let a = house.consume("a").await;
    for id in ["1", "3"] {
        let delivery = take(&a).await;
        assert_eq!((id_of(&delivery.body).as_str(), delivery.key.as_str(), delivery.direct, delivery.attempts), (id, "k", true, 0));
        assert_eq!(delivery.history.len(), 2, "{delivery:?}");
        done(&a, delivery).await;
    }
    until("nothing more waits", || house.depth(QUEUE) == 0 && house.vhost.queue(QUEUE).is_some_and(|queue| queue.unacked == 0)).await;
    assert_eq!(house.depth("services.router.b"), 0, "the other route got it before");
    assert_eq!(within("redriving", house.transport.admin().redrive(&chosen)).await.unwrap(), 0, "they are gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_keeps_its_identity_when_it_is_redriven_and_given_up_on_again_and_gets_another_name() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k"])]).await;
    house.bury("a", "k", &["1"]).await;
    let before = house.letters("a").await.remove(0);
    house.transport.admin().redrive(std::slice::from_ref(&before.id)).await.unwrap();
    let consumer = house.consume("a").await;
    let delivery = take(&consumer).await;
    let (identity, again) = (delivery.identity.clone(), letter("a", DeadLetterReason::Rejected));
    let name = again.reference(&identity);
    consumer.settle(vec![delivery], router_api::Settlement::Bury(Box::new(again))).await.unwrap();
    let after = house.letters("a").await.remove(0);
    assert_eq!(after.id, name, "as the router that buried it knows it");
    assert_ne!(after.id, before.id);
    assert_eq!((before.letter.reference(&identity), after.letter.reason), (before.id, DeadLetterReason::Rejected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_letter_is_gone_and_the_others_keep_their_order() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k"])]).await;
    house.bury("a", "k", &["1", "2", "3", "4", "5"]).await;
    let letters = house.letters("a").await;
    let chosen = vec![letters[1].id.clone(), letters[3].id.clone(), "a.unknown".to_owned(), "nobody.0".to_owned(), "17".to_owned()];
    assert_eq!(within("discarding", house.transport.admin().discard(&chosen)).await.unwrap(), 2);
    assert_eq!(ids_of(&house.letters("a").await), ["5", "3", "1"]);
    until("the others have returned from the look", || house.depth(DEAD) == 3).await;
    assert_eq!(house.depth(QUEUE), 0);
    let stats = within("counting", house.transport.admin().queues()).await.unwrap();
    assert_eq!((stats[0].dead, stats[0].ready), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_that_are_discarded_together_are_gone_though_the_brokers_disk_is_busy() {
    let broker = Broker::start();
    let house = House::on(broker.vhost(), |_| {}).await;
    house.bind(&[subscription("a", &["k"])]).await;
    let names: Vec<String> = (0..99).map(|n| n.to_string()).collect();
    house.bury("a", "k", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let letters = house.letters("a").await;
    let chosen: Vec<String> = letters.iter().take(95).map(|letter| letter.id.clone()).collect();
    // One of them comes behind the acknowledgements; where the machine is slower than that, all of this is over before.
    broker.stutter_log(4, Duration::from_millis(700));
    assert_eq!(within("discarding", house.transport.admin().discard(&chosen)).await.unwrap(), 95);
    assert_eq!(ids_of(&house.letters("a").await), ["3", "2", "1", "0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_lies_there_twice_has_two_names() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k"])]).await;
    house.bury("a", "k", &["1"]).await;
    // As when its confirm was lost and it was buried again.
    let client = AmqpClient::connect(&house.vhost.url()).await;
    let lying = client.look(DEAD).await.remove(0);
    until("it has returned", || house.depth(DEAD) == 1).await;
    client.publish_with("", DEAD, &lying.body, lying.properties.clone()).await;
    let letters = house.letters("a").await;
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].id, format!("{}-2", letters[1].id));
    assert_eq!(house.transport.admin().discard(&[letters[0].id.clone()]).await.unwrap(), 1);
    assert_eq!(house.letters("a").await[0].id, letters[1].id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_itself_gave_up_on_is_shown_as_that_and_can_be_redriven() {
    let house = House::open().await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    // A queue that is adopted, whose limit is near.
    client
        .declare_queue("theirs", &json!({ "x-queue-type": "quorum", "x-delivery-limit": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD }))
        .await;
    house.bind(&[adopting("a", &["k"], Some("theirs"))]).await;
    house.publish("k", "1").await;
    until("it was given up on", || {
        if house.depth(DEAD) == 1 {
            return true;
        }
        // Each look is a delivery.
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(client.look("theirs")));
        false
    })
    .await;
    let letter = house.letters("a").await.remove(0);
    assert_eq!((id_of(&letter.body).as_str(), letter.key.as_str(), letter.letter.reason), ("1", "k", DeadLetterReason::Crashed));
    assert!(letter.letter.error.contains("the broker took it out of queue `theirs`"), "{}", letter.letter.error);
    assert!(letter.letter.history.is_empty() && letter.letter.plugin.is_empty());
    assert_eq!(house.transport.admin().redrive(&[letter.id]).await.unwrap(), 1);
    let consumer = house.consume("a").await;
    let delivery = take(&consumer).await;
    assert_eq!((id_of(&delivery.body).as_str(), delivery.direct, delivery.attempts), ("1", true, 0));
    done(&consumer, delivery).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_look_at_once_from_several_routers_all_see_everything() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k"])]).await;
    house.bury("a", "k", &["1", "2", "3", "4", "5", "6"]).await;
    let neighbour = house.neighbour().await;
    let looks = (0..12).map(|n| letters(if n % 2 == 0 { &house.transport } else { &neighbour }, "a"));
    for seen in futures_util::future::join_all(looks).await {
        assert_eq!(ids_of(&seen), ["6", "5", "4", "3", "2", "1"]);
    }
    until("the lock is gone", || house.vhost.queues().iter().all(|queue| !queue.name.contains("sys.look"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_that_the_broker_brings_late_are_waited_for() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k"])]).await;
    house.bury("a", "k", &["1", "2", "3"]).await;
    let proxy = house.vhost.broker().proxy();
    let neighbour = house.neighbour_at(house.vhost.url_through(&proxy)).await;
    // The queue has handed them all out and says that it is empty, and they come only then.
    proxy.deliver_late();
    assert_eq!(ids_of(&letters(&neighbour, "a").await), ["3", "2", "1"]);
    assert!(proxy.has_delivered(), "they were not late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_whose_route_has_no_queue_any_more_stays_where_it_is_and_says_why() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k"])]).await;
    house.bury("a", "k", &["1"]).await;
    house.bind(&[]).await;
    assert_eq!(within("removing", house.transport.admin().remove_queue(&route("a"))).await.unwrap(), 0);
    let letter = house.letters("a").await.remove(0);
    let Err(TransportError::Refused(why)) = house.transport.admin().redrive(std::slice::from_ref(&letter.id)).await else { panic!("nobody would get it") };
    assert!(why.contains("has no queue") && why.contains("switch the route on"), "{why}");
    until("it is back where it was", || house.depth(DEAD) == 1).await;
    assert_eq!(house.depth("services.router.sys.lost"), 0);
    assert_eq!(house.transport.admin().discard(&[letter.id]).await.unwrap(), 1);
    until("it is gone", || house.vhost.queue(DEAD).is_none_or(|queue| queue.ready + queue.unacked == 0)).await;
}
