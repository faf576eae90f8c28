//! What our queues are made with, and how a queue that is there differs.
//!
//! Why each argument is there stands beside it; what it is worth is what an adopted queue without it costs.

use lapin::types::{AMQPValue, FieldTable, ShortString};
use router_api::{QueueKind, Subscription};

use crate::{AmqpOptions, names};

/// Far above what any event sees, and yet a limit: without one, RabbitMQ 4 gives up on an event after twenty lost connections, and
/// 3.10 brings what comes back behind everything else.
const DELIVERY_LIMIT: i32 = 1_000_000;

const KIND: &str = "x-queue-type";
const LIMIT: &str = "x-delivery-limit";
const SINGLE: &str = "x-single-active-consumer";
const DEAD_EXCHANGE: &str = "x-dead-letter-exchange";
const DEAD_KEY: &str = "x-dead-letter-routing-key";
const DEAD_STRATEGY: &str = "x-dead-letter-strategy";
const OVERFLOW: &str = "x-overflow";
const TTL: &str = "x-message-ttl";
const ALTERNATE: &str = "alternate-exchange";

/// The type that the queue of a route has or gets.
pub(crate) fn kind_of(subscription: &Subscription, options: &AmqpOptions) -> QueueKind {
    subscription.queue.kind.unwrap_or(options.queue_kind)
}

/// Of the queue that a route takes its events from.
pub(crate) fn route_queue(subscription: &Subscription, options: &AmqpOptions) -> FieldTable {
    let kind = kind_of(subscription, options);
    let mut arguments = of_kind(kind);
    // One router has all events and another stands by, so that order holds across routers.
    if !subscription.queue.parallel {
        put(&mut arguments, SINGLE, AMQPValue::Boolean(true));
    }
    // The second net: the router buries what it gives up on itself.
    put(&mut arguments, DEAD_EXCHANGE, text(""));
    put(&mut arguments, DEAD_KEY, text(&names::dead_queue(&subscription.route)));
    if kind == QueueKind::Quorum {
        put(&mut arguments, LIMIT, AMQPValue::LongInt(DELIVERY_LIMIT));
        hold_dead_letters_safely(&mut arguments);
    }
    arguments
}

/// Of a queue of dead letters. They are looked at by taking them and giving them back, which counts as a delivery each time.
pub(crate) fn dead_queue() -> FieldTable {
    let mut arguments = of_kind(QueueKind::Quorum);
    put(&mut arguments, LIMIT, AMQPValue::LongInt(DELIVERY_LIMIT));
    arguments
}

/// Of one step of the ladder of waits. No dead-letter routing key: each event keeps its own, the name of its route's queue.
pub(crate) fn wait_queue(step_s: u64) -> FieldTable {
    let mut arguments = of_kind(QueueKind::Quorum);
    put(&mut arguments, TTL, AMQPValue::LongInt(i32::try_from(step_s.saturating_mul(1_000)).unwrap_or(i32::MAX)));
    put(&mut arguments, DEAD_EXCHANGE, text(names::RETURN));
    hold_dead_letters_safely(&mut arguments);
    arguments
}

/// Of the queue of what no queue wants any more.
pub(crate) fn lost_queue() -> FieldTable {
    dead_queue()
}

/// Of the exchange through which events come back: what no queue wants any more must not hold up the others.
pub(crate) fn return_exchange() -> FieldTable {
    let mut arguments = FieldTable::default();
    put(&mut arguments, ALTERNATE, text(names::LOST));
    arguments
}

fn of_kind(kind: QueueKind) -> FieldTable {
    let mut arguments = FieldTable::default();
    put(&mut arguments, KIND, text(kind_name(kind)));
    arguments
}

fn kind_name(kind: QueueKind) -> &'static str {
    match kind {
        QueueKind::Quorum => "quorum",
        QueueKind::Classic => "classic",
    }
}

/// A quorum queue forgets a dead letter only when it is safe elsewhere, which it does only if it refuses rather than drops.
fn hold_dead_letters_safely(arguments: &mut FieldTable) {
    put(arguments, DEAD_STRATEGY, text("at-least-once"));
    put(arguments, OVERFLOW, text("reject-publish"));
}

fn put(arguments: &mut FieldTable, name: &'static str, value: AMQPValue) {
    arguments.insert(ShortString::from(name), value);
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.as_bytes().into())
}

/// Arguments as people write them: `x-queue-type = quorum, …`.
pub(crate) fn shown(arguments: &FieldTable) -> String {
    let one = |(name, value): (&ShortString, &AMQPValue)| format!("{name} = {}", shown_value(value));
    arguments.inner().iter().map(one).collect::<Vec<_>>().join(", ")
}

fn shown_value(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => format!("\"{text}\""),
        AMQPValue::Boolean(is) => is.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// How a queue or exchange that is there differs from what was asked for, by the broker's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The argument, or `durable`, `auto_delete`, `exclusive`, `type`.
    pub(crate) argument: String,
    /// What was asked for; `None` when it was not.
    pub(crate) asked: Option<String>,
    /// What is there; `None` when nothing is.
    pub(crate) found: Option<String>,
}

impl Difference {
    /// Reads it from a sentence that contains the broker's.
    pub(crate) fn of(sentence: &str) -> Option<Self> {
        let (_, rest) = sentence.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once('\'')?;
        let (_, rest) = rest.split_once("received ")?;
        let (asked, found) = rest.split_once(" but current is ")?;
        Some(Self { argument: argument.to_owned(), asked: value_of(asked)?, found: value_of(found)? })
    }

    /// What it means to whoever reads it.
    pub(crate) fn sentence(&self) -> String {
        let side = |value: &Option<String>| value.as_ref().map_or_else(|| "not set".to_owned(), |value| format!("`{value}`"));
        format!("`{}` is {} there, and would have to be {}", self.argument, side(&self.found), side(&self.asked))
    }
}

/// `none`, `'value'` or `the value 'value' of type 'type'`.
fn value_of(text: &str) -> Option<Option<String>> {
    if text.starts_with("none") {
        return Some(None);
    }
    let text = match text.strip_prefix("the value ") {
        Some(text) => &text[..text.rfind(" of type ")?],
        None => text,
    };
    let text = text.strip_prefix('\'')?;
    Some(Some(text[..text.rfind('\'')?].to_owned()))
}

/// What a queue is made with, as far as a broker compares it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) exclusive: bool,
    pub(crate) arguments: FieldTable,
}

impl Form {
    /// Of a durable queue.
    pub(crate) fn of(arguments: FieldTable) -> Self {
        Self { durable: true, auto_delete: false, exclusive: false, arguments }
    }

    /// Comes nearer to what is there. False when the difference is none that can be followed.
    pub(crate) fn follow(&mut self, difference: &Difference) -> bool {
        let is = |value: &Option<String>| value.as_deref() == Some("true");
        match difference.argument.as_str() {
            "durable" => self.durable = is(&difference.found),
            "auto_delete" => self.auto_delete = is(&difference.found),
            "exclusive" => self.exclusive = is(&difference.found),
            argument => {
                let Ok(name) = ShortString::try_new(argument) else { return false };
                let mut arguments = self.arguments.inner().clone();
                match &difference.found {
                    None => drop(arguments.remove(argument)),
                    Some(value) => drop(arguments.insert(name, value_like(argument, value))),
                }
                self.arguments = arguments.into();
            }
        }
        true
    }

    /// What it costs that a queue is like this, one sentence for each promise.
    pub(crate) fn costs(&self, parallel: bool) -> Vec<String> {
        let has = |name: &str| self.arguments.contains_key(name);
        let is_quorum = self.arguments.inner().get(KIND) == Some(&text("quorum"));
        let mut costs = Vec::new();
        if !self.durable || self.auto_delete || self.exclusive {
            costs.push("it is not durable, or goes by itself: what waits in it may be gone with the broker or its last consumer".to_owned());
        }
        if !parallel && self.arguments.inner().get(SINGLE) != Some(&AMQPValue::Boolean(true)) {
            costs.push("it has no single active consumer: with more than one router on it, order holds within each router only".to_owned());
        }
        if is_quorum && !has(LIMIT) {
            costs.push(
                "it has no delivery limit: RabbitMQ 4 gives up on an event after 20 lost connections, and 3.10 brings what comes back behind the rest"
                    .to_owned(),
            );
        }
        if !has(DEAD_EXCHANGE) {
            costs.push("it has no dead-letter exchange: what the broker itself gives up on is gone".to_owned());
        }
        if has(TTL) || has("x-expires") || has("x-max-length") || has("x-max-length-bytes") {
            costs.push("it drops what is too old or too much, without the router".to_owned());
        }
        costs
    }
}

fn value_like(argument: &str, value: &str) -> AMQPValue {
    match (argument, value) {
        (SINGLE, value) => AMQPValue::Boolean(value == "true"),
        // Numbers of any size are equal to the broker if their values are. A name that looks like a number is a name all the same.
        (DEAD_EXCHANGE | DEAD_KEY, value) => text(value),
        (_, value) => value.parse().map_or_else(|_| text(value), AMQPValue::LongLongInt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(argument: &str, asked: Option<&str>, found: Option<&str>) -> Difference {
        Difference { argument: argument.to_owned(), asked: asked.map(str::to_owned), found: found.map(str::to_owned) }
    }

    #[test]
    fn a_refusal_of_the_broker_is_taken_apart() {
        let table = [
            (
                "queue `q`: the broker answered 406 PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q1' in vhost '/': \
                 received none but current is the value '' of type 'longstr'",
                difference("x-dead-letter-exchange", None, Some("")),
            ),
            (
                "inequivalent arg 'x-overflow' for queue 'it's' in vhost '/': received the value 'reject-publish' of type 'longstr' but current is none",
                difference("x-overflow", Some("reject-publish"), None),
            ),
            (
                "inequivalent arg 'x-delivery-limit' for queue 'q1' in vhost '/': received '5' but current is '1000000'",
                difference("x-delivery-limit", Some("5"), Some("1000000")),
            ),
        ];
        for (sentence, expected) in table {
            assert_eq!(Difference::of(sentence), Some(expected), "{sentence}");
        }
        // Cut off at 255 bytes, as a long queue name does it.
        for sentence in ["inequivalent arg 'x-deli", "inequivalent arg 'durable' for queue 'x", "received none but current is none", ""] {
            assert_eq!(Difference::of(sentence), None, "{sentence}");
        }
    }

    #[test]
    fn a_form_follows_what_is_there_and_knows_what_it_costs() {
        let mut form = Form::of(dead_queue());
        for difference in [
            difference("x-queue-type", Some("quorum"), Some("classic")),
            difference("x-delivery-limit", Some("1000000"), None),
            difference("x-max-length", None, Some("5")),
            difference("durable", Some("true"), Some("false")),
        ] {
            assert!(form.follow(&difference));
        }
        assert_eq!(shown(&form.arguments), "x-max-length = 5, x-queue-type = \"classic\"");
        let costs = form.costs(false).join("\n");
        for part in ["not durable", "single active consumer", "dead-letter exchange", "too much"] {
            assert!(costs.contains(part), "{part}: {costs}");
        }
        assert!(!costs.contains("delivery limit"), "classic queues have none: {costs}");
    }
}
