//! Watches the queue of what came back for a queue that is gone, so that nothing lies there unseen.
//!
//! A wait or an event for one route counts as safe when the broker has it. Should its queue be deleted before it comes back, nobody is
//! there to be told: the publisher has had its confirm long ago. So the broker keeps it, and this says so.

use std::{sync::Arc, time::Duration};

use crate::{
    AmqpOptions, Topology,
    bound::Bound,
    connection::{Bus, Session},
    failure::Failure,
    names,
    publisher::Publisher,
    scratch::Scratch,
};

/// What lies there is shown under it.
const TOPIC: &str = "lost";

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The same while the queue is not there: a question that is refused costs a channel.
const MISSING_EVERY: Duration = Duration::from_secs(60);

/// Runs beside until the bus is closed.
pub(crate) async fn watch(options: Arc<AmqpOptions>, bus: Arc<Bus>, bound: Arc<Bound>, publisher: Arc<Publisher>) {
    if options.topology == Topology::Off {
        // Nothing is asked of a broker whose queues are taken for granted.
        return;
    }
    let mut told = 0;
    loop {
        tokio::select! {
            () = round(&bus, &bound, &publisher, &mut told) => {}
            () = bus.closing() => return,
        }
    }
}

/// One look, and the wait for the next one.
async fn round(bus: &Bus, bound: &Bound, publisher: &Publisher, told: &mut u32) {
    let mut wait = LOOK_EVERY;
    // The queue is made with the first route.
    if let Some(session) = bus.now()
        && bound.is_any_wanted()
    {
        match lying(&session).await {
            Ok(Some(count)) => {
                if count > *told {
                    tracing::warn!("{}", sentence(count));
                }
                *told = count;
                bus.note(TOPIC, if count == 0 { Vec::new() } else { vec![sentence(count)] });
            }
            Ok(None) => {
                publisher.suspect();
                wait = MISSING_EVERY;
            }
            // It is asked again; that the broker is away is said elsewhere.
            Err(failure) => tracing::debug!("{failure}"),
        }
    }
    tokio::time::sleep(wait).await;
}

async fn lying(session: &Session) -> Result<Option<u32>, Failure> {
    let mut scratch = Scratch::new(session);
    let found = scratch.look(names::LOST).await;
    scratch.end().await;
    Ok(found?.map(|count| count.ready))
}

fn sentence(count: u32) -> String {
    let events = if count == 1 {
        "1 event came back for a queue that is gone, and lies".to_owned()
    } else {
        format!("{count} events came back for queues that are gone, and lie")
    };
    format!(
        "{events} in queue `{lost}`; once the routes have their queues again, move what lies there to exchange `{back}` under its own routing keys (a shovel does \
         that, see docs/rabbitmq.md), or purge `{lost}`",
        lost = names::LOST,
        back = names::RETURN,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_there_is_counted_with_the_way_back() {
        assert!(sentence(1).starts_with("1 event came back for a queue that is gone, and lies in queue `services.router.sys.lost`"));
        let many = sentence(64);
        assert!(many.starts_with("64 events came back for queues that are gone, and lie in queue"), "{many}");
        assert!(many.contains("`services.router.sys.return`") && many.contains("purge"), "{many}");
    }
}
