//! What is written by hand, and what helps with it: `plugins`, `schema`, `new`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use router_api::{RouteName, RoutingPattern};

use super::Json;

#[derive(Debug, Args)]
pub(crate) struct PluginsArgs {
    /// The plugin whose reference to show
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Which schemas
    #[arg(value_enum)]
    pub(crate) of: Option<SchemaOf>,
    /// Write the generated schemas and references below `config/` and `docs/` instead
    #[arg(long, conflicts_with = "of")]
    pub(crate) write: bool,
    /// The repository for `--write`
    #[arg(long, value_name = "DIR", default_value = ".", requires = "write")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaOf {
    /// The shapes of events that are known
    Events,
    /// The HTTP endpoints and the admin API, as an OpenAPI document
    Openapi,
}

/// Names of plugins are made as those of routes are.
fn plugin_name(text: &str) -> Result<RouteName, String> {
    text.parse().map_err(|_| "no name of a plugin: use 1 to 63 of `a` to `z`, `0` to `9` and `-`, beginning with a letter".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum NewCommand {
    /// Make a crate with a plugin, a program that links it, a test and an example route
    Plugin {
        /// What routes will call it
        #[arg(value_parser = plugin_name)]
        name: RouteName,
        /// Where to make it; `./NAME` if not given. Nothing that is there is overwritten
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
        /// The router's sources, on which the crate depends; else they are looked for around the new crate and the working directory
        #[arg(long, value_name = "DIR")]
        router_path: Option<PathBuf>,
    },
    /// Print a commented route for a plugin, with all its options
    Route {
        /// Its name
        name: RouteName,
        /// The plugin
        #[arg(long, value_name = "PLUGIN", default_value = "log")]
        handler: String,
        /// A pattern of routing keys that it listens to; may be given more than once
        #[arg(long, value_name = "PATTERN", default_value = "session.thread.agent.action")]
        on: Vec<RoutingPattern>,
        /// Append it to this file instead, such as `config/routes.d/mine.toml`
        #[arg(long, value_name = "FILE")]
        append: Option<PathBuf>,
    },
}
