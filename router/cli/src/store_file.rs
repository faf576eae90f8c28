//! Whether the store's file is there and this user's to read: what cannot be read must not be taken for what is not there.

use std::{
    fs::{self, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};

/// Is it there?
///
/// # Errors
///
/// When it is there and not this user's to use, or when a directory on the way does not let him look. The sentence names the owner.
pub(crate) fn is_there(path: &Path) -> anyhow::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if metadata.uid() == rustix::process::geteuid().as_raw() {
                    bail!("the store `{}` may not be written: {}; give yourself permission to read and write it", path.display(), owner(&metadata))
                }
                bail!("the store `{}` is not yours to open: {}; run this as its owner", path.display(), owner(&metadata))
            }
            // Everything else is said by the store itself.
            _ => Ok(true),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // The nearest directory that can be looked at is the one that lets nobody pass.
            let closed = path.ancestors().skip(1).find_map(|directory| fs::metadata(directory).ok().map(|metadata| (directory, metadata)));
            match closed {
                Some((directory, metadata)) => bail!(
                    "whether there is a store `{}` cannot be seen: directory `{}` lets you not pass: {}; run this as its owner",
                    path.display(),
                    directory.display(),
                    owner(&metadata)
                ),
                None => bail!("whether there is a store `{}` cannot be seen: permission denied", path.display()),
            }
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("the store `{}` cannot be looked at", path.display())),
    }
}

fn owner(metadata: &Metadata) -> String {
    format!("it belongs to user {} (mode {:04o})", metadata.uid(), metadata.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_may_not_be_read_is_told_from_one_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("closed/router.db");
        assert!(!is_there(&path).unwrap());
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert!(is_there(&path).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        // Nothing is closed to the superuser.
        if OpenOptions::new().read(true).open(&path).is_ok() {
            return;
        }
        let told = is_there(&path).unwrap_err().to_string();
        assert!(told.contains("not yours to open") && told.contains("(mode 0000)"), "{told}");
        let parent = path.parent().unwrap();
        fs::set_permissions(parent, fs::Permissions::from_mode(0o000)).unwrap();
        let told = is_there(&path).unwrap_err().to_string();
        fs::set_permissions(parent, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(told.contains("cannot be seen") && told.contains("closed` lets you not pass"), "{told}");
    }
}
