//! The router's doors: event intake and health over TCP, and the admin API on a Unix socket beside the store.
//!
//! Read [`Door`] first (who may knock, and what is taken in), then [`AdminSocket`] and its counterpart [`AdminClient`]. What
//! the doors do with an event is decided behind [`router_api::Admin`]; nothing here opens a store or knows a route.
//!
//! The TCP door is for loopback only. It has no token, so it takes in events and says that it is alive, and nothing else:
//! whatever reads or changes the router's state goes through the socket, which only the router's own user can open.

mod api;
mod client;
mod connections;
mod door;
mod guard;
mod ingest;
mod lingering;
mod metrics;
mod ready;
mod socket;
mod wire;

pub use api::AdminSocket;
pub use client::{AdminClient, ConnectError};
pub use connections::ServeLimits;
pub use door::{Door, DoorError};
pub use metrics::{Scrape, Telemetry};
pub use ready::{ConfigOutcome, Readiness, ReadyAnswer, ReadyConfig, ReadyPart, ReadyRoute};
pub use socket::{SocketError, socket_path};
pub use wire::{DeadLetterAnswer, DeadLettersAnswer, ErrorAnswer, ErrorKind, EventsAnswer, PublishedAnswer, StatusAnswer, key_of};
