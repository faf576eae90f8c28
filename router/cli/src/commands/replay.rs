//! `replay --session ID`: what a session did, told again in its order; or handed to one route once more, marked as replayed.
//!
//! Nothing is handed to anybody without `--deliver`, and nothing to a live route without `--live`: what such a route does, it does for
//! real again.

mod delivering;
mod marked;

use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
use router_api::{Clock as _, DecodeLimits, Envelope, FollowRequest, Matcher as _};
use router_core::{RouteMatcher, config::RouteConfig};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    Ended, WrongUsage,
    args::{Global, ReplayArgs},
    event_line::ShownEvent,
    setup::{self, Setup},
    system::SystemClock,
    terminal::{BOLD, DIM, GOOD, NAME, Output, WARN, counted, harmless, styled},
};
use delivering::Delivering;

/// Names the shape of each line of `--json`.
const SCHEMA: &str = "event-router.replay.v1";

/// Events of one question to the archive.
const AT_ONCE: u32 = 200;

pub(crate) fn run(global: &Global, args: &ReplayArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let setup = if args.deliver { setup::load_to_read(global)? } else { setup::load_to_look(global)? };
    let route = match &args.to {
        None => None,
        Some(name) => Some(allowed(&setup, args, name)?),
    };
    crate::commands::block_on(async {
        // From the beginning, so that what is asked while a page is read counts.
        let mut ending = Ending::listen()?;
        let mut delivering = Delivering::open(&setup.config, args.deliver).await?;
        let mut replay = Replay { args, limits: setup.config.limits.decode, route, out, told: Told::default(), before: None };
        let ended = replay.run(&mut delivering, &mut ending).await;
        delivering.close().await;
        ended?;
        replay.end(delivering.is_running())?;
        Ok(Ended::Well)
    })
}

/// The route to deliver to, if that may be.
fn allowed<'s>(setup: &'s Setup, args: &ReplayArgs, name: &router_api::RouteName) -> anyhow::Result<&'s RouteConfig> {
    let Some(route) = setup.config.routes.iter().find(|route| route.name == *name) else {
        let names: Vec<String> = setup.config.routes.iter().map(|route| format!("`{}`", route.name)).collect();
        bail!("there is no route `{name}`; there are {}", names.join(", "));
    };
    if !args.deliver {
        return Ok(route);
    }
    if !route.enabled {
        bail!("route `{name}` is off (`enabled = false`), so nobody would handle what is delivered to it: switch it on first");
    }
    if route.mode == router_api::RouteMode::Live && !args.live {
        let why = format!(
            "route `{name}` is live: whatever it did for these events, it would do for real again. Say `--live` if that is meant, or leave `--deliver` out to see which events those are; a route with `mode = \"shadow\"` needs no `--live`"
        );
        return Err(WrongUsage(why).into());
    }
    Ok(route)
}

/// Ctrl-C and its like: what is under way is finished, and what was done is told.
struct Ending {
    interrupt: Signal,
    terminate: Signal,
}

impl Ending {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Was it asked for already?
    async fn is_asked(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.asked() => true,
            () = std::future::ready(()) => false,
        }
    }
}

/// What was done so far.
#[derive(Default)]
struct Told {
    events: u64,
    /// Of a dry run those that would be.
    delivered: u64,
    unwanted: u64,
    last: Option<u64>,
    interrupted: bool,
}

struct Replay<'a> {
    args: &'a ReplayArgs,
    limits: DecodeLimits,
    route: Option<&'a RouteConfig>,
    out: &'a mut Output,
    told: Told,
    /// When the event before this one happened.
    before: Option<Timestamp>,
}

impl Replay<'_> {
    async fn run(&mut self, delivering: &mut Delivering, ending: &mut Ending) -> anyhow::Result<()> {
        // What comes while this runs, its own deliveries included, is none of what was asked for.
        let newest = delivering.archive().follow(&FollowRequest::default()).await?.next;
        let mut request = FollowRequest {
            after: Some(self.args.after.unwrap_or(0)),
            session: Some(self.args.session.clone()),
            limit: Some(AT_ONCE),
            ..FollowRequest::default()
        };
        loop {
            let page = delivering.archive().follow(&request).await?;
            for event in page.events {
                let seq = event.seq;
                if seq > newest {
                    return Ok(());
                }
                let event = ShownEvent::from(event);
                let envelope = event.envelope(self.limits);
                // Told again, a replayed event would be told twice.
                if marked::is_marked(&event.body) || !self.is_in_time(&event, envelope.as_ref()) {
                    continue;
                }
                let at = happened(&event, envelope.as_ref());
                if ending.is_asked().await || !self.pace(at, ending).await {
                    self.told.interrupted = true;
                    return Ok(());
                }
                self.event(&event, envelope.as_ref(), delivering).await?;
                self.told.last = Some(seq);
            }
            if page.at_end || page.next >= newest {
                return Ok(());
            }
            request.after = Some(page.next);
        }
    }

    fn is_in_time(&self, event: &ShownEvent, envelope: Option<&Envelope>) -> bool {
        let at = happened(event, envelope);
        self.args.from.is_none_or(|from| at >= from) && self.args.to_time.is_none_or(|to| at < to)
    }

    /// Waits as long as it took then, by the speed that is asked for. False when the wait was ended.
    async fn pace(&mut self, at: Timestamp, ending: &mut Ending) -> bool {
        let before = self.before.replace(at);
        let (Some(speed), Some(before)) = (self.args.speed, before) else { return true };
        let took = Duration::try_from(at.duration_since(before)).unwrap_or_default();
        let wait = Duration::try_from_secs_f64(took.as_secs_f64() / speed).unwrap_or(Duration::MAX);
        if wait.is_zero() {
            return true;
        }
        tokio::select! {
            () = SystemClock.sleep(wait) => true,
            () = ending.asked() => false,
        }
    }

    async fn event(&mut self, event: &ShownEvent, envelope: Option<&Envelope>, delivering: &mut Delivering) -> anyhow::Result<()> {
        self.told.events += 1;
        let wanted = self.route.map(|route| {
            let matcher = RouteMatcher::of(route);
            matcher.takes(&event.key) && envelope.is_some_and(|envelope| matcher.matches(envelope))
        });
        let to = self.route.filter(|_| wanted == Some(true));
        let mut delivered_as = None;
        if let Some(route) = to {
            if self.args.deliver {
                delivered_as = Some(delivering.deliver(&route.name, event, SystemClock.now()).await?);
            }
            self.told.delivered += 1;
        } else if self.route.is_some() {
            self.told.unwanted += 1;
        }
        if self.args.json.json {
            let mut line = event.for_programs();
            line["schema"] = SCHEMA.into();
            line["kind"] = "event".into();
            if self.route.is_some() {
                line["wanted"] = wanted.unwrap_or_default().into();
                line["delivered_as"] = delivered_as.into();
            }
            self.out.line(line)?;
        } else {
            // Who wanted it then is told by `events`; here it is told where it goes now.
            let bare = ShownEvent { wanted_by: None, ..event.clone() };
            let line = bare.line(SystemClock.now(), self.limits);
            match (self.route, to, self.args.deliver) {
                (None, ..) => self.out.line(line)?,
                (Some(_), None, _) => self.out.line(format_args!("{line}  {}", styled(DIM, "· not wanted by the route")))?,
                (Some(_), Some(route), true) => self.out.line(format_args!("{line}  {} {}", styled(GOOD, "→"), styled(NAME, &route.name)))?,
                (Some(_), Some(route), false) => self.out.line(format_args!("{line}  {} {}", styled(DIM, "would go to"), styled(NAME, &route.name)))?,
            }
        }
        Ok(self.out.flush()?)
    }

    /// What was done, and how to go on.
    fn end(&mut self, running: bool) -> anyhow::Result<()> {
        let Told { events, delivered, unwanted, last, interrupted } = self.told;
        let dry_run = self.route.is_some() && !self.args.deliver;
        if self.args.json.json {
            let route = self.route.map(|route| route.name.to_string());
            self.out.line(json!({
                "schema": SCHEMA, "kind": "summary", "session": self.args.session, "events": events, "route": route, "dry_run": dry_run,
                "delivered": if dry_run { 0 } else { delivered }, "would_deliver": if dry_run { delivered } else { 0 }, "unwanted": unwanted,
                "last": last, "interrupted": interrupted,
            }))?;
            return Ok(self.out.flush()?);
        }
        let session = harmless(&self.args.session).into_owned();
        if events == 0 && !interrupted {
            self.out.line(format_args!("no event of session `{session}` is stored that fits"))?;
            return Ok(());
        }
        self.out.gap()?;
        if let Some(route) = self.route {
            let name = styled(NAME, &route.name);
            let rest = if unwanted > 0 { format!("; it does not want the other {unwanted}") } else { String::new() };
            let count = counted(delivered, "event", "events");
            if dry_run {
                let more = if route.mode == router_api::RouteMode::Live { " --live" } else { "" };
                self.out.prose(
                    2,
                    format_args!("{} {count} would be delivered to {name}{rest}. Nothing was: `--deliver{more}` does it", styled(WARN, "dry run:")),
                )?;
            } else {
                let then = if running { "" } else { "; no router is running, they wait for one" };
                self.out.prose(
                    2,
                    format_args!("{} {} to {name}, marked as replayed{rest}{then}", styled(GOOD, "✓"), styled(BOLD, format_args!("{count} delivered"))),
                )?;
            }
        } else {
            self.out.line(styled(DIM, counted(events, "event", "events")))?;
        }
        if interrupted {
            let went = last.map_or_else(|| "before the first event".to_owned(), |last| format!("after number {last}: `--after {last}` goes on from there"));
            self.out.line(format_args!("{} {went}", styled(WARN, "stopped")))?;
        }
        Ok(())
    }
}

/// As it says itself, since an imported session was stored long after.
fn happened(event: &ShownEvent, envelope: Option<&Envelope>) -> Timestamp {
    envelope.and_then(Envelope::time).unwrap_or(event.stored_at)
}

/// A time of the command line: with an offset, or as the clock on the wall shows it here.
pub(crate) fn time_of(text: &str) -> Result<Timestamp, String> {
    let here = |civil: jiff::civil::DateTime| civil.to_zoned(jiff::tz::TimeZone::system()).ok().map(|zoned| zoned.timestamp());
    let time = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| here(text.parse::<jiff::civil::DateTime>().ok()?))
        .or_else(|| here(text.parse::<jiff::civil::Date>().ok()?.to_datetime(jiff::civil::Time::midnight())))
        .or_else(|| here(SystemClock.now().to_zoned(jiff::tz::TimeZone::system()).date().to_datetime(text.parse::<jiff::civil::Time>().ok()?)));
    time.ok_or_else(|| "no time: use `2026-03-02T09:14:06Z`, `2026-03-02 09:14`, `2026-03-02`, or `09:14` for today".to_owned())
}

/// How many times faster than then.
pub(crate) fn speed_of(text: &str) -> Result<f64, String> {
    let speed = text.trim_end_matches('x').parse::<f64>().ok().filter(|speed| speed.is_finite() && (0.01..=10_000.0).contains(speed));
    speed.ok_or_else(|| "no speed: use a number from 0.01 to 10000, such as `10` for ten times as fast".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_speeds_are_read_as_people_write_them() {
        let at = "2026-03-02T09:14:06Z".parse::<Timestamp>().unwrap();
        assert_eq!(time_of("2026-03-02T09:14:06Z"), Ok(at));
        assert_eq!(time_of("2026-03-02T10:14:06+01:00"), Ok(at));
        for text in ["2026-03-02 09:14", "2026-03-02", "09:14", "2026-03-02T09:14:06"] {
            assert!(time_of(text).is_ok(), "{text}");
        }
        assert!(time_of("yesterday").unwrap_err().contains("no time"));
        assert_eq!((speed_of("10"), speed_of("0.5"), speed_of("20x")), (Ok(10.0), Ok(0.5), Ok(20.0)));
        for text in ["0", "-1", "fast", "inf", "NaN", "1e9"] {
            assert!(speed_of(text).is_err(), "{text}");
        }
    }
}
