//! `completions SHELL`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{Ended, args::CommandLine, terminal::Output};

pub(crate) fn run(shell: Shell, out: &mut Output) -> anyhow::Result<Ended> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "event-router", &mut script);
    out.text(String::from_utf8(script)?)?;
    Ok(Ended::Well)
}
