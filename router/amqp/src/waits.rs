//! How an event waits on the broker: down a ladder of queues that nobody takes from.
//!
//! Each step of the ladder is a queue whose messages expire after its time and go through the return exchange to the queue that
//! their routing key names. What is left of the wait travels along, and whoever gets the event then sends it to the next step. A time
//! to live for each message would not do: a queue only looks at its head, so that a long wait would hold up the shorter ones behind it.

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;

use crate::{
    names,
    publisher::{PublishFailure, Publisher},
    wire,
};

/// Below this nothing is sent round: it is held in hand.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);

/// Brings an event to `queue` after `delay`; at once through the return exchange for less than the shortest step. `properties` are
/// those of [`wire::waiting`], [`wire::forwarded`], [`wire::addressed`] or [`wire::redriven`].
///
/// # Errors
///
/// When it is not safe on the broker.
pub(crate) async fn send(publisher: &Publisher, queue: &str, body: Bytes, properties: BasicProperties, delay: Duration) -> Result<(), PublishFailure> {
    let (exchange, left) = first_step(delay);
    let properties = wire::with_delay_left(properties, left);
    if publisher.publish(&exchange, queue, body, properties).await?.routed {
        return Ok(());
    }
    publisher.suspect();
    // A fanout exchange without its queue, or a return exchange without its alternate: somebody has deleted what we made.
    Err(PublishFailure::Refused(format!("exchange `{exchange}` leads to no queue, so nothing can wait or come back through it")))
}

/// The exchange of the first step, and what is left after it.
fn first_step(delay: Duration) -> (String, Duration) {
    match names::wait_step(delay) {
        Some(step) => (names::wait_of(step), delay.saturating_sub(Duration::from_secs(step))),
        None => (names::RETURN.to_owned(), delay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_goes_down_the_ladder_until_less_than_its_shortest_step_is_left() {
        let steps = |delay: Duration| {
            let (mut left, mut steps) = (delay, Vec::new());
            loop {
                let (exchange, rest) = first_step(left);
                if exchange == names::RETURN {
                    return (steps, rest);
                }
                steps.push(exchange.rsplit_once('.').map_or(String::new(), |(_, seconds)| seconds.to_owned()));
                left = rest;
            }
        };
        assert_eq!(steps(Duration::ZERO), (vec![], Duration::ZERO));
        assert_eq!(steps(Duration::from_millis(999)), (vec![], Duration::from_millis(999)));
        assert_eq!(steps(Duration::from_secs(300)), (["256", "32", "8", "4"].map(str::to_owned).to_vec(), Duration::ZERO));
        assert_eq!(steps(Duration::from_millis(3_250)), (["2", "1"].map(str::to_owned).to_vec(), Duration::from_millis(250)));
        assert_eq!(steps(Duration::from_secs(3_000)).0, ["1024", "1024", "512", "256", "128", "32", "16", "8"].map(str::to_owned));
    }
}
