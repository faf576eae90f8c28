//! `routes`: how the routes stand, and what an operator wants of one.

use std::time::Duration;

use jiff::Timestamp;
use router_api::{BreakerState, Clock as _, EnableFrom, EnableRequest, Enabled, RouteCommand, RouteMode, RouteName, RouteState, RouterStatus};
use router_http::{Named, StatusAnswer, schema};

use crate::{
    Ended,
    access::Purpose,
    args::{BeginAt, EnableArgs, Global, RoutesArgs, RoutesCommand, RoutesFormat, RoutesListArgs},
    commands::{block_on, config::show_reloaded, registry},
    reach::Reach,
    setup,
    system::SystemClock,
    terminal::{BAD, DIM, GOOD, NAME, Output, Table, WARN, counted, duration, harmless, shortened, styled, time},
};

/// Characters of a route's name in the table of a terminal; the rest of the line is reckoned with them, so that it fits 120 columns.
/// Whoever reads it through a pipe wants the whole name.
const NAME_CHARS_MAX: usize = 24;

pub(crate) fn run(global: &Global, args: RoutesArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let format = match &args.command {
        Some(RoutesCommand::List(list)) => list.format,
        Some(_) => RoutesFormat::Table,
        None => args.list.format,
    };
    if format == RoutesFormat::Registry {
        out.text(registry::entries(&setup::load_to_read(global)?.config))?;
        return Ok(Ended::Well);
    }
    let reach = Reach::find(global)?;
    let (args, command) = match args.command.unwrap_or(RoutesCommand::List(args.list)) {
        RoutesCommand::List(args) => return list(&reach, &args, out),
        RoutesCommand::Enable(args) => return enable(&reach, &args, out),
        RoutesCommand::Pause(args) => (args, RouteCommand::Pause),
        RoutesCommand::Resume(args) => (args, RouteCommand::Resume),
        RoutesCommand::Flush(args) => (args, RouteCommand::Flush),
        RoutesCommand::DropBurst(args) => (args, RouteCommand::DropBurst),
        RoutesCommand::Remove(args) => (args, RouteCommand::Remove),
    };
    let (commanded, running) = block_on(async {
        let access = reach.open(Purpose::Read).await?;
        let commanded = access.admin().command(&args.route, command).await;
        let running = access.is_running();
        access.close().await;
        Ok((commanded?, running))
    })?;
    if args.json.json {
        out.json(&Named::new(schema::COMMANDED, commanded))?;
    } else if let Some(idle) = &commanded.idle {
        out.line(format_args!("{} {}; {} in its queue", styled(DIM, "·"), harmless(idle), counted(commanded.events, "event", "events")))?;
    } else {
        out.line(format_args!("{} {}", styled(GOOD, "✓"), sentence(&args.route, command, commanded.events, running)))?;
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
        RouteCommand::DropBurst => {
            let when = if running { "as soon as the route comes to them" } else { "when the router runs" };
            format!("route `{route}` gives up on {events_text}: dead letters (reason `dropped`) {when}")
        }
        RouteCommand::Remove => format!("the queue of route `{route}` is removed, with {events_text} in it"),
    }
}

fn enable(reach: &Reach, args: &EnableArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let from = match args.from {
        BeginAt::Beginning => EnableFrom::Beginning,
        BeginAt::Now => EnableFrom::Now,
    };
    let enabled = block_on(async {
        let access = reach.open(Purpose::Read).await?;
        let enabled = access.admin().enable(&args.route, EnableRequest { from }).await;
        access.close().await;
        Ok(enabled?)
    })?;
    if args.json.json {
        out.json(&Named::new(schema::ENABLED, enabled))?;
        return Ok(Ended::Well);
    }
    out.line(format_args!("{} {}", styled(GOOD, "✓"), begun(&enabled, SystemClock.now())))?;
    if let Some(untold) = &enabled.untold {
        out.prose(2, styled(DIM, untold))?;
    }
    if let Some(mut reloaded) = enabled.reloaded {
        // What is said above.
        reloaded.taken_up.retain(|taken_up| taken_up.route != args.route);
        reloaded.paused.retain(|paused| *paused != args.route);
        show_reloaded(out, &reloaded)?;
    }
    Ok(Ended::Well)
}

fn begun(enabled: &Enabled, now: Timestamp) -> String {
    let (name, running) = (&enabled.route, enabled.reloaded.is_some());
    let is_on = if running { format!("route `{name}` is on") } else { format!("route `{name}` will be on when the router runs") };
    let events = counted(enabled.waiting, "event", "events");
    let since = enabled.since.map(|since| format!(" since {}", time(since, now))).unwrap_or_default();
    let stays = if enabled.paused { format!("; it stays paused, and does nothing before `event-router routes resume {name}`") } else { String::new() };
    match (enabled.from, enabled.waiting) {
        (_, 0) => format!("{is_on}; nothing waits in its queue{stays}"),
        (EnableFrom::Beginning, _) => format!("{is_on}; it handles first what waits: {events}{since}{stays}"),
        (EnableFrom::Now, _) => format!("{is_on}, from now on; what waits becomes dead letters (reason `dropped`): {events}{since}{stays}"),
    }
}

fn list(reach: &Reach, args: &RoutesListArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let status = block_on(async {
        let access = reach.open(Purpose::Read).await?;
        let status = access.admin().status().await;
        access.close().await;
        Ok(status?)
    })?;
    if args.json.json {
        out.json(&StatusAnswer { schema: StatusAnswer::SCHEMA.into(), status })?;
    } else {
        show(out, &status, SystemClock.now())?;
    }
    Ok(Ended::Well)
}

fn show(out: &mut Output, status: &RouterStatus, now: Timestamp) -> anyhow::Result<()> {
    let plain = anstyle::Style::new();
    let name_chars_max = if out.is_terminal() { NAME_CHARS_MAX } else { usize::MAX };
    let mut table = Table::new(&["ROUTE", "MODE", "STATE", "LAG", "OLDEST", "IN HAND", "DEAD", "DONE/MIN", "FAIL/MIN", "BREAKER", "BURSTS"]);
    let some = |number: f64| if number > 0.0 { compact(number) } else { "·".to_owned() };
    for route in &status.routes {
        let state = match route.state {
            RouteState::Running => (GOOD, "running"),
            RouteState::Disabled => (DIM, "off"),
            RouteState::Stopped => (DIM, "stopped"),
            RouteState::Draining => (plain, "draining"),
            RouteState::Paused => (BAD, "paused"),
            RouteState::Reconnecting => (BAD, "reconnecting"),
        };
        let count = |count: Option<u64>| some(count.unwrap_or_default() as f64);
        let queue = route.queue.as_ref();
        let breaker = match route.breaker {
            None => (DIM, "·".to_owned()),
            Some(BreakerState::Closed) => (plain, "closed".to_owned()),
            Some(BreakerState::Open { until }) => (BAD, format!("open {}", duration(between(now, until)))),
            Some(BreakerState::Probing) => (WARN, "probing".to_owned()),
        };
        let bursts = match (route.open_bursts, route.failing_bursts) {
            (0, 0) => (DIM, "·".to_owned()),
            (open, 0) => (plain, compact(open.into())),
            (open, failing) => (BAD, format!("{}!{}", compact(open.into()), compact(failing.into()))),
        };
        table.row(vec![
            (NAME, shortened(route.name.as_str(), name_chars_max)),
            (plain, if route.mode == RouteMode::Shadow { "shadow" } else { "live" }.to_owned()),
            (state.0, state.1.to_owned()),
            (plain, count(queue.map(|queue| queue.ready + queue.waiting))),
            (DIM, queue.and_then(|queue| queue.oldest).map_or_else(|| "·".to_owned(), |oldest| duration(between(oldest, now)))),
            (plain, count(queue.map(|queue| queue.in_flight))),
            (BAD, count(queue.map(|queue| queue.dead))),
            (plain, some(route.rates.map_or(0.0, |rates| rates.handled_per_minute))),
            (BAD, some(route.rates.map_or(0.0, |rates| rates.failed_per_minute))),
            breaker,
            bursts,
        ]);
    }
    out.line(table)?;
    for route in &status.routes {
        if let Some(note) = &route.note {
            out.prose(4, format_args!("  {}: {}", styled(NAME, &route.name), shortened(note, 300)))?;
        }
    }
    for trouble in &status.condition.troubles {
        out.prose(4, format_args!("  {} {}", styled(WARN, "!"), shortened(trouble, 600)))?;
    }
    let window = status.routes.iter().find_map(|route| route.rates).map(|rates| Duration::from_secs(rates.window_s.into()));
    let over = window.map_or_else(|| "no router runs, so nothing is done".to_owned(), |window| format!("DONE and FAIL are of the last {}", duration(window)));
    let bursts = if status.routes.iter().any(|route| route.failing_bursts > 0) { "; BURSTS are collecting!failing" } else { "" };
    out.line(styled(DIM, format_args!("{over}{bursts}")))?;
    if let Some(untold) = &status.untold {
        out.prose(0, styled(DIM, untold))?;
    }
    Ok(())
}

fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    // A wall clock that was set back makes nothing younger than now.
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

/// At most five characters: `0.2`, `37`, `99999`, `123k`, `4M`.
fn compact(number: f64) -> String {
    match number {
        0.0 => "0".to_owned(),
        number if number < 0.05 => "<0.1".to_owned(),
        number if number < 9.95 && number.fract() != 0.0 => format!("{number:.1}"),
        number if number < 99_999.5 => format!("{number:.0}"),
        number if number < 9_999_500.0 => format!("{:.0}k", number / 1e3),
        number => format!("{:.0}M", (number / 1e6).min(9_999.0)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(routes: serde_json::Value) -> String {
        shown_on(routes, None)
    }

    /// On a terminal of so many columns, or in a pipe.
    fn shown_on(routes: serde_json::Value, width: Option<usize>) -> String {
        let status = json!({ "version": "1", "started_at": "2026-01-02T03:00:00Z", "transport": "embedded", "config_hash": "h", "routes": routes });
        let written = Written::default();
        let now = "2026-01-02T04:00:00Z".parse().unwrap();
        let mut out = match width {
            Some(width) => Output::plain_terminal(written.clone(), width),
            None => Output::plain(written.clone()),
        };
        show(&mut out, &serde_json::from_value(status).unwrap(), now).unwrap();
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    fn queue(name: &str, count: u64, oldest: &str) -> serde_json::Value {
        json!({ "route": name, "ready": count, "waiting": 2, "in_flight": count, "dead": count, "oldest": oldest })
    }

    #[test]
    fn a_route_is_a_line_of_the_table_and_what_there_is_to_say_of_it_another_one() {
        let text = shown(json!([
            {
                "name": "ci", "handler": "ci", "mode": "live", "state": "paused", "note": "connection refused", "open_bursts": 0, "failing_bursts": 1,
                "queue": queue("ci", 7, "2026-01-02T03:57:00Z"),
                "rates": { "window_s": 300, "handled": 12, "failed": 1, "handled_per_minute": 2.4, "failed_per_minute": 0.2 },
                "breaker": { "state": "open", "until": "2026-01-02T04:00:45Z" },
            },
            { "name": "off", "handler": "log", "mode": "shadow", "state": "disabled", "note": null, "queue": null, "open_bursts": 0 },
        ]));
        let expected = "\
ROUTE  MODE    STATE   LAG  OLDEST  IN HAND  DEAD  DONE/MIN  FAIL/MIN  BREAKER    BURSTS
ci     live    paused  9    3 min   7        7     2.4       0.2       open 45 s  0!1
off    shadow  off     ·    ·       ·        ·     ·         ·         ·          ·
  ci: connection refused
DONE and FAIL are of the last 5 min; BURSTS are collecting!failing
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_table_fits_120_columns_of_a_terminal_whatever_stands_in_it_and_a_pipe_gets_whole_names() {
        let long = "a".repeat(63);
        let routes = json!([{
            "name": long, "handler": "h", "mode": "shadow", "state": "reconnecting", "note": null, "open_bursts": 4_000, "failing_bursts": 3,
            "queue": queue(&long, 999_999_999, "2024-01-02T03:57:00Z"),
            "rates": { "window_s": 299, "handled": 1, "failed": 1, "handled_per_minute": 123_456_789.0, "failed_per_minute": 0.004 },
            "breaker": { "state": "open", "until": "2026-01-02T05:59:45Z" },
        }]);
        let text = shown_on(routes.clone(), Some(120));
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(120), "{widest:?}\n{text}");
        assert!(shown(routes).contains(&format!("\n{long}  shadow")));
    }

    #[test]
    fn numbers_are_short() {
        let short: Vec<String> = [0.0, 0.004, 0.2, 3.0, 9.96, 37.0, 99_999.0, 123_456.0, 4_000_000.0, 12_000_000.0].into_iter().map(compact).collect();
        assert_eq!(short, ["0", "<0.1", "0.2", "3", "10", "37", "99999", "123k", "4000k", "12M"]);
    }

    #[test]
    fn switching_on_says_how_many_wait_and_what_becomes_of_them() {
        let now = Timestamp::UNIX_EPOCH;
        let told =
            |from, waiting| begun(&Enabled { route: "ci".parse().unwrap(), from, waiting, since: Some(now), paused: false, untold: None, reloaded: None }, now);
        assert!(told(EnableFrom::Beginning, 0).ends_with("nothing waits in its queue"));
        assert!(told(EnableFrom::Beginning, 3).contains("handles first what waits: 3 events since "));
        assert!(told(EnableFrom::Now, 1).contains("dead letters (reason `dropped`): 1 event since "));
    }
}
