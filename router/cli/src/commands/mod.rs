//! One file for each verb. Each has a `run` that gets its arguments and where to write, and says how it ended.

pub(crate) mod check;
pub(crate) mod claude;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod new;
pub(crate) mod plugins;
pub(crate) mod publish;
pub(crate) mod redrive;
pub(crate) mod registry;
pub(crate) mod replay;
pub(crate) mod routes;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod sessions;
pub(crate) mod store;
pub(crate) mod try_route;
pub(crate) mod watch;

/// Runs a short command to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
