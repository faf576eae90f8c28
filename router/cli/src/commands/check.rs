//! `check`: everything that is wrong with the configuration, at once and without a network.

use std::sync::Arc;

use router_api::{EffectPort, Registry};
use router_core::config::{self, ProcessEnvironment, Severity};
use router_effects::{Performer, PerformerOptions};

use crate::{
    Ended,
    args::{Global, Json},
    commands::block_on,
    setup,
    terminal::{GOOD, Output, counted, harmless, styled},
};

pub(crate) fn run(global: &Global, json: Json, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let located = setup::locate(global)?;
    let registry = Registry::linked()?;
    let effects: Arc<dyn EffectPort> = Performer::new(PerformerOptions::default())?;
    let loaded = block_on(async { Ok(config::load(&located, &registry, effects, &ProcessEnvironment).await) })?;
    let (report, config) = match loaded {
        Ok(loaded) => (loaded.report, Some(loaded.config)),
        Err(problems) => (problems.report, None),
    };
    if json.json {
        out.json(&report)?;
    } else {
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
    Ok(if config.is_some() { Ended::Well } else { Ended::InvalidConfig })
}
