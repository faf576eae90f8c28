//! `explain ID|FILE|-`: for every route, whether it wants the event, and if not the first thing that is in the way.
//!
//! The answer is the core's ([`router_core::explain`]); here it is joined with what became of a stored event, and coloured.

use router_api::{ArchivedEvent, Clock as _, DeliveryRecord};
use router_core::explain::{Explanation, RouteVerdict, Verdict, explain};
use serde::Serialize;

use crate::{
    Ended,
    args::{ExplainArgs, Global},
    commands::{block_on, events},
    event_input::EventInput,
    setup,
    system::SystemClock,
    terminal::{BAD, BOLD, DIM, GOOD, NAME, Output, WARN, harmless, styled, time},
};

/// [`router_core::explain::SCHEMA`], and what the archive knows.
#[derive(Debug, Serialize)]
struct ExplainAnswer<'a> {
    schema: &'static str,
    event: &'a router_core::explain::EventSummary,
    routes: &'a [RouteVerdict],
    /// What the archive knows of a stored event.
    stored: Option<Stored<'a>>,
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
    let config = setup::load_to_read(global)?.config;
    let EventInput { key, body, archived } = block_on(EventInput::find(&config, &args.event))?;
    // What is no event is explained too: it lies in dead letters, and somebody asks why.
    let decoded = router_api::Envelope::decode(key.clone(), body, config.limits.decode);
    let explanation = explain(&config.routes, decoded.as_ref(), &key);
    if args.json.json {
        let stored = archived.as_ref().map(|archived| Stored {
            seq: archived.seq,
            at: archived.stored_at,
            redactions: archived.redactions,
            deliveries: &archived.deliveries,
        });
        out.json(&ExplainAnswer { schema: explanation.schema, event: &explanation.event, routes: &explanation.routes, stored })?;
    } else {
        show(out, &explanation, archived.as_ref())?;
    }
    Ok(Ended::Well)
}

fn show(out: &mut Output, explanation: &Explanation, archived: Option<&ArchivedEvent>) -> anyhow::Result<()> {
    let now = SystemClock.now();
    for line in explanation.heading() {
        let (name, value) = line.split_at_checked(11).unwrap_or((&line, ""));
        out.line(format_args!("{}{}", styled(DIM, name), harmless(value)))?;
    }
    if let Some(archived) = archived {
        out.line(format_args!("{}number {}, {}", styled(DIM, "stored     "), archived.seq, time(archived.stored_at, now)))?;
    }
    out.gap()?;
    let order = if explanation.fires() < explanation.routes.len() { "; the nearest miss comes first" } else { "" };
    out.line(styled(BOLD, format_args!("{}{order}", explanation.count())))?;
    for route in &explanation.routes {
        let delivery = archived.and_then(|archived| archived.deliveries.iter().find(|delivery| delivery.route == route.route));
        out.gap()?;
        let (sign, label) = sign(&route.verdict);
        let origin = styled(DIM, format_args!("({})", harmless(&route.origin())));
        out.line(format_args!("{sign} {label:<8}  {}  {origin}", styled(NAME, &route.route)))?;
        for line in route.lines() {
            out.line(format_args!("             {}", harmless(&line)))?;
        }
        if let Some(delivery) = delivery {
            out.line(format_args!("             {} {}", styled(BOLD, "what became of it:"), events::state(delivery, now)))?;
        } else if archived.is_some() && route.verdict.fires() {
            let came = "the event was not queued for it: the route had other patterns or another filter, or was off, when the event came";
            out.line(format_args!("             {} {came}", styled(BOLD, "what became of it:")))?;
        }
    }
    // Routes that the configuration no longer has.
    for delivery in archived.iter().flat_map(|archived| &archived.deliveries) {
        if explanation.routes.iter().all(|route| route.route != delivery.route) {
            let state = events::state(delivery, now);
            out.gap()?;
            out.line(format_args!(
                "{} {:<8}  {}  {}",
                styled(DIM, "·"),
                "gone",
                styled(NAME, &delivery.route),
                styled(DIM, "(no longer in the configuration)")
            ))?;
            out.line(format_args!("             {} {state}", styled(BOLD, "what became of it:")))?;
        }
    }
    Ok(())
}

/// A sign and a word for the verdict.
fn sign(verdict: &Verdict) -> (String, &'static str) {
    match verdict {
        Verdict::Fires { .. } => (styled(GOOD, "✓"), "fires"),
        Verdict::Disabled { .. } => (styled(WARN, "○"), "off"),
        Verdict::Undecodable { .. } => (styled(BAD, "✗"), "no event"),
        Verdict::FilterMismatch { .. } => (styled(BAD, "✗"), "filter"),
        Verdict::KeyMismatch { .. } => (styled(DIM, "·"), "key"),
    }
}
