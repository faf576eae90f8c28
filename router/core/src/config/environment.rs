//! What a configuration can refer to outside itself: variables, files, credentials. The only place of this crate that reads the
//! process environment; tests use [`FixedEnvironment`].

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Component, Path, PathBuf},
};

use super::source::{read_text, reason};

/// Answers `${VAR}`, `${file:PATH}` and `${credential:NAME}`.
pub trait Environment: Send + Sync {
    /// The value of a variable, or `None` if it is not set.
    ///
    /// # Errors
    ///
    /// When it is set to something that is no text; a lowercase fragment that fits behind the variable's name.
    fn variable(&self, name: &str) -> Result<Option<String>, String>;

    /// The content of a file, at most [`FILE_BYTES_MAX`] bytes. `path` is absolute.
    ///
    /// # Errors
    ///
    /// When it cannot be read; a lowercase fragment that fits behind the file's name.
    fn file(&self, path: &Path) -> Result<String, String>;

    /// That there is a file which can be opened; one that is only handed on may be longer than [`Environment::file`] reads. `path` is
    /// absolute.
    ///
    /// # Errors
    ///
    /// When it cannot; a lowercase fragment that fits behind the file's name.
    fn readable(&self, path: &Path) -> Result<(), String> {
        self.file(path).map(drop)
    }

    /// Is the broker going to be asked? Where it is not, nothing need say where it is or who we are there.
    fn asks_broker(&self) -> bool {
        true
    }

    /// The content of a credential that systemd hands over (`LoadCredential=`).
    ///
    /// # Errors
    ///
    /// When there is none of that name; a lowercase fragment that fits behind its name.
    fn credential(&self, name: &str) -> Result<String, String> {
        let directory = self
            .variable("CREDENTIALS_DIRECTORY")?
            .filter(|directory| !directory.is_empty())
            .ok_or("cannot be read: `CREDENTIALS_DIRECTORY` is not set (systemd sets it for a unit with `LoadCredential=`)")?;
        let mut components = Path::new(name).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
            return Err("is no name of a credential: it must be a single file name".to_owned());
        }
        self.file(&Path::new(&directory).join(name))
    }
}

/// In bytes: what `${file:…}` reads at most.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The environment of this process, and the file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err("is set to something that is no UTF-8 text".to_owned()),
        }
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        read_text(path, FILE_BYTES_MAX)
    }

    fn readable(&self, path: &Path) -> Result<(), String> {
        let metadata = File::open(path).and_then(|file| file.metadata()).map_err(|error| reason(&error))?;
        if metadata.is_dir() { Err("is a directory".to_owned()) } else { Ok(()) }
    }
}

/// Fixed variables and files, for tests.
#[derive(Debug, Clone, Default)]
pub struct FixedEnvironment {
    variables: BTreeMap<String, String>,
    files: BTreeMap<PathBuf, String>,
}

impl FixedEnvironment {
    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Puts a file at an absolute path.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>, content: &str) -> Self {
        self.files.insert(path.into(), content.to_owned());
        self
    }
}

impl Environment for FixedEnvironment {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.variables.get(name).cloned())
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        self.files.get(path).cloned().ok_or_else(|| "does not exist".to_owned())
    }
}
