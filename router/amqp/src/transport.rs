//! (being written)

/// The transport over RabbitMQ.
pub struct AmqpTransport;
