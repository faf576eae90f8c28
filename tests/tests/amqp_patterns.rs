//! Our matcher and a live broker agree on which keys a pattern takes: `on` is asked again before an event is handled, and a second
//! opinion that differs would lose events or handle strangers'.

use std::collections::BTreeSet;

use lapin::{
    Channel, ExchangeKind,
    options::{BasicGetOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use router_api::{PatternTrie, RoutingKey, RoutingPattern};
use router_tests::{AmqpClient, Broker, amqp_client::answered};

const EXCHANGE: &str = "events";

/// One queue for each pattern, gone with the connection; every key goes to all of them.
struct Bench {
    client: AmqpClient,
    channel: Channel,
}

impl Bench {
    async fn open(url: &str) -> Self {
        let client = AmqpClient::connect(url).await;
        let channel = client.new_channel().await;
        answered("confirm mode", channel.confirm_select(ConfirmSelectOptions::default())).await;
        let declared = channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, ExchangeDeclareOptions::default(), FieldTable::default());
        answered("declaring the exchange", declared).await;
        Self { client, channel }
    }

    /// The keys that the broker brings to each pattern, in the order of the patterns.
    async fn ask(&self, patterns: &[String], keys: &[String]) -> Vec<BTreeSet<String>> {
        let queues: Vec<String> = (0..patterns.len()).map(|number| format!("pattern-{number}")).collect();
        let channel = &self.channel;
        for (queue, pattern) in queues.iter().zip(patterns) {
            let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            answered("declaring a queue", channel.queue_declare(queue.as_str().into(), options, FieldTable::default())).await;
            let bound = channel.queue_bind(queue.as_str().into(), EXCHANGE.into(), pattern.as_str().into(), QueueBindOptions::default(), FieldTable::default());
            answered(&format!("binding with `{pattern}`"), bound).await;
        }
        self.client.publish_all(EXCHANGE, keys.iter().map(|key| (key.clone(), key.clone().into_bytes(), Default::default()))).await;
        let mut taken = Vec::new();
        for queue in &queues {
            let mut keys = BTreeSet::new();
            while let Some(message) = answered("taking an event", channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true })).await {
                assert_eq!(message.delivery.routing_key.as_str().as_bytes(), message.delivery.data, "a key changed on its way");
                keys.insert(message.delivery.routing_key.as_str().to_owned());
            }
            taken.push(keys);
            answered("deleting a queue", channel.queue_delete(queue.as_str().into(), Default::default())).await;
        }
        taken
    }
}

fn differences(patterns: &[String], keys: &[String], broker: &[BTreeSet<String>]) -> Vec<String> {
    let mut trie = PatternTrie::new();
    let parsed: Vec<RoutingPattern> = patterns.iter().map(|pattern| pattern.parse().expect("a pattern")).collect();
    for (number, pattern) in parsed.iter().enumerate() {
        trie.insert(pattern, number);
    }
    let mut differences = Vec::new();
    for text in keys {
        let key: RoutingKey = text.parse().expect("a key");
        let by_trie = trie.matches(&key);
        for (number, pattern) in parsed.iter().enumerate() {
            let (ours, trie, broker) = (pattern.matches(&key), by_trie.contains(&number), broker[number].contains(text));
            if ours != broker || trie != broker {
                differences.push(format!("`{pattern}` and `{text}`: the broker says {broker}, the matcher {ours}, the trie {trie}"));
            }
        }
    }
    differences
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn every_pair_of_a_table_is_judged_alike() {
    let longest_key = format!("{}a", "a.".repeat(127));
    let longest_pattern = format!("{}#", "*.".repeat(127));
    let mut patterns = owned(&[
        "",
        "#",
        "*",
        ".",
        "..",
        "a",
        "A",
        "a.b",
        "a.#",
        "#.a",
        "#.b",
        "a.*",
        "*.a",
        "*.*",
        "*.*.*",
        "a.*.b",
        "a.#.b",
        "#.a.#",
        "*.#",
        "#.*",
        "#.#",
        "*.#.*",
        "#.*.#.*",
        "#.a.#.b.#",
        "a..b",
        "a.",
        ".a",
        ".#",
        "#.",
        "a*.#",
        "a#",
        "#a",
        "**",
        "##",
        "a.b.#.b.c",
        "ünï.*",
        "session.thread.#",
        "session.thread.agent.action",
        "tool.mutation.*",
        "bloodbank.#.agent.tool.completed",
        " ",
        "a b.*",
        "🦀.#",
    ]);
    patterns.push(longest_pattern);
    let mut keys = owned(&[
        "",
        "a",
        "b",
        "A",
        "ab",
        ".",
        "..",
        "...",
        "a.",
        ".a",
        "a..",
        "..a",
        "a.b",
        "b.a",
        "a..b",
        "a.a.b",
        "a.b.c",
        "a.b.b.c",
        "a.b.x.b.c",
        "a.x.y.b",
        "x.a.y.b.z",
        "*",
        "#",
        "a.*",
        "a.#",
        "**",
        "##",
        "a#",
        "#a",
        "a*.b",
        "ünï.cödé",
        "session.thread",
        "session.thread.agent.action",
        "session.thread.agent.action.x",
        "tool.mutation.write",
        "tool.mutation",
        "bloodbank.agent.tool.completed",
        "bloodbank.v1.agent.tool.completed",
        " ",
        "a b.c",
        "🦀",
        "🦀.a",
    ]);
    keys.push(longest_key);
    let vhost = Broker::shared().vhost();
    let bench = Bench::open(&vhost.url()).await;
    let taken = bench.ask(&patterns, &keys).await;
    assert_eq!(taken[1].len(), keys.len(), "`#` takes every key, so each was published");
    let differences = differences(&patterns, &keys, &taken);
    assert!(differences.is_empty(), "{} of {} pairs:\n{}", differences.len(), patterns.len() * keys.len(), differences.join("\n"));
}

#[tokio::test]
async fn every_random_pair_is_judged_alike() {
    // Few and short words, so that patterns often nearly fit.
    let pattern = vec(select(vec!["a", "b", "", "*", "*", "#", "a*", "##"]), 0..7).prop_map(|words| words.join("."));
    // Some newer brokers take no pattern with more than two `#`.
    let pattern = pattern.prop_filter("at most two `#`", |text| text.split('.').filter(|word| *word == "#").count() <= 2);
    let key = vec(select(vec!["a", "b", "", "c", "A", "*", "#", "a*"]), 0..8).prop_map(|words| words.join("."));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let vhost = Broker::shared().vhost();
    let bench = Bench::open(&vhost.url()).await;
    for _ in 0..3 {
        let generated = (vec(&pattern, 50), vec(&key, 100)).new_tree(&mut runner).expect("both can be made").current();
        let keys: Vec<String> = generated.1.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let patterns: Vec<String> = generated.0.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let taken = bench.ask(&patterns, &keys).await;
        let differences = differences(&patterns, &keys, &taken);
        assert!(differences.is_empty(), "{} of {} pairs:\n{}", differences.len(), patterns.len() * keys.len(), differences.join("\n"));
        assert!(taken.iter().any(|keys| !keys.is_empty()) && taken.iter().any(BTreeSet::is_empty), "these cases show nothing: {patterns:?}");
    }
}
