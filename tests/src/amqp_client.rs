//! A client for looking from outside: what it says of queues and events comes from the broker, not from the router.
//!
//! Plain lapin without its automatic recovery. Nothing waits for ever, and everything panics where a test should fail; what a test
//! wants to see refused it asks of [`AmqpClient::channel`] or [`AmqpClient::try_connect`].

use std::{collections::VecDeque, future::Future, sync::OnceLock, time::Duration};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind, PublisherConfirm,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    tcp::OwnedTLSConfig,
    types::FieldTable,
};
use serde_json::{Map, Value};
use tokio::runtime::{self, Runtime};

mod table;

pub use table::{object, table};

/// Longer than any answer of a broker should take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Publishes that may wait for their confirm at once.
const WINDOW: usize = 512;

/// A connection with one channel, in confirm mode.
pub struct AmqpClient {
    connection: Connection,
    channel: Channel,
}

/// An event as it lay in a queue.
#[derive(Clone, Debug)]
pub struct Message {
    /// The exchange that it was published to.
    pub exchange: String,
    /// The routing key that it was published with.
    pub key: String,
    /// Was it handed out before?
    pub redelivered: bool,
    /// Its properties.
    pub properties: BasicProperties,
    /// Its headers, as JSON.
    pub headers: Map<String, Value>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Message {
    /// Its body as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Its id, if it has one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(|id| id.as_str())
    }

    fn of(delivery: lapin::message::Delivery) -> Self {
        let headers = delivery.properties.headers().as_ref().map(object).unwrap_or_default();
        Self {
            exchange: delivery.exchange.as_str().to_owned(),
            key: delivery.routing_key.as_str().to_owned(),
            redelivered: delivery.redelivered,
            properties: delivery.properties,
            headers,
            body: delivery.data,
        }
    }
}

/// What lapin's own tasks run on. Those of the test's runtime would stand still while the test waits for something without `await`,
/// and a client that does not answer the broker disturbs what the test looks at: a channel stays open until its end is agreed on.
fn own_runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("oracle").enable_all().build().expect("a runtime can be built")
    })
}

/// Waits for an answer of the broker.
///
/// # Panics
///
/// When it takes too long, or is an error.
pub async fn answered<T>(what: &str, answer: impl Future<Output = lapin::Result<T>>) -> T {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: no answer within {} s", PATIENCE.as_secs()),
    }
}

/// What a persistent event of the bus carries, if a test wants nothing else.
#[must_use]
pub fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into())
}

impl AmqpClient {
    /// Connects.
    ///
    /// # Panics
    ///
    /// When the broker refuses, or does not answer.
    pub async fn connect(url: &str) -> Self {
        Self::with(Self::open(url, OwnedTLSConfig::default()), url).await
    }

    /// Connects over TLS, with the authority to trust and an identity to show.
    ///
    /// # Panics
    ///
    /// When the broker refuses, or does not answer.
    pub async fn connect_tls(url: &str, config: OwnedTLSConfig) -> Self {
        Self::with(Self::open(url, config), url).await
    }

    /// Connects, or says why not.
    ///
    /// # Errors
    ///
    /// When the broker refuses.
    ///
    /// # Panics
    ///
    /// When it does not answer at all.
    pub async fn try_connect(url: &str, config: OwnedTLSConfig) -> lapin::Result<Self> {
        tokio::time::timeout(PATIENCE, Self::open(url, config)).await.unwrap_or_else(|_| panic!("`{url}` did not answer"))
    }

    async fn with(opening: impl Future<Output = lapin::Result<Self>>, url: &str) -> Self {
        answered(&format!("connecting to `{url}`"), opening).await
    }

    async fn open(url: &str, config: OwnedTLSConfig) -> lapin::Result<Self> {
        let properties = ConnectionProperties::default().with_connection_name("oracle".into());
        let runtime = {
            let _inside = own_runtime().enter();
            lapin::runtime::default_runtime()?
        };
        let connection = Connection::connect_with_config(url, properties, config, runtime).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// Its connection, for what is not here.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Its channel, for what is not here. A refusal closes it, and with it everything else here.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// A further channel, which a refusal may close.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn new_channel(&self) -> Channel {
        answered("opening a channel", self.connection.create_channel()).await
    }

    /// Declares a durable exchange: `topic`, `direct`, `fanout`, …
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn declare_exchange(&self, name: &str, kind: &str, arguments: &Value) {
        let kind = match kind {
            "topic" => ExchangeKind::Topic,
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "headers" => ExchangeKind::Headers,
            other => ExchangeKind::Custom(other.to_owned()),
        };
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        answered("declaring an exchange", self.channel.exchange_declare(name.into(), kind, options, table(arguments))).await;
    }

    /// Declares a durable queue.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn declare_queue(&self, name: &str, arguments: &Value) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        answered("declaring a queue", self.channel.queue_declare(name.into(), options, table(arguments))).await;
    }

    /// Binds a queue.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let binding = self.channel.queue_bind(queue.into(), exchange.into(), key.into(), QueueBindOptions::default(), FieldTable::default());
        answered("binding a queue", binding).await;
    }

    /// Takes a binding away.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn unbind(&self, queue: &str, exchange: &str, key: &str) {
        answered("unbinding a queue", self.channel.queue_unbind(queue.into(), exchange.into(), key.into(), FieldTable::default())).await;
    }

    /// Publishes a persistent event and waits until the broker has it. Did a queue want it?
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8]) -> bool {
        self.publish_with(exchange, key, body, persistent()).await
    }

    /// Publishes an event with these properties and waits until the broker has it. Did a queue want it?
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn publish_with(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) -> bool {
        let confirm = answered("publishing", self.send(exchange, key, body, properties)).await;
        confirmed(confirm).await
    }

    /// Publishes many events in order without waiting for each. How many a queue wanted.
    ///
    /// # Panics
    ///
    /// When the broker refuses one.
    pub async fn publish_all(&self, exchange: &str, events: impl IntoIterator<Item = (String, Vec<u8>, BasicProperties)>) -> usize {
        let mut window = VecDeque::with_capacity(WINDOW);
        let mut routed = 0;
        for (key, body, properties) in events {
            if window.len() == WINDOW
                && let Some(oldest) = window.pop_front()
            {
                routed += usize::from(confirmed(oldest).await);
            }
            window.push_back(answered("publishing", self.send(exchange, &key, &body, properties)).await);
        }
        for confirm in window {
            routed += usize::from(confirmed(confirm).await);
        }
        routed
    }

    fn send(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) -> impl Future<Output = lapin::Result<PublisherConfirm>> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        self.channel.basic_publish(exchange.into(), key.into(), options, body, properties)
    }

    /// Takes the first event of a queue, if there is one.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn get(&self, queue: &str) -> Option<Message> {
        let got = answered("taking an event", self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: false })).await?;
        answered("acknowledging an event", got.delivery.ack(BasicAckOptions::default())).await;
        Some(Message::of(got.delivery))
    }

    /// Takes everything that waits in a queue.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn drain(&self, queue: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(got) = answered("taking an event", self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true })).await {
            messages.push(Message::of(got.delivery));
        }
        messages
    }

    /// Looks at everything that waits in a queue and gives it back. The queue counts each as delivered once more.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn look(&self, queue: &str) -> Vec<Message> {
        // A channel of its own: what it holds returns when it closes, in order.
        let channel = self.new_channel().await;
        let mut messages = Vec::new();
        while let Some(got) = answered("looking at an event", channel.basic_get(queue.into(), BasicGetOptions { no_ack: false })).await {
            messages.push(Message::of(got.delivery));
        }
        answered("closing a channel", channel.close(200, "looked".into())).await;
        messages
    }

    /// Consumes a queue on a channel of its own.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn consume(&self, queue: &str, prefetch: u16, arguments: &Value) -> (Channel, Consumer) {
        let channel = self.new_channel().await;
        answered("setting the prefetch", channel.basic_qos(prefetch, BasicQosOptions::default())).await;
        let consuming = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), table(arguments));
        let consumer = answered("consuming", consuming).await;
        (channel, consumer)
    }

    /// How many events wait in a queue, if there is such a queue.
    ///
    /// # Panics
    ///
    /// When the broker does not answer.
    pub async fn depth(&self, queue: &str) -> Option<u32> {
        // A channel of its own, since the answer that there is none closes it.
        let channel = self.new_channel().await;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = tokio::time::timeout(PATIENCE, channel.queue_declare(queue.into(), options, FieldTable::default())).await;
        let found = asked.unwrap_or_else(|_| panic!("no answer about the queue `{queue}`"));
        if found.is_ok() {
            answered("closing a channel", channel.close(200, "asked".into())).await;
        }
        found.ok().map(|queue| queue.message_count())
    }

    /// Throws away everything that waits in a queue. How much it was.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn purge(&self, queue: &str) -> u32 {
        answered("purging a queue", self.channel.queue_purge(queue.into(), QueuePurgeOptions::default())).await
    }

    /// Deletes a queue with what is in it. How much it was.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn delete_queue(&self, queue: &str) -> u32 {
        answered("deleting a queue", self.channel.queue_delete(queue.into(), QueueDeleteOptions::default())).await
    }

    /// Deletes an exchange.
    ///
    /// # Panics
    ///
    /// When the broker refuses.
    pub async fn delete_exchange(&self, exchange: &str) {
        answered("deleting an exchange", self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default())).await;
    }

    /// Takes leave of the broker.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub async fn close(self) {
        answered("closing the connection", self.connection.close(200, "done".into())).await;
    }
}

/// Waits for a confirm. Did a queue want the event?
async fn confirmed(confirm: PublisherConfirm) -> bool {
    match answered("waiting for a confirm", confirm).await {
        Confirmation::Ack(returned) => returned.is_none(),
        refused => panic!("the broker refused an event: {refused:?}"),
    }
}
