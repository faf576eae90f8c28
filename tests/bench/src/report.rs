//! What was measured, against what was to be reached, as a page.

use std::fmt::Write as _;

use crate::{
    figures::Figure,
    process,
    rows::{AMQPLIB, LIMIT, PARSED, ROUTER, SINGLE},
    run::Measured,
    settings::{ACK_BATCH, LATENCY_RATE, PREFETCH, Settings},
};

/// What no program knows: written by hand.
const NEXT: &str = include_str!("../next.md");

/// Below this share of a goal the program fails.
const TOLERATED: f64 = 0.9;

/// All runs of one row on one kind of queue.
pub struct Series {
    pub row: &'static str,
    pub kind: &'static str,
    pub events: u32,
    pub drains: Vec<Measured>,
    pub latencies: Vec<Measured>,
}

/// One goal and what came of it.
pub struct Goal {
    name: String,
    value: f64,
    wanted: f64,
    /// More is better.
    at_least: bool,
    unit: &'static str,
}

impl Goal {
    /// 1 is reached, 0.5 is half of it.
    fn share(&self) -> f64 {
        match (self.at_least, self.value > 0.0) {
            (true, _) => self.value / self.wanted,
            (false, true) => self.wanted / self.value,
            (false, false) => f64::INFINITY,
        }
    }

    /// Is it so far away that the program fails?
    pub fn is_failed(&self) -> bool {
        self.share() < TOLERATED
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let verdict = if self.share() >= 1.0 { "reached" } else { "missed" };
        let relation = if self.at_least { "at least" } else { "at most" };
        format!("| {} | {relation} {:.2}{} | {:.2}{} | {verdict} |", self.name, self.wanted, self.unit, self.value, self.unit)
    }
}

fn find<'a>(all: &'a [Series], row: &str, kind: &str) -> Option<&'a Series> {
    all.iter().find(|series| series.row == row && series.kind == kind)
}

fn median(all: &[Series], row: &str, kind: &str, property: impl Fn(&Measured) -> f64) -> Option<f64> {
    Figure::over(&find(all, row, kind)?.drains, property).map(|figure| figure.median)
}

fn latency(all: &[Series], row: &str, kind: &str) -> Option<f64> {
    Figure::over(&find(all, row, kind)?.latencies, |run| run.p50).map(|figure| figure.median)
}

/// The goals that this machine can judge: all are ratios or differences within one run, but for the memory.
pub fn goals(all: &[Series], kinds: &[&'static str]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut judge = |name: String, value: Option<f64>, wanted: f64, at_least: bool, unit| {
        goals.extend(value.filter(|value| value.is_finite()).map(|value| Goal { name, value, wanted, at_least, unit }));
    };
    for kind in kinds {
        let of = |row, property: fn(&Measured) -> f64| median(all, row, kind, property);
        let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
        judge(format!("drain, {kind}, against LIMIT"), ratio(of(ROUTER, |run| run.rate), of(LIMIT, |run| run.rate)), 0.90, true, "×");
        judge(format!("CPU per event, {kind}, against `{PARSED}`"), ratio(of(ROUTER, |run| run.cpu), of(PARSED, |run| run.cpu)), 1.30, false, "×");
        judge(
            format!("broker CPU per event, {kind}, against LIMIT"),
            ratio(of(ROUTER, |run| run.broker_cpu), of(LIMIT, |run| run.broker_cpu)),
            1.10,
            false,
            "×",
        );
        judge(format!("peak memory while draining, {kind}"), of(ROUTER, |run| run.rss), 40.0, false, " MiB");
        let added = |row| Some((latency(all, ROUTER, kind)? - latency(all, row, kind)?) / 1_000.0);
        judge(format!("latency p50, {kind}, added to `{SINGLE}`"), added(SINGLE), 0.20, false, " ms");
        let against = |row| Some(latency(all, ROUTER, kind)? / latency(all, row, kind)?);
        judge(format!("latency p50, {kind}, against `{AMQPLIB}`"), against(AMQPLIB), 1.0, false, "×");
    }
    goals
}

/// One line of a table, as it is also shown while the program runs.
fn drained(series: &Series, all: &[Series]) -> String {
    let against = |property: fn(&Measured) -> f64| {
        let own = Figure::over(&series.drains, property).map(|figure| figure.median);
        own.zip(median(all, LIMIT, series.kind, property)).map_or_else(String::new, |(own, limit)| format!("{:.2}", own / limit))
    };
    let figure = |property: fn(&Measured) -> f64, digits: usize| {
        let Some(figure) = Figure::over(&series.drains, property) else { return "–".to_owned() };
        format!("{:.digits$} ({:.digits$}–{:.digits$})", figure.median, figure.min, figure.max)
    };
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        series.row,
        series.events,
        figure(|run| run.rate, 0),
        against(|run| run.rate),
        figure(|run| run.cpu, 1),
        against(|run| run.cpu),
        figure(|run| run.broker_cpu, 1),
        against(|run| run.broker_cpu),
        figure(|run| run.rss, 0),
    )
}

/// The whole page.
pub fn page(settings: &Settings, broker: &str, commit: &str, begun: &str, all: &[Series], goals: &[Goal], not_run: &[String]) -> String {
    let mut page = String::new();
    let _ = writeln!(
        page,
        "# Results of the drain benchmark

The embedded transport has [a page of its own](RESULTS-embedded.md), and so has [the hook](RESULTS-hook.md).

Written by `tests/bench/run`. Figures in one table come from interleaved runs on one machine that other work shared; only their ratios mean something.

* commit: {commit}
* settings: {} events a drain (slow clients fewer, see the column), {} rounds, prefetch {PREFETCH}, acknowledgements of the raw clients per {ACK_BATCH}, persistent envelopes of 1 to 2 KiB, 512 sessions, six keys
* broker: RabbitMQ {broker}, one private node; all drain the same queue, made by the router
* machine: {begun}
* event-router: `Router::builder()` with the AMQP transport, two runtimes as in the program; pattern, content filter on two payload fields, lanes by session, dedup inbox (in memory unless the row says otherwise), metrics, coalesced acknowledgements; a handler that does nothing",
        settings.events, settings.rounds
    );
    for line in not_run {
        let _ = writeln!(page, "* not run: {line}");
    }
    let _ = writeln!(page, "\n## Goals\n\nThe program fails below {TOLERATED} of a goal.\n\n| goal | wanted | measured | |\n|---|---|---|---|");
    for goal in goals {
        let _ = writeln!(page, "{}", goal.line());
    }
    for kind in &settings.kinds {
        let _ = writeln!(
            page,
            "\n## Drain, {kind} queue\n\nMedian (least–most). CPU in microseconds an event, of the draining process and of the broker.\n\n\
             | client | events | events/s | × LIMIT | CPU µs | × LIMIT | broker CPU µs | × LIMIT | peak RSS MiB |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
        );
        for series in all.iter().filter(|series| series.kind == *kind && !series.drains.is_empty()) {
            let _ = writeln!(page, "{}", drained(series, all));
        }
        if all.iter().any(|series| series.kind == *kind && !series.latencies.is_empty()) {
            let _ = writeln!(
                page,
                "\n## Latency, {kind} queue, {LATENCY_RATE} events a second\n\nFrom sending to handling, open loop, in microseconds; p99 is mostly the machine's.\n\n| client | p50 | p99 |\n|---|--:|--:|"
            );
        }
        for series in all.iter().filter(|series| series.kind == *kind) {
            let figure = |property: fn(&Measured) -> f64| {
                Figure::over(&series.latencies, property).map(|figure| format!("{:.0} ({:.0}–{:.0})", figure.median, figure.min, figure.max))
            };
            if let Some((p50, p99)) = figure(|run| run.p50).zip(figure(|run| run.p99)) {
                let _ = writeln!(page, "| {} | {p50} | {p99} |", series.row);
            }
        }
    }
    let _ = write!(page, "\n{NEXT}");
    page
}

/// What the machine is, now.
pub fn machine() -> String {
    process::machine()
}
