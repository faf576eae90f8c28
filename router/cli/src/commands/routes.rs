//! `routes`: how the routes stand, and what an operator wants of one.

use router_api::{Clock as _, RouteCommand, RouteMode, RouteName, RouteState, RouterStatus};
use router_http::{Named, StatusAnswer, schema};

use crate::{
    Ended,
    access::{Access, Purpose},
    args::{Global, RoutesCommand},
    commands::block_on,
    setup,
    system::SystemClock,
    terminal::{BAD, DIM, GOOD, NAME, Output, Table, counted, styled, time},
};

pub(crate) fn run(global: &Global, command: RoutesCommand, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let config = setup::load_to_read(global)?.config;
    let (route, command, json) = match command {
        RoutesCommand::List { json } => {
            let status = block_on(async {
                let access = Access::open(&config, Purpose::Read).await?;
                let status = access.admin().status().await;
                access.close().await;
                Ok(status?)
            })?;
            if json.json {
                out.json(&StatusAnswer { schema: StatusAnswer::SCHEMA.into(), status })?;
            } else {
                list(out, &status)?;
            }
            return Ok(Ended::Well);
        }
        RoutesCommand::Pause(args) => (args.route, RouteCommand::Pause, args.json),
        RoutesCommand::Resume(args) => (args.route, RouteCommand::Resume, args.json),
        RoutesCommand::Flush(args) => (args.route, RouteCommand::Flush, args.json),
        RoutesCommand::Remove(args) => (args.route, RouteCommand::Remove, args.json),
    };
    let (commanded, running) = block_on(async {
        let access = Access::open(&config, Purpose::Read).await?;
        let commanded = access.admin().command(&route, command).await;
        let running = access.is_running();
        access.close().await;
        Ok((commanded?, running))
    })?;
    if json.json {
        out.json(&Named::new(schema::COMMANDED, commanded))?;
    } else {
        out.line(format_args!("{} {}", styled(GOOD, "✓"), sentence(&route, command, commanded.events, running)))?;
    }
    Ok(Ended::Well)
}

fn sentence(route: &RouteName, command: RouteCommand, events: u64, running: bool) -> String {
    let events_text = counted(events, "event", "events");
    match command {
        RouteCommand::Pause if running => format!("route `{route}` finishes what runs and starts nothing more, over restarts too; {events_text} in its queue"),
        RouteCommand::Pause => format!("route `{route}` will start nothing when the router runs; {events_text} in its queue"),
        RouteCommand::Resume => format!("route `{route}` goes on; {events_text} in its queue"),
        RouteCommand::Flush => format!("the open bursts of route `{route}` are closed"),
        RouteCommand::Remove => format!("the queue of route `{route}` is removed, with {events_text} in it"),
    }
}

fn list(out: &mut Output, status: &RouterStatus) -> anyhow::Result<()> {
    let plain = anstyle::Style::new();
    let now = SystemClock.now();
    let mut table = Table::new(&["ROUTE", "HANDLER", "MODE", "STATE", "READY", "WAITING", "RUNNING", "DEAD", "OLDEST", "NOTE"]);
    for route in &status.routes {
        let state = match route.state {
            RouteState::Running => (GOOD, "running"),
            RouteState::Disabled => (DIM, "off"),
            RouteState::Stopped => (DIM, "stopped"),
            RouteState::Draining => (plain, "draining"),
            RouteState::Paused => (BAD, "paused"),
            RouteState::Reconnecting => (BAD, "reconnecting"),
        };
        let number = |value: Option<u64>| value.filter(|value| *value > 0).map_or_else(|| "·".to_owned(), |value| value.to_string());
        let queue = route.queue.as_ref();
        let bursts = if route.open_bursts > 0 { counted(route.open_bursts.into(), "open burst", "open bursts") } else { String::new() };
        let note = [route.note.clone().unwrap_or_default(), bursts].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        table.row(vec![
            (NAME, route.name.to_string()),
            (plain, route.handler.clone()),
            (plain, if route.mode == RouteMode::Shadow { "shadow" } else { "live" }.to_owned()),
            (state.0, state.1.to_owned()),
            (plain, number(queue.map(|queue| queue.ready))),
            (plain, number(queue.map(|queue| queue.waiting))),
            (plain, number(queue.map(|queue| queue.in_flight))),
            (BAD, number(queue.map(|queue| queue.dead))),
            (DIM, queue.and_then(|queue| queue.oldest).map(|oldest| time(oldest, now)).unwrap_or_default()),
            (DIM, note),
        ]);
    }
    out.line(table)?;
    Ok(())
}
