//! What journeys on the built binary are made of: a directory with a configuration, commands that run in it, the service as a child
//! process, and an HTTP client small enough to send wrong requests.
//!
//! Everything here panics where a test should fail, with what the program printed.

mod binary;
mod home;
mod http;
mod observe;
mod service;

pub use binary::{binary, target_dir, workspace};
pub use home::{Home, Ran};
pub use http::{Answer, post, request};
pub use observe::eventually;
pub use service::Service;
