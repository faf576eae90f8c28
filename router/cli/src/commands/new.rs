//! `new`: a plugin crate that compiles and is tested, or a commented route. What the files say stands in `scaffold/` and is compiled in.

mod plugin;
mod route;

use crate::{Ended, args::NewCommand, terminal::Output};

pub(crate) fn run(command: NewCommand, out: &mut Output) -> anyhow::Result<Ended> {
    match command {
        NewCommand::Plugin { name, path, router_path } => plugin::run(&name, path.as_deref(), router_path.as_deref(), out)?,
        NewCommand::Route { name, handler, on, append } => route::run(&name, &handler, &on, append.as_deref(), out)?,
    }
    Ok(Ended::Well)
}
