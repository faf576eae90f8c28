//! What our headers say, and what we believe of them.
//!
//! An event that waits, is redriven or addressed to one route travels with its past in headers, since AMQP has no other place for
//! it. They are believed only when the delivery came through our return exchange, to which nobody else has a reason to publish: a
//! producer that sets them has no effect. Two are believed from anywhere, because whoever publishes may say them: how many emits led
//! to the event, and the trace context.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use router_api::{AttemptRecord, DeadLetter, DeadLetterReason, Delivery, Publication, RouteName, RoutingKey, StoredDeadLetter};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::names;

/// The version of the headers that this code writes.
const VERSION: i32 = 1;

/// All headers of an event travel in one frame, of which brokers allow 128 KiB and some are told to allow less.
const HISTORY_BYTES_MAX: usize = 32 * 1024;

/// Of the letter without its history; see [`HISTORY_BYTES_MAX`].
const LETTER_TEXT_BYTES_MAX: usize = 4 * 1024;

/// What a producer's clock may be ahead of ours before its time is not believed.
const CLOCK_SKEW: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// So far an event may lie in a queue; an older time is that of a producer whose clock stands at the epoch.
const AGE_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(366 * 24);

/// A delivery as the core sees it, and what only the transport needs.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) delivery: Delivery,
    /// It is still to wait so long.
    pub(crate) delay_left: Duration,
}

/// A message of a dead queue.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) stored: StoredDeadLetter,
    identity: String,
    hops: u8,
}

impl Dead {
    /// As the delivery had it.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }
}

/// What `message` is to the core.
pub(crate) fn incoming(message: lapin::message::Delivery, now: Timestamp) -> Incoming {
    let ours = message.exchange.as_str() == names::RETURN;
    let headers = message.properties.headers().as_ref();
    let past = if ours { Past::of(headers) } else { Past::default() };
    let key = past.key.unwrap_or_else(|| safe_key(message.routing_key.as_str()));
    let identity = past.identity.unwrap_or_else(|| identity_of(message.properties.message_id().as_ref(), &key, &message.data));
    let stored_at = past.received.unwrap_or_else(|| received(*message.properties.timestamp(), now));
    let delivery = Delivery {
        tag: message.delivery_tag,
        identity,
        key,
        stored_at,
        attempts: past.attempts,
        history: past.history,
        hops: hops_of(headers),
        direct: past.direct,
        // A wait is a message of its own on the broker, which does not know that the event was handed out before.
        redelivered: message.redelivered || past.attempts > 0,
        seq: None,
        traceparent: traceparent_of(headers),
        body: Bytes::from(message.data),
    };
    Incoming { delivery, delay_left: past.delay_left }
}

/// For an event that failed and comes back later.
pub(crate) fn waiting(delivery: &Delivery, failure: &AttemptRecord) -> BasicProperties {
    let mut history = delivery.history.clone();
    AttemptRecord::push(&mut history, failure.clone());
    travelling(delivery, delivery.attempts.saturating_add(1), &history)
}

/// For an event that goes on waiting: nothing happened to it.
pub(crate) fn forwarded(delivery: &Delivery) -> BasicProperties {
    travelling(delivery, delivery.attempts, &delivery.history)
}

/// The same with another rest of the wait.
pub(crate) fn with_delay_left(properties: BasicProperties, left: Duration) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(names::HEADER_DELAY_LEFT.into(), AMQPValue::LongLongInt(milliseconds(left)));
    properties.with_headers(headers)
}

/// For an event that is given up on. The letter travels beside the body, which stays as it is.
pub(crate) fn buried(delivery: &Delivery, letter: &DeadLetter) -> BasicProperties {
    let properties = travelling(delivery, letter.attempts, &letter.history);
    let mut headers = properties.headers().clone().unwrap_or_default();
    let letter = Letter {
        id: letter_id(delivery, letter),
        letter: DeadLetter {
            error: cut(&letter.error, LETTER_TEXT_BYTES_MAX),
            detail: letter.detail.as_deref().map(|detail| cut(detail, LETTER_TEXT_BYTES_MAX)),
            history: Vec::new(),
            ..letter.clone()
        },
    };
    if let Ok(json) = serde_json::to_string(&letter) {
        headers.insert(names::HEADER_LETTER.into(), text(json));
    }
    headers.insert(names::HEADER_ERROR.into(), text(cut(&letter.letter.error, AttemptRecord::ERROR_BYTES_MAX)));
    properties.with_headers(headers)
}

/// For an event from outside or from an emit, on its way to whoever wants it.
pub(crate) fn published(publication: &Publication, now: Timestamp) -> BasicProperties {
    let id = own_id(&publication.body).unwrap_or_else(|| format!("{:032x}", fold(publication.key.as_str(), &publication.body)));
    let mut headers = FieldTable::default();
    put_context(&mut headers, publication.hops, publication.traceparent.as_deref());
    properties(&id, &publication.body, now).with_headers(headers)
}

/// For an event that is addressed to one route alone.
pub(crate) fn addressed(publication: &Publication, now: Timestamp) -> BasicProperties {
    let message_id = own_id(&publication.body).map(ShortString::from);
    let delivery = Delivery {
        tag: 0,
        identity: identity_of(message_id.as_ref(), &publication.key, &publication.body),
        key: publication.key.clone(),
        body: publication.body.clone(),
        stored_at: now,
        attempts: 0,
        history: Vec::new(),
        hops: publication.hops,
        direct: true,
        redelivered: false,
        seq: None,
        traceparent: publication.traceparent.clone(),
    };
    forwarded(&delivery)
}

/// What a message in the dead queue of `route` is, whether we or the broker put it there.
pub(crate) fn dead(route: &RouteName, message: &lapin::message::Delivery, now: Timestamp) -> Dead {
    let headers = message.properties.headers().as_ref();
    let past = Past::of(headers);
    let told = header(headers, names::HEADER_LETTER).and_then(bytes_of).and_then(|json| serde_json::from_slice::<Letter>(json).ok());
    let death = Death::of(headers);
    let believed = told.is_some() || death.as_ref().is_some_and(|death| death.exchange == names::RETURN);
    let key = past.key.filter(|_| believed).or_else(|| death.as_ref().and_then(|death| death.key.as_deref()).map(safe_key));
    let key = key.unwrap_or_else(|| safe_key(message.routing_key.as_str()));
    let identity = past.identity.unwrap_or_else(|| identity_of(message.properties.message_id().as_ref(), &key, &message.data));
    let stored_at = past.received.unwrap_or_else(|| received(*message.properties.timestamp(), now));
    let (id, letter) = match told {
        Some(Letter { id, letter }) => (id, DeadLetter { history: past.history, ..letter }),
        None => {
            let history = if believed { past.history } else { Vec::new() };
            let attempts = if believed { past.attempts } else { 0 };
            let buried_at = death.as_ref().and_then(|death| death.at).unwrap_or(stored_at);
            let letter = DeadLetter {
                route: route.clone(),
                plugin: String::new(),
                reason: DeadLetterReason::Crashed,
                error: Death::sentence(death.as_ref()),
                detail: None,
                attempts,
                history,
                buried_at,
                config_hash: String::new(),
                burst: None,
                traceparent: traceparent_of(headers),
            };
            (letter.reference(&identity), letter)
        }
    };
    let stored = StoredDeadLetter { id, key, body: Bytes::copy_from_slice(&message.data), stored_at, seq: None, identity: Some(identity.clone()), letter };
    Dead { stored, identity, hops: hops_of(headers) }
}

/// For a dead letter that goes back to its route: addressed to it alone, its attempts at 0, its history kept.
pub(crate) fn redriven(dead: &Dead) -> BasicProperties {
    let delivery = Delivery {
        tag: 0,
        identity: dead.identity.clone(),
        key: dead.stored.key.clone(),
        body: dead.stored.body.clone(),
        stored_at: dead.stored.stored_at,
        attempts: 0,
        history: dead.stored.letter.history.clone(),
        hops: dead.hops,
        direct: true,
        redelivered: false,
        seq: None,
        traceparent: dead.stored.letter.traceparent.clone(),
    };
    forwarded(&delivery)
}

/// A dead letter as it travels: without its history, which has a header of its own.
#[derive(Serialize, Deserialize)]
struct Letter {
    id: String,
    letter: DeadLetter,
}

/// What an event has behind it, by our headers.
#[derive(Default)]
struct Past {
    key: Option<RoutingKey>,
    attempts: u32,
    history: Vec<AttemptRecord>,
    received: Option<Timestamp>,
    direct: bool,
    identity: Option<String>,
    delay_left: Duration,
}

impl Past {
    /// Each header for itself: one that is missing or holds nonsense says nothing.
    fn of(headers: Option<&FieldTable>) -> Self {
        let number = |name| header(headers, name).and_then(integer);
        let text = |name| header(headers, name).and_then(text_of);
        let history = header(headers, names::HEADER_HISTORY).and_then(bytes_of);
        let mut history: Vec<AttemptRecord> = history.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        while history.len() > AttemptRecord::HISTORY_MAX {
            history.remove(AttemptRecord::HISTORY_MAX / 2);
        }
        Self {
            key: text(names::HEADER_KEY).and_then(|text| RoutingKey::new(text).ok()),
            attempts: number(names::HEADER_ATTEMPTS).map_or(0, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX)),
            history,
            received: number(names::HEADER_RECEIVED).and_then(|ms| Timestamp::from_millisecond(ms).ok()),
            direct: header(headers, names::HEADER_DIRECT).and_then(AMQPValue::as_bool).unwrap_or(false),
            identity: text(names::HEADER_IDENTITY).filter(|text| is_sane(text)).map(str::to_owned),
            delay_left: number(names::HEADER_DELAY_LEFT).map_or(Duration::ZERO, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)).min(DELAY_MAX)),
        }
    }
}

/// No wait of ours is longer.
const DELAY_MAX: Duration = Duration::from_secs(366 * 86_400);

/// The last time that the broker itself gave up on a message, by its `x-death`.
struct Death {
    queue: String,
    reason: String,
    exchange: String,
    key: Option<String>,
    at: Option<Timestamp>,
}

impl Death {
    fn of(headers: Option<&FieldTable>) -> Option<Self> {
        let AMQPValue::FieldArray(deaths) = header(headers, "x-death")? else { return None };
        let Some(AMQPValue::FieldTable(last)) = deaths.as_slice().first() else { return None };
        let text = |name| header(Some(last), name).and_then(text_of).unwrap_or_default().to_owned();
        let key = match header(Some(last), "routing-keys") {
            Some(AMQPValue::FieldArray(keys)) => keys.as_slice().first().and_then(text_of).map(str::to_owned),
            _ => None,
        };
        let at = match header(Some(last), "time") {
            Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()),
            _ => None,
        };
        Some(Self { queue: text("queue"), reason: text("reason"), exchange: text("exchange"), key, at })
    }

    fn sentence(death: Option<&Self>) -> String {
        let Some(death) = death else { return "it came here without a letter: nothing of this router put it here".to_owned() };
        let queue = cut(&death.queue, 255);
        match death.reason.as_str() {
            "delivery_limit" => format!("the broker took it out of queue `{queue}`, since it had been handed out too often without being finished"),
            "rejected" => format!("another consumer of queue `{queue}` rejected it"),
            "expired" => format!("it became too old for queue `{queue}` on the broker"),
            "maxlen" => format!("queue `{queue}` on the broker was full"),
            other => format!("the broker took it out of queue `{queue}`: {}", cut(other, 255)),
        }
    }
}

fn travelling(delivery: &Delivery, attempts: u32, history: &[AttemptRecord]) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(names::HEADER_VERSION.into(), AMQPValue::LongInt(VERSION));
    headers.insert(names::HEADER_KEY.into(), text(delivery.key.as_str()));
    headers.insert(names::HEADER_ATTEMPTS.into(), AMQPValue::LongLongInt(attempts.into()));
    headers.insert(names::HEADER_RECEIVED.into(), AMQPValue::LongLongInt(delivery.stored_at.as_millisecond()));
    headers.insert(names::HEADER_IDENTITY.into(), text(delivery.identity.as_str()));
    if delivery.direct {
        headers.insert(names::HEADER_DIRECT.into(), AMQPValue::Boolean(true));
    }
    if let (Some(first), Some(last)) = (history.first(), history.last()) {
        headers.insert(names::HEADER_FIRST_FAILED.into(), text(first.at.to_string()));
        headers.insert(names::HEADER_ERROR.into(), text(cut(&last.error, AttemptRecord::ERROR_BYTES_MAX)));
        headers.insert(names::HEADER_HISTORY.into(), text(history_json(history)));
    }
    put_context(&mut headers, delivery.hops, delivery.traceparent.as_deref());
    properties(&delivery.identity, &delivery.body, delivery.stored_at).with_headers(headers)
}

fn put_context(headers: &mut FieldTable, hops: u8, traceparent: Option<&str>) {
    if hops > 0 {
        headers.insert(names::HEADER_HOPS.into(), AMQPValue::LongInt(hops.into()));
    }
    if let Some(traceparent) = traceparent.filter(|text| is_traceparent(text)) {
        headers.insert(names::HEADER_TRACEPARENT.into(), text(traceparent));
    }
}

fn properties(id: &str, body: &[u8], stored_at: Timestamp) -> BasicProperties {
    let is_json = body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|first| *first == b'{');
    let kind = if is_json { "application/json" } else { "application/octet-stream" };
    let mut properties = BasicProperties::default().with_content_type(kind.into()).with_timestamp(u64::try_from(stored_at.as_second()).unwrap_or(0));
    if let Ok(id) = ShortString::try_new(id) {
        properties = properties.with_message_id(id);
    }
    properties
}

/// As much of a history as travels: the first attempts and the last ones.
fn history_json(history: &[AttemptRecord]) -> String {
    let mut records: Vec<String> = history
        .iter()
        .filter_map(|record| serde_json::to_string(&AttemptRecord { error: cut(&record.error, AttemptRecord::ERROR_BYTES_MAX), ..record.clone() }).ok())
        .collect();
    let mut bytes: usize = records.iter().map(|record| record.len() + 1).sum();
    while bytes > HISTORY_BYTES_MAX && !records.is_empty() {
        bytes -= records.remove(records.len() / 2).len() + 1;
    }
    format!("[{}]", records.join(","))
}

/// A letter has the same id however often it is published, so that a repeat is known as one.
fn letter_id(delivery: &Delivery, letter: &DeadLetter) -> String {
    letter.reference(&delivery.identity)
}

/// The same for each redelivery of an event. A producer may give many events one message id, so the event has its say as well.
fn identity_of(message_id: Option<&ShortString>, key: &RoutingKey, body: &[u8]) -> String {
    let hash = fold(key.as_str(), body);
    match message_id.map(ShortString::as_str).filter(|id| is_sane(id)) {
        Some(id) => {
            let mut identity = String::with_capacity(id.len() + 17);
            // A text cannot refuse.
            let _ = write!(identity, "{id}~{:016x}", hash as u64);
            identity
        }
        None => format!("{hash:032x}"),
    }
}

/// Not against forgery (a message id can be chosen as well), but fast: it is taken of every event.
fn fold(key: &str, body: &[u8]) -> u128 {
    const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
    fn mix(state: u64, word: u64, odd: u64) -> u64 {
        let product = u128::from(state ^ word).wrapping_mul(u128::from(odd));
        (product as u64) ^ ((product >> 64) as u64)
    }
    fn take(state: &mut [u64; 2], word: u64) {
        state[0] = mix(state[0], word, ODD[0]);
        // Turned, so that a word that brings one half to zero does not bring the other one there as well.
        state[1] = mix(state[1].rotate_left(23), word, ODD[1]);
    }
    fn word(bytes: &[u8]) -> u64 {
        let mut word = [0_u8; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    }
    // Four rows of words, each for itself: the processor works on them side by side.
    let mut rows = std::array::from_fn::<_, 4, _>(|row| [ODD[1] ^ body.len() as u64, ODD[0] ^ (key.len() as u64) << 3 ^ row as u64]);
    for bytes in [key.as_bytes(), body] {
        let mut lines = bytes.chunks_exact(32);
        for line in &mut lines {
            for (row, bytes) in rows.iter_mut().zip(line.chunks_exact(8)) {
                take(row, word(bytes));
            }
        }
        for (row, bytes) in rows.iter_mut().zip(lines.remainder().chunks(8)) {
            take(row, word(bytes));
        }
    }
    let [mut state, others @ ..] = rows;
    for [first, second] in others {
        take(&mut state, first);
        take(&mut state, second);
    }
    (u128::from(mix(state[0], state[1], ODD[1])) << 64) | u128::from(mix(state[1], state[0], ODD[0]))
}

/// The event's own id, without taking the event apart.
fn own_id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Ids<'a> {
        #[serde(borrow, default)]
        event_id: Option<&'a RawValue>,
        #[serde(borrow, default)]
        id: Option<&'a RawValue>,
    }
    let ids: Ids<'_> = serde_json::from_slice(body).ok()?;
    let text = |raw: Option<&RawValue>| serde_json::from_str::<String>(raw?.get()).ok().filter(|text| is_sane(text));
    text(ids.event_id).or_else(|| text(ids.id))
}

/// When the event was received, by the property that AMQP has for it.
fn received(told: Option<u64>, now: Timestamp) -> Timestamp {
    let told = told.and_then(|seconds| i64::try_from(seconds).ok()).and_then(|seconds| Timestamp::from_second(seconds).ok());
    let told = told.filter(|told| now.duration_since(*told) < AGE_MAX && told.duration_since(now) < CLOCK_SKEW);
    // Whole milliseconds are what a wait carries.
    Timestamp::from_millisecond(told.unwrap_or(now).min(now).as_millisecond()).unwrap_or(now)
}

/// A broker lets through what a routing key of ours may not hold. No pattern of ours can hold it either, so that a key whose
/// control characters are replaced fits the same patterns.
fn safe_key(text: &str) -> RoutingKey {
    RoutingKey::new(text).unwrap_or_else(|_| {
        let replaced: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let replaced = &replaced[..replaced.floor_char_boundary(RoutingKey::BYTES_MAX)];
        RoutingKey::new(replaced).unwrap_or_else(|_| empty_key())
    })
}

fn empty_key() -> RoutingKey {
    RoutingKey::new("").expect("the empty text is a routing key")
}

fn hops_of(headers: Option<&FieldTable>) -> u8 {
    header(headers, names::HEADER_HOPS).and_then(integer).and_then(|hops| u8::try_from(hops).ok()).unwrap_or(0)
}

fn traceparent_of(headers: Option<&FieldTable>) -> Option<String> {
    header(headers, names::HEADER_TRACEPARENT).and_then(text_of).filter(|text| is_traceparent(text)).map(str::to_owned)
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, and whatever a later version adds behind it.
fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |part: &[u8]| part.iter().all(u8::is_ascii_hexdigit);
    (55..=255).contains(&bytes.len())
        && is_hex(&bytes[..2])
        && is_hex(&bytes[3..35])
        && is_hex(&bytes[36..52])
        && is_hex(&bytes[53..55])
        && [2, 35, 52].into_iter().all(|at| bytes[at] == b'-')
        && bytes[55..].iter().all(u8::is_ascii_graphic)
}

fn is_sane(id: &str) -> bool {
    (1..=255).contains(&id.len()) && !id.chars().any(char::is_control)
}

fn header<'a>(headers: Option<&'a FieldTable>, name: &str) -> Option<&'a AMQPValue> {
    headers?.inner().get(name)
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

fn bytes_of(value: &AMQPValue) -> Option<&[u8]> {
    match value {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        AMQPValue::ShortString(text) => Some(text.as_str().as_bytes()),
        _ => None,
    }
}

fn text_of(value: &AMQPValue) -> Option<&str> {
    std::str::from_utf8(bytes_of(value)?).ok()
}

fn text(text: impl Into<String>) -> AMQPValue {
    AMQPValue::LongString(text.into().into_bytes().into())
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(i64::MAX)
}

fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

#[cfg(test)]
mod tests;
