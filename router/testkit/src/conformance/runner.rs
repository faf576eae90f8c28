//! Runs the cases one after the other and collects what came of them.

// The lines are the suite's product: they say what a transport can do.
#![allow(clippy::print_stdout)]

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use router_api::Features;

use super::{Factory, Need, bench::Bench, cases::CASES};

/// How long one case may take, in real time.
const CASE_TIME_MAX: Duration = Duration::from_secs(120);

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The transport.
    pub name: String,
    /// Cases that passed.
    pub passed: Vec<&'static str>,
    /// Cases that could not run, and what is missing.
    pub skipped: Vec<(&'static str, &'static str)>,
    /// Cases that failed, and how.
    pub failed: Vec<(&'static str, String)>,
}

impl Report {
    /// Asserts that nothing failed and that exactly the cases `skipped` were skipped.
    ///
    /// # Panics
    ///
    /// When that is not so, with the list of what differs.
    pub fn expect(&self, skipped: &[&str]) {
        let mut problems: Vec<String> = self.failed.iter().map(|(case, failure)| format!("{case} failed: {failure}")).collect();
        for (case, missing) in &self.skipped {
            if !skipped.contains(case) {
                problems.push(format!("{case} was skipped: {missing}"));
            }
        }
        for case in skipped {
            if !self.skipped.iter().any(|(known, _)| known == case) {
                problems.push(format!("{case} was expected to be skipped, and was not (or there is no such case)"));
            }
        }
        assert!(problems.is_empty(), "the {} transport does not conform:\n  {}", self.name, problems.join("\n  "));
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_default())
}

/// Runs all cases against the transports of `factory`, which must have exactly the features `expected`.
///
/// Prints a line for each case. Does not fail by itself: see [`Report::expect`].
pub async fn run(name: &str, factory: &dyn Factory, expected: Features) -> Report {
    run_matching(name, factory, expected, "").await
}

/// Like [`run`], but only cases whose name contains `part`: for whoever is making one of them pass.
pub async fn run_matching(name: &str, factory: &dyn Factory, expected: Features, part: &str) -> Report {
    let mut report = Report { name: name.to_owned(), ..Report::default() };
    let abilities = factory.abilities();
    let features = {
        let subject = factory.open().await;
        let features = subject.transport().features();
        subject.end().await;
        features
    };
    if features != expected {
        report.failed.push(("features", format!("{features:?}, where the test pins {expected:?}")));
    }
    for case in CASES.iter().filter(|case| case.name.contains(part)) {
        let missing: Vec<&str> = case.needs.iter().filter(|need| !Need::is_met(**need, features, abilities)).map(|need| need.sentence()).collect();
        if let Some(missing) = missing.first() {
            println!("skip  {name}: {} ({missing})", case.name);
            report.skipped.push((case.name, missing));
            continue;
        }
        let mut bench = Bench::new(factory.open().await);
        let result = tokio::time::timeout(CASE_TIME_MAX, AssertUnwindSafe((case.run)(&mut bench)).catch_unwind()).await;
        let failure = match result {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(failure))) => Some(failure.to_string()),
            Ok(Err(panic)) => Some(text_of(panic.as_ref())),
            Err(_) => Some(format!("not finished after {CASE_TIME_MAX:?}")),
        };
        if tokio::time::timeout(CASE_TIME_MAX, bench.end()).await.is_err() {
            report.failed.push((case.name, "the subject did not end".to_owned()));
        }
        match failure {
            None => {
                println!("pass  {name}: {}", case.name);
                report.passed.push(case.name);
            }
            Some(failure) => {
                println!("FAIL  {name}: {}: {failure}", case.name);
                report.failed.push((case.name, failure));
            }
        }
    }
    println!("      {name}: {} passed, {} skipped, {} failed", report.passed.len(), report.skipped.len(), report.failed.len());
    report
}
