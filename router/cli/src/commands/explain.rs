//! `explain ID|FILE|-`: for every route, whether it wants the event, and if not the first thing that is in the way.
//!
//! The answer is the core's ([`router_core::explain`]); here it is joined with what became of a stored event, and coloured.

use std::collections::BTreeMap;

use router_api::{ArchivedEvent, Clock as _, DeliveryRecord, DeliveryState, Fate, RouteName};
use router_core::explain::{Explanation, RouteVerdict, Verdict, explain};
use serde::Serialize;

use crate::{
    Ended,
    args::{ExplainArgs, Global},
    body_text,
    commands::block_on,
    event_input::EventInput,
    fates::{Fates, emitter},
    setup,
    system::SystemClock,
    terminal::{BAD, BOLD, DIM, GOOD, NAME, Output, WARN, counted, harmless, styled, time},
    unasked,
};

/// [`router_core::explain::SCHEMA`], and what the archive knows.
#[derive(Debug, Serialize)]
struct ExplainAnswer<'a> {
    schema: &'static str,
    event: &'a router_core::explain::EventSummary,
    routes: &'a [RouteVerdict],
    /// What the archive knows of a stored event.
    stored: Option<Stored<'a>>,
    /// The whole event, parsed; null if it is no JSON.
    raw: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct Stored<'a> {
    seq: u64,
    at: jiff::Timestamp,
    redactions: u32,
    /// What became of it, one for each route that wanted it when it came.
    deliveries: &'a [DeliveryRecord],
}

pub(crate) fn run(global: &Global, args: &ExplainArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let config = setup::load_to_look(global)?.config;
    let EventInput { key, body, archived, original, paused } = block_on(EventInput::find(&config, &args.event))?;
    // What is no event is explained too: it lies in dead letters, and somebody asks why.
    let decoded = router_api::Envelope::decode(key.clone(), body.clone(), config.limits.decode);
    let explanation = explain(&config.routes, decoded.as_ref(), &key);
    if args.json.json {
        let stored = archived.as_ref().map(|archived| Stored {
            seq: archived.seq,
            at: archived.stored_at,
            redactions: archived.redactions,
            deliveries: &archived.deliveries,
        });
        let raw = serde_json::from_slice(&body).unwrap_or_default();
        out.json(&ExplainAnswer { schema: explanation.schema, event: &explanation.event, routes: &explanation.routes, stored, raw })?;
        return Ok(Ended::Well);
    }
    if let Some(sentence) = unasked::sentence(&config).filter(|_| archived.is_some()) {
        out.line(styled(DIM, sentence))?;
    }
    let fates = Fates::configured(&config, SystemClock.now());
    let telling = Telling { explanation: &explanation, archived: archived.as_ref(), original, paused, fates, verbose: global.verbose > 0 };
    telling.tell(out)?;
    if global.verbose > 0 {
        let (lines, more) = body_text::lines(&body);
        out.gap()?;
        out.line(styled(BOLD, "Body"))?;
        out.line(lines.join("\n"))?;
        if more > 0 {
            out.line(styled(DIM, format_args!("  … {} more lines; `--json` has all", more)))?;
        }
    }
    Ok(Ended::Well)
}

/// An explanation on its way to the terminal.
struct Telling<'a> {
    explanation: &'a Explanation,
    archived: Option<&'a ArchivedEvent>,
    /// The number of the event that this one is a repetition of.
    original: Option<u64>,
    /// Routes that are paused, and why.
    paused: BTreeMap<RouteName, String>,
    fates: Fates,
    verbose: bool,
}

/// Behind what was done then and would not be now, or the other way round.
const CHANGED: &str = "; the configuration may have changed since";

impl Telling<'_> {
    fn tell(&self, out: &mut Output) -> anyhow::Result<()> {
        let explanation = self.explanation;
        self.heading(out)?;
        // What only somebody can set going again is the first thing to know.
        for delivery in self.gone().filter(|delivery| self.fates.tell(delivery).stuck) {
            self.gone_route(out, delivery)?;
        }
        out.gap()?;
        let now = if self.archived.is_some() { "now: " } else { "" };
        out.line(styled(BOLD, format_args!("{now}{}{}", explanation.count(), explanation.order())))?;
        let mut elsewhere = Vec::new();
        let mut told = 0;
        for route in &explanation.routes {
            let is_aside = !self.verbose && explanation.is_elsewhere(route) && self.delivery(route).is_none();
            // Of an event that nobody takes the nearest miss is told, however far it is.
            if is_aside && told > 0 {
                elsewhere.push(route);
            } else {
                self.route(out, route)?;
                told += 1;
            }
        }
        if !elsewhere.is_empty() {
            let listen = counted(elsewhere.len() as u64, "route listens to other keys", "routes listen to other keys");
            let names: Vec<String> =
                elsewhere.iter().map(|route| format!("{}{}", styled(NAME, &route.route), if route.enabled { "" } else { " (off)" })).collect();
            out.gap()?;
            out.prose(2, format_args!("{} {listen}: {}  {}", styled(DIM, "·"), names.join(", "), styled(DIM, "(`-v` says why)")))?;
        }
        for delivery in self.gone().filter(|delivery| !self.fates.tell(delivery).stuck) {
            self.gone_route(out, delivery)?;
        }
        Ok(())
    }

    fn heading(&self, out: &mut Output) -> anyhow::Result<()> {
        for line in self.explanation.heading() {
            let (name, value) = line.split_at_checked(11).unwrap_or((&line, ""));
            out.prose(11, format_args!("{}{}", styled(DIM, name), harmless(value)))?;
        }
        let Some(archived) = self.archived else { return Ok(()) };
        out.line(format_args!("{}number {}, {}", styled(DIM, "stored     "), archived.seq, time(archived.stored_at, self.fates.now)))?;
        if let Some(emitter) = emitter(archived, self.fates.decode) {
            out.line(format_args!("{}{emitter}", styled(DIM, "origin     ")))?;
        }
        Ok(())
    }

    fn delivery(&self, route: &RouteVerdict) -> Option<&DeliveryRecord> {
        self.archived.and_then(|archived| archived.deliveries.iter().find(|delivery| delivery.route == route.route))
    }

    /// Deliveries to routes that the configuration no longer has.
    fn gone(&self) -> impl Iterator<Item = &DeliveryRecord> {
        let known = |name: &router_api::RouteName| self.explanation.routes.iter().any(|route| route.route == *name);
        self.archived.into_iter().flat_map(|archived| &archived.deliveries).filter(move |delivery| !known(&delivery.route))
    }

    fn gone_route(&self, out: &mut Output, delivery: &DeliveryRecord) -> anyhow::Result<()> {
        let told = self.fates.tell(delivery);
        out.gap()?;
        let origin = styled(DIM, "(no longer in the configuration)");
        let (sign, label) = if told.stuck { (told.sign, "stuck") } else { (styled(DIM, "·"), "gone") };
        out.line(format_args!("{sign} {label:<8}  {}  {origin}", styled(NAME, &delivery.route)))?;
        self.detail(out, "then", &told.text)
    }

    fn detail(&self, out: &mut Output, when: &str, text: &str) -> anyhow::Result<()> {
        Ok(out.prose(17, format_args!("             {} {text}", styled(BOLD, format_args!("{when}:"))))?)
    }

    fn route(&self, out: &mut Output, route: &RouteVerdict) -> anyhow::Result<()> {
        out.gap()?;
        let (sign, label) = sign(&route.verdict, self.archived.is_some());
        let origin = styled(DIM, format_args!("({})", harmless(&route.origin())));
        out.line(format_args!("{sign} {label:<8}  {}  {origin}", styled(NAME, &route.route)))?;
        if let Some(then) = self.then(route) {
            self.detail(out, "then", &then)?;
        }
        for (index, line) in route.lines().iter().enumerate() {
            match (index, self.archived) {
                (0, Some(_)) => self.detail(out, "now", &harmless(line))?,
                _ => out.prose(15, format_args!("             {}", harmless(line)))?,
            }
        }
        Ok(())
    }

    /// What became of a stored event on the route, and whether that agrees with what the route says now.
    fn then(&self, route: &RouteVerdict) -> Option<String> {
        self.archived?;
        let fires = route.verdict.fires();
        let Some(delivery) = self.delivery(route) else {
            return fires.then(|| format!("not queued for it: it had other patterns or another filter, or was off{CHANGED}"));
        };
        let mut text = self.fates.tell(delivery).text;
        if matches!(delivery.state, DeliveryState::Finished(Fate::Duplicate { .. }))
            && let Some(number) = self.original
        {
            text = format!("duplicate of number {number}: {text}");
        }
        if matches!(delivery.state, DeliveryState::Queued | DeliveryState::Waiting { .. })
            && let Some(why) = self.paused.get(&delivery.route)
        {
            text = format!("{text}; {}", harmless(why));
        }
        let was_wanted = !matches!(delivery.state, DeliveryState::Finished(Fate::Filtered));
        if was_wanted != fires && !matches!(route.verdict, Verdict::Undecodable { .. }) {
            text.push_str(CHANGED);
        }
        Some(text)
    }
}

/// A sign and a word for the verdict.
fn sign(verdict: &Verdict, is_stored: bool) -> (String, &'static str) {
    match verdict {
        Verdict::Fires { .. } => (styled(GOOD, "✓"), if is_stored { "would fire now" } else { "fires" }),
        Verdict::Disabled { .. } => (styled(WARN, "○"), "off"),
        Verdict::Undecodable { .. } => (styled(BAD, "✗"), "no event"),
        Verdict::FilterMismatch { .. } => (styled(BAD, "✗"), "filter"),
        Verdict::KeyMismatch { .. } => (styled(DIM, "·"), "key"),
    }
}
