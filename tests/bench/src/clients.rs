//! The raw clients that the router is held against: lapin without a framework.

use futures_util::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Failed,
    settings::{ACK_BATCH, PREFETCH},
    tally,
};

/// What a raw client does with each delivery.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// Acknowledges a hundred with one frame: the LIMIT.
    Multiple,
    /// The same, and parses.
    MultipleParsed,
    /// Acknowledges each, and waits for that.
    Single,
}

/// An envelope as a program would declare it.
#[derive(Deserialize)]
#[allow(dead_code, reason = "parsed as a program would, and not looked at")]
struct Typed {
    event_id: String,
    event_type: String,
    timestamp: String,
    version: String,
    source: Value,
    correlation_ids: Vec<String>,
    payload: Value,
}

/// Drains `queue` until everything that is expected was seen.
pub async fn drain(raw: Raw, url: &str, queue: &str, events: u64) -> Result<(), Failed> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consumer = channel.basic_consume(queue.into(), "bench".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    run(raw, &channel, consumer, events).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

async fn run(raw: Raw, channel: &Channel, mut consumer: Consumer, events: u64) -> Result<(), Failed> {
    let (mut seen, mut open) = (0_u64, 0_u32);
    while seen < events {
        let Some(delivery) = consumer.next().await else { return Err("the consumer ended".into()) };
        let delivery = delivery?;
        if raw == Raw::MultipleParsed {
            let typed: Typed = serde_json::from_slice(&delivery.data)?;
            std::hint::black_box(&typed);
        }
        seen += 1;
        if raw == Raw::Single {
            tally::handled(&delivery.data);
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
            continue;
        }
        open += 1;
        if open == ACK_BATCH || seen == events {
            open = 0;
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
        tally::handled(&delivery.data);
    }
    Ok(())
}
