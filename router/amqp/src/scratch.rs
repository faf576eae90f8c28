//! A channel for questions that the broker may refuse: a refusal costs the channel, and the next question gets a new one.

use std::{future::Future, time::Duration};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::Instant;

use crate::{
    arguments::Form,
    connection::Session,
    failure::{Failure, LIMIT, within},
};

/// RabbitMQ gives the leader of a quorum queue 250 ms to count, and then says 0; a slower zero may be that one.
const PROMPT: Duration = Duration::from_millis(200);

/// For who asks for all queues, one after the other.
const BRIEF: Duration = Duration::from_secs(3);

/// Between two questions to a queue that says it is empty.
const EMPTY_AGAIN: Duration = Duration::from_millis(10);

/// An empty queue is asked so often at most.
const EMPTY_ASKED_MAX: u32 = 20;

/// See the head of this file. Bound to one session.
pub(crate) struct Scratch {
    session: Session,
    open: Option<Channel>,
}

/// What the broker knows of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueCount {
    /// Waiting to be handed out.
    pub(crate) ready: u32,
    pub(crate) consumers: u32,
}

impl Scratch {
    pub(crate) fn new(session: &Session) -> Self {
        Self { session: session.clone(), open: None }
    }

    /// Does `what` on a channel that is open. The channel survives only what succeeds.
    pub(crate) async fn ask<T, F>(&mut self, what: &str, call: impl FnOnce(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        let channel = match self.open.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.session.channel(what).await?,
        };
        let answer = within(what, LIMIT, call(channel.clone())).await?;
        self.open = Some(channel);
        Ok(answer)
    }

    /// Gives the channel back to the broker.
    pub(crate) async fn end(mut self) {
        if let Some(channel) = self.open.take() {
            // Nothing depends on it, and the session's end would do.
            drop(within("closing a channel", LIMIT, channel.close(200, "done".into())).await);
        }
    }

    /// Looks at a queue whose count matters; `None` where there is none.
    ///
    /// A quorum queue whose leader does not answer the broker in time, or that has none for the moment, is told as empty. So an
    /// empty one is asked again until it has said so twice without delay.
    pub(crate) async fn look_surely(&mut self, queue: &str) -> Result<Option<QueueCount>, Failure> {
        let mut prompt = 0;
        for _ in 0..EMPTY_ASKED_MAX {
            let asked = Instant::now();
            let count = self.look(queue).await?;
            if count.is_none_or(|count| count.ready > 0) {
                return Ok(count);
            }
            prompt = if asked.elapsed() < PROMPT { prompt + 1 } else { 0 };
            if prompt == 2 {
                return Ok(count);
            }
            tokio::time::sleep(EMPTY_AGAIN).await;
        }
        Err(Failure::lost(format!("queue `{queue}` does not tell how many events it holds")))
    }

    /// As [`Scratch::look`], for who rather does without an answer than wait for one.
    pub(crate) async fn look_briefly(&mut self, queue: &str) -> Result<Option<QueueCount>, Failure> {
        match tokio::time::timeout(BRIEF, self.look(queue)).await {
            Ok(found) => found,
            Err(_) => Err(Failure::unanswered(format!("queue `{queue}`: no answer within {} s", BRIEF.as_secs()))),
        }
    }

    /// Looks at a queue without touching it; `None` where there is none. A count of 0 may be wrong: see [`Scratch::look_surely`].
    pub(crate) async fn look(&mut self, queue: &str) -> Result<Option<QueueCount>, Failure> {
        let name = short("queue", queue)?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let answer = self.ask(&format!("queue `{queue}`"), |channel| async move { channel.queue_declare(name, options, FieldTable::default()).await }).await;
        match answer {
            Ok(queue) => Ok(Some(QueueCount { ready: queue.message_count(), consumers: queue.consumer_count() })),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Is there such an exchange?
    pub(crate) async fn has_exchange(&mut self, exchange: &str) -> Result<bool, Failure> {
        let name = short("exchange", exchange)?;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let what = format!("exchange `{exchange}`");
        let call = |channel: Channel| async move { channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default()).await };
        match self.ask(&what, call).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_missing() => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Makes a queue, or holds one that is there against `form`.
    pub(crate) async fn queue(&mut self, queue: &str, form: &Form) -> Result<(), Failure> {
        let name = short("queue", queue)?;
        let Form { durable, auto_delete, exclusive, .. } = *form;
        let options = QueueDeclareOptions { durable, auto_delete, exclusive, ..QueueDeclareOptions::default() };
        let arguments = form.arguments.clone();
        self.ask(&format!("queue `{queue}`"), |channel| async move { channel.queue_declare(name, options, arguments).await }).await.map(drop)
    }

    /// Makes a durable exchange, or holds one that is there against it.
    pub(crate) async fn exchange(&mut self, exchange: &str, kind: ExchangeKind, arguments: FieldTable) -> Result<(), Failure> {
        let name = short("exchange", exchange)?;
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        self.ask(&format!("exchange `{exchange}`"), |channel| async move { channel.exchange_declare(name, kind, options, arguments).await }).await
    }

    /// Binds `queue` to `exchange` with each of `keys`. The broker answers once for all of them.
    pub(crate) async fn bind(&mut self, queue: &str, exchange: &str, keys: &[&str]) -> Result<(), Failure> {
        let Some((last, others)) = keys.split_last() else { return Ok(()) };
        let what = format!("binding queue `{queue}` to exchange `{exchange}`");
        let (queue, exchange) = (short("queue", queue)?, short("exchange", exchange)?);
        for key in others {
            let (queue, exchange, key) = (queue.clone(), exchange.clone(), short("routing pattern", key)?);
            let options = QueueBindOptions { nowait: true };
            self.ask(&what, |channel| async move { channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await }).await?;
        }
        let key = short("routing pattern", last)?;
        self.ask(&what, |channel| async move { channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await }).await
    }

    /// Takes a binding away. One that is not there, on a queue that is not there, is no failure.
    pub(crate) async fn unbind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Failure> {
        let what = format!("taking the binding `{key}` of queue `{queue}` from exchange `{exchange}`");
        let (queue, exchange, key) = (short("queue", queue)?, short("exchange", exchange)?, short("routing pattern", key)?);
        match self.ask(&what, |channel| async move { channel.queue_unbind(queue, exchange, key, FieldTable::default()).await }).await {
            Err(failure) if failure.is_missing() => Ok(()),
            other => other,
        }
    }
}

/// A name as AMQP can carry it. The type itself panics at a longer one.
pub(crate) fn short(what: &str, name: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(name).map_err(|_| Failure::refused(format!("the name of the {what} has {} bytes, and AMQP knows at most 255", name.len())))
}
