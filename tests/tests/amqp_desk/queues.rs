//! Queues that are counted and removed, and bindings that go or stay.

use router_api::{Transport, TransportError};
use router_testkit::MemoryStore;
use router_tests::AmqpClient;
use serde_json::json;

use crate::house::*;

const QUEUE: &str = "services.router.a";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bindings_of_a_pattern_that_was_taken_away_go_and_those_of_others_stay() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["x.#", "y.*"]), subscription("b", &["z"])]).await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    client.bind(QUEUE, EXCHANGE, "foreign.#").await;
    assert_eq!(house.keys(QUEUE), ["foreign.#", "x.#", "y.*"]);

    house.bind(&[subscription("a", &["y.*", "new"])]).await;
    assert_eq!(house.keys(QUEUE), ["foreign.#", "new", "y.*"]);
    assert_eq!(house.keys("services.router.b"), [] as [String; 0], "a route that is off collects no more");
    house.publish("z", "1").await;
    assert_eq!(house.depth("services.router.b"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_router_bound_before_it_was_restarted_is_known_and_nothing_is_taken_away_before_it_binds() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["x", "y"])]).await;
    house.transport.close().await;
    let options = router_amqp::AmqpOptions { archive: None, ..router_amqp::AmqpOptions::new(house.vhost.url()) };
    let after = reached(options, std::sync::Arc::new(MemoryStore::new(&house.state))).await;
    assert_eq!(house.keys(QUEUE), ["x", "y"], "until it is told what is wanted");
    within("binding", after.bind(&[subscription("a", &["y"])])).await.unwrap();
    assert_eq!(house.keys(QUEUE), ["y"]);
    // A router that remembers nothing leaves what it does not know.
    let forgetful = house.neighbour().await;
    within("binding", forgetful.bind(&[subscription("a", &["z"])])).await.unwrap();
    assert_eq!(house.keys(QUEUE), ["y", "z"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_routes_that_are_on_or_were_are_counted() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["a"]), subscription("b", &["b"])]).await;
    house.bury("b", "b", &["1", "2"]).await;
    for id in ["3", "4", "5"] {
        house.publish("b", id).await;
    }
    house.publish("a", "6").await;
    house.bind(&[subscription("a", &["a"])]).await;
    let stats = within("counting", house.transport.admin().queues()).await.unwrap();
    let told: Vec<_> = stats.iter().map(|stats| (stats.route.as_str(), stats.ready, stats.dead, stats.oldest)).collect();
    assert_eq!(told, [("a", 1, 0, None), ("b", 3, 2, None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_routes_of_this_process_have_in_hand_is_counted_until_it_is_settled_or_given_back() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["a"])]).await;
    for id in ["1", "2", "3"] {
        house.publish("a", id).await;
    }
    let counted = async || {
        let stats = within("counting", house.transport.admin().queues()).await.unwrap();
        (stats[0].ready, stats[0].in_flight)
    };
    assert_eq!(counted().await, (3, 0));
    let consumer = house.consume("a").await;
    let first = take(&consumer).await;
    let (_second, _third) = (take(&consumer).await, take(&consumer).await);
    assert_eq!(counted().await, (0, 3));
    done(&consumer, first).await;
    assert_eq!(counted().await, (0, 2));
    within("leaving", consumer.close()).await;
    until("the two are back", || house.depth("services.router.a") == 2).await;
    assert_eq!(counted().await, (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_removed_only_when_nobody_is_bound_to_it_or_takes_from_it() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["k"])]).await;
    let neighbour = house.neighbour().await;
    within("binding", neighbour.bind(&[subscription("a", &["k"])])).await.unwrap();
    house.bury("a", "k", &["1"]).await;
    house.publish("k", "2").await;
    house.publish("k", "3").await;

    let remove = async || within("removing", house.transport.admin().remove_queue(&route("a"))).await;
    let Err(TransportError::Refused(why)) = remove().await else { panic!("it is bound") };
    assert!(why.contains("is bound"), "{why}");
    house.bind(&[]).await;
    let consumer = within("taking up", neighbour.consume(&route("a"), 1)).await.unwrap();
    let Err(TransportError::Refused(why)) = remove().await else { panic!("it is consumed") };
    assert!(why.contains("1 consumers"), "{why}");
    consumer.close().await;
    until("the events are back", || house.depth(QUEUE) == 2).await;
    assert_eq!(remove().await.unwrap(), 2);
    assert!(house.vhost.queue(QUEUE).is_none());
    assert_eq!(house.depth("services.router.a.dead"), 1, "dead letters are not removed with the queue");
    assert_eq!(remove().await.unwrap(), 0);
    assert_eq!(within("removing", house.transport.admin().remove_queue(&route("never"))).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_dead_queue_goes_with_its_queue_and_an_adopted_one_stays_with_its_owner() {
    let house = House::open().await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    client.declare_queue("theirs", &json!({ "x-queue-type": "quorum" })).await;
    house.bind(&[subscription("a", &["k"]), adopting("b", &["k"], Some("theirs"))]).await;
    house.publish("k", "1").await;
    house.bind(&[]).await;
    assert_eq!(house.keys("theirs"), [] as [String; 0]);
    let remove = async |name: &str| within("removing", house.transport.admin().remove_queue(&route(name))).await.unwrap();
    assert_eq!((remove("a").await, remove("b").await), (1, 0));
    let names: Vec<String> = house.vhost.queues().into_iter().map(|queue| queue.name).filter(|name| !name.contains(".sys.")).collect();
    assert_eq!(names, ["theirs"]);
    assert_eq!(house.depth("theirs"), 1);
}
