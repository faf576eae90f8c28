//! The directory that a command runs in, confined so that an event can name one below a root and no other.
//!
//! The kernel resolves the path (`openat2` with `RESOLVE_BENEATH`), so neither `..` nor a symbolic link leads out, and what is
//! entered is the directory that was opened, not a name that somebody could exchange in between.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use router_api::{EffectClass, EffectError};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

/// A directory that is held open.
#[derive(Debug)]
pub(crate) struct Entered {
    directory: OwnedFd,
}

impl Entered {
    /// A path to it that is good while this value lives, in this process and in a child before it becomes another program.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.directory.as_raw_fd()).into()
    }
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens `cwd`, which must lie in one of `roots` or below; anywhere, if there are none.
///
/// # Errors
///
/// `Refused` when it is no directory here, `Forbidden` when it leads out of the roots, `Unreachable` when the system has no room to open it.
pub(crate) fn enter(cwd: &Path, roots: &[PathBuf]) -> Result<Entered, EffectError> {
    let shown = crate::command::shortened(&cwd.display().to_string());
    let error = |class, why: &str| EffectError::new(class, format!("`{shown}` {why}"));
    if !cwd.is_absolute() {
        return Err(error(EffectClass::Refused, "is no absolute path, so it is not clear which directory is meant"));
    }
    let opened = if roots.is_empty() {
        openat(CWD, cwd, DIRECTORY, Mode::empty())
    } else {
        let Some((root, below)) = roots.iter().find_map(|root| Some((root, cwd.strip_prefix(root).ok()?))) else {
            return Err(error(EffectClass::Forbidden, "lies outside of the directories that the route allows"));
        };
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        openat(CWD, root, DIRECTORY, Mode::empty())
            .and_then(|root| openat2(root, below, DIRECTORY, Mode::empty(), ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS)))
    };
    match opened {
        Ok(directory) => Ok(Entered { directory }),
        Err(Errno::XDEV | Errno::LOOP) => Err(error(EffectClass::Forbidden, "leads out of the directories that the route allows")),
        Err(Errno::ACCESS | Errno::PERM) => Err(error(EffectClass::Refused, "cannot be entered by the router's user")),
        // Before Linux 5.6 there is no `openat2`; a confinement that cannot be enforced is no confinement.
        Err(Errno::NOSYS) => Err(error(EffectClass::Forbidden, "cannot be confined by this system's kernel, which is older than Linux 5.6")),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL) => Err(error(EffectClass::Refused, "is not a directory on this machine")),
        // No descriptors, no memory, a disk that fails: nothing that the event could be blamed for.
        Err(errno) => Err(EffectError::new(EffectClass::Unreachable, format!("`{shown}` cannot be opened just now: {}", std::io::Error::from(errno)))),
    }
}

/// Would a command be let into `cwd`? For a dry run that is to say what a live one would come to.
///
/// # Errors
///
/// `Refused` when it is no directory here, `Forbidden` when it leads out of `roots`, if there are any.
pub fn check_directory(cwd: &Path, roots: &[PathBuf]) -> Result<(), EffectError> {
    enter(cwd, roots).map(drop)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn class(cwd: &Path, roots: &[PathBuf]) -> Option<EffectClass> {
        enter(cwd, roots).err().map(|error| error.class)
    }

    #[test]
    fn a_directory_below_a_root_is_entered_and_no_other_is() {
        let dir = std::env::temp_dir().join(format!("event-router-directory-{}", std::process::id()));
        let (root, outside) = (dir.join("root"), dir.join("outside"));
        for made in [&root.join("app/src"), &outside] {
            fs::create_dir_all(made).unwrap();
        }
        symlink(&outside, root.join("escape")).unwrap();
        symlink("app", root.join("inside")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let roots = [root.clone()];
        for allowed in ["", "app", "app/src", "inside/src", "app/../app"] {
            assert_eq!(class(&root.join(allowed), &roots), None, "{allowed}");
        }
        for forbidden in ["escape", "../outside", "app/../../outside", "loop"] {
            assert_eq!(class(&root.join(forbidden), &roots), Some(EffectClass::Forbidden), "{forbidden}");
        }
        assert_eq!(class(&outside, &roots), Some(EffectClass::Forbidden));
        assert_eq!(class(&outside, &[]), None);
        for missing in ["gone", "file"] {
            assert_eq!(class(&root.join(missing), &roots), Some(EffectClass::Refused), "{missing}");
        }
        assert_eq!(class(Path::new("app"), &roots), Some(EffectClass::Refused));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_entered_is_what_was_checked_even_if_the_name_is_exchanged() {
        let dir = std::env::temp_dir().join(format!("event-router-exchange-{}", std::process::id()));
        fs::create_dir_all(dir.join("root/app")).unwrap();
        fs::create_dir_all(dir.join("outside")).unwrap();
        fs::write(dir.join("root/app/mark"), "").unwrap();
        let entered = enter(&dir.join("root/app"), &[dir.join("root")]).unwrap();
        fs::rename(dir.join("root/app"), dir.join("root/moved")).unwrap();
        symlink(dir.join("outside"), dir.join("root/app")).unwrap();
        assert!(entered.path().join("mark").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
