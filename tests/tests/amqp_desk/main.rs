//! The operator's desk over a real broker: dead letters that are looked at and not taken, what a plan says and changes, whose bindings
//! go, an archive that follows everything that is published, and the moment in which not all of it stands.
//!
//! Seen through the transport's own doors and, from outside, through a client of its own.

mod archive;
mod house;
mod letters;
mod plan;
mod queues;
mod unbound;
mod window;
