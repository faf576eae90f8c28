//! The key of redaction's fingerprints: thirty-two random bytes in a file beside the store, made once.
//!
//! It lives as long as the store, so that one secret has one fingerprint over restarts, for the running router and for commands.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use router_api::Chance;

const KEY_BYTES: usize = 32;

/// Reads the key of `store`, or makes one. The caller holds the store, so nobody else makes one at the same time.
///
/// # Errors
///
/// When the file cannot be read or written, or holds something else.
pub(crate) fn of_store(store: &Path, chance: &dyn Chance) -> anyhow::Result<[u8; KEY_BYTES]> {
    let path = path_of(store);
    match OpenOptions::new().read(true).open(&path) {
        Ok(file) => read(file, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path, chance).with_context(|| format!("cannot make the key file `{}`", path.display())),
        Err(error) => Err(error).with_context(|| format!("cannot read the key file `{}`", path.display())),
    }
}

/// Was a key made for `store`?
pub(crate) fn is_there(store: &Path) -> bool {
    path_of(store).exists()
}

fn path_of(store: &Path) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push(".key");
    PathBuf::from(path)
}

fn read(file: fs::File, path: &Path) -> anyhow::Result<[u8; KEY_BYTES]> {
    let mut bytes = Vec::with_capacity(KEY_BYTES + 1);
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read the key file `{}`", path.display()))?;
    match bytes.try_into() {
        Ok(key) => Ok(key),
        Err(_) => bail!("the key file `{}` does not hold {KEY_BYTES} bytes: restore it, or remove it and live with new fingerprints", path.display()),
    }
}

fn make(path: &Path, chance: &dyn Chance) -> io::Result<[u8; KEY_BYTES]> {
    let key = drawn(chance);
    // Under another name first: a key that is cut off by a crash would be a wrong one for ever.
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(key)
}

/// A key that is not kept.
pub(crate) fn drawn(chance: &dyn Chance) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    for part in key.chunks_exact_mut(8) {
        part.copy_from_slice(&chance.next_u64().to_be_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::system::OsChance;

    #[test]
    fn the_key_is_made_once_and_only_its_user_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("router.db");
        let first = of_store(&store, &OsChance).unwrap();
        assert_eq!(of_store(&store, &OsChance).unwrap(), first);
        let mode = fs::metadata(directory.path().join("router.db.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_cut_key_is_an_error_and_not_a_new_key() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("router.db");
        fs::write(directory.path().join("router.db.key"), b"short").unwrap();
        assert!(of_store(&store, &OsChance).is_err());
        assert_eq!(fs::read(directory.path().join("router.db.key")).unwrap(), b"short");
    }
}
