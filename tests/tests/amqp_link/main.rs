//! The link to a real broker: who is let in, what is safe once it is published, and what happens while the broker is away.
//!
//! Seen through the transport's own doors and, from outside, through a client of its own.

#![expect(clippy::print_stdout, reason = "what was measured is worth reading in the log of a test run")]

mod door;
mod house;
mod outages;
mod publishing;
mod sets;
