//! What is known of one session's transcript so far, and goes on where it stopped: [`Tally`].

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Prices, Totals,
    cursor::{Cursor, Found},
    dedupe::{Message, Messages, Models, Sums},
    files::{self, Met},
    fingerprint::Fingerprints,
    line::Line,
    work::Work,
};

/// Answers that may still come again in another form. The lines of one answer stand together, so that this is plenty.
const OPEN_MAX: usize = 512;
/// Transcripts of subagents of one session.
const SUBAGENTS_MAX: usize = 2_000;
/// How deep below the session's directory they are looked for.
const DEPTH_MAX: usize = 4;

/// What is known of one transcript so far: serialisable, so that the next call goes on where this one stopped.
///
/// What it remembers to know copies again is bounded: the newest 512 answers in full, fingerprints of 65,536 earlier ones, and of as many
/// turns and uses of tools. A copy of something older would count again; one that comes later than 512 answers after its original counts
/// nothing, even if it says more tokens. Stored as JSON it takes some 100 KB, and 2 MB at the very most.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// By the file's name: the transcript itself, then those of subagents, relative to its directory.
    cursors: BTreeMap<String, Cursor>,
    models: Models,
    open: Vec<Message>,
    settled: Fingerprints,
    sums: Sums,
    /// Turns and uses of tools.
    met: Fingerprints,
    work: Work,
    lines_skipped: u64,
}

impl Tally {
    /// Reads on from the stored offset, at most `bytes_max` and always one line at least (a cut last line is left for the next time), in
    /// the transcript and then in those of its subagents. `Ok(true)`: the end was reached.
    ///
    /// # Errors
    ///
    /// When a file cannot be read; what was read before is kept. A transcript that is not there is [`io::ErrorKind::NotFound`].
    pub fn read_on(&mut self, transcript: &Path, bytes_max: u64) -> io::Result<bool> {
        let mut bytes_left = bytes_max.max(1);
        let mut messages = self.messages();
        let mut result = self.read_file(transcript, String::new(), &mut bytes_left, &mut messages);
        if let Ok(true) = result {
            for (name, path) in subagents(transcript) {
                if !self.cursors.contains_key(&name) && self.cursors.len() > SUBAGENTS_MAX {
                    self.work.is_cut = true;
                    break;
                }
                if bytes_left == 0 {
                    result = Ok(false);
                    break;
                }
                result = match self.read_file(&path, name, &mut bytes_left, &mut messages) {
                    // It went between the look and the reading.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
                    read => read,
                };
                if !matches!(result, Ok(true)) {
                    break;
                }
            }
        }
        (self.open, self.settled) = messages.into_parts();
        result
    }

    /// What was read so far comes to.
    #[must_use]
    pub fn totals(&self, prices: &Prices) -> Totals {
        let mut sums = self.sums.clone();
        self.open.iter().for_each(|message| sums.add(message));
        let mut totals = Totals::of(sums.0.iter().map(|(kind, sum)| sum.usage(kind, &self.models)), prices).with(&self.work);
        totals.lines_skipped = self.lines_skipped;
        totals
    }

    fn messages(&mut self) -> Messages {
        let mut messages = Messages::new(OPEN_MAX, std::mem::take(&mut self.settled));
        for message in std::mem::take(&mut self.open) {
            if let Some(settled) = messages.add(message) {
                self.sums.add(&settled);
            }
        }
        messages
    }

    fn read_file(&mut self, path: &Path, name: String, bytes_left: &mut u64, messages: &mut Messages) -> io::Result<bool> {
        let is_subagent = !name.is_empty();
        let mut cursor = self.cursors.get(&name).cloned().unwrap_or_default();
        let result = cursor.read_on(path, bytes_left, |found| match found {
            Found::Line(bytes) => {
                let line = Line::parse(bytes);
                if line.is_none() && !bytes.iter().all(u8::is_ascii_whitespace) {
                    self.lines_skipped += 1;
                }
                line.is_some_and(|line| self.add(line.within(is_subagent), messages))
            }
            Found::Unended(bytes) => Line::parse(bytes).is_some_and(|line| self.add(line.within(is_subagent), messages)),
            Found::TooLong => {
                self.lines_skipped += 1;
                false
            }
        });
        self.cursors.insert(name, cursor);
        result
    }

    fn add(&mut self, mut line: Line, messages: &mut Messages) -> bool {
        self.work.add(&line, |number| self.met.add(number));
        // What was copied from the parent was paid for there.
        if !line.is_forked
            && let Some(settled) = Message::of(&mut line, None, 0, &mut self.models).and_then(|message| messages.add(message))
        {
            self.sums.add(&settled);
        }
        true
    }
}

/// The transcripts of a session's subagents lie in a directory beside its own that has its name.
fn subagents(transcript: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let directory = transcript.with_extension("");
    if directory != transcript {
        files::below(&directory, DEPTH_MAX, &mut |met| {
            if let Met::Transcript(entry) = met {
                let path = entry.path();
                let name = path.strip_prefix(&directory).unwrap_or(&path).to_string_lossy().into_owned();
                found.insert(name, path);
            }
            found.len() <= SUBAGENTS_MAX
        });
    }
    found
}
