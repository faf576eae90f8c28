//! Where the configuration is looked for: `-c`, `$EVENT_ROUTER_CONFIG`, `./config`, `/etc/event-router`, else the built-in one.

use std::path::{Path, PathBuf};

/// What is used when no file is found.
pub(super) const BUILT_IN: &str = include_str!("../../../../config/router.toml");

/// The last place.
const SYSTEM: &str = "/etc/event-router";

/// Files of one configuration at most.
const FILES_MAX: usize = 1_000;

/// Who named the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `-c`.
    CommandLine,
    /// `$EVENT_ROUTER_CONFIG`.
    Variable,
    /// `./config`.
    WorkingDirectory,
    /// `/etc/event-router`.
    System,
    /// Nobody: the one that is compiled in.
    BuiltIn,
}

/// The files to load, in order.
#[derive(Debug, Clone)]
pub struct Located {
    /// Who named them.
    pub origin: Origin,
    /// In the order of their precedence: a later file's global keys win. Empty for the built-in configuration.
    pub files: Vec<PathBuf>,
    /// Names of files are shown relative to it, and the built-in configuration counts as lying in its `config`.
    pub cwd: PathBuf,
    /// What was named and is not there: a lowercase sentence each.
    pub(super) problems: Vec<String>,
}

impl Located {
    /// The configuration that is compiled in, whatever lies around: for `demo`. It counts as lying in `cwd`'s `config`.
    #[must_use]
    pub fn built_in(cwd: &Path) -> Self {
        Self { origin: Origin::BuiltIn, files: Vec::new(), cwd: cwd.to_owned(), problems: Vec::new() }
    }

    /// How a file is shown.
    pub(super) fn display(&self, path: &Path) -> String {
        path.strip_prefix(&self.cwd).unwrap_or(path).display().to_string()
    }

    /// One sentence for people: what was found where.
    #[must_use]
    pub fn describe(&self) -> String {
        let files = || self.files.iter().map(|file| self.display(file)).collect::<Vec<_>>().join(", ");
        match self.origin {
            Origin::CommandLine => format!("{} (from `-c`)", files()),
            Origin::Variable => format!("{} (from `$EVENT_ROUTER_CONFIG`)", files()),
            Origin::WorkingDirectory | Origin::System => files(),
            Origin::BuiltIn => format!("the built-in configuration (there is no `{}` and no `{SYSTEM}`)", self.cwd.join("config").display()),
        }
    }
}

/// Finds the configuration. `explicit` are the files and directories of `-c`, `env` is the value of `$EVENT_ROUTER_CONFIG`,
/// `cwd` the absolute working directory.
///
/// A directory stands for its `router.toml` and the `*.toml` of its `routes.d`, sorted by name. `./config` and the system's
/// directory count only if one of these is in them. What is named and does not exist is reported by [`super::load`].
#[must_use]
pub fn locate(explicit: &[PathBuf], env: Option<&str>, cwd: &Path) -> Located {
    locate_in(explicit, env, cwd, Path::new(SYSTEM))
}

fn locate_in(explicit: &[PathBuf], env: Option<&str>, cwd: &Path, system: &Path) -> Located {
    let named = |origin, paths: Vec<PathBuf>| {
        let mut located = Located { origin, files: Vec::new(), cwd: cwd.to_owned(), problems: Vec::new() };
        for path in paths {
            let path = cwd.join(path);
            if path.is_dir() {
                match directory(&path) {
                    Ok(files) if files.is_empty() => {
                        located.problems.push(format!("`{}` has neither a `router.toml` nor a `routes.d` with `*.toml` files", located.display(&path)));
                    }
                    Ok(files) => located.files.extend(files),
                    Err(error) => located.problems.push(error),
                }
            } else {
                // A file that is not there is found out when it is read.
                located.files.push(path);
            }
        }
        if located.files.len() > FILES_MAX {
            located.problems.push(format!("{} files, {FILES_MAX} are the limit", located.files.len()));
            located.files.truncate(FILES_MAX);
        }
        located
    };
    if !explicit.is_empty() {
        return named(Origin::CommandLine, explicit.to_vec());
    }
    if let Some(path) = env.filter(|path| !path.is_empty()) {
        return named(Origin::Variable, vec![path.into()]);
    }
    for (origin, path) in [(Origin::WorkingDirectory, cwd.join("config")), (Origin::System, system.to_owned())] {
        // A directory that cannot be listed is no reason to silently run with another configuration.
        if path.is_dir() && !matches!(directory(&path), Ok(files) if files.is_empty()) {
            return named(origin, vec![path]);
        }
    }
    Located::built_in(cwd)
}

fn directory(path: &Path) -> Result<Vec<PathBuf>, String> {
    let main = path.join("router.toml");
    let mut files = Vec::new();
    if main.exists() {
        files.push(main);
    }
    let routes = path.join("routes.d");
    if routes.is_dir() {
        let cannot = |error: std::io::Error| format!("`{}` cannot be listed: {error}", routes.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&routes).map_err(cannot)? {
            let file = entry.map_err(cannot)?.path();
            let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if file.extension().is_some_and(|extension| extension == "toml") && !hidden && !file.is_dir() {
                found.push(file);
            }
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str, files: &[&str]) -> Self {
            let dir = std::env::temp_dir().join(format!("router-core-locate-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).expect("created");
            for file in files {
                let file = dir.join(file);
                std::fs::create_dir_all(file.parent().expect("has a parent")).expect("created");
                std::fs::write(file, "").expect("written");
            }
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn names(located: &Located) -> Vec<String> {
        located.files.iter().map(|file| located.display(file)).collect()
    }

    #[test]
    fn explicit_paths_come_before_the_variable_and_that_before_the_directories() {
        let dir = Dir::new("order", &["config/router.toml", "a.toml", "b.toml", "sys/router.toml"]);
        let system = dir.0.join("sys");
        let explicit = locate_in(&["b.toml".into(), "a.toml".into()], Some("a.toml"), &dir.0, &system);
        assert_eq!((explicit.origin, names(&explicit)), (Origin::CommandLine, vec!["b.toml".to_owned(), "a.toml".to_owned()]));
        let variable = locate_in(&[], Some("a.toml"), &dir.0, &system);
        assert_eq!((variable.origin, names(&variable)), (Origin::Variable, vec!["a.toml".to_owned()]));
        let here = locate_in(&[], Some(""), &dir.0, &system);
        assert_eq!((here.origin, names(&here)), (Origin::WorkingDirectory, vec!["config/router.toml".to_owned()]));
        let elsewhere = locate_in(&[], None, &dir.0.join("sys"), &system);
        assert_eq!((elsewhere.origin, names(&elsewhere)), (Origin::System, vec!["router.toml".to_owned()]));
        let nowhere = locate_in(&[], None, &dir.0.join("sys"), &dir.0.join("none"));
        assert_eq!((nowhere.origin, nowhere.files.len()), (Origin::BuiltIn, 0));
    }

    #[test]
    fn a_directory_is_its_router_toml_and_its_sorted_routes() {
        let dir = Dir::new("sorted", &["c/router.toml", "c/routes.d/20.toml", "c/routes.d/10.toml", "c/routes.d/.swp.toml", "c/routes.d/x.md", "c/other.toml"]);
        let located = locate_in(&["c".into()], None, &dir.0, Path::new("/none"));
        assert_eq!(names(&located), ["c/router.toml", "c/routes.d/10.toml", "c/routes.d/20.toml"]);
    }

    #[test]
    fn a_config_directory_of_something_else_is_passed_by_but_a_named_one_is_a_problem() {
        let dir = Dir::new("foreign", &["config/webpack.js"]);
        assert_eq!(locate_in(&[], None, &dir.0, Path::new("/none")).origin, Origin::BuiltIn);
        let named = locate_in(&["config".into()], None, &dir.0, Path::new("/none"));
        assert_eq!(named.problems.len(), 1, "{:?}", named.problems);
    }
}
