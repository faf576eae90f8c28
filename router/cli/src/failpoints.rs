//! Failpoints of a build with debug assertions: `EVENT_ROUTER_FAILPOINT=NAME[:PASS[-LAST]][:error]` ends the process as `kill -9` does at the
//! pass of that number (from 1), or lets the step fail at these passes. Tests use it; a release build does not have this file.

use std::{
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, bail};
use router_api::failpoint::{self, Failpoint};

/// The variable.
const VARIABLE: &str = "EVENT_ROUTER_FAILPOINT";

/// What is to happen, and where.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    at: Failpoint,
    first: u64,
    last: u64,
    fails: bool,
}

impl Order {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let at = Failpoint::ALL.iter().copied().find(|point| point.name() == name).with_context(|| format!("`{VARIABLE}`: no failpoint is called `{name}`"))?;
        let mut order = Self { at, first: 1, last: 1, fails: false };
        for part in parts {
            if part == "error" {
                order.fails = true;
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) if 0 < first && first <= last => (order.first, order.last) = (first, last),
                _ => bail!("`{VARIABLE}`: `{part}` is neither `error` nor a number of a pass, such as `3` or `3-5`"),
            }
        }
        Ok(order)
    }
}

/// Does what `asked`, the variable's value, says.
///
/// # Errors
///
/// When it names no failpoint.
pub(crate) fn install(asked: Option<&str>) -> anyhow::Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    let order = Order::parse(asked)?;
    tracing::warn!("`{VARIABLE}` is set: this process will fail at `{}`", order.at.name());
    let passes = AtomicU64::new(0);
    failpoint::install(Box::new(move |point| {
        if point != order.at {
            return false;
        }
        let pass = passes.fetch_add(1, Ordering::SeqCst) + 1;
        if !(order.first..=order.last).contains(&pass) {
            return false;
        }
        if order.fails {
            return true;
        }
        // Straight to the standard error: the log's thread dies with the process.
        let _ = writeln!(std::io::stderr(), "failpoint {} at pass {pass}", point.name());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal ends every thread before it comes back to its own code.
        loop {
            std::thread::park();
        }
    }));
    Ok(())
}

/// The variable's value.
///
/// # Errors
///
/// When it is no text.
pub(crate) fn asked(environment: &dyn router_core::config::Environment) -> anyhow::Result<Option<String>> {
    environment.variable(VARIABLE).map_err(|problem| anyhow::anyhow!("`{VARIABLE}` {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_its_place_and_its_passes() {
        let order = |text| Order::parse(text).unwrap();
        assert_eq!(order("done.before"), Order { at: Failpoint::DoneBefore, first: 1, last: 1, fails: false });
        assert_eq!(order("done.before:7"), Order { at: Failpoint::DoneBefore, first: 7, last: 7, fails: false });
        assert_eq!(order("group.applied:2-4:error"), Order { at: Failpoint::GroupApplied, first: 2, last: 4, fails: true });
        for wrong in ["", "done", "done.before:0", "done.before:4-2", "done.before:x"] {
            assert!(Order::parse(wrong).is_err(), "{wrong}");
        }
    }
}
