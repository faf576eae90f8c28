//! `config show`: the effective configuration.

use serde::Serialize;

use crate::{
    Ended,
    args::{Global, Json},
    setup,
    terminal::{DIM, Output, harmless, styled},
};

#[derive(Serialize)]
struct ConfigAnswer<'a> {
    schema: &'static str,
    hash: &'a str,
    origin: String,
    files: Vec<String>,
    /// TOML, all defaults filled in, values from outside left out.
    text: &'a str,
    routes: Vec<RouteLine<'a>>,
}

#[derive(Serialize)]
struct RouteLine<'a> {
    name: &'a str,
    handler: &'a str,
    enabled: bool,
    mode: router_api::RouteMode,
    place: &'a str,
    hash: &'a str,
}

pub(crate) fn show(global: &Global, json: Json, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let setup = setup::load_to_read(global)?;
    let config = &setup.config;
    if json.json {
        let routes = config.routes.iter().map(|route| RouteLine {
            name: route.name.as_str(),
            handler: &route.handler,
            enabled: route.enabled,
            mode: route.mode,
            place: &route.place,
            hash: &route.hash,
        });
        out.json(&ConfigAnswer {
            schema: "event-router.config.v1",
            hash: &config.hash,
            origin: setup.located.describe(),
            files: setup.report.files().map(str::to_owned).collect(),
            text: &config.text,
            routes: routes.collect(),
        })?;
        return Ok(Ended::Well);
    }
    out.line(styled(DIM, format_args!("# from {}", harmless(&setup.located.describe()))))?;
    out.line(styled(DIM, format_args!("# hash {}", config.hash)))?;
    for line in config.text.trim_end().lines() {
        out.line(harmless(line))?;
    }
    Ok(Ended::Well)
}
