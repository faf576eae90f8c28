//! The integrations against the real programs, on loopback, through the built router on both transports: Dagster, Buildbot, pytest in
//! real git repositories. What came of it is counted on the other side.
//!
//! They take programs from PyPI and some minutes, so they run by `tests/run --real` alone, which installs what they need.

mod buildbot;
mod dagster;
mod programs;
mod pytest;
mod relay;
mod world;
