//! What journeys on the built binary are made of: a directory with a configuration, commands that run in it, the service as a child
//! process, an HTTP client small enough to send wrong requests; nodes of RabbitMQ, a proxy that disturbs, and a client that looks at
//! queues from outside.
//!
//! Everything here panics where a test should fail, with what the program printed.

pub mod amqp_client;
mod any_program;
mod binary;
pub mod broker;
#[path = "../fuzz/targets/mod.rs"]
pub mod fuzz;
mod home;
mod http;
pub mod lives;
mod observe;
pub mod proxy;
mod service;

pub use amqp_client::AmqpClient;
pub use any_program::AnyProgram;
pub use binary::{binary, hook_binary, hostile_binary, target_dir, workspace};
pub use broker::{Broker, Cluster, Vhost};
pub use home::{Home, Ran, as_nobody};
pub use http::{Answer, post, request};
pub use observe::{eventually, is_ignored, untested};
pub use proxy::{After, CONSUME, EXCHANGE_DECLARE, FaultProxy, Method, QUEUE_BIND, QUEUE_DECLARE, Then, Towards};
pub use service::{Service, is_ready as service_is_ready};
