//! Where the configuration is looked for: `-c`, `$EVENT_ROUTER_CONFIG`, `./config`, `/etc/event-router`, else the built-in one.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::source::reason;

/// What is used when no file is found.
pub(super) const BUILT_IN: &str = include_str!("../../../../config/router.toml");

/// The last place.
const SYSTEM: &str = "/etc/event-router";

/// Where the store of a configuration in [`SYSTEM`] lies by default.
const SYSTEM_STATE: &str = "/var/lib/event-router";

/// Where a user's own service finds its configuration, below the home.
const USER: &str = ".config/event-router";

/// Where the store of a configuration in [`USER`] lies by default, below the home: where systemd puts the state of a user's service.
const USER_STATE: &str = ".local/state/event-router";

/// Files that a sentence names.
const NAMED_MAX: usize = 3;

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
    /// The directory of the store where neither the configuration nor `$STATE_DIRECTORY` says it. Absolute.
    pub(super) state: PathBuf,
    /// What was named and is not there: a lowercase sentence each.
    pub(super) problems: Vec<String>,
}

impl Located {
    /// The configuration that is compiled in, whatever lies around: for `demo`. It counts as lying in `cwd`'s `config`.
    #[must_use]
    pub fn built_in(cwd: &Path) -> Self {
        Self { origin: Origin::BuiltIn, files: Vec::new(), cwd: cwd.to_owned(), state: cwd.join("state"), problems: Vec::new() }
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
            Origin::BuiltIn => format!("the built-in configuration (there is none in `{}` and none in `{SYSTEM}`)", self.cwd.join("config").display()),
        }
    }

    /// For use within a sentence: the files, or `built-in`.
    #[must_use]
    pub fn name(&self) -> String {
        let names: Vec<_> = self.files.iter().take(NAMED_MAX).map(|file| format!("`{}`", self.display(file))).collect();
        match self.files.len().saturating_sub(NAMED_MAX) {
            _ if self.origin == Origin::BuiltIn => "built-in".to_owned(),
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }

    /// For use within a sentence: the places where a configuration that nobody names is looked for.
    #[must_use]
    pub fn searched(&self) -> String {
        format!("`$EVENT_ROUTER_CONFIG`, `{}` and `{SYSTEM}`", self.cwd.join("config").display())
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
        let state = paths.first().map_or_else(|| cwd.join("state"), |path| state_of(&cwd.join(path), system));
        let mut located = Located { origin, files: Vec::new(), cwd: cwd.to_owned(), state, problems: Vec::new() };
        for path in paths {
            let path = cwd.join(path);
            if path.is_dir() {
                match directory(&path) {
                    Ok(files) if files.is_empty() => {
                        located.problems.push(format!("`{}` has neither a `router.toml` nor a `routes.d` with `*.toml` files", located.display(&path)));
                    }
                    Ok(files) => located.files.extend(files),
                    Err(unreadable) => located.problems.push(unreadable.sentence(&located)),
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

/// Where the store of the configuration at `path` lies by default: where the service that has its configuration there keeps it; else in
/// the directory of a file; in a directory, or beside it if it is called `config`.
fn state_of(path: &Path, system: &Path) -> PathBuf {
    let path = clean(path);
    if path.starts_with(system) {
        return SYSTEM_STATE.into();
    }
    if let Some(home) = path.ancestors().find(|above| above.ends_with(USER)).and_then(|above| above.ancestors().nth(2)) {
        return home.join(USER_STATE);
    }
    // The main file of a directory stands for the directory: both are ways to name the same configuration.
    let main = path.file_name().is_some_and(|name| name == "router.toml").then(|| path.parent()).flatten();
    let is_file_or_config = main.is_none() && !path.is_dir();
    let path = main.unwrap_or(&path);
    let is_file_or_config = is_file_or_config || path.file_name().is_some_and(|name| name == "config");
    let home = if is_file_or_config { path.parent().unwrap_or(path) } else { path };
    home.join("state")
}

/// Without `.` and `..`, as far as that is a matter of text.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if cleaned.file_name().is_some() => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}

/// Something that may be there and cannot be looked at.
#[derive(Debug)]
struct Unreadable {
    path: PathBuf,
    error: io::Error,
}

impl Unreadable {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |error| Self { path: path.to_owned(), error }
    }

    fn sentence(&self, located: &Located) -> String {
        format!("`{}` {}", located.display(&self.path), reason(&self.error))
    }
}

/// The files of a directory. Only what is surely absent is passed by: to run with another configuration because this one may not be
/// read would be a surprise.
fn directory(path: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let main = path.join("router.toml");
    let mut files = Vec::new();
    // A link that leads nowhere is there; reading it tells the rest.
    if is_there(fs::symlink_metadata(&main)).map_err(Unreadable::at(&main))?.is_some() {
        files.push(main);
    }
    let routes = path.join("routes.d");
    if is_there(fs::metadata(&routes)).map_err(Unreadable::at(&routes))?.is_some_and(|found| found.is_dir()) {
        let mut found = Vec::new();
        for entry in fs::read_dir(&routes).map_err(Unreadable::at(&routes))? {
            let file = entry.map_err(Unreadable::at(&routes))?.path();
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

fn is_there(looked: io::Result<fs::Metadata>) -> io::Result<Option<fs::Metadata>> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
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

    #[test]
    fn the_store_lies_beside_config_in_the_systems_place_or_with_what_was_named() {
        let dir = Dir::new("state", &["config/router.toml", "config/x.toml", "sys/router.toml", "my/router.toml", "alone.toml", "else/config/router.toml"]);
        let state = |explicit: &[&str], variable: Option<&str>| {
            let explicit: Vec<PathBuf> = explicit.iter().map(PathBuf::from).collect();
            locate_in(&explicit, variable, &dir.0, &dir.0.join("sys")).state
        };
        assert_eq!(state(&[], None), dir.0.join("state"));
        assert_eq!(Located::built_in(&dir.0).state, dir.0.join("state"));
        for (named, expected) in [
            ("config", "state"),
            ("config/router.toml", "state"),
            ("my/router.toml", "my/state"),
            ("./config/", "state"),
            ("my/../config/.", "state"),
            ("else/config", "else/state"),
            ("my", "my/state"),
            ("alone.toml", "state"),
            ("config/x.toml", "config/state"),
            ("my/none.toml", "my/state"),
        ] {
            assert_eq!(state(&[named, "alone.toml"], None), dir.0.join(expected), "{named}");
            assert_eq!(state(&[], Some(named)), dir.0.join(expected), "{named}");
        }
        for named in ["sys", "sys/router.toml"] {
            assert_eq!(state(&[named], None), Path::new(SYSTEM_STATE), "{named}");
        }
        for named in ["home/.config/event-router", "home/.config/event-router/router.toml", "home/.config/event-router/routes.d/a.toml"] {
            assert_eq!(state(&[named], None), dir.0.join("home/.local/state/event-router"), "{named}");
        }
        let by_itself = locate_in(&[], None, &dir.0.join("my"), &dir.0.join("sys"));
        assert_eq!((by_itself.origin, by_itself.state.as_path()), (Origin::System, Path::new(SYSTEM_STATE)));
    }

    #[test]
    fn a_configuration_that_is_there_and_cannot_be_read_is_never_passed_by() {
        let dir = Dir::new("unreadable", &["config/other"]);
        // Even the superuser cannot look behind a link to itself, or at one to nowhere.
        for (link, target) in [("config/router.toml", "nowhere.toml"), ("config/routes.d", "routes.d")] {
            std::os::unix::fs::symlink(target, dir.0.join(link)).expect("linked");
            let found = locate_in(&[], None, &dir.0, Path::new("/none"));
            assert_eq!(found.origin, Origin::WorkingDirectory, "{link}");
            assert_eq!(found.files.len() + found.problems.len(), 1, "{found:?}");
            assert!(found.problems.iter().all(|problem| problem.starts_with("`config/routes.d` cannot be read: ")), "{:?}", found.problems);
            fs::remove_file(dir.0.join(link)).expect("removed");
        }
        let denied = Unreadable { path: dir.0.join("config"), error: io::ErrorKind::PermissionDenied.into() };
        assert_eq!(denied.sentence(&Located::built_in(&dir.0)), "`config` may not be read by this user: permission denied");
    }

    #[test]
    fn a_few_files_are_named_and_many_are_counted() {
        let dir = Dir::new("named", &["config/router.toml", "config/routes.d/1.toml", "config/routes.d/2.toml", "config/routes.d/3.toml"]);
        let located = locate_in(&[], None, &dir.0, Path::new("/none"));
        assert_eq!(located.name(), "`config/router.toml`, `config/routes.d/1.toml`, `config/routes.d/2.toml` and 1 more");
        assert_eq!(Located::built_in(&dir.0).name(), "built-in");
    }
}
