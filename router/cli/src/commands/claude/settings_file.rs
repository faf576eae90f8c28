//! A settings file of Claude Code: where it is, what it says, and writing it without a moment in which half of it is there.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use router_core::config::{Environment as _, ProcessEnvironment};

use super::json_text::{JsonText, Wrong};

/// Bytes of a settings file.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Behind the name of the file as it was before the last change.
const BACKUP: &str = ".before-event-router";

/// A settings file as it was read.
#[derive(Debug, Clone)]
pub(super) struct SettingsFile {
    /// As people name it.
    pub(super) path: PathBuf,
    /// `None` if it is not there.
    pub(super) text: Option<String>,
}

impl SettingsFile {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read, or is no text.
    pub(super) fn read(path: PathBuf) -> anyhow::Result<Self> {
        let text = match fs::metadata(&path) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => None,
            Err(error) => return Err(error).with_context(|| format!("`{}` cannot be looked at", path.display())),
            Ok(metadata) if metadata.len() > BYTES_MAX => bail!("`{}` has {} bytes: more than {BYTES_MAX} are no settings", path.display(), metadata.len()),
            Ok(_) => Some(fs::read_to_string(&path).with_context(|| format!("`{}` cannot be read", path.display()))?),
        };
        Ok(Self { path, text })
    }

    /// What it says; an empty object where there is no file, or an empty one.
    ///
    /// # Errors
    ///
    /// With file, line and column, where it is no JSON object.
    pub(super) fn json(&self) -> anyhow::Result<JsonText> {
        let text = self.text.as_deref().filter(|text| !text.trim().is_empty()).unwrap_or("{}\n");
        JsonText::parse(text).map_err(|wrong| self.refuse(&wrong))
    }

    /// Something in it is in the way.
    pub(super) fn refuse(&self, wrong: &Wrong) -> anyhow::Error {
        anyhow::anyhow!("{}:{wrong}; the file is left as it is", self.path.display())
    }

    /// Writes `text` in place of what was read; what was there stays beside it. Returns where.
    ///
    /// # Errors
    ///
    /// When somebody has changed it meanwhile, or it cannot be written; it is then as it was.
    pub(super) fn write(&self, text: &str) -> anyhow::Result<Option<PathBuf>> {
        // A link, such as one into a repository of settings, stays one.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if Self::read(path.clone())?.text != self.text {
            bail!("`{}` was changed meanwhile: nothing is written, run it again", self.path.display());
        }
        let mut backup = None;
        if let Some(old) = &self.text {
            let beside = with_suffix(&path, BACKUP);
            replace(&beside, old, mode_of(&path))?;
            backup = Some(beside);
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("the directory `{}` cannot be made", directory.display()))?;
        }
        replace(&path, text, mode_of(&path))?;
        Ok(backup)
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o777)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a file under another name, makes it safe, and gives it its own.
///
/// # Errors
///
/// When it cannot be written.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let unfinished = with_suffix(path, &format!(".{}.new", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&unfinished, path)
    })();
    if written.is_err() {
        // What is unfinished is nobody's.
        let _ = fs::remove_file(&unfinished);
    }
    written.with_context(|| format!("`{}` cannot be written", path.display()))
}

/// The variable, if it is there and not empty.
pub(super) fn variable(name: &str) -> Option<String> {
    ProcessEnvironment.variable(name).ok().flatten().filter(|value| !value.is_empty())
}

/// Claude Code's directory of a user: `CLAUDE_CONFIG_DIR`, else `.claude` at home.
///
/// # Errors
///
/// When nobody says where home is.
pub(super) fn user_directory() -> anyhow::Result<PathBuf> {
    if let Some(directory) = variable("CLAUDE_CONFIG_DIR") {
        return Ok(directory.into());
    }
    variable("HOME").map(|home| Path::new(&home).join(".claude")).context("neither `CLAUDE_CONFIG_DIR` nor `HOME` says where the user's settings are")
}

/// The project that the working directory belongs to: the nearest directory with `.git`, else the working directory itself.
///
/// # Errors
///
/// When the working directory is gone.
pub(super) fn project_directory(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let cwd = std::env::current_dir().context("the working directory is gone")?;
    if let Some(named) = named {
        let directory = cwd.join(named);
        anyhow::ensure!(directory.is_dir(), "there is no directory `{}`", directory.display());
        return Ok(directory);
    }
    Ok(cwd.ancestors().find(|directory| directory.join(".git").exists()).unwrap_or(&cwd).to_owned())
}
