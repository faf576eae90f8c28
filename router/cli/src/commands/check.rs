//! `check`: everything that is wrong with the configuration, at once and without a network. With `--broker` also what `run` would change
//! on RabbitMQ, asked of the broker and changing nothing there.

use std::{borrow::Cow, sync::Arc};

use anyhow::bail;
use router_api::{EffectPort, PlanChange, PlanLine, Registry};
use router_core::config::{self, Config, Report, Severity, TransportConfig};
use router_effects::{Performer, PerformerOptions};
use serde::Serialize;

use crate::{
    Ended,
    access::subscriptions,
    args::{CheckArgs, Global},
    broker::Planner,
    commands::block_on,
    setup,
    terminal::{BAD, DIM, GOOD, Output, WARN, counted, harmless, styled},
};

/// Behind the word of a change.
const DETAIL_INDENT: usize = 9;

/// `event-router.plan.v1`.
#[derive(Debug, Serialize)]
struct PlanAnswer {
    schema: Cow<'static, str>,
    /// Without the password.
    broker: String,
    /// What is wrong with the configuration; no errors.
    config: Report,
    /// True when nothing of it would be refused.
    possible: bool,
    plan: Vec<PlanLine>,
}

impl PlanAnswer {
    const SCHEMA: &'static str = "event-router.plan.v1";
}

pub(crate) fn run(global: &Global, args: &CheckArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let located = setup::locate(global)?;
    let environment = setup::environment(global)?;
    let registry = Registry::linked()?;
    let effects: Arc<dyn EffectPort> = Performer::new(PerformerOptions::default())?;
    let loaded = block_on(async { Ok(config::load(&located, &registry, Arc::clone(&effects), &environment).await) })?;
    let (report, config) = match loaded {
        Ok(loaded) => (loaded.report, Some(loaded.config)),
        Err(problems) => (problems.report, None),
    };
    if !args.json.json {
        // `Output` drops the colours again where they are not wanted.
        let rendered = report.render(true);
        if !rendered.trim().is_empty() {
            out.line(rendered.trim_end())?;
        }
        if let Some(config) = &config {
            let enabled = config.routes.iter().filter(|route| route.enabled).count() as u64;
            let disabled = config.routes.len() as u64 - enabled;
            let warnings = if report.count(Severity::Warning) > 0 { ", with warnings" } else { "" };
            out.line(format_args!(
                "{} {} is valid{warnings}: {} on, {disabled} off",
                styled(GOOD, "✓"),
                harmless(&located.describe()),
                counted(enabled, "route", "routes")
            ))?;
        }
    }
    match config {
        Some(config) if args.broker => broker(&config, report, effects, args, out),
        config => {
            if args.json.json {
                out.json(&report)?;
            }
            Ok(if config.is_some() { Ended::Well } else { Ended::InvalidConfig })
        }
    }
}

fn broker(config: &Config, report: Report, effects: Arc<dyn EffectPort>, args: &CheckArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let TransportConfig::Amqp(amqp) = &config.transport else {
        bail!("there is no broker to ask: `kind` of `[transport]` is `embedded`, which keeps its queues in the store");
    };
    let (shown, plan) = block_on(async {
        let planner = Planner::new(config, amqp, effects)?;
        let plan = planner.plan(&subscriptions(config)).await;
        let shown = planner.close().await;
        Ok((shown, plan?))
    })?;
    let possible = plan.iter().all(|line| line.change != PlanChange::Refused);
    if args.json.json {
        out.json(&PlanAnswer { schema: PlanAnswer::SCHEMA.into(), broker: shown, config: report, possible, plan })?;
    } else {
        show(&shown, &plan, out)?;
    }
    Ok(if possible { Ended::Well } else { Ended::Badly })
}

fn show(broker: &str, plan: &[PlanLine], out: &mut Output) -> anyhow::Result<()> {
    out.line("")?;
    for line in plan {
        let (style, word) = match line.change {
            PlanChange::Keep => (DIM, "keep"),
            PlanChange::Create => (GOOD, "create"),
            PlanChange::Remove => (WARN, "remove"),
            PlanChange::Refused => (BAD, "refused"),
            PlanChange::Unknown => (WARN, "unknown"),
        };
        out.line(format_args!("{} {}", styled(style, format_args!("{word:<8}")), harmless(&line.object)))?;
        if let Some(detail) = &line.detail {
            out.prose(DETAIL_INDENT, format_args!("{:DETAIL_INDENT$}{}", "", styled(DIM, harmless(detail))))?;
        }
    }
    out.line("")?;
    let of = |change: PlanChange| plan.iter().filter(|line| line.change == change).count() as u64;
    let (changes, refused, unknown) = (of(PlanChange::Create) + of(PlanChange::Remove), of(PlanChange::Refused), of(PlanChange::Unknown));
    let broker = harmless(broker);
    let unknown = if unknown > 0 { format!("; {unknown} cannot be known (set `management_url` to know them)") } else { String::new() };
    match (refused, changes) {
        (0, 0) => out.line(format_args!("{} nothing would change on {broker}{unknown}", styled(GOOD, "✓")))?,
        (0, changes) => out.line(format_args!("{} `run` would make {} on {broker}{unknown}", styled(GOOD, "✓"), counted(changes, "change", "changes")))?,
        (refused, _) => out.line(format_args!("{} {broker} would refuse {}{unknown}", styled(BAD, "✗"), counted(refused, "thing", "things")))?,
    }
    Ok(())
}
