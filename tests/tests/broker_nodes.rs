//! The set-up of the tests that need a broker, on real nodes: what it promises to them is shown here first.

#![expect(clippy::print_stdout, reason = "one test runs itself as a child and reads what that one prints")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    options::BasicPublishOptions,
    tcp::{OwnedIdentity, OwnedTLSConfig},
};
use router_tests::{
    After, AmqpClient, Broker, Cluster, Towards, Vhost,
    amqp_client::{answered, persistent},
    broker::Certificates,
    eventually,
};
use serde_json::{Value, json};

fn quorum() -> Value {
    json!({ "x-queue-type": "quorum" })
}

fn numbered(numbers: std::ops::Range<u32>) -> impl Iterator<Item = (String, Vec<u8>, lapin::BasicProperties)> {
    numbers.map(|number| ("numbers".to_owned(), number.to_string().into_bytes(), persistent()))
}

async fn numbers(client: &AmqpClient, queue: &str) -> Vec<u32> {
    client.drain(queue).await.into_iter().map(|message| message.json().as_u64().and_then(|number| number.try_into().ok()).expect("a number")).collect()
}

/// A client, with a queue called `numbers` bound in the default exchange.
async fn with_queue(vhost: &Vhost, arguments: &Value) -> AmqpClient {
    let client = AmqpClient::connect(&vhost.url()).await;
    client.declare_queue("numbers", arguments).await;
    client
}

#[tokio::test]
async fn tests_that_share_a_node_do_not_see_each_other() {
    let (one, other) = (Broker::shared().vhost(), Broker::shared().vhost());
    let (client, stranger) = (with_queue(&one, &quorum()).await, with_queue(&other, &json!({})).await);
    assert!(client.publish("", "numbers", b"1").await);

    assert_eq!((client.depth("numbers").await, stranger.depth("numbers").await), (Some(1), Some(0)));
    assert_eq!(one.connections().len(), 1);
    assert_eq!(other.close_connections("only yours"), 1);
    assert_eq!(numbers(&client, "numbers").await, [1]);
}

#[tokio::test]
async fn a_node_tells_what_is_on_it() {
    let vhost = Broker::shared().vhost();
    let client = with_queue(&vhost, &json!({ "x-queue-type": "quorum", "x-delivery-limit": 7 })).await;
    client.declare_queue("plain", &json!({ "x-max-length": 5, "x-dead-letter-exchange": "events" })).await;
    client.declare_exchange("events", "topic", &json!({ "alternate-exchange": "lost" })).await;
    client.bind("numbers", "events", "a.*.#").await;
    vhost.policy("short", "^pla", &json!({ "max-length": 3 }));
    assert_eq!(client.publish_all("", numbered(0..10)).await, 10);
    let (channel, mut consumer) = client.consume("numbers", 4, &json!({})).await;
    for _ in 0..4 {
        answered("a delivery", async { consumer.next().await.expect("the consumer goes on") }).await;
    }

    let numbers = vhost.queue("numbers").expect("the queue is there");
    assert_eq!((numbers.kind.as_str(), numbers.ready, numbers.unacked, numbers.consumers), ("quorum", 6, 4, 1));
    assert_eq!((numbers.arguments["x-delivery-limit"].as_u64(), numbers.durable), (Some(7), true));
    assert_eq!((numbers.leader.as_str(), numbers.members), (vhost.broker().name(), vec![vhost.broker().name().to_owned()]));
    let plain = eventually("the policy is in force", || vhost.queue("plain").filter(|queue| queue.policy.is_some()));
    assert_eq!((plain.kind.as_str(), plain.ready, plain.policy.as_deref()), ("classic", 0, Some("short")));

    let bindings: Vec<_> = vhost.bindings().into_iter().map(|binding| (binding.source, binding.key, binding.destination)).collect();
    assert_eq!(bindings, [("events".to_owned(), "a.*.#".to_owned(), "numbers".to_owned())]);
    let exchanges = vhost.exchanges();
    assert_eq!((exchanges.len(), exchanges[0].kind.as_str(), &exchanges[0].arguments["alternate-exchange"]), (1, "topic", &json!("lost")));
    let consumers = vhost.consumers();
    assert_eq!((consumers.len(), consumers[0].queue.as_str(), consumers[0].prefetch, consumers[0].acks), (1, "numbers", 4, true));
    let connections = vhost.connections();
    assert_eq!((connections.len(), connections[0].client_name.as_deref(), connections[0].channels), (1, Some("oracle"), 2));

    answered("closing", channel.close(200, "done".into())).await;
    eventually("what was held is back", || vhost.queue("numbers").filter(|queue| queue.ready == 10 && queue.unacked == 0));
}

#[tokio::test]
async fn a_client_looks_without_taking_and_sees_properties_and_headers() {
    let vhost = Broker::shared().vhost();
    let client = with_queue(&vhost, &quorum()).await;
    let headers = router_tests::amqp_client::table(&json!({ "x-router-v": 1, "x-deep": { "list": ["a", 2, null] } }));
    let properties = persistent().with_message_id("first".into()).with_headers(headers);
    assert!(client.publish_with("", "numbers", b"1", properties).await);
    assert!(!client.publish("", "nowhere", b"1").await, "what no queue wants is told");

    for seen_before in [false, true] {
        let looked = client.look("numbers").await;
        assert_eq!((looked.len(), looked[0].redelivered), (1, seen_before));
        eventually("it is back", || vhost.queue("numbers").filter(|queue| queue.ready == 1));
    }
    let message = client.get("numbers").await.expect("it is still there");
    assert_eq!((message.id(), message.key.as_str(), message.json()), (Some("first"), "numbers", json!(1)));
    assert_eq!((&message.headers["x-router-v"], &message.headers["x-deep"]), (&json!(1), &json!({ "list": ["a", 2, null] })));
    assert!(client.get("numbers").await.is_none());

    client.publish("", "numbers", b"2").await;
    assert_eq!((client.purge("numbers").await, client.delete_queue("numbers").await), (1, 0));
    assert_eq!(client.depth("numbers").await, None);
}

#[tokio::test]
async fn what_a_user_may_not_do_is_refused() {
    let vhost = Broker::shared().vhost();
    let broker = vhost.broker();
    broker.add_user("reader", "its secret");
    let url = vhost.url_as("reader", "its secret");
    let connect = async |url: &str| AmqpClient::try_connect(url, OwnedTLSConfig::default()).await;
    assert!(connect(&url).await.is_err(), "it may not enter yet");

    broker.permit("reader", vhost.name(), "^$", "^$", ".*");
    let reader = connect(&url).await.expect("it may enter now");
    let refused = reader.channel().queue_declare("mine".into(), Default::default(), Default::default()).await;
    assert!(refused.expect_err("it may not declare").to_string().contains("ACCESS"), "the refusal says so");

    broker.change_password("reader", "another");
    assert!(connect(&url).await.is_err(), "the old password is refused");
    assert!(connect(&vhost.url_as("reader", "another")).await.is_ok());
    broker.forbid("reader", vhost.name());
    assert!(connect(&vhost.url_as("reader", "another")).await.is_err());
    assert!(connect(&broker.url("nowhere")).await.is_err(), "there is no such virtual host");
}

#[tokio::test]
async fn what_is_durable_outlives_a_kill_and_a_stop_on_the_same_port() {
    let broker = Broker::start();
    let (vhost, address) = (broker.vhost(), broker.address());
    let client = with_queue(&vhost, &quorum()).await;
    client.declare_queue("classic", &json!({})).await;
    assert_eq!(client.publish_all("", numbered(0..500)).await, 500);
    assert!(client.publish("", "classic", b"7").await);

    broker.kill();
    assert_eq!(broker.pid(), None);
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens");
    assert!(client.channel().queue_purge("numbers".into(), Default::default()).await.is_err(), "the connection is gone");
    broker.begin();
    assert_eq!(vhost.queues().iter().map(|queue| (queue.name.as_str(), queue.ready)).collect::<Vec<_>>(), [("classic", 1), ("numbers", 500)]);

    broker.stop();
    broker.begin();
    assert_eq!(broker.address(), address);
    let client = AmqpClient::connect(&vhost.url()).await;
    assert_eq!(numbers(&client, "numbers").await, (0..500).collect::<Vec<_>>());
    assert_eq!(numbers(&client, "classic").await, [7]);

    // An alarm holds publishers back, and only them; it would disturb the other tests on a shared node.
    broker.raise_memory_alarm();
    eventually("the alarm is on", || (!broker.alarms().is_empty()).then_some(()));
    let confirm = answered("publishing", client.channel().basic_publish("".into(), "numbers".into(), BasicPublishOptions::default(), b"8", persistent())).await;
    eventually("the publisher is blocked", || vhost.connections().iter().any(|connection| connection.state == "blocked").then_some(()));
    broker.end_memory_alarm();
    answered("the confirm comes late", confirm).await;

    // Short, and looked at often: the time-out of a shared node is nobody's to change.
    broker.acknowledgement_timeout(Duration::from_millis(500), Duration::from_millis(200));
    let client = AmqpClient::connect(&vhost.url()).await;
    let (_channel, mut consumer) = client.consume("numbers", 1, &json!({})).await;
    let held = answered("a delivery", async { consumer.next().await.expect("the consumer goes on") }).await;
    let end = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await.expect("the broker ends it");
    assert!(end.as_ref().is_none_or(|delivery| delivery.is_err()), "the channel is closed");
    drop(held);
    eventually("it was given back", || vhost.queue("numbers").filter(|queue| queue.ready == 1 && queue.unacked == 0));

    let (directory, group) = (directory_of(&broker), broker.pid().expect("it runs"));
    assert!(directory.exists());
    drop((vhost, broker));
    assert!(!directory.exists(), "`{}` is left behind", directory.display());
    assert!(!Path::new(&format!("/proc/{group}")).exists(), "the node is left behind");
}

/// The directory that a node and what belongs to it live in.
fn directory_of(broker: &Broker) -> std::path::PathBuf {
    let environment = fs::read(format!("/proc/{}/environ", broker.pid().expect("it runs"))).expect("our own process can be looked at");
    let home = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"HOME=")).expect("a node has a home");
    let home = Path::new(std::str::from_utf8(home).expect("a path of ours is text"));
    let root = fs::read_link(format!("/proc/{}/root", broker.pid().expect("it runs"))).expect("our own process can be looked at");
    root.join(home.strip_prefix("/").expect("it is absolute"))
}

#[test]
fn nothing_outlives_tests_that_were_killed() {
    // This very test binary, as a child that starts a node and waits to be killed.
    if std::env::var_os("EVENT_ROUTER_TEST_STARTS_AND_WAITS").is_some() {
        let broker = Broker::start();
        println!("node={} directory={}", broker.pid().expect("it runs"), directory_of(&broker).display());
        std::thread::park_timeout(Duration::from_secs(600));
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("a running test has a path"))
        .args(["--exact", "nothing_outlives_tests_that_were_killed", "--nocapture"])
        .env("EVENT_ROUTER_TEST_STARTS_AND_WAITS", "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary runs");
    let output = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("stdout is a pipe")));
    let line = output.map_while(Result::ok).find(|line| line.contains("node=")).expect("the child starts a node");
    let value = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).expect("the line has it").to_owned();
    let (node, directory) = (value("node="), value("directory="));
    assert!(Path::new(&format!("/proc/{node}")).exists());

    child.kill().expect("the child runs");
    child.wait().expect("a child can be waited for");
    eventually("the node is gone", || is_gone(&node).then_some(()));
    eventually("its directory is gone", || (!Path::new(&directory).exists()).then_some(()));
}

/// A process that nobody waited for yet is gone too.
fn is_gone(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

#[tokio::test]
async fn a_proxy_cuts_in_the_middle_of_a_frame() {
    let vhost = Broker::shared().vhost();
    let proxy = vhost.broker().proxy();
    let outside = with_queue(&vhost, &quorum()).await;
    let client = AmqpClient::connect(&vhost.url_through(&proxy)).await;
    assert!(client.publish("", "numbers", b"0").await);
    let before = proxy.counters();
    assert!(before.frames_to_broker > 5 && before.frames_to_client > 5 && before.bytes_to_broker > 100, "{before:?}");

    // A publish is three frames: of the next one only method and properties arrive, and a piece of the body.
    proxy.cut_after(Towards::Broker, After::Frames { whole: 2, bytes: 9 });
    let sent = client.channel().basic_publish("".into(), "numbers".into(), BasicPublishOptions::default(), b"12345", persistent()).await;
    let confirmed = async { sent?.await };
    let confirmed = tokio::time::timeout(Duration::from_secs(60), confirmed).await.expect("the cut is noticed");
    assert!(confirmed.is_err(), "{confirmed:?}");
    assert!(!proxy.is_armed());
    let after = proxy.await_counters("the connection is gone", |counters| counters.open == 0);
    assert_eq!((after.frames_to_broker - before.frames_to_broker, after.cuts), (2, 1));
    assert_eq!(numbers(&outside, "numbers").await, [0], "half an event is none");

    // The proxy takes the next one.
    let client = AmqpClient::connect(&vhost.url_through(&proxy)).await;
    assert!(client.publish("", "numbers", b"1").await);
    proxy.cut();
    assert_eq!(proxy.await_counters("the connection is gone", |counters| counters.open == 0).cuts, 2);
    assert!(client.channel().queue_purge("numbers".into(), Default::default()).await.is_err());

    proxy.refuse();
    let refused = AmqpClient::try_connect(&vhost.url_through(&proxy), OwnedTLSConfig::default()).await;
    assert!(refused.is_err(), "nobody listens");
    proxy.heal();
    let client = AmqpClient::connect(&vhost.url_through(&proxy)).await;
    assert_eq!(numbers(&client, "numbers").await, [1]);
}

#[tokio::test]
async fn a_proxy_keeps_a_connection_that_says_nothing_any_more() {
    let vhost = Broker::shared().vhost();
    let proxy = Arc::new(vhost.broker().proxy());
    let outside = with_queue(&vhost, &quorum()).await;
    let client = AmqpClient::connect(&vhost.url_through(&proxy)).await;

    proxy.half_open();
    let confirm = answered("publishing", client.channel().basic_publish("".into(), "numbers".into(), BasicPublishOptions::default(), b"0", persistent())).await;
    let later = AmqpClient::connect(&vhost.url_through(&proxy)).await;
    assert!(later.publish("", "numbers", b"1").await, "a later connection is not affected");
    assert_eq!(numbers(&outside, "numbers").await, [1], "the earlier one got nothing through");
    assert_eq!((proxy.counters().open, proxy.counters().cuts), (2, 0));
    proxy.heal();
    answered("the confirm comes late", confirm).await;
    assert_eq!(numbers(&outside, "numbers").await, [0]);

    proxy.drop_confirms();
    let confirm = answered("publishing", client.channel().basic_publish("".into(), "numbers".into(), BasicPublishOptions::default(), b"2", persistent())).await;
    assert!(proxy.await_counters("the confirm was lost", |counters| counters.dropped > 0).open == 2);
    assert_eq!(numbers(&outside, "numbers").await, [2], "the event is there all the same");
    proxy.heal();
    // The next confirm comes for the next event only: the lost one stays lost.
    assert!(client.publish("", "numbers", b"3").await);
    assert!(tokio::time::timeout(Duration::from_millis(200), confirm).await.is_err());

    let begun = std::time::Instant::now();
    proxy.delay(Duration::from_millis(150));
    assert!(client.publish("", "numbers", b"4").await);
    assert!(begun.elapsed() >= Duration::from_millis(300), "there and back");
    proxy.heal();
    proxy.throttle(20_000);
    let begun = std::time::Instant::now();
    assert!(client.publish("", "numbers", &[b'5'; 10_000]).await);
    assert!(begun.elapsed() >= Duration::from_millis(450), "10,000 bytes at 20,000 a second");
}

#[tokio::test]
async fn a_node_with_tls_knows_its_clients_by_their_certificates() {
    let broker = Broker::options().tls_with_client_certificates().management().start();
    let vhost = broker.vhost();
    let Certificates { authority, client, client_key, stranger, strange_client, strange_client_key, .. } = broker.certificates().clone();
    let config = |authority: &Path, identity: Option<(&Path, &Path)>| OwnedTLSConfig {
        identity: identity.map(|(certificate, key)| OwnedIdentity::PKCS8 {
            pem: fs::read(certificate).expect("the certificate is there"),
            key: fs::read(key).expect("the key is there"),
        }),
        cert_chain: Some(fs::read_to_string(authority).expect("the authority is there")),
    };
    let connected = AmqpClient::connect_tls(&vhost.tls_url(), config(&authority, Some((&client, &client_key)))).await;
    connected.declare_queue("numbers", &quorum()).await;
    assert!(connected.publish("", "numbers", b"1").await);

    let refused = [
        ("without a certificate", config(&authority, None)),
        ("with a stranger's", config(&authority, Some((&strange_client, &strange_client_key)))),
        ("who trusts another authority", config(&stranger, Some((&client, &client_key)))),
    ];
    for (who, config) in refused {
        assert!(AmqpClient::try_connect(&vhost.tls_url(), config).await.is_err(), "a client {who} came in");
    }

    // The management API answers too, with what the node was told.
    let address = broker.management_url();
    let address = address.rsplit('@').next().expect("a host").parse().expect("an address");
    eventually("the management API answers", || {
        router_tests::request(address, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").filter(|answer| answer.status == 200)
    });
}

#[tokio::test]
async fn three_nodes_elect_a_leader_again_when_theirs_is_killed() {
    let cluster = Cluster::start(3);
    let vhost = cluster.nodes()[0].vhost();
    let client = with_queue(&vhost, &json!({ "x-queue-type": "quorum", "x-quorum-initial-group-size": 3 })).await;
    let queue = cluster.queue(&vhost, "numbers");
    assert_eq!(queue.members.len(), 3, "{queue:?}");
    assert_eq!(client.publish_all("", numbered(0..100)).await, 100);

    let first = cluster.leader(&vhost, "numbers").clone();
    first.kill();
    let second = cluster.await_leader(&vhost, "numbers");
    assert_ne!(second.name(), first.name());
    let client = AmqpClient::connect(&vhost.url_at(second)).await;
    assert_eq!(client.publish_all("", numbered(100..200)).await, 100);

    first.begin();
    cluster.await_members(3);
    let client = AmqpClient::connect(&vhost.url_at(&first)).await;
    assert_eq!(numbers(&client, "numbers").await, (0..200).collect::<Vec<_>>());
}
