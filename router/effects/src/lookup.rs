//! Finds the programs of commands when a route is built, so that nothing later can choose another one.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use router_api::{BuildError, Program};

use crate::Environment;

/// Directories of `PATH` that a help text names.
const LISTED_MAX: usize = 12;

/// Finds `name`: a path relative to `base_dir` if it has a `/`, else in the places of the service's `PATH`.
pub(crate) fn find(name: &str, base_dir: &Path, environment: &Environment) -> Result<Program, BuildError> {
    if name.is_empty() {
        return Err(BuildError::at("", "the program has no name"));
    }
    if name.contains('\0') || name.contains("{{") || name.contains("{%") {
        let message = format!("`{}` is no name of a program", name.escape_debug());
        return Err(BuildError::at("", message).help("a program is written out: neither a template nor a NUL byte"));
    }
    if name.contains('/') {
        let path = std::path::absolute(base_dir.join(name)).map_err(|error| BuildError::at("", format!("`{name}` is no path: {error}")))?;
        return match fault(&path) {
            None => Ok(resolved(name, path)),
            Some(fault) => {
                let help = match fault {
                    Fault::Missing => "check the path; a relative one is relative to the directory of the configuration",
                    Fault::NoFile => "write the path of the program itself",
                    Fault::NotExecutable => "make it executable (`chmod +x`), or write its interpreter first: `[\"sh\", \"script.sh\"]`",
                    Fault::Unreadable => "let the router's user read the directories above it",
                };
                Err(BuildError::at("", format!("`{}` {}", path.display(), fault.sentence())).help(help))
            }
        };
    }
    let mut near_miss = None;
    for place in environment.search() {
        let path = place.join(name);
        match fault(&path) {
            None => return Ok(resolved(name, path)),
            Some(Fault::Missing) => {}
            Some(fault) => near_miss = near_miss.or(Some((path, fault))),
        }
    }
    let places: Vec<String> = environment.search().map(|place| place.display().to_string()).collect();
    let searched = match places.len() {
        0 => "an empty `PATH`".to_owned(),
        1 => format!("`{}`, the one directory of `PATH`", places[0]),
        many => format!("the {many} directories of `PATH`"),
    };
    let message = match near_miss {
        Some((path, fault)) => format!("the program `{name}` was not found: `{}` {}, and there is no other in {searched}", path.display(), fault.sentence()),
        None => format!("the program `{name}` was not found in {searched}"),
    };
    let help = "install it, write its whole path, or extend `PATH` where the router is started";
    Err(BuildError::at("", message).help(if places.len() > 1 { format!("{help}; searched: {}", listed(&places)) } else { help.to_owned() }))
}

/// The first few places, as `PATH` writes them.
fn listed(places: &[String]) -> String {
    let shown = places.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(":");
    if places.len() > LISTED_MAX { format!("{shown} and {} more", places.len() - LISTED_MAX) } else { shown }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Missing,
    NoFile,
    NotExecutable,
    Unreadable,
}

impl Fault {
    fn sentence(self) -> &'static str {
        match self {
            Self::Missing => "does not exist",
            Self::NoFile => "is no regular file",
            Self::NotExecutable => "is not executable",
            Self::Unreadable => "cannot be looked at",
        }
    }
}

fn fault(path: &Path) -> Option<Fault> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Some(Fault::Missing),
        Err(_) => return Some(Fault::Unreadable),
    };
    if !metadata.is_file() {
        return Some(Fault::NoFile);
    }
    // For root every file passes `access`, if only one bit is set.
    let executable = metadata.permissions().mode() & 0o111 != 0 && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if executable { None } else { Some(Fault::NotExecutable) }
}

fn resolved(name: &str, path: PathBuf) -> Program {
    // Links stay as they are: some programs decide by the name they are called by.
    let writable =
        |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0 && metadata.permissions().mode() & 0o1000 == 0);
    if writable(&path) || path.parent().is_some_and(writable) {
        tracing::warn!(program = %path.display(), "everybody on this machine can change this program, and so what the router runs");
    }
    Program::resolved(name, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(places: &[&Path]) -> Environment {
        let path = std::env::join_paths(places).unwrap();
        Environment::of([("PATH".into(), path)], &[])
    }

    fn put(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_bare_name_is_found_in_the_first_place_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        put(&first.join("tool"), 0o644);
        put(&second.join("tool"), 0o755);
        fs::create_dir_all(first.join("other")).unwrap();
        let environment = environment(&[&first, &second]);
        let program = find("tool", dir.path(), &environment).unwrap();
        assert_eq!((program.name(), program.path()), ("tool", Some(second.join("tool").as_path())), "the first is not executable");
        let error = find("other", dir.path(), &environment).unwrap_err().to_string();
        assert!(error.contains("no regular file") && error.contains("no other in the 2 directories of `PATH`"), "{error}");
        let error = find("absent", dir.path(), &environment).unwrap_err();
        assert_eq!(error.problems[0].message, "the program `absent` was not found in the 2 directories of `PATH`");
        let help = error.problems[0].help.as_deref().unwrap();
        assert!(help.ends_with(&format!("searched: {}:{}", first.display(), second.display())), "{help}");
        let many: Vec<PathBuf> = (0..20).map(|number| dir.path().join(number.to_string())).collect();
        let many: Vec<&Path> = many.iter().map(PathBuf::as_path).collect();
        let error = find("absent", dir.path(), &self::environment(&many)).unwrap_err();
        let help = error.problems[0].help.as_deref().unwrap();
        assert!(help.ends_with("/11 and 8 more") && error.problems[0].message.contains("20 directories"), "{error:?}");
    }

    #[test]
    fn a_path_is_relative_to_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("bin/run.sh"), 0o755);
        put(&dir.path().join("bin/plain"), 0o644);
        let environment = environment(&[]);
        let program = find("bin/run.sh", dir.path(), &environment).unwrap();
        assert_eq!(program.path(), Some(dir.path().join("bin/run.sh").as_path()));
        assert!(find("./bin/run.sh", dir.path(), &environment).is_ok());
        assert!(find("/bin/sh", dir.path(), &environment).is_ok());
        assert!(find("bin/plain", dir.path(), &environment).unwrap_err().to_string().contains("not executable"));
        assert!(find("./bin", dir.path(), &environment).unwrap_err().to_string().contains("no regular file"));
        assert!(find("bin/run.sh/x", dir.path(), &environment).unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn odd_names_are_refused() {
        for name in ["", "a\0b", "{{ tool }}", "/x/{{ tool }}"] {
            assert!(find(name, Path::new("/"), &environment(&[])).is_err(), "{name:?}");
        }
    }
}
