//! From TOML to [`Config`]: the model is here, reading and checking beside it.

mod model;

pub use model::{
    Breaker, Coalesce, Config, Dedup, HttpConfig, Limits, LogConfig, LogFormat, OnExhausted, Rate, RedactConfig, Retention, RetryAction, RetryPolicy, RouteConfig,
    StoreConfig, TransportConfig,
};
