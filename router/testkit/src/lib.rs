//! What authors of plugins and transports test with: a clock and chance under control, a transport and store in memory,
//! recorded effects, and the conformance suite that every transport passes.
//!
//! Nothing here belongs into a production binary: the parts panic where a test should fail.

mod chance;
mod clock;
mod memory;

pub use chance::SeededChance;
pub use clock::VirtualClock;
pub use memory::{Calls, MemoryState, MemoryStore, MemoryTransport, Settled, SettledHow};
