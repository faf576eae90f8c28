//! Configurations of a schedule: read once as a file says them, then changed as the schedule says.

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use router_api::{Registration, Registry, RouteMode};
use router_core::config::{Breaker, Coalesce, Config, Dedup, FixedEnvironment, OnExhausted, Rate, RetryPolicy, RouteConfig, WhenBusy, load, locate};

use crate::{
    handler::{Scheduled, effects},
    plan::{Busy, Plan, RoutePlan, Shape},
};

const FILE: &str = r#"
[http]
listen = "off"

[[route]]
name = "plain"
on = ["%"]
handler = "scheduled"

[[route]]
name = "picky"
on = ["%"]
when = { "payload.kind" = ["wanted"] }
handler = "scheduled"
"#;

pub fn registry() -> Registry {
    Registry::of([Registration::of::<Scheduled>()]).expect("there is one plugin")
}

/// Reads them, outside of any runtime.
pub fn read() {
    base();
}

/// Both routes with the defaults of a configuration.
fn base() -> &'static Config {
    static BASE: OnceLock<Config> = OnceLock::new();
    BASE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory for a while");
        let file = directory.path().join("router.toml");
        std::fs::write(&file, FILE.replace('%', "#")).expect("the file can be written");
        let located = locate(&[file], None, directory.path());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        // It reads and checks; nothing runs.
        match runtime.block_on(load(&located, &registry(), effects(), &FixedEnvironment::default())) {
            Ok(loaded) => loaded.config,
            Err(problems) => panic!("{}", problems.report.render(false)),
        }
    })
}

fn route(plan: &RoutePlan, variant: u8) -> RouteConfig {
    let base = &base().routes[usize::from(plan.is_picky)];
    let millis = Duration::from_millis;
    let session = || "session_id".parse().expect("the literal is a path");
    let mut route = RouteConfig {
        name: plan.name.parse().expect("the name of a plan is a name"),
        on: vec![plan.pattern.parse().expect("the pattern of a plan is a pattern")],
        mode: if plan.shadow { RouteMode::Shadow } else { RouteMode::Live },
        concurrency: if variant == 0 { plan.concurrency } else { plan.concurrency + 1 },
        prefetch: plan.prefetch,
        timeout: millis(plan.timeout_ms),
        drain: millis(plan.drain_ms),
        retry: RetryPolicy {
            attempts_max: plan.attempts_max,
            first_delay: millis(plan.first_delay_ms),
            max_delay: millis(plan.max_delay_ms),
            on: BTreeMap::new(),
        },
        on_exhausted: if plan.parks { OnExhausted::Park } else { OnExhausted::DeadLetter },
        when_busy: match plan.busy {
            Busy::Queue => WhenBusy::Queue,
            Busy::Skip => WhenBusy::Skip,
            Busy::Cancel => WhenBusy::Cancel,
        },
        ledger: plan.ledger,
        breaker: Breaker { first_delay: millis(200), max_delay: Duration::from_secs(2) },
        rate: plan.rate.map(|count| Rate { count, per: Duration::from_secs(1) }),
        dedup: plan.dedup.then(|| Dedup { by: Vec::new(), window: Duration::from_secs(86_400) }),
        max_age: plan.max_age_s.map(Duration::from_secs),
        crashes_max: plan.crashes_max,
        ..base.clone()
    };
    route.queue.parallel = plan.parallel;
    match plan.shape {
        Shape::Unordered => {}
        Shape::Ordered => route.order_by = Some(session()),
        Shape::Bursts => {
            let events_max = (plan.prefetch / 4).max(1);
            route.coalesce = Some(Coalesce { by: session(), quiet: millis(300), max_wait: Duration::from_secs(2), events_max });
        }
    }
    route.hash = format!("{}-{variant}", plan.name);
    route
}

/// The configuration with each route as `variants` says; 2 is off.
pub fn config(plan: &Plan, variants: &[u8]) -> Config {
    let on = plan.routes.iter().zip(variants).filter(|(_, variant)| **variant < 2);
    Config { hash: format!("{variants:?}"), text: String::new(), routes: on.map(|(plan, variant)| route(plan, *variant)).collect(), ..base().clone() }
}
