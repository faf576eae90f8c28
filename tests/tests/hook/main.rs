//! `event-router-hook` as Claude Code calls it: a process for each hook, JSON on its standard input, and nothing that anybody sees.

mod agreement;
mod bloodbank;
mod endings;
mod hostile;
mod kinds;
mod quiet;
mod storm;
mod world;
