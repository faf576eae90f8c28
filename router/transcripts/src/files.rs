//! Transcripts below a directory: [`below`]. Links are not followed, so that no loop is walked and nothing is read twice, and what is no
//! file (a pipe, which may never end) is none.

use std::{
    fs::{self, DirEntry},
    io,
    path::Path,
};

/// What was met on the way.
pub(crate) enum Met<'d> {
    /// A transcript.
    Transcript(&'d DirEntry),
    /// A directory that cannot be read.
    Unreadable(&'d Path, io::Error),
}

/// Hands each transcript below `directory`, at most `depth` directories deep, to `each`, until that says no; false then.
pub(crate) fn below(directory: &Path, depth: usize, each: &mut impl FnMut(Met<'_>) -> bool) -> bool {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return each(Met::Unreadable(directory, error)),
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let goes_on = if kind.is_dir() {
            depth == 0 || below(&entry.path(), depth - 1, each)
        } else if kind.is_file() && entry.path().extension().is_some_and(|extension| extension == "jsonl") {
            each(Met::Transcript(&entry))
        } else {
            true
        };
        if !goes_on {
            return false;
        }
    }
    true
}
