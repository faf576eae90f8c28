//! The router's doors: event intake and health over TCP, and the admin API on a Unix socket beside the store.
//!
//! Read [`Door`] first (who may knock, and what is taken in), then [`AdminSocket`] and its counterpart [`AdminClient`]. What
//! the doors do with an event is decided behind [`router_api::Admin`]; nothing here opens a store or knows a route.
//!
//! The TCP door takes in events, says that it is alive, and serves the admin API. Beyond loopback it needs tokens, and whatever reads
//! or changes the router's state needs one of its own in any case, which a token for sending is not, or goes through the socket, which
//! only the router's own user can open.

mod api;
mod audit;
mod batch;
mod bloodbank;
mod bloodbank_fields;
mod claude_endings;
mod claude_hooks;
mod claude_sessions;
mod client;
mod cloudevents;
mod connections;
mod door;
mod following;
mod guard;
mod heads;
mod ingest;
mod lingering;
mod local_user;
mod metrics;
mod openapi;
mod operate;
mod paths;
mod ready;
mod request_schema;
mod sessions;
mod socket;
mod tokens;
mod v2;
mod wire;

pub use api::AdminSocket;
pub use client::{AdminClient, ConnectError};
pub use connections::ServeLimits;
pub use door::{Door, DoorError, DoorParts};
pub use following::LastRun;
pub use guard::{Access, Client};
pub use metrics::{Scrape, Telemetry};
pub use openapi::openapi;
pub use operate::{Named, schema};
pub use ready::{ConfigOutcome, Readiness, ReadyAnswer, ReadyConfig, ReadyPart, ReadyRoute};
pub use socket::{SocketError, socket_path};
pub use tokens::Grant;
pub use wire::{BatchAnswer, DeadLetterAnswer, DeadLettersAnswer, ErrorAnswer, ErrorKind, EventsAnswer, PublishedAnswer, StatusAnswer, key_of};
