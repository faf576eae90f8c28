//! What headers carry over, and what nobody can make us believe.

use jiff::SignedDuration;
use lapin::{message::Delivery as Message, types::FieldArray};
use proptest::prelude::*;
use router_api::FailureClass;

use super::*;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn now() -> Timestamp {
    "2026-11-22T12:00:00.123456789Z".parse().unwrap()
}

fn message(exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> Message {
    let mut message = Message::mock(7, exchange.into(), key.into(), false, body.to_vec());
    message.properties = properties;
    message
}

fn from_bus(key: &str, properties: BasicProperties, body: &[u8]) -> Incoming {
    incoming(message("bloodbank.events.v1", key, properties, body), now())
}

fn returned(properties: BasicProperties, body: &[u8]) -> Incoming {
    incoming(message(names::RETURN, "services.router.one", properties, body), now())
}

fn headers(entries: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    BasicProperties::default().with_headers(table)
}

fn record(number: u32, error: &str) -> AttemptRecord {
    AttemptRecord { number, at: now(), class: FailureClass::Timeout, error: error.to_owned() }
}

fn letter(history: Vec<AttemptRecord>) -> DeadLetter {
    DeadLetter {
        route: "one".parse().unwrap(),
        plugin: "exec".to_owned(),
        reason: DeadLetterReason::Exhausted,
        error: "it did not work: ünïcode".to_owned(),
        detail: Some("HTTP 418".to_owned()),
        attempts: 3,
        history,
        buried_at: now(),
        config_hash: "0123abcd".to_owned(),
        burst: Some("burst-1".to_owned()),
        traceparent: Some(TRACE.to_owned()),
    }
}

fn table_bytes(properties: &BasicProperties) -> usize {
    let headers = properties.headers().as_ref().unwrap();
    headers.inner().iter().map(|(name, value)| name.as_str().len() + 6 + bytes_of(value).map_or(8, <[u8]>::len)).sum()
}

#[test]
fn an_event_of_the_bus_is_taken_as_it_is() {
    let body = br#"{"n": 1}"#;
    let properties = headers(&[(names::HEADER_HOPS, AMQPValue::ShortShortUInt(3)), (names::HEADER_TRACEPARENT, text(TRACE))])
        .with_message_id("id-1".into())
        .with_timestamp(now().as_second() as u64 - 60);
    let Incoming { delivery, delay_left } = from_bus("a.b", properties, body);
    assert_eq!((delivery.tag, delivery.key.as_str(), &delivery.body[..], delay_left), (7, "a.b", &body[..], Duration::ZERO));
    assert_eq!((delivery.attempts, delivery.hops, delivery.direct, delivery.redelivered), (0, 3, false, false));
    assert_eq!(delivery.traceparent.as_deref(), Some(TRACE));
    assert_eq!(delivery.stored_at, Timestamp::from_second(now().as_second() - 60).unwrap());
    assert!(delivery.identity.starts_with("id-1~"), "{}", delivery.identity);
}

#[test]
fn a_wait_carries_everything_over() {
    let body = br#"{"n": 1}"#;
    let first = from_bus("a.b", headers(&[(names::HEADER_HOPS, AMQPValue::LongInt(2)), (names::HEADER_TRACEPARENT, text(TRACE))]), body).delivery;
    let properties = with_delay_left(waiting(&first, &record(1, "no: \"quoted\", ünïcode")), Duration::from_micros(1_500));
    let Incoming { delivery, delay_left } = returned(properties, body);
    assert_eq!(delay_left, Duration::from_millis(2), "never less than what is left");
    assert_eq!((delivery.key.as_str(), delivery.attempts, delivery.hops), ("a.b", 1, 2));
    assert_eq!(delivery.history, [record(1, "no: \"quoted\", ünïcode")]);
    assert_eq!((&delivery.identity, delivery.stored_at), (&first.identity, first.stored_at));
    assert!(delivery.redelivered && !delivery.direct);
    assert_eq!(delivery.traceparent.as_deref(), Some(TRACE));
    // On to the next step: nothing is counted.
    let again = returned(with_delay_left(forwarded(&delivery), Duration::ZERO), body);
    assert_eq!((again.delivery.attempts, again.delivery.history.len(), again.delay_left), (1, 1, Duration::ZERO));
    assert_eq!(again.delivery.identity, first.identity);
}

#[test]
fn nobody_but_the_return_exchange_is_believed() {
    let nested = AMQPValue::FieldTable(FieldTable::default());
    let lies = [AMQPValue::LongLongInt(1_000_000_000), AMQPValue::LongInt(-1), text("5"), nested, AMQPValue::Boolean(true), AMQPValue::Void];
    for lie in &lies {
        let forged = headers(&[
            (names::HEADER_KEY, lie.clone()),
            (names::HEADER_ATTEMPTS, lie.clone()),
            (names::HEADER_DELAY_LEFT, lie.clone()),
            (names::HEADER_DIRECT, lie.clone()),
            (names::HEADER_IDENTITY, text("mine")),
            (names::HEADER_RECEIVED, AMQPValue::LongLongInt(0)),
            (names::HEADER_HISTORY, text(serde_json::to_string(&[record(1, "x")]).unwrap())),
            ("x-death", lie.clone()),
            ("x-delivery-count", lie.clone()),
        ]);
        let plain = from_bus("a.b", BasicProperties::default(), b"{}").delivery;
        for exchange in ["bloodbank.events.v1", "", "services.router.sys.wait.1", "services.router.sys.RETURN"] {
            let Incoming { delivery, delay_left } = incoming(message(exchange, "a.b", forged.clone(), b"{}"), now());
            assert_eq!((delivery.key.as_str(), delivery.attempts, delivery.direct, delay_left), ("a.b", 0, false, Duration::ZERO), "{exchange}: {lie:?}");
            assert_eq!((&delivery.identity, delivery.stored_at, delivery.history.len()), (&plain.identity, plain.stored_at, 0));
        }
        // Through the return exchange, what is no sense is nothing.
        let Incoming { delivery, .. } = returned(forged, b"{}");
        assert_eq!(delivery.identity, "mine");
    }
    let lost = returned(headers(&[(names::HEADER_ATTEMPTS, AMQPValue::LongLongInt(-3)), (names::HEADER_DELAY_LEFT, AMQPValue::LongLongInt(i64::MAX))]), b"");
    assert_eq!((lost.delivery.attempts, lost.delay_left, lost.delivery.key.as_str()), (0, DELAY_MAX, "services.router.one"));
}

#[test]
fn hops_are_an_integer_that_fits_or_nothing() {
    let of = |value: AMQPValue| from_bus("a", headers(&[(names::HEADER_HOPS, value)]), b"{}").delivery.hops;
    for value in [AMQPValue::ShortShortInt(9), AMQPValue::ShortUInt(9), AMQPValue::LongUInt(9), AMQPValue::LongLongInt(9)] {
        assert_eq!(of(value), 9);
    }
    assert_eq!(of(AMQPValue::LongInt(255)), 255);
    for value in [AMQPValue::LongInt(256), AMQPValue::LongInt(-1), text("9"), AMQPValue::Double(9.0), AMQPValue::Timestamp(9), AMQPValue::Boolean(true)] {
        assert_eq!(of(value), 0);
    }
}

#[test]
fn a_trace_context_is_one_or_nothing() {
    let of = |trace: &str| from_bus("a", headers(&[(names::HEADER_TRACEPARENT, text(trace))]), b"{}").delivery.traceparent;
    assert_eq!(of(TRACE).as_deref(), Some(TRACE));
    for trace in ["", "00", &TRACE[1..], &TRACE.replace('-', "_"), &TRACE.replace('4', "g"), &format!("{TRACE}\n"), &"0".repeat(5_000), &"ü".repeat(30)] {
        assert_eq!(of(trace), None, "{trace}");
    }
}

#[test]
fn a_time_is_believed_only_where_it_can_be_true() {
    let whole = Timestamp::from_millisecond(now().as_millisecond()).unwrap();
    let of = |seconds: i64| from_bus("a", BasicProperties::default().with_timestamp(seconds as u64), b"{}").delivery.stored_at;
    let year = 366 * 86_400;
    assert_eq!(of(now().as_second() - year + 60).as_second(), now().as_second() - year + 60);
    for wrong in [0, 1, -1, now().as_second() - year - 60, now().as_second() + 60, i64::MAX] {
        assert_eq!(of(wrong), whole, "{wrong}");
    }
    // A clock a little ahead of ours: not later than now.
    assert_eq!(of(now().as_second() + 3), whole);
    assert_eq!(from_bus("a", BasicProperties::default(), b"{}").delivery.stored_at, whole);
}

#[test]
fn a_key_that_cannot_be_ours_is_handed_out_as_one_that_fits_the_same_patterns() {
    let pattern: router_api::RoutingPattern = "a.*.b".parse().unwrap();
    let delivery = from_bus("a.\n\u{0}\u{85}.b", BasicProperties::default(), b"{}").delivery;
    assert_eq!(delivery.key.as_str(), "a.???.b");
    assert!(pattern.matches(&delivery.key));
    let longest = "\u{1}".repeat(255);
    assert_eq!(from_bus(&longest, BasicProperties::default(), b"{}").delivery.key.as_str(), "?".repeat(255));
    assert_eq!(safe_key(&"\n".repeat(300)).as_str().len(), 255);
}

#[test]
fn events_have_identities_of_their_own_even_under_one_message_id() {
    let of = |id: Option<&str>, key: &str, body: &[u8]| {
        let properties = id.map_or_else(BasicProperties::default, |id| BasicProperties::default().with_message_id(id.into()));
        from_bus(key, properties, body).delivery.identity
    };
    let all = [
        of(None, "a", b"{}"),
        of(None, "b", b"{}"),
        of(None, "a", b"{ }"),
        of(None, "", b"a{}"),
        of(None, "a{}", b""),
        of(None, "a", b"{}\0"),
        of(None, "a", b"\0\0\0\0\0\0\0\0"),
        of(None, "a", b"\0\0\0\0\0\0\0\0\0"),
        of(Some("constant"), "a", b"{}"),
        of(Some("constant"), "a", b"{\"n\":1}"),
        of(Some("other"), "a", b"{}"),
    ];
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len(), "{all:?}");
    assert_eq!(of(Some("constant"), "a", b"{}"), of(Some("constant"), "a", b"{}"));
    // No message id at all is better than one that breaks a line.
    assert_eq!(of(Some("a\nb"), "a", b"{}"), of(None, "a", b"{}"));
}

#[test]
fn a_published_event_says_its_own_id() {
    let publication =
        |body: &str| Publication { hops: 4, traceparent: Some(TRACE.to_owned()), ..Publication::new(RoutingKey::new("a").unwrap(), body.to_owned()) };
    let of = |body: &str| published(&publication(body), now()).message_id().as_ref().unwrap().as_str().to_owned();
    assert_eq!(of(r#"{"id": "b", "payload": {"event_id": "x"}, "event_id": "a"}"#), "a");
    assert_eq!(of(r#"{"payload": [[[]]], "id": "ünï\u0064"}"#), "ünïd");
    for without in
        [r#"{"event_id": 5}"#, r#"{"event_id": ""}"#, r#"{"event_id": "a\nb"}"#, "no json", "", "[1]", &"[".repeat(100_000), r#"{"id":"a","id":"b"}"#]
    {
        let id = of(without);
        assert!(id.len() == 32 && id == of(without), "{id}");
    }
    let properties = published(&publication("{}"), now());
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.timestamp(), &Some(now().as_second() as u64));
    let Incoming { delivery, .. } = from_bus("a", properties, b"{}");
    assert_eq!((delivery.hops, delivery.traceparent.as_deref()), (4, Some(TRACE)));
    assert_eq!(published(&publication("\u{1}"), now()).content_type().as_ref().unwrap().as_str(), "application/octet-stream");
}

#[test]
fn an_event_for_one_route_is_direct_and_new() {
    let publication = Publication { hops: 4, ..Publication::new(RoutingKey::new("some.key").unwrap(), r#"{"event_id":"a"}"#) };
    let Incoming { delivery, .. } = returned(addressed(&publication, now()), &publication.body);
    assert!(delivery.direct && !delivery.redelivered);
    assert_eq!((delivery.key.as_str(), delivery.attempts, delivery.hops), ("some.key", 0, 4));
    assert_eq!(delivery.stored_at.as_millisecond(), now().as_millisecond());
}

#[test]
fn a_dead_letter_comes_back_as_it_was_written() {
    let body = b"\xff\xfe{ no \x00 json";
    let delivery = from_bus("some.key", headers(&[(names::HEADER_HOPS, AMQPValue::LongInt(2))]), body).delivery;
    let letter = letter(vec![record(1, "first"), record(2, "second")]);
    let properties = buried(&delivery, &letter);
    let lying = message("", "services.router.one.dead", properties.clone(), body);
    let dead = dead(&"one".parse().unwrap(), &lying, now() + SignedDuration::from_secs(99));
    assert_eq!(dead.stored.letter, letter);
    assert_eq!((dead.stored.key.as_str(), &dead.stored.body[..], dead.stored.stored_at), ("some.key", &body[..], delivery.stored_at));
    assert_eq!(dead.identity(), delivery.identity);
    // Published again after a lost confirm, it is the same letter.
    assert_eq!(buried(&delivery, &letter), properties);
    let Incoming { delivery: back, delay_left } = returned(redriven(&dead), body);
    assert!(back.direct && delay_left.is_zero());
    assert_eq!((back.attempts, &back.history, back.key.as_str(), back.hops), (0, &letter.history, "some.key", 2));
    assert_eq!((back.identity, back.stored_at), (delivery.identity, delivery.stored_at));
}

#[test]
fn what_the_broker_gave_up_on_says_so() {
    let death = |exchange: &str, reason: &str| {
        let mut entry = FieldTable::default();
        entry.insert("queue".into(), text("services.router.one"));
        entry.insert("reason".into(), text(reason));
        entry.insert("exchange".into(), text(exchange));
        entry.insert("routing-keys".into(), AMQPValue::FieldArray(FieldArray::from(vec![text("some.key")])));
        entry.insert("time".into(), AMQPValue::Timestamp(now().as_second() as u64 - 5));
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(entry)]))
    };
    let of = |properties: BasicProperties| dead(&"one".parse().unwrap(), &message("", "services.router.one.dead", properties, b"{}"), now()).stored;
    let stored = of(headers(&[("x-death", death("bloodbank.events.v1", "delivery_limit")), (names::HEADER_ATTEMPTS, AMQPValue::LongInt(9))]));
    assert_eq!((stored.key.as_str(), stored.letter.reason, stored.letter.attempts), ("some.key", DeadLetterReason::Crashed, 0));
    assert_eq!(stored.letter.buried_at.as_second(), now().as_second() - 5);
    assert!(stored.letter.error.contains("`services.router.one`") && stored.letter.error.contains("too often"), "{}", stored.letter.error);
    // Its second life began at our return exchange, so its past is ours.
    let past = headers(&[
        ("x-death", death(names::RETURN, "rejected")),
        (names::HEADER_ATTEMPTS, AMQPValue::LongInt(2)),
        (names::HEADER_KEY, text("first.key")),
        (names::HEADER_HISTORY, text(serde_json::to_string(&[record(2, "x")]).unwrap())),
    ]);
    let stored = of(past);
    assert_eq!((stored.key.as_str(), stored.letter.attempts, stored.letter.history.len()), ("first.key", 2, 1));
    assert!(stored.letter.error.contains("rejected"), "{}", stored.letter.error);
    // Somebody put it there by hand.
    let stored = of(BasicProperties::default());
    assert!(stored.letter.error.contains("without a letter"), "{}", stored.letter.error);
    for nonsense in [text("x"), AMQPValue::FieldArray(FieldArray::default()), AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Void]))] {
        assert_eq!(of(headers(&[("x-death", nonsense)])).letter.reason, DeadLetterReason::Crashed);
    }
}

#[test]
fn headers_fit_into_a_frame_whatever_went_wrong() {
    // Every byte of these becomes six in JSON.
    let long = "\u{1}".repeat(5_000);
    let history: Vec<AttemptRecord> = (1..=32).map(|number| record(number, &long)).collect();
    let mut delivery = from_bus(&"k".repeat(255), BasicProperties::default().with_message_id("m".repeat(255).into()), b"{}").delivery;
    delivery.history = history.clone();
    let letter = DeadLetter { error: long.clone(), detail: Some(long.clone()), ..letter(history) };
    for properties in [waiting(&delivery, &record(33, &long)), buried(&delivery, &letter)] {
        let bytes = table_bytes(&properties);
        assert!(bytes < 100 * 1024, "{bytes} bytes");
        let back = returned(properties, b"{}").delivery.history;
        assert!(!back.is_empty() && back[0].number == 1, "the first attempts and the last ones stay: {}", back.len());
    }
    let back = returned(waiting(&delivery, &record(33, "last")), b"{}").delivery;
    assert_eq!((back.attempts, back.history.last().map(|record| record.number)), (1, Some(33)));
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        any::<f64>().prop_map(AMQPValue::Double),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        "[\\[\\]{}\",:a0]{0,30}".prop_map(text),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| AMQPValue::FieldArray(values.into())),
            prop::collection::vec((select_name(), inner), 0..4).prop_map(|entries| {
                let mut table = FieldTable::default();
                for (name, value) in entries {
                    table.insert(name.into(), value);
                }
                AMQPValue::FieldTable(table)
            }),
        ]
    })
}

fn select_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        names::HEADER_VERSION,
        names::HEADER_KEY,
        names::HEADER_ATTEMPTS,
        names::HEADER_DELAY_LEFT,
        names::HEADER_ERROR,
        names::HEADER_HISTORY,
        names::HEADER_RECEIVED,
        names::HEADER_DIRECT,
        names::HEADER_IDENTITY,
        names::HEADER_LETTER,
        names::HEADER_HOPS,
        names::HEADER_TRACEPARENT,
        "x-death",
        "queue",
        "routing-keys",
        "time",
        "exchange",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_header_brings_us_down_and_every_body_comes_through(
        entries in prop::collection::vec((select_name(), value()), 0..8),
        key in "\\PC{0,40}|[\\x00-\\x7f]{0,60}",
        body in prop::collection::vec(any::<u8>(), 0..50),
        timestamp in any::<Option<u64>>(),
    ) {
        let entries: Vec<(&str, AMQPValue)> = entries;
        let mut properties = headers(&entries);
        if let Some(timestamp) = timestamp {
            properties = properties.with_timestamp(timestamp);
        }
        for exchange in [names::RETURN, "events", ""] {
            let Incoming { delivery, .. } = incoming(message(exchange, &key, properties.clone(), &body), now());
            prop_assert_eq!(&delivery.body[..], &body[..]);
            prop_assert!(delivery.stored_at <= now() || exchange == names::RETURN);
            let again = returned(with_delay_left(waiting(&delivery, &record(1, "x")), Duration::ZERO), &body).delivery;
            prop_assert_eq!((again.key, again.identity), (delivery.key, delivery.identity));
            let stored = dead(&"one".parse().unwrap(), &message(exchange, &key, properties.clone(), &body), now()).stored;
            prop_assert_eq!(&stored.body[..], &body[..]);
        }
    }
}
