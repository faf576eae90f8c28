//! What authors of plugins and transports test with: a clock and chance under control, a transport and store in memory,
//! recorded effects, and the conformance suite that every transport passes.
//!
//! Nothing here belongs into a production binary: the parts panic where a test should fail.

mod chance;
mod clock;
pub mod conformance;
mod context;
mod effects;
mod events;
mod handler_conformance;
mod memory;
mod observer;
mod quiet;
mod router;
mod yielding;

pub use chance::SeededChance;
pub use clock::VirtualClock;
pub use context::{Handled, TestContext};
pub use effects::{FakeEffects, Requested};
pub use events::{EventBuilder, event};
pub use handler_conformance::{Conformed, HandlerConformance, handler_conformance};
pub use memory::{Calls, MemoryState, MemoryStore, MemoryTransport, Settled, SettledHow};
pub use observer::RecordingObserver;
pub use quiet::{Quiet, QuietRuntime};
pub use router::{Ending, TestRouter, TestRouterBuilder};
pub use yielding::{Pauses, YieldingStore, YieldingTransport};
