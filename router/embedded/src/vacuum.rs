//! Gives the space of removed rows back to the file system.

use std::{fs, path::Path, sync::Arc};

use router_api::Clock;
use rusqlite::Connection;

use crate::{
    EmbeddedOptions, UpkeepError,
    opening::open_alone,
    upkeep::{has_room, must_be_there},
};

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vacuumed {
    /// Of the file, before.
    pub bytes_before: u64,
    /// Of the file, after.
    pub bytes_after: u64,
}

/// Gives free pages back; `is_full` writes the whole file anew, which also closes the gaps inside pages and takes as much room again
/// while it lasts.
///
/// # Errors
///
/// As when the store is opened, and when there is no room.
pub fn vacuum(options: EmbeddedOptions, clock: Arc<dyn Clock>, is_full: bool) -> Result<Vacuumed, UpkeepError> {
    let path = options.path.clone();
    must_be_there(&path)?;
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let bytes_before = bytes(&path);
    if is_full {
        // Written into the log first, and built in a temporary file before that.
        has_room(&path, bytes_before.saturating_mul(2))?;
    }
    open_alone(&options, clock, |conn| if is_full { conn.execute_batch("VACUUM") } else { give_back(conn) })?;
    Ok(Vacuumed { bytes_before, bytes_after: bytes(&path) })
}

fn give_back(conn: &Connection) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("PRAGMA incremental_vacuum")?;
    let mut steps = statement.query([])?;
    while steps.next()?.is_some() {}
    Ok(())
}
