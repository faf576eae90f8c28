//! config → routes → workers.

pub mod config;
pub mod filter;
pub mod observe;
