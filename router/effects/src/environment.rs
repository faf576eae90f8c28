//! The environment of the service, read once at start: what children may inherit, and where programs are searched.
//!
//! The only file of this crate that reads the process's own environment.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

/// Handed to every command when the service has them. A `*` at the end stands for any rest.
const ALLOWED: &[&str] = &["HOME", "LANG", "LC_*", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"];

/// Where programs are searched when the service has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A snapshot of the service's environment, cut down to what children may see.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: Vec<(OsString, OsString)>,
    search: Vec<PathBuf>,
}

impl Environment {
    /// Reads the process's own environment. `allow` names variables beside the usual ones; `NAME_*` allows a family.
    #[must_use]
    pub fn capture(allow: &[String]) -> Self {
        Self::of(std::env::vars_os(), allow)
    }

    /// Takes given variables instead, for tests.
    #[must_use]
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>, allow: &[String]) -> Self {
        let allowed = |name: &OsStr| ALLOWED.iter().copied().chain(allow.iter().map(String::as_str)).any(|rule| fits(rule, name));
        let mut variables: Vec<_> = variables.into_iter().filter(|(name, _)| allowed(name)).collect();
        let path = variables.iter().find(|(name, _)| name == "PATH").map_or_else(|| OsString::from(PATH_DEFAULT), |(_, value)| value.clone());
        // A relative place would mean another program in each working directory.
        let search: Vec<PathBuf> = std::env::split_paths(&path).filter(|place| place.is_absolute()).collect();
        variables.retain(|(name, _)| name != "PATH");
        if let Ok(path) = std::env::join_paths(&search) {
            variables.push((OsString::from("PATH"), path));
        }
        variables.sort();
        Self { variables, search }
    }

    /// What every command inherits, sorted by name.
    pub fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Where programs without a `/` in their name are searched, in order.
    pub fn search(&self) -> impl Iterator<Item = &Path> {
        self.search.iter().map(PathBuf::as_path)
    }
}

fn fits(rule: &str, name: &OsStr) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => name.to_str().is_some_and(|name| name.starts_with(prefix)),
        None => name == rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)], allow: &[&str]) -> Environment {
        let allow: Vec<String> = allow.iter().map(|&name| name.to_owned()).collect();
        Environment::of(variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))), &allow)
    }

    #[test]
    fn children_see_the_allow_list_and_nothing_else() {
        let all = [
            ("HOME", "/h"),
            ("LC_TIME", "C"),
            ("AWS_SECRET", "s"),
            ("LD_PRELOAD", "x"),
            ("RABBIT_URL", "u"),
            ("PATH", "/bin"),
            ("CI_A", "1"),
            ("CI_B", "2"),
            ("ONE", "1"),
        ];
        let seen: Vec<String> = environment(&all, &["CI_*", "ONE"]).variables().map(|(name, _)| name.to_str().unwrap().to_owned()).collect();
        assert_eq!(seen, ["CI_A", "CI_B", "HOME", "LC_TIME", "ONE", "PATH"]);
    }

    #[test]
    fn relative_places_are_searched_by_nobody() {
        let environment = environment(&[("PATH", "/a::.:bin:/b")], &[]);
        assert_eq!(environment.search().collect::<Vec<_>>(), [Path::new("/a"), Path::new("/b")]);
        assert_eq!(environment.variables().collect::<Vec<_>>(), [(OsStr::new("PATH"), OsStr::new("/a:/b"))]);
    }

    #[test]
    fn without_a_path_the_usual_places_are_searched() {
        assert!(environment(&[], &[]).search().any(|place| place == Path::new("/usr/bin")));
    }
}
