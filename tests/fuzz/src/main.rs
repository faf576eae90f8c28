//! The targets under libFuzzer: one program, told by `ROUTER_FUZZ_TARGET` which target it is.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use router_tests::fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("ROUTER_FUZZ_TARGET").unwrap_or_default();
    let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(" ");
    *TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target is called `{name}`; there are: {}", names()))
}

fuzz_target!(|data: &[u8]| {
    (CHOSEN.get_or_init(chosen).run)(data);
});
