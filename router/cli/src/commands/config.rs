//! `config`: the effective configuration, and having a running router load it anew.

use router_api::{Admin as _, AdminError, Clock as _, Reloaded, RouteName, TakenUp};
use router_http::{Named, schema};
use serde::Serialize;

use crate::{
    Ended,
    args::{Global, Json},
    commands::block_on,
    reach::running,
    setup::{self, InvalidConfig},
    system::SystemClock,
    terminal::{DIM, GOOD, Output, counted, harmless, harmless_lines, styled, time},
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

/// The running router reads the file, not this command: what it refuses is in its log, its counters and its `/readyz` then, and the
/// variables that count are those of the service.
pub(crate) fn reload(global: &Global, json: Json, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let loaded = setup::load_to_read(global);
    let store = match &loaded {
        Ok(setup) => Some(setup.config.store.path.as_path()),
        Err(error) => error.downcast_ref::<InvalidConfig>().and_then(|invalid| invalid.store.as_deref()),
    };
    let Some((client, since)) = store.and_then(running) else {
        let path = store.map_or_else(|| "of this configuration".to_owned(), |store| format!("`{}`", store.display()));
        let nobody = format!("no router runs on the store {path}, so there is nothing to reload");
        return Err(match loaded {
            Ok(_) => anyhow::anyhow!(nobody),
            Err(error) => match error.downcast::<InvalidConfig>() {
                Ok(invalid) => invalid.and(nobody).into(),
                Err(error) => error,
            },
        });
    };
    let reloaded = match block_on(async { Ok(client.reload().await) })? {
        Ok(reloaded) => reloaded,
        Err(AdminError::Invalid(problems)) => {
            return Err(InvalidConfig::rendered(&harmless_lines(&problems)).and(format!("the running router refuses it, and goes on with {since}")).into());
        }
        Err(error) => return Err(error.into()),
    };
    if json.json {
        out.json(&Named::new(schema::RELOADED, reloaded))?;
        return Ok(Ended::Well);
    }
    show_reloaded(out, &reloaded)?;
    Ok(Ended::Well)
}

/// What loading a configuration did, for people.
pub(crate) fn show_reloaded(out: &mut Output, reloaded: &Reloaded) -> anyhow::Result<()> {
    let list = |routes: &[RouteName]| routes.iter().map(RouteName::as_str).collect::<Vec<_>>().join(", ");
    out.line(format_args!("{} configuration {} is in force", styled(GOOD, "✓"), reloaded.config_hash.get(..12).unwrap_or(&reloaded.config_hash)))?;
    for (word, routes) in [("started", &reloaded.started), ("restarted", &reloaded.restarted), ("stopped", &reloaded.stopped)] {
        if !routes.is_empty() {
            out.line(format_args!("  {word}: {}", list(routes)))?;
        }
    }
    let now = SystemClock.now();
    for taken_up in &reloaded.taken_up {
        let TakenUp { route, events, since } = taken_up;
        let since = since.map(|since| format!(" since {}", time(since, now))).unwrap_or_default();
        let does = if reloaded.paused.contains(route) { "keeps" } else { "handles first" };
        out.line(format_args!("  route `{route}` {does} what waits for it: {}{since}", counted(*events, "event", "events")))?;
    }
    for route in &reloaded.paused {
        out.line(format_args!("  route `{route}` stays paused: `event-router routes resume {route}` lets it go on"))?;
    }
    for (route, events) in &reloaded.waiting {
        out.line(format_args!("  route `{route}` is off or gone, and {} in its queue", counted(*events, "event waits", "events wait")))?;
    }
    for key in &reloaded.needs_restart {
        out.line(format_args!("  `{key}` has changed, which needs a restart"))?;
    }
    if reloaded.started.is_empty() && reloaded.restarted.is_empty() && reloaded.stopped.is_empty() {
        out.line("  no route has changed")?;
    }
    Ok(())
}
