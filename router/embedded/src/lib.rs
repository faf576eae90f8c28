//! The embedded durable queue: one SQLite file that is transport and store at once.
//!
//! [`Embedded`] implements [`router_api::Transport`] and [`router_api::Store`] over the same file, so that finishing an event,
//! remembering it as done and burying it are single commits. It needs no server and no tokio runtime of its own: it runs a
//! writer thread, which owns the only connection that writes, and a few reader threads.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # async fn example(clock: Arc<dyn router_api::Clock>) -> Result<(), router_embedded::OpenError> {
//! use router_embedded::{Embedded, EmbeddedOptions};
//!
//! let store = Embedded::open_waiting(EmbeddedOptions::new("state/router.db"), clock, Duration::from_secs(5)).await?;
//! for finding in store.findings() {
//!     eprintln!("{finding}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - An event is on disk, with one queue row for each route that wants it, before [`publish`](router_api::Transport::publish)
//!   returns. Callers that wait at the same time share one commit.
//! - A route's events are handed out in the order in which they were stored; those that wait for a due time (retries, redriven and
//!   delayed ones) come when it is reached, ahead of what was never tried.
//! - A process that dies without closing the store hands out again whatever was not settled. It keeps no durable record of what is
//!   in hand, so after such a death every event that was queued then counts as [`redelivered`](router_api::Delivery::redelivered).
//! - Due times follow the monotonic clock while the process lives; see `store_time.rs` for what a jump of the wall clock does.
//! - Discarding a dead letter removes the record of what became of that event on that route: there is no
//!   [`Fate`](router_api::Fate) for it. The event itself stays in the archive until retention takes it.
//!
//! # Files
//!
//! All have mode 0600. Beside `router.db` lie SQLite's own `-wal` and `-shm`; `router.db.lock`, held by whoever has the store
//! open; `router.db.seq`, the last accepted event's number and where the log ended, by which a loss is noticed; `router.db.sums`, the
//! checksums of the file's pages, by which damage is; `router.db.running`, which names the handlings that ran when a process died; and,
//! beside a large store that is closed, `router.db.closed`, by which [`Embedded::open_to_look`] need not read all of it again.
//! Copy the store while it is closed, or by [`back_up`].
//!
//! # Damage
//!
//! Before SQLite opens the file, the log is read frame by frame (`wal_scan.rs`) and the file page by page (`page_sums.rs`), and both are
//! held against what was noted (`examine.rs`). What is not what was written is a [`Damage`], and the store is not opened; [`check`] tells
//! everything, and [`repair`] brings back what can be.
//!
//! # Where to start reading
//!
//! `writer.rs` and `writer/thread.rs` for how everything is written, `queue.rs` for how a route hands out, `schema.rs` for what is in the file.

mod admin;
mod archive;
mod backup;
mod checkpoint;
mod closed;
mod consumer;
mod damage;
mod disk;
mod embedded;
mod event_row;
mod examine;
mod fetch;
mod heal;
mod inbox_keys;
mod intake;
mod ledger;
mod lock_file;
mod opening;
mod options;
mod page;
mod page_sums;
mod queue;
mod readers;
mod repair;
mod retention;
mod running;
mod salvage;
mod schema;
mod seen;
mod sessions;
mod settle;
mod side_file;
mod store;
mod store_time;
mod transport;
mod upkeep;
mod vacuum;
mod wal_scan;
mod writer;

pub use backup::{BackedUp, back_up};
pub use damage::{Damage, Finding};
pub use embedded::{Embedded, Measures};
pub use options::{EmbeddedOptions, OpenError};
pub use repair::{Loss, Repaired, repair};
pub use upkeep::{StoreCheck, UpkeepError, check};
pub use vacuum::{Vacuumed, vacuum};
