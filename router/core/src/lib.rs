//! config → routes → workers.
//!
//! Read [`Router::apply`] first, then `route.rs` (what runs when) and `worker.rs` (the pipeline, and the only place that settles).

mod admin;
pub mod alerts;
mod archiving;
mod attempt;
mod breaker;
pub mod config;
mod crew;
mod dead_letter_groups;
pub mod explain;
mod fates;
pub mod filter;
mod follow;
mod handlings;
mod hops;
mod lanes;
pub mod ledger;
mod matcher;
mod memory;
pub mod metrics;
pub mod observe;
mod parts;
pub mod policy;
mod rate;
mod recent;
pub mod redact;
mod redrive;
mod route;
mod router;
pub mod sessions;
mod solitude;
#[cfg(test)]
mod spent;
mod taking_in;
mod unsettled;
mod worker;

pub use admin::StoreAdmin;
pub use archiving::Archiving;
pub use matcher::RouteMatcher;
pub use router::{Applied, ApplyError, Drained, Router, RouterBuilder, build_handler, shadow_all};
pub use taking_in::{take_in, take_in_all};

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
