//! How far a file of lines was read: [`Cursor`]. It goes on where it stood, leaves a last line that is still being written, and begins
//! anew in a file that was replaced.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::fingerprint::bytes_fingerprint;

/// A longer line is passed over: what is counted stands in lines of a few thousand bytes, and the hook must stay small.
pub(crate) const LINE_BYTES_MAX: u64 = 4 << 20;
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes before the offset by which a file is known again.
const MARK_BYTES_MAX: usize = 64;

/// A place in a file.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Cursor {
    offset: u64,
    /// The end of a line that is too long was not reached yet.
    #[serde(default, skip_serializing_if = "is_false")]
    skipping: bool,
    /// Of the bytes before the offset.
    mark: u64,
    mark_bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Cursor {
    /// Hands lines to `each` until about `bytes_max` were read (always one line at least) and takes what was read off it. `each` says
    /// whether it could make anything of the line; a last line without its end counts as read only then. `Ok(true)`: that was the end.
    pub(crate) fn read_on(&mut self, path: &Path, bytes_max: &mut u64, mut each: impl FnMut(Found<'_>) -> bool) -> io::Result<bool> {
        // Of a pipe even the opening may never end.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let mut file = File::open(path)?;
        if !self.is_same_file(&mut file)? {
            *self = Self::default();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? as u64;
            let has_end = line.last() == Some(&b'\n');
            if read == 0 {
                return Ok(true);
            }
            if !has_end && read < LINE_BYTES_MAX {
                // An object that was cut short is never valid, so one that is can be taken before its end is written.
                if self.skipping || each(Found::Unended(&line)) {
                    self.pass(&line);
                }
                return Ok(true);
            }
            match (self.skipping, has_end) {
                (false, true) => {
                    each(Found::Line(&line[..line.len() - 1]));
                }
                (false, false) => {
                    self.skipping = true;
                    each(Found::TooLong);
                }
                (true, ends) => self.skipping = !ends,
            }
            self.pass(&line);
            *bytes_max = bytes_max.saturating_sub(read);
            if *bytes_max == 0 {
                return Ok(reader.fill_buf()?.is_empty());
            }
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        let tail = &bytes[bytes.len().saturating_sub(MARK_BYTES_MAX)..];
        self.mark = bytes_fingerprint(tail.iter().copied());
        self.mark_bytes = tail.len() as u64;
    }

    fn is_same_file(&self, file: &mut File) -> io::Result<bool> {
        let Some(from) = self.offset.checked_sub(self.mark_bytes) else { return Ok(false) };
        if file.metadata()?.len() < self.offset {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.take(self.mark_bytes.min(MARK_BYTES_MAX as u64)).read_to_end(&mut tail)?;
        Ok(self.offset == 0 || bytes_fingerprint(tail) == self.mark)
    }
}

/// What stands at a place.
pub(crate) enum Found<'l> {
    /// A line, without its end.
    Line(&'l [u8]),
    /// The last line, which has no end yet.
    Unended(&'l [u8]),
    /// A line that is longer than is read.
    TooLong,
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(cursor: &mut Cursor, path: &Path, mut bytes_max: u64) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        let is_end = cursor
            .read_on(path, &mut bytes_max, |found| {
                let (line, is_known) = match found {
                    Found::Line(line) => (line.to_vec(), true),
                    Found::Unended(line) => (line.to_vec(), line.ends_with(b"}")),
                    Found::TooLong => (b"too long".to_vec(), false),
                };
                if is_known || line == b"too long" {
                    lines.push(String::from_utf8(line).unwrap());
                }
                is_known
            })
            .unwrap();
        (lines, is_end)
    }

    #[test]
    fn a_last_line_that_is_cut_is_left_until_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        fs::write(&path, "{1}\n{2").unwrap();
        let mut cursor = Cursor::default();
        assert_eq!(read(&mut cursor, &path, 1_000), (vec!["{1}".to_owned()], true));
        assert_eq!(read(&mut cursor, &path, 1_000), (vec![], true));
        fs::write(&path, "{1}\n{2}").unwrap();
        assert_eq!(read(&mut cursor, &path, 1_000), (vec!["{2}".to_owned()], true));
        fs::write(&path, "{1}\n{2}\n{3}\n").unwrap();
        assert_eq!(read(&mut cursor, &path, 1_000), (vec![String::new(), "{3}".to_owned()], true));
    }

    #[test]
    fn a_limit_of_bytes_stops_between_lines_and_every_call_comes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        fs::write(&path, "{1}\n{2}\n{3}\n").unwrap();
        let mut cursor = Cursor::default();
        assert_eq!(read(&mut cursor, &path, 1), (vec!["{1}".to_owned()], false));
        let text = serde_json::to_string(&cursor).unwrap();
        let mut cursor: Cursor = serde_json::from_str(&text).unwrap();
        assert_eq!(read(&mut cursor, &path, 5), (vec!["{2}".to_owned(), "{3}".to_owned()], true));
    }

    #[test]
    fn a_file_that_was_replaced_or_cut_is_read_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        for other in ["{9}\n", "{8}\n{9}\n{10}\n"] {
            fs::write(&path, "{1}\n{2}\n").unwrap();
            let mut cursor = Cursor::default();
            read(&mut cursor, &path, 1_000);
            fs::write(&path, other).unwrap();
            assert_eq!(read(&mut cursor, &path, 1_000).0.join("\n") + "\n", other);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_whatever_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"{1}\n").unwrap();
        file.write_all(&vec![b'x'; 2 * LINE_BYTES_MAX as usize + 5]).unwrap();
        let mut cursor = Cursor::default();
        assert_eq!(read(&mut cursor, &path, u64::MAX), (vec!["{1}".to_owned(), "too long".to_owned()], true));
        file.write_all(b"x\n{2}\n").unwrap();
        assert_eq!(read(&mut cursor, &path, u64::MAX), (vec!["{2}".to_owned()], true));
    }
}
