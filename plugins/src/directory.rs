//! Directories that events name, and what keeps them where they may be: [`Roots`].
//!
//! Here only the text of a path is looked at, to say early and well what is wrong. That no symbolic link leads out of the roots is
//! seen to where the command is started: see `CommandRequest::below`.

use std::path::{Component, Path, PathBuf};

use router_api::{BuildContext, BuildError, EffectClass, EffectError, Scope, Template};

/// Directories below which an event's directory must lie; any absolute one will do when there are none.
pub(crate) struct Roots(Vec<PathBuf>);

impl Roots {
    /// From the option `roots`; relative ones are relative to the configuration's file.
    pub(crate) fn new(roots: &[PathBuf], cx: &BuildContext) -> Self {
        Self(roots.iter().map(|root| normalized(&cx.path(root))).collect())
    }

    /// The roots, for the command that is to run below them.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.0.iter().cloned()
    }

    /// The directory that an event names.
    ///
    /// # Errors
    ///
    /// When it is not absolute, has a `..`, or lies outside the roots: class `Forbidden`.
    pub(crate) fn directory(&self, text: &str) -> Result<PathBuf, EffectError> {
        let forbidden = |why: &str| EffectError::new(EffectClass::Forbidden, format!("directory `{text}` {why}"));
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(forbidden("is not absolute"));
        }
        if text.contains('\0') || path.components().any(|part| part == Component::ParentDir) {
            return Err(forbidden("has a `..` or a zero byte in it"));
        }
        if !self.0.is_empty() && !self.0.iter().any(|root| path.starts_with(root)) {
            return Err(forbidden("is outside of `roots`"));
        }
        Ok(path.to_path_buf())
    }
}

/// Where a command runs.
pub(crate) enum Directory {
    /// The configuration says it all.
    Fixed(PathBuf),
    /// An event fills it in.
    OfEvent(Template),
}

impl Directory {
    /// From an option: what has no template in it is relative to the configuration's file.
    pub(crate) fn new(cwd: Template, cx: &BuildContext) -> Self {
        if cwd.is_literal() { Self::Fixed(normalized(&cx.path(cwd.as_str()))) } else { Self::OfEvent(cwd) }
    }

    /// # Errors
    ///
    /// Those of the template and of [`Roots::directory`].
    pub(crate) fn of(&self, scope: &Scope, roots: &Roots) -> Result<PathBuf, EffectError> {
        match self {
            Self::Fixed(path) => Ok(path.clone()),
            Self::OfEvent(template) => roots.directory(&template.render(scope)?),
        }
    }
}

/// Was a command not started because its directory is not on this machine? As the performer says it.
pub(crate) fn is_not_here(error: &EffectError) -> bool {
    error.class == EffectClass::Refused && error.message.ends_with("is not a directory on this machine")
}

/// Does `file` lie below `directory`? A relative one does, unless it climbs out.
pub(crate) fn is_below(file: &str, directory: &Path) -> bool {
    let path = Path::new(file);
    !file.is_empty() && !path.components().any(|part| part == Component::ParentDir) && (path.is_relative() || path.starts_with(directory))
}

/// Without `.` and `..`, by the text alone.
fn normalized(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normalized.pop();
            }
            part => normalized.push(part),
        }
    }
    normalized
}

/// The option's problem, for a `roots` that a fixed directory makes useless.
pub(crate) fn roots_without_template() -> BuildError {
    BuildError::at("roots", "has no effect, since `cwd` has no template").help("remove `roots`; a directory that the configuration fixes is taken as it is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_directory_is_absolute_straight_and_below_a_root() {
        let roots = Roots(vec!["/srv/code".into()]);
        assert_eq!(roots.directory("/srv/code/app").unwrap(), Path::new("/srv/code/app"));
        assert!(roots.directory("/srv/code").is_ok());
        for hostile in ["", "app", "./app", "/srv/codex", "/srv/code/../etc", "/etc", "/srv/code/a\0b"] {
            assert_eq!(roots.directory(hostile).unwrap_err().class, EffectClass::Forbidden, "{hostile}");
        }
        assert!(Roots(vec![]).directory("/anywhere").is_ok());
    }

    #[test]
    fn a_file_below_a_directory_does_not_climb_out_of_it() {
        let directory = Path::new("/srv/app");
        assert!(is_below("/srv/app/a.py", directory) && is_below("src/a.py", directory));
        for outside in ["", "/srv/apple/a.py", "../a.py", "/srv/app/../b.py", "src/../../b.py"] {
            assert!(!is_below(outside, directory), "{outside}");
        }
    }

    #[test]
    fn paths_of_the_configuration_lose_their_dots() {
        assert_eq!(normalized(Path::new("/etc/router/../code/./app")), Path::new("/etc/code/app"));
    }
}
