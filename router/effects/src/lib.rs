//! Performs effects for real: HTTP through reqwest, commands as processes.
//!
//! [`Performer`] is the only thing to build; it implements [`router_api::EffectPort`]. The dry-run twin is
//! [`router_api::DryRun`], which goes over any port.
//!
//! What holds here whatever a plugin asks for: no shell, a cleared environment, a process group that ends with its handling,
//! redirects off, a bound for every output, body and wait. Read first `performer`, then `command` and `http`; programs that stay are
//! `worker` (one process) and `worker_pool` (who asks which). `itself` is no effect: it is here because processes are started here alone.

mod command;
mod directory;
mod environment;
mod http;
mod itself;
mod lookup;
mod output;
mod performer;
mod resolver;
mod stragglers;
mod worker;
mod worker_pool;

pub use command::ProcessLimits;
pub use directory::check_directory;
pub use environment::Environment;
pub use itself::Itself;
pub use performer::{Performer, PerformerError, PerformerOptions};
pub use resolver::{HostResolver, SystemResolver};
pub use stragglers::end_stragglers;
