//! Journeys on the built program: every command as a person or a script uses it, with its answers and exit codes, and the service
//! behind its doors.
//!
//! One file a command or theme. What commands answer to programs is compared with files, see `golden.rs`; what several journeys
//! need stands in `world.rs`.

mod check;
mod claude;
mod config_show;
mod dead_letters;
mod demo;
mod door;
mod events;
mod explain;
mod golden;
mod hostile_sessions;
mod looking;
mod operating;
mod plugins;
mod publish;
mod redaction;
mod replay;
mod run;
mod schema;
mod sessions;
mod terminal;
mod trying;
mod usage;
mod watch;
mod world;
mod wrong_file;
