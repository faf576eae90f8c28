//! What only the transcript knows: tokens, their price, and thoughts. Read from where the last call stopped.
//!
//! The reader of tokens and prices is `router-transcripts`; until a session's transcript is read to its end its numbers are null.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    event::Told,
    events::{Usage, thinking},
    redact::Redaction,
    session::Session,
    settings::Settings,
};

/// Bytes of a transcript in which thoughts are looked for at the end of one turn.
const THOUGHTS_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Thoughts that one turn tells of.
const THOUGHTS_MAX: usize = 20;

/// Bytes of one that are looked at.
const THOUGHT_BYTES_MAX: usize = 36_000;

/// What the session cost so far; empty while that is not known.
pub(crate) fn usage(_session: &mut Session, _settings: &Settings, _is_end: bool, _elapsed: &dyn Fn() -> Duration) -> Usage {
    Usage::default()
}

/// Where the transcript is; hooks may write a home directory as `~`.
pub(crate) fn path_of(session: &Session, home: Option<&Path>) -> Option<PathBuf> {
    let path = session.transcript_path.as_deref()?;
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(PathBuf::from(path)),
    }
}

/// The thoughts that were written since the last look. A transcript of which nothing was looked at yet begins near its end.
pub(crate) fn thoughts(session: &mut Session, redaction: &Redaction) -> Vec<Told> {
    let mut told = Vec::new();
    let Some(path) = path_of(session, None) else { return told };
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
        let told = thoughts(&mut session, &redaction);
        assert_eq!(told.len(), 1);
        assert!(!serde_json::to_string(&told[0].payload).unwrap().contains(&token));
        std::fs::write(&path, format!("{first}\nno json \"thinking\"\n{second}\n")).unwrap();
        assert_eq!(thoughts(&mut session, &redaction).len(), 1);
        assert!(thoughts(&mut session, &redaction).is_empty());
    }

    #[test]
    fn a_transcript_that_is_not_there_has_no_thoughts() {
        let mut session = Session { transcript_path: Some("/nowhere/t.jsonl".into()), ..Session::new("s") };
        assert!(thoughts(&mut session, &Redaction::new(&[], [7; 32])).is_empty());
    }
}
