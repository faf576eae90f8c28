//! Where the built program is.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The root of the workspace.
///
/// # Panics
///
/// Never: this crate lies one level below it.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

/// Where cargo put the tests that run now: `target/debug`, wherever that is.
///
/// # Panics
///
/// When the test does not lie where cargo puts tests.
#[must_use]
pub fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let dir = test.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    dir.to_owned()
}

/// The `event-router` program. `tests/lanes` builds it first; a plain `cargo test` builds it here, once.
///
/// # Panics
///
/// When it cannot be built.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built(&["--package", "event-router"], "event-router"))
}

/// The `event-router-hook` program, in the same way.
///
/// # Panics
///
/// When it cannot be built.
#[must_use]
pub fn hook_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built(&["--package", "event-router-hook"], "event-router-hook"))
}

/// The program of `tests/examples/hostile.rs`: the router with a handler that nobody would want.
///
/// # Panics
///
/// When it cannot be built.
#[must_use]
pub fn hostile_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built(&["--package", "router-tests", "--example", "hostile"], "examples/hostile"))
}

/// Builds a program, which lies there then.
fn built(what: &[&str], name: &str) -> PathBuf {
    let path = target_dir().join(name);
    // `tests/lanes` has built it just now. To ask cargo once more would be to wait for the tests that build something meanwhile.
    if std::env::var_os("EVENT_ROUTER_TEST_BUILT").is_some() {
        assert!(path.exists(), "`{}` is not there, though EVENT_ROUTER_TEST_BUILT says that it was built", path.display());
        return path;
    }
    // Built even if it is there: cargo knows whether it is up to date, and an old one would test the past.
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--locked"]).args(what).current_dir(workspace());
    // What cargo tells a test of its package is not for another cargo: build scripts that look at it (ring's does) would run again, and
    // whatever lies above them would be compiled anew, here and at the next build.
    for (variable, _) in std::env::vars_os() {
        let is_of_package = variable.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if is_of_package {
            build.env_remove(variable);
        }
    }
    if target_dir().ends_with("release") {
        build.arg("--release");
    }
    if let Some(target) = target_dir().parent() {
        build.env("CARGO_TARGET_DIR", target);
    }
    let built = build.status().expect("cargo runs");
    assert!(built.success() && path.exists(), "`{name}` cannot be built");
    path
}
