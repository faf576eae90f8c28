//! The built program and a real broker while everything around them breaks, and an account of every event at the end.
//!
//! The oracle is outside of the router: [`load`] publishes with confirms and numbers what the broker took, a program that the router
//! runs writes down what it was handed, and [`oracle`] compares both with what the queues hold, asked of the broker itself. Every test
//! prints how long the recovery took and how much was handled more than once.
//!
//! `EVENT_ROUTER_TEST_FAULTS=long` (`tests/run --faults`) makes the numbers large; `tests/run --soak` runs ten minutes of random faults.

/// Tells what was measured: times and counts are read by people, and asserted only generously.
macro_rules! say {
    ($($text:tt)*) => { crate::world::tell(&format!($($text)*)) };
}

mod alarms;
mod between;
mod cluster;
mod deaths;
mod deleted;
mod fairness;
mod heartbeats;
mod leaving;
mod load;
mod oracle;
mod order;
mod outages;
mod ready;
mod several;
mod silent;
mod soak;
mod store;
mod timeouts;
mod world;
