//! config → routes → workers.

pub mod config;
pub mod filter;
pub mod observe;
mod router;

pub use router::{Applied, ApplyError, Drained, Router, RouterBuilder};
