//! Makes sure that the broker has what was acknowledged on a channel before that channel is closed.
//!
//! AMQP confirms no acknowledgement. A channel of RabbitMQ hands a quorum queue 32 of them; while the queue has written fewer than that, as
//! on a disk that is busy, the channel keeps the later ones to itself, and it forgets them when it is closed. What was handled would come
//! again (rabbitmq-server #10327, open; seen on 3.10.8 and 4.0.5).
//!
//! A queue answers through its log, in turn, whoever wants to take from it. Once such an answer is there, everything that the channel had
//! handed over before is written; the channel hears of that before it comes to whatever it is asked next, and hands over what it kept. So a
//! second consumer is taken up here and cancelled at once. At a queue with a single active consumer it stands in line and gets nothing.
//! The first one is not cancelled: see `consumer.rs`.

use lapin::{
    Channel,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};

use crate::{
    connection::Session,
    failure::{Failure, LIMIT, within},
    scratch::short,
};

/// Behind all other names: where the second consumer does get something, that goes back to the queue after what the first one has.
const TAG: &str = "~event-router";

/// Returns when the broker has all that was acknowledged on `channel` of what came from `queue`.
///
/// # Errors
///
/// When nobody knows.
pub(crate) async fn acknowledged(session: &Session, channel: &Channel, queue: &str) -> Result<(), Failure> {
    let queue = short("queue", queue)?;
    let asked = async {
        channel.basic_qos(1, BasicQosOptions::default()).await?;
        let second = channel.basic_consume(queue, TAG.into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
        channel.basic_cancel(second.tag(), BasicCancelOptions::default()).await
    };
    tokio::select! {
        asked = within("making sure of the acknowledgements", LIMIT, asked) => asked,
        () = session.over() => Err(Failure::lost("the connection to the broker was lost")),
    }
}
