//! What only the transcript knows: tokens, their price, and thoughts. Read from where the last call stopped.
//!
//! Until a session's transcript is read to its end its numbers are null: a part of a sum is no sum. At the end of a session they are filled
//! in by whoever takes the event from the spool (`unread.rs`).

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use router_transcripts::{Prices, Tally};
use serde_json::Value;

use crate::{
    event::Told,
    events::{Usage, thinking},
    redact::Redaction,
    session::Session,
    whole_file,
};

/// Bytes of what is known of a transcript.
const TALLY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes of a transcript between two looks at the time.
pub(crate) const PART_BYTES: u64 = 1024 * 1024;

/// When a call stops reading, from its begin: what is left is for the next one.
const READING: Duration = Duration::from_millis(200);

/// The same at the end of a session, where Claude Code kills a hook after a second and a half. Whoever takes the event from the spool goes
/// on from there (`unread.rs`).
pub(crate) const READING_AT_END: Duration = Duration::from_millis(600);

/// Bytes of a transcript in which thoughts are looked for at the end of one turn.
const THOUGHTS_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Thoughts that one turn tells of.
const THOUGHTS_MAX: usize = 20;

/// Bytes of one that are looked at.
const THOUGHT_BYTES_MAX: usize = 36_000;

/// What came of reading a transcript.
#[derive(Debug, PartialEq)]
pub(crate) enum Reading {
    /// It was read to its end.
    Known(Box<Usage>),
    /// It goes on. Whether the next one can go on where this one stopped.
    Unfinished { is_kept: bool },
    /// There is none, or it cannot be read.
    Missing,
}

impl Reading {
    /// What is known; nothing of a part, since a part of a sum is no sum.
    pub(crate) fn usage(self) -> Usage {
        match self {
            Self::Known(usage) => *usage,
            Self::Unfinished { .. } | Self::Missing => Usage::default(),
        }
    }
}

/// Reads until the time for it is over.
pub(crate) fn read_in_time(known: &Path, transcript: &Path, prices: Option<&Path>, is_end: bool, elapsed: &dyn Fn() -> Duration) -> Reading {
    let limit = if is_end { READING_AT_END } else { READING };
    read(known, transcript, prices, &mut || elapsed() < limit)
}

/// Reads on, as long as `go_on` says so after each part. `known` is the file in which a call leaves for the next one what it read.
pub(crate) fn read(known: &Path, transcript: &Path, prices: Option<&Path>, go_on: &mut dyn FnMut() -> bool) -> Reading {
    let before = whole_file::read(known, TALLY_BYTES_MAX).ok().flatten();
    let mut tally: Tally = before.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let is_read = loop {
        match tally.read_on(transcript, PART_BYTES) {
            Ok(true) => break true,
            Ok(false) if go_on() => {}
            Ok(false) => break false,
            Err(_) => return Reading::Missing,
        }
    };
    // If it cannot be kept, the next call begins anew.
    let is_kept = serde_json::to_vec(&tally).is_ok_and(|bytes| before.as_ref() == Some(&bytes) || whole_file::replace(known, &bytes).is_ok());
    if !is_read {
        return Reading::Unfinished { is_kept };
    }
    // Prices that cannot be read leave those that are built in.
    let prices = prices.and_then(|path| Prices::with_overrides(path).ok()).unwrap_or_else(Prices::builtin);
    let totals = tally.totals(&prices);
    Reading::Known(Box::new(Usage {
        total_tokens: Some(totals.tokens.total()),
        total_cost_usd: totals.cost_usd,
        model: totals.model,
        models: totals.models,
        unknown_models: totals.unknown_models,
        prices_as_of: Some(totals.prices_as_of),
    }))
}

/// Where a transcript is: hooks may write a home directory as `~`.
pub(crate) fn resolved(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// The thoughts that were written since the last look. A transcript of which nothing was looked at yet begins near its end.
pub(crate) fn thoughts(session: &mut Session, home: Option<&Path>, redaction: &Redaction) -> Vec<Told> {
    let mut told = Vec::new();
    let Some(path) = session.transcript_path.as_deref().map(|path| resolved(path, home)) else { return told };
    let Ok(bytes) = read_on(&path, &mut session.thoughts_until) else { return told };
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| line.windows(10).any(|window| window == b"\"thinking\"")) {
        let Ok(line) = serde_json::from_slice::<Value>(line) else { continue };
        let Some(blocks) = line["message"]["content"].as_array().filter(|_| line["isSidechain"] != true) else { continue };
        for text in blocks.iter().filter(|block| block["type"] == "thinking").filter_map(|block| block["thinking"].as_str()) {
            if told.len() < THOUGHTS_MAX && !text.is_empty() {
                let text = &text[..text.floor_char_boundary(THOUGHT_BYTES_MAX)];
                told.push(thinking(session, text, line["uuid"].as_str().unwrap_or_default(), &redaction.text(text)));
            }
        }
    }
    told
}

/// Whole lines from `until` on, which moves behind them.
fn read_on(path: &Path, until: &mut u64) -> std::io::Result<Vec<u8>> {
    // Of a pipe even the opening may never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A transcript that is shorter than it was is another one.
    let from = if *until > length { 0 } else { *until }.max(length.saturating_sub(THOUGHTS_BYTES_MAX));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(THOUGHTS_BYTES_MAX).read_to_end(&mut bytes)?;
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
    *until = from + bytes.len() as u64;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn thoughts_are_told_once_without_secrets_and_a_cut_line_is_left_for_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.jsonl");
        let line = |text: &str| json!({ "uuid": text, "message": { "content": [{ "type": "thinking", "thinking": text }, { "type": "text" }] } }).to_string();
        let token = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0");
        let (first, second) = (line(&format!("use {token}")), line("second"));
        std::fs::write(&path, format!("{first}\nno json \"thinking\"\n{}", &second[..20])).unwrap();
        let mut session = Session { transcript_path: Some(path.to_str().unwrap().to_owned()), ..Session::new("s") };
        let redaction = Redaction::new(&[], [7; 32]);
        let told = thoughts(&mut session, None, &redaction);
        assert_eq!(told.len(), 1);
        assert!(!serde_json::to_string(&told[0].payload).unwrap().contains(&token));
        std::fs::write(&path, format!("{first}\nno json \"thinking\"\n{second}\n")).unwrap();
        assert_eq!(thoughts(&mut session, None, &redaction).len(), 1);
        assert!(thoughts(&mut session, None, &redaction).is_empty());
    }

    fn answer(id: &str) -> String {
        json!({ "type": "assistant", "requestId": format!("r{id}"), "sessionId": "s", "timestamp": "2026-01-02T03:04:05Z",
            "message": { "id": id, "model": "claude-sonnet-4-5", "role": "assistant", "usage": { "input_tokens": 1_000_000, "output_tokens": 0 } } })
        .to_string()
    }

    #[test]
    fn tokens_and_cost_go_on_where_the_last_call_stopped_and_are_null_until_the_end_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        let (path, known) = (directory.path().join("t.jsonl"), directory.path().join(".s.tally"));
        let fast = || Duration::ZERO;
        let usage = |known: &Path, path: &Path, prices: Option<&Path>, is_end, elapsed: &dyn Fn() -> Duration| {
            read_in_time(known, path, prices, is_end, elapsed).usage()
        };
        assert_eq!(usage(&known, &path, None, false, &fast), Usage::default(), "there is no transcript");
        std::fs::write(&path, format!("{}\n", answer("m1"))).unwrap();
        let first = usage(&known, &path, None, false, &fast);
        assert_eq!((first.total_tokens, first.total_cost_usd, first.model.as_deref()), (Some(1_000_000), Some(3.0), Some("claude-sonnet-4-5")));
        let filler = format!("{{\"type\":\"user\",\"x\":\"{}\"}}\n", "x".repeat(3_000_000)).repeat(3);
        std::fs::write(&path, format!("{}\n{filler}{}\n", answer("m1"), answer("m2"))).unwrap();
        assert_eq!(usage(&known, &path, None, true, &|| READING_AT_END), Usage::default(), "the time is over before the end is reached");
        assert_eq!(usage(&known, &path, None, true, &fast).total_tokens, Some(2_000_000));
    }

    #[test]
    fn a_transcript_that_is_not_there_has_no_thoughts() {
        let mut session = Session { transcript_path: Some("/nowhere/t.jsonl".into()), ..Session::new("s") };
        assert!(thoughts(&mut session, None, &Redaction::new(&[], [7; 32])).is_empty());
    }
}
