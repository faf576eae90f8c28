//! What a publisher of Claude Code's sessions is made of, without a runtime and without regular expressions: reading hooks, what is known
//! of a session between them, the events they mean, secrets taken out, and a spool in which events wait for a router.
//!
//! The program is `router/hook`; the door for HTTP hooks (`router/http`) builds its events here too. Begin with [`publisher`]: it is the
//! way of one call from its input to the spool.

pub mod content;
pub mod event;
pub mod events;
pub mod feedback;
pub mod frame;
pub mod git;
pub mod handover;
pub mod input;
pub mod interface;
pub mod lock;
pub mod members;
pub mod poke;
pub mod post;
pub mod process;
pub mod publisher;
pub mod reaper;
mod records;
pub mod redact;
pub mod session;
pub mod settings;
mod shortened;
pub mod spool;
pub mod state;
mod transcript;
pub mod unread;
pub mod whole_file;

pub use crate::{
    handover::HandedOver,
    input::HookInput,
    interface::Interface,
    process::Process,
    publisher::{Call, Published},
    reaper::Reaper,
    session::{Session, Surroundings},
    settings::{PRICES_FILE, Settings, default_spool},
    spool::{Record, Spool},
    state::StateDir,
};
