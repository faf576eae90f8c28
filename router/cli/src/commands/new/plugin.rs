//! `new plugin NAME`: writes the crate.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use router_api::{Registry, RouteName};

use crate::terminal::{DIM, GOOD, NAME, Output, harmless, styled};

/// Where a file of the crate goes, and what it says.
const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../scaffold/plugin/manifest.toml")),
    ("src/lib.rs", include_str!("../../../scaffold/plugin/lib.rs")),
    ("src/main.rs", include_str!("../../../scaffold/plugin/main.rs")),
    ("tests/plugin.rs", include_str!("../../../scaffold/plugin/tests.rs")),
    ("config/router.toml", include_str!("../../../scaffold/plugin/router.toml")),
    ("README.md", include_str!("../../../scaffold/plugin/readme.md")),
    (".gitignore", include_str!("../../../scaffold/plugin/gitignore")),
];

/// Where a checkout of the router is looked for below a directory.
const CHECKOUTS: &[&str] = &["", "event-router"];

pub(super) fn run(name: &RouteName, path: Option<&Path>, router: Option<&Path>, out: &mut Output) -> anyhow::Result<()> {
    refuse_taken(name)?;
    let cwd = std::env::current_dir().context("the working directory is gone")?;
    let home = cwd.join(path.unwrap_or(Path::new(name.as_str())));
    let router = match router {
        Some(dir) => Some(given(&cwd.join(dir))?),
        None => found(&home).or_else(|| found(&cwd)),
    };
    if fs::read_dir(&home).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("`{}` is there and not empty: name another directory with `--path`", shown(&home, &cwd));
    }
    for (file, template) in FILES {
        let text = filled(template, name, router.as_deref())?;
        write(&home.join(file), &text)?;
    }
    // The versions with which the router itself is tested; whatever the crate does not need, cargo drops.
    if let Some(router) = &router
        && let Ok(lock) = fs::read_to_string(router.join("Cargo.lock"))
    {
        write(&home.join("Cargo.lock"), &lock)?;
    }

    let home_shown = shown(&home, &cwd);
    out.line(format_args!("{} plugin {} in `{}`", styled(GOOD, "✓"), styled(NAME, name), harmless(&home_shown)))?;
    for (file, _) in FILES.iter().filter(|(file, _)| !file.starts_with('.')) {
        out.line(format_args!("  {}", styled(DIM, file)))?;
    }
    if router.is_none() {
        out.line("The router's sources were not found: make the crate again with `--router-path DIR`, put them beside it as `event-router`, or change the paths in `Cargo.toml`")?;
    }
    out.line(format_args!("Go on with: cd {} && cargo test", harmless(&home_shown)))?;
    Ok(())
}

/// The program links the shipped plugins too, and its package must not be called as one that it depends on.
fn refuse_taken(name: &RouteName) -> anyhow::Result<()> {
    if let Ok(registry) = Registry::linked()
        && registry.get(name.as_str()).is_some()
    {
        bail!("there is a plugin `{name}` already (`event-router plugins`): choose another name");
    }
    if name.as_str() == "event" {
        bail!("a plugin `event` would be the package `event-router`, which is the router's own: choose another name");
    }
    if name.as_str().ends_with('-') {
        bail!("`{name}` ends with `-`, and would make an odd name of a crate: choose another name");
    }
    Ok(())
}

/// The directory of `--router-path`.
fn given(dir: &Path) -> anyhow::Result<PathBuf> {
    if !is_router(dir) {
        bail!("`{}` does not hold the router's sources: there is no `router/api/Cargo.toml` in it", dir.display());
    }
    dir.canonicalize().with_context(|| format!("`{}` cannot be resolved", dir.display()))
}

/// The nearest checkout above `start`, or beside one of its parents.
fn found(start: &Path) -> Option<PathBuf> {
    let candidates = start.ancestors().flat_map(|dir| CHECKOUTS.iter().map(|name| dir.join(name)));
    candidates.filter(|dir| is_router(dir)).find_map(|dir| dir.canonicalize().ok())
}

fn is_router(dir: &Path) -> bool {
    ["router/api", "router/cli", "router/testkit", "plugins"].iter().all(|member| dir.join(member).join("Cargo.toml").is_file())
}

fn filled(template: &str, name: &RouteName, router: Option<&Path>) -> anyhow::Result<String> {
    let mut text = template.replace("{{name}}", name.as_str()).replace("{{Name}}", &type_name(name.as_str()));
    text = text.replace("{{crate}}", &format!("{}_router", name.as_str().replace('-', "_")));
    let source = if router.is_some() {
        "The router's sources, where they were found."
    } else {
        "The router's sources; or `git = \"…\"`, the address of its repository."
    };
    text = text.replace("{{source}}", source);
    for (placeholder, member) in
        [("{{router_api}}", "router/api"), ("{{event_router}}", "router/cli"), ("{{plugins}}", "plugins"), ("{{router_testkit}}", "router/testkit")]
    {
        if text.contains(placeholder) {
            let path = router.map_or_else(|| Path::new("../event-router").join(member), |router| router.join(member));
            let Some(path) = path.to_str() else { bail!("`{}` is no UTF-8 text, which a `Cargo.toml` must be", path.display()) };
            text = text.replace(placeholder, &serde_json::to_string(path)?);
        }
    }
    // What is a template for the router itself, and none of ours.
    Ok(text.replace("&OPEN;", "{{").replace("&CLOSE;", "}}"))
}

/// `my-plugin` is `MyPlugin`. What is put behind it keeps it apart from keywords and from what is imported.
fn type_name(name: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    name.split('-').map(capital).collect()
}

/// Never over a file that is there.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("`{}` cannot be made", parent.display()))?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).with_context(|| format!("`{}` cannot be written", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("`{}` cannot be written", path.display()))
}

fn shown(path: &Path, cwd: &Path) -> String {
    path.strip_prefix(cwd).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_a_type_that_no_import_has() {
        assert_eq!(["greet", "my-plugin", "a-1b", "a--b"].map(type_name), ["Greet", "MyPlugin", "A1b", "AB"]);
    }

    #[test]
    fn no_placeholder_is_left_and_paths_are_quoted() {
        let name: RouteName = "my-plugin".parse().unwrap();
        for router in [None, Some(Path::new("/code \"x\"/event-router"))] {
            for (file, template) in FILES {
                let text = filled(template, &name, router).unwrap();
                let ours = ["{{name}}", "{{Name}}", "{{crate}}", "{{source}}", "{{router", "{{event", "{{plugins", "&OPEN", "&CLOSE"];
                assert!(!ours.iter().any(|mark| text.contains(mark)), "{file}:\n{text}");
            }
        }
        let manifest = filled(FILES[0].1, &name, Some(Path::new("/code \"x\""))).unwrap();
        assert!(manifest.contains(r#"router-api = { path = "/code \"x\"/router/api" }"#), "{manifest}");
    }
}
