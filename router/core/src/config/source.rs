//! The files of a configuration: reading them within limits, and turning byte ranges into places that people can find.
//!
//! What the text means is the business of [`super::tree`]; where the files are looked for, that of [`super::locate`].

use std::{
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

/// In bytes; a longer file is refused.
pub(super) const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The number of a file among [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct FileId(usize);

/// A byte range of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Span {
    pub file: FileId,
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub(super) fn new(file: FileId, range: &Range<usize>) -> Self {
        Self { file, start: range.start, end: range.end }
    }
}

/// Where something stands, as people count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// As it was given or found, relative to the working directory where it lies below it.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line of the last character.
    pub end_line: usize,
    /// One behind the last character, in characters, from 1.
    pub end_column: usize,
    #[serde(skip)]
    pub(super) span: Span,
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One file, read.
#[derive(Debug)]
pub(super) struct Source {
    pub name: Arc<str>,
    /// Absolute; relative paths in the file are relative to it.
    pub base_dir: PathBuf,
    pub text: String,
    /// The same length as `text`, with secrets that stand in it blotted out: the only form that is ever printed.
    pub shown: String,
    line_starts: Vec<usize>,
}

/// All files of one configuration.
#[derive(Debug, Default)]
pub(super) struct Sources {
    files: Vec<Source>,
}

impl Sources {
    pub(super) fn add(&mut self, name: &str, base_dir: &Path, text: String) -> FileId {
        let line_starts = std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1)).collect();
        self.files.push(Source { name: name.into(), base_dir: base_dir.to_owned(), shown: text.clone(), text, line_starts });
        FileId(self.files.len() - 1)
    }

    pub(super) fn file(&self, id: FileId) -> &Source {
        &self.files[id.0]
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.iter().map(|file| &file.name)
    }

    /// Blots out what stands at `span`, byte for byte, so that all other places stay right.
    pub(super) fn blot(&mut self, span: Span) {
        let file = &mut self.files[span.file.0];
        if let Some(text) = file.shown.get(span.start..span.end) {
            let blotted: String = text.bytes().map(|byte| if byte == b'\n' { '\n' } else { '*' }).collect();
            file.shown.replace_range(span.start..span.end, &blotted);
        }
    }

    pub(super) fn place(&self, span: Span) -> Place {
        let file = self.file(span.file);
        let (line, column) = file.position(span.start);
        let (end_line, end_column) = file.position(span.end.max(span.start));
        Place { file: file.name.clone(), line, column, end_line, end_column, span }
    }
}

impl Source {
    /// Line and column of a byte, both from 1.
    fn position(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= at);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..at).map_or(at - start, |text| text.chars().count()) + 1;
        (line, column)
    }

    /// The bytes of a line, without its line break. `line` counts from 1.
    pub(super) fn line_range(&self, line: usize) -> Range<usize> {
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        start..end.max(start)
    }
}

/// Reads a text file of at most `bytes_max` bytes.
///
/// # Errors
///
/// A lowercase fragment that fits behind the file's name.
pub(super) fn read_text(path: &Path, bytes_max: u64) -> Result<String, String> {
    let file = File::open(path).map_err(|error| reason(&error))?;
    let metadata = file.metadata().map_err(|error| reason(&error))?;
    if metadata.is_dir() {
        return Err("is a directory".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| reason(&error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("is longer than {bytes_max} bytes, the limit"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        format!("is no UTF-8 text (line {})", good.iter().filter(|byte| **byte == b'\n').count() + 1)
    })
}

/// Why something cannot be read: a lowercase fragment that fits behind its name.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => "may not be read by this user: permission denied".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_not_bytes() {
        let mut sources = Sources::default();
        let file = sources.add("a.toml", Path::new("/x"), "# ä\nnäme = 1\n".to_owned());
        let at = "# ä\nnä".len();
        let place = sources.place(Span { file, start: at, end: at + 2 });
        assert_eq!((place.line, place.column, place.end_column), (2, 3, 5));
        let end = sources.place(Span { file, start: 999, end: 1_000 });
        assert_eq!((end.line, end.column), (3, 1));
    }

    #[test]
    fn blotting_keeps_all_other_places() {
        let mut sources = Sources::default();
        let file = sources.add("a.toml", Path::new("/x"), "token = \"sä\"\nx = 1\n".to_owned());
        sources.blot(Span { file, start: 9, end: 12 });
        assert_eq!(sources.file(file).shown, "token = \"***\"\nx = 1\n");
        assert_eq!(sources.file(file).text.len(), sources.file(file).shown.len());
    }

    #[test]
    fn a_file_above_the_limit_or_not_text_is_refused() {
        let dir = std::env::temp_dir().join(format!("router-core-source-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary directory");
        std::fs::write(dir.join("long"), "12345").expect("written");
        std::fs::write(dir.join("binary"), b"a\n\xff").expect("written");
        assert_eq!(read_text(&dir.join("long"), 5).as_deref(), Ok("12345"));
        assert_eq!(read_text(&dir.join("long"), 4), Err("is longer than 4 bytes, the limit".to_owned()));
        assert_eq!(read_text(&dir.join("binary"), 10), Err("is no UTF-8 text (line 2)".to_owned()));
        assert_eq!(read_text(&dir.join("none"), 10), Err("does not exist".to_owned()));
        assert_eq!(read_text(&dir, 10), Err("is a directory".to_owned()));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
