//! A configuration file: loaded with the shipped plugins, or problems that each say what is wrong and where; the same each time.

use std::sync::{Arc, LazyLock};

use plugins as _;
use router_api::Registry;
use router_core::config::{FixedEnvironment, Report, load, locate};

use crate::AnyProgram;

pub(super) const WORDS: &[&str] = &[
    "[[route]]\n",
    "[route.with]\n",
    "name = \"a\"\n",
    "on = [\"#\"]\n",
    "handler = \"exec\"\n",
    "handler = \"ci\"\n",
    "coalesce = { by = \"session_id\", quiet_ms = 1 }\n",
    "retry = { attempts_max = 0 }\n",
    "[transport]\nkind = \"amqp\"\n",
    "url = \"amqp://u:p@h/\"\n",
    "[store]\n",
    "[http]\nlisten = \"0.0.0.0:1\"\n",
    "${X:-a}",
    "${file:/etc/hostname}",
    "${",
    "= -1\n",
    "= 9223372036854775807\n",
    "= 1e400\n",
    "= [[]]\n",
    "= { a.b = 1 }\n",
    "\u{feff}",
    "\r",
    "'''",
];

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| Registry::linked().expect("the shipped plugins are linked"));

fn told(report: &Report, lines: usize) -> String {
    for diagnostic in report.diagnostics() {
        assert!(!diagnostic.message.is_empty() && !diagnostic.code.is_empty());
        if let Some(place) = &diagnostic.place {
            assert!(place.line >= 1 && place.line <= lines + 1 && place.column >= 1, "{place:?} in {lines} lines");
        }
    }
    report.render(false)
}

pub(super) fn run(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("router.toml");
    std::fs::write(&path, data).expect("a file");
    let lines = data.iter().filter(|byte| **byte == b'\n').count();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let environment = FixedEnvironment::default().with("STATE_DIRECTORY", "/tmp");
    let load_it = || {
        let located = locate(std::slice::from_ref(&path), None, directory.path());
        match runtime.block_on(load(&located, &REGISTRY, Arc::new(AnyProgram), &environment)) {
            Ok(loaded) => {
                assert!(loaded.report.is_usable());
                (true, told(&loaded.report, lines))
            }
            Err(problems) => {
                assert!(!problems.report.is_usable(), "what cannot be used says why");
                (false, told(&problems.report, lines))
            }
        }
    };
    assert_eq!(load_it(), load_it(), "the same file, the same answer");
}
