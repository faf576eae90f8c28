//! The plugins that come with the router: one file each, registered by name, doing all outside work through the effects of their
//! [`Context`](router_api::Context).
//!
//! | name | does |
//! | --- | --- |
//! | [`log`](log::Log) | writes a line into the router's log |
//! | [`exec`](exec::Exec) | runs a command with the event on its standard input |
//! | [`ci`](ci::Ci) | runs a check where files were written, and tells what came of it |
//! | [`imi`](imi::Imi) | finds the worktree of a session's branch |
//! | [`flume`](flume::Flume) | keeps a session's record up to date over HTTP |
//! | [`dagster`](dagster::Dagster) | launches a Dagster job, once for each event |
//! | [`webhook`](webhook::Webhook) | sends the event to a URL, signed |
//!
//! # How to add a plugin
//!
//! 1. Copy `log.rs` to `<name>.rs`, change `NAME`, and add a `mod` line and a row above.
//! 2. Put the settings into the struct. Their doc comments are the reference that `event-router plugins <name>` shows: say what each
//!    one does, its unit, its default, and what happens at the edge. Durations are integers that end in `_ms` or `_s`. A secret is a
//!    plain text option; whoever configures it writes `${VAR}`.
//! 3. In `build`, check everything and return all problems at once; find programs with
//!    [`BuildContext::program`](router_api::BuildContext::program). Talk to nobody: `check` runs it without a network.
//! 4. Write `handle`. Work only through `cx`: a call that changes nothing is marked `.read()`; every other one is left out of dry runs.
//!    `?` means *try again* (an effect's own class decides), `.permanent("…")` means *never*. Make it safe to repeat: send
//!    [`Context::idempotency_key`](router_api::Context::idempotency_key) along, or look before you act.
//! 5. Test one success, one retry, one reject and one dry run, as `tests/plugins/` does for its siblings.
//!
//! Two plugins never call each other: one emits an event, and a route brings it to the other.
//!
//! A program that links this crate must say `use plugins as _;`, or the linker leaves all of them out.

pub mod ci;
pub mod dagster;
mod directory;
mod environment;
pub mod exec;
pub mod flume;
pub mod imi;
pub mod log;
mod page;
mod token;
pub mod webhook;
