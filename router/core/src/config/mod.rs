//! From TOML to [`Config`]: found, read, filled in, checked, built and shown.
//!
//! [`load`] is the way through; read `load.rs` first. The model is in `model.rs`, what can be written in `raw.rs`. Every check
//! works on a tree that knows its places (`tree.rs`), so that all problems come out at once, each with its line.

mod broker;
mod build;
mod diagnostic;
mod duration;
mod environment;
mod formats;
mod globals;
mod interpolate;
mod lint;
mod load;
mod locate;
mod model;
mod prices;
mod raw;
mod reference;
mod repair;
mod schema;
mod schema_walk;
mod schema_words;
mod scrub;
mod show;
mod source;
mod store_place;
#[cfg(test)]
mod tests;
mod tree;

pub use diagnostic::{Diagnostic, Problems, Related, Report, Severity};
pub use environment::{Environment, FILE_BYTES_MAX, FixedEnvironment, ProcessEnvironment};
pub use load::{Loaded, load};
pub use locate::{Located, Origin, locate};
pub use model::{
    AmqpConfig, Breaker, Coalesce, Config, Dedup, HttpConfig, Limits, LogConfig, LogFormat, OnExhausted, Rate, RedactConfig, Retention, RetryAction,
    RetryPolicy, RouteConfig, Secret, SessionsConfig, StoreConfig, TlsFiles, Topology, TransportConfig, WhenBusy,
};
pub use reference::{config_reference, generated_files, plugin_reference};
pub use schema::config_schema;
pub use source::Place;
