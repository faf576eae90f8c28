//! A transport and a store in memory, for tests: the whole contract, faults on demand, and restarts without a disk.
//!
//! [`MemoryState`] is the "disk". A [`MemoryTransport`] and a [`MemoryStore`] are what a process has open on it, so a test
//! restarts by opening new ones over the same state.

mod admin;
mod consumer;
mod faults;
mod queue;
mod state;
mod store;
mod transport;

pub use faults::{Calls, Settled, SettledHow};
pub use state::MemoryState;
pub use store::MemoryStore;
pub use transport::MemoryTransport;
