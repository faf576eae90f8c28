//! The transport over RabbitMQ. `lapin` lives here and nowhere else.
//!
//! Read `transport.rs` first, then the way of one event: `topology.rs` (where it waits), `consumer.rs` (how it comes into hand),
//! `window.rs` (how it is acknowledged), `fence.rs` (how that is certain), `waits.rs` and `dead_letters.rs` (where it goes when it failed), `publisher.rs` (how
//! anything gets there safely). `sieve.rs` stands before lapin, so that nothing a producer says can end a connection. `connection.rs` keeps sessions with the broker: lapin's own recovery stays off, no await on lapin is
//! without a limit, and what belongs to an earlier session is dropped, since the broker hands it out again.

mod admin;
mod archive;
mod arguments;
mod backoff;
mod bindings;
mod bound;
mod confirms;
mod connection;
mod consumer;
mod consumers;
mod dead_letters;
mod dial;
mod failure;
mod fence;
mod hold;
mod legible;
mod link;
mod lost;
mod names;
mod notes;
mod options;
mod plan;
mod properties;
mod publisher;
mod pump;
mod reach;
mod rebinding;
mod returns;
mod routed;
mod scratch;
mod sieve;
mod standing;
mod tap;
mod topology;
mod transport;
mod waits;
mod window;
mod wire;

pub use options::{AmqpOptions, ArchiveOptions, ClientTls, Management, Topology};
pub use tap::{Tap, Tapped};
pub use transport::AmqpTransport;
