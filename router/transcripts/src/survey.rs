//! Every session below a directory, read at once: [`survey`]. For an import; [`crate::Tally`] follows a single one.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use crate::{
    Prices, Slot, SlotUsage, Totals,
    cursor::{Cursor, Found},
    dedupe::{Message, Messages, Models, Sums},
    files::{self, Met},
    fingerprint::Fingerprints,
    line::Line,
    work::Work,
};

/// How deep below the directory transcripts are looked for.
const DEPTH_MAX: usize = 8;
/// Answers that may still come again in another form: all of a month, for most people.
const OPEN_MAX: usize = 200_000;
/// Turns and uses of tools that are known again when they come once more.
const MET_MAX: usize = 2_000_000;
/// Of a transcript's beginning, for its first time.
const OPENING_BYTES: u64 = 256 << 10;

/// What a survey reads at most.
#[derive(Debug, Clone, Copy)]
pub struct SurveyLimits {
    /// Transcripts that were not written to since then are left out.
    pub since: Option<Timestamp>,
    /// Transcripts.
    pub files_max: usize,
}

impl Default for SurveyLimits {
    fn default() -> Self {
        Self { since: None, files_max: 50_000 }
    }
}

/// What lies below a directory.
#[derive(Debug, Default)]
pub struct Survey {
    /// The session that began first comes first.
    pub sessions: Vec<SessionTranscript>,
    /// Transcripts that were read, those of subagents included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Transcripts that are older than what was asked for.
    pub older: u64,
    /// Lines that were not understood, or were too long to read.
    pub lines_skipped: u64,
    /// Files that could not be read, and why; at most 100.
    pub unreadable: Vec<(PathBuf, String)>,
    /// More transcripts were there than are read at once.
    pub is_cut: bool,
}

/// One session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionTranscript {
    /// Its id.
    pub session_id: String,
    /// Its own transcript, or where only one of a subagent is left, that one.
    pub path: PathBuf,
    /// What was used when; answers that an earlier session has already are not among it.
    pub usage: Vec<SlotUsage>,
    /// How many turns began when.
    pub turns: BTreeMap<Slot, u64>,
    work: Work,
}

impl SessionTranscript {
    /// What it comes to.
    #[must_use]
    pub fn totals(&self, prices: &Prices) -> Totals {
        let mut totals = Totals::of(self.usage.iter().cloned(), prices).with(&self.work);
        totals.session_id = Some(self.session_id.clone());
        totals
    }
}

struct Candidate {
    path: PathBuf,
    session_id: String,
    is_subagent: bool,
    /// It begins with lines of another session.
    is_fork: bool,
    began_at: Option<Timestamp>,
}

/// Reads every transcript below `root`, which may be one itself, or Claude Code's own directory.
///
/// An answer that several transcripts have counts for the session that began first.
///
/// # Errors
///
/// When `root` cannot be read; single files that cannot are told in the answer.
pub fn survey(root: &Path, limits: SurveyLimits) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let mut candidates = candidates(root, limits, &mut survey)?;
    // A fork repeats what its parent has, with its times; the parent goes first.
    candidates.sort_by(|a, b| (a.began_at, a.is_fork, a.is_subagent, &a.path).cmp(&(b.began_at, b.is_fork, b.is_subagent, &b.path)));

    let mut reading = Reading::default();
    let mut messages = Messages::new(OPEN_MAX, Fingerprints::default());
    let mut paths: Vec<(PathBuf, bool)> = Vec::new();
    for candidate in candidates {
        let owner = match reading.owners.get(&candidate.session_id) {
            Some(owner) => *owner,
            None => {
                let owner = u32::try_from(reading.works.len()).unwrap_or(u32::MAX);
                reading.owners.insert(candidate.session_id.clone(), owner);
                reading.works.push((candidate.session_id.clone(), Work::default()));
                reading.turns.push(BTreeMap::new());
                paths.push((candidate.path.clone(), candidate.is_subagent));
                owner
            }
        };
        let path = &mut paths[owner as usize];
        if path.1 && !candidate.is_subagent {
            *path = (candidate.path.clone(), false);
        }
        match reading.read(&candidate, owner, &mut messages) {
            Ok(bytes) => {
                survey.files += 1;
                survey.bytes += bytes;
            }
            Err(error) => survey.cannot_read(&candidate.path, &error),
        }
    }
    survey.lines_skipped = reading.lines_skipped;
    messages.open().for_each(|message| reading.sums.add(message));
    let mut usage: HashMap<u32, Vec<SlotUsage>> = HashMap::new();
    for (kind, sum) in &reading.sums.0 {
        usage.entry(kind.owner).or_default().push(sum.usage(kind, &reading.models));
    }
    for (owner, (((session_id, work), turns), (path, _))) in reading.works.into_iter().zip(reading.turns).zip(paths).enumerate() {
        let usage = u32::try_from(owner).ok().and_then(|owner| usage.remove(&owner)).unwrap_or_default();
        // What has neither a time nor an answer is no session.
        if work.started_at.is_some() {
            survey.sessions.push(SessionTranscript { session_id, path, usage, turns, work });
        }
    }
    survey.sessions.sort_by(|a, b| (a.work.started_at, &a.session_id).cmp(&(b.work.started_at, &b.session_id)));
    Ok(survey)
}

impl Survey {
    fn cannot_read(&mut self, path: &Path, error: &io::Error) {
        if self.unreadable.len() < 100 {
            self.unreadable.push((path.to_owned(), error.to_string()));
        }
    }
}

#[derive(Default)]
struct Reading {
    models: Models,
    sums: Sums,
    owners: BTreeMap<String, u32>,
    works: Vec<(String, Work)>,
    turns: Vec<BTreeMap<Slot, u64>>,
    /// Turns and uses of tools, and whose they are.
    met: HashMap<u64, u32>,
    lines_skipped: u64,
}

impl Reading {
    fn read(&mut self, candidate: &Candidate, owner: u32, messages: &mut Messages) -> io::Result<u64> {
        let bytes = fs::metadata(&candidate.path)?.len();
        let mut cursor = Cursor::default();
        cursor.read_on(&candidate.path, &mut u64::MAX.clone(), |found| {
            let (bytes, is_cut) = match found {
                Found::Line(bytes) => (bytes, false),
                Found::Unended(bytes) => (bytes, true),
                Found::TooLong => {
                    self.lines_skipped += 1;
                    return false;
                }
            };
            match Line::parse(bytes) {
                Some(line) => self.add(line.within(candidate.is_subagent), owner, messages),
                None if is_cut || bytes.iter().all(u8::is_ascii_whitespace) => {}
                None => self.lines_skipped += 1,
            }
            true
        })?;
        Ok(bytes)
    }

    fn add(&mut self, mut line: Line, owner: u32, messages: &mut Messages) {
        let mut copied_from = None;
        let met = &mut self.met;
        let turns_before = self.works[owner as usize].1.turns;
        self.works[owner as usize].1.add(&line, |number| match met.get(&number) {
            Some(first) => {
                copied_from = Some(*first).filter(|first| *first != owner);
                false
            }
            None => {
                if met.len() < MET_MAX {
                    met.insert(number, owner);
                }
                true
            }
        });
        let turns = self.works[owner as usize].1.turns - turns_before;
        if let Some(at) = line.at.filter(|_| turns > 0) {
            *self.turns[owner as usize].entry(Slot::of(at)).or_default() += turns;
        }
        if let Some(parent) = copied_from
            && self.works[owner as usize].1.parent.is_none()
        {
            self.works[owner as usize].1.parent = Some(self.works[parent as usize].0.clone());
        }
        let slot = line.at.map(Slot::of);
        if let Some(settled) = Message::of(&mut line, slot, owner, &mut self.models).and_then(|message| messages.add(message)) {
            self.sums.add(&settled);
        }
    }
}

fn candidates(root: &Path, limits: SurveyLimits, survey: &mut Survey) -> io::Result<Vec<Candidate>> {
    let mut paths = Vec::new();
    if fs::metadata(root)?.is_file() {
        paths.push(root.to_owned());
        // Its subagents belong to it.
        let beside = root.with_extension("");
        if beside != root && beside.is_dir() {
            find(&beside, limits, &mut paths, survey);
        }
    } else {
        let projects = root.join("projects");
        let root = if projects.is_dir() { projects } else { root.to_owned() };
        fs::read_dir(&root)?;
        find(&root, limits, &mut paths, survey);
    }
    let mut candidates = Vec::new();
    for path in paths {
        let (began_at, said, is_fork) = match opening(&path) {
            Ok(opening) => opening,
            Err(error) => {
                survey.cannot_read(&path, &error);
                continue;
            }
        };
        if let Some((session_id, is_subagent)) = session_of(&path, said) {
            candidates.push(Candidate { path, session_id, is_subagent, is_fork, began_at });
        }
    }
    Ok(candidates)
}

fn find(directory: &Path, limits: SurveyLimits, paths: &mut Vec<PathBuf>, survey: &mut Survey) {
    files::below(directory, DEPTH_MAX, &mut |met| {
        match met {
            Met::Unreadable(directory, error) => survey.cannot_read(directory, &error),
            Met::Transcript(entry) => {
                let written_at = entry.metadata().ok().and_then(|metadata| Timestamp::try_from(metadata.modified().ok()?).ok());
                if limits.since.is_some_and(|since| written_at.is_some_and(|at| at < since)) {
                    survey.older += 1;
                } else if paths.len() < limits.files_max {
                    paths.push(entry.path());
                } else {
                    survey.is_cut = true;
                }
            }
        }
        true
    });
}

/// The first time and the session that a transcript's lines name, and whether its beginning was copied from another.
fn opening(path: &Path) -> io::Result<(Option<Timestamp>, Option<String>, bool)> {
    let (mut began_at, mut session_id, mut is_fork) = (None, None, false);
    Cursor::default().read_on(path, &mut OPENING_BYTES.clone(), |found| {
        if let (Found::Line(bytes) | Found::Unended(bytes), true) = (found, began_at.is_none() || session_id.is_none())
            && let Some(line) = Line::parse(bytes)
        {
            began_at = began_at.or(line.at);
            session_id = session_id.take().or(line.session_id);
            is_fork |= line.is_forked;
        }
        true
    })?;
    Ok((began_at, session_id, is_fork))
}

/// Whose transcript it is, and whether it is a subagent's. Of a session's own file the name is its id; a subagent's lies in a directory
/// with that name, or in older versions beside it.
fn session_of(path: &Path, said: Option<String>) -> Option<(String, bool)> {
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    let above: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if let Some(place) = above.iter().rposition(|part| part == "subagents").filter(|place| *place > 0) {
        return Some((above[place - 1].clone(), true));
    }
    if stem.starts_with("agent-") {
        return Some((said.unwrap_or(stem), true));
    }
    let is_uuid = stem.len() == 36 && stem.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    Some((if is_uuid { stem } else { said.unwrap_or(stem) }, false))
}
