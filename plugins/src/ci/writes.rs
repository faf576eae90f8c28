//! Which events of a burst are a reason to run: writes of files that are wanted, and commits or pushes.
//!
//! Each dialect says in its own place how a tool ended; what is said nowhere counts as a success.

use std::collections::HashSet;

use router_api::Envelope;
use serde_json::Value;

use super::glob::Glob;
use crate::directory::is_below;

const WRITERS: &[&str] = &["Write", "Edit", "MultiEdit", "NotebookEdit"];

/// Why an event is no reason to run: a sentence fragment.
pub(super) type Reason = String;

/// Is this event a write of a wanted file, as far as the event itself tells? Its file, where it names one.
///
/// An event that names neither tool nor file is taken as the route let it through.
///
/// # Errors
///
/// Why not.
pub(super) fn written<'e>(event: &'e Envelope, paths: &[Glob]) -> Result<Option<&'e str>, Reason> {
    if let Some(tool) = event.tool_name()
        && !WRITERS.iter().any(|writer| writer.eq_ignore_ascii_case(tool))
    {
        return Err(format!("`{}` writes no file", shown(tool)));
    }
    match ending(event) {
        Ending::Failed => return Err("the tool failed, and wrote nothing".to_owned()),
        Ending::Staged => return Err("the write is held for review, and the file as it was".to_owned()),
        Ending::NotYet => return Err("the tool has not run".to_owned()),
        Ending::Done => {}
    }
    let Some(file) = event.file_path().filter(|file| !file.is_empty()) else {
        return if event.tool_name().is_some() { Err("the event names no file".to_owned()) } else { Ok(None) };
    };
    if file.contains('\0') || file.split('/').any(|part| part == "..") {
        return Err(format!("`{}` is no straight path", shown(file)));
    }
    let below = event.working_directory().and_then(|directory| file.strip_prefix(directory.trim_end_matches('/'))?.strip_prefix('/')).unwrap_or(file);
    if !paths.iter().any(|glob| glob.matches(below)) {
        let patterns: Vec<_> = paths.iter().map(|glob| format!("`{}`", glob.as_str())).collect();
        return Err(format!("`{}` is no file of {}", shown(file), patterns.join(", ")));
    }
    Ok(Some(file))
}

/// Does this event tell of a commit or a push?
pub(super) fn is_commit_or_push(event: &Envelope) -> bool {
    let payload = event.payload();
    let lists_commits = payload["git_commits"].as_array().is_some_and(|commits| !commits.is_empty());
    let did = results(payload).any(|result| {
        let operation = &result["gitOperation"];
        operation["commit"].is_object() || operation["push"].is_object()
    });
    let is_called_so = [Some(event.key().as_str()), event.event_type()]
        .into_iter()
        .flatten()
        .filter_map(|name| name.rsplit('.').next())
        .any(|word| matches!(word, "push" | "pushed" | "commit" | "committed"));
    lists_commits || did || is_called_so
}

enum Ending {
    Done,
    Failed,
    /// Claude Code holds it for review.
    Staged,
    /// Told before the tool runs.
    NotYet,
}

fn ending(event: &Envelope) -> Ending {
    let payload = event.payload();
    for place in places(payload) {
        match place["hook_event_name"].as_str() {
            Some("PostToolUseFailure" | "PermissionDenied") => return Ending::Failed,
            Some("PreToolUse" | "PermissionRequest") => return Ending::NotYet,
            _ => {}
        }
        let failed = place["success"] == false
            || place["outcome"].as_str().is_some_and(|outcome| !matches!(outcome, "success" | "succeeded" | "completed" | "ok" | ""))
            || place["error"].as_str().is_some_and(|error| !error.is_empty());
        if failed {
            return Ending::Failed;
        }
    }
    for result in results(payload) {
        if result["success"] == false || result["error"].as_str().is_some_and(|error| !error.is_empty()) {
            return Ending::Failed;
        }
        if result["staged"] == true {
            return Ending::Staged;
        }
    }
    Ending::Done
}

/// Where an event may say how its tool ended.
fn places(payload: &Value) -> impl Iterator<Item = &Value> {
    [Some(payload), payload.get("tool_metadata"), payload.get("raw_payload")].into_iter().flatten()
}

/// What the tool itself answered.
fn results(payload: &Value) -> impl Iterator<Item = &Value> {
    places(payload).flat_map(|place| ["tool_response", "tool_output", "response", "result", "output"].into_iter().filter_map(|name| place.get(name)))
}

/// In the order of their first mention.
pub(super) fn distinct<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.filter(|text| seen.insert(*text)).map(str::to_owned).collect()
}

/// Does `file` lie in the repository whose top is `top`? A relative one is taken as below the directory that it was written in.
pub(super) fn is_inside(file: &str, top: &std::path::Path) -> bool {
    is_below(file, top)
}

/// The beginning of a text, for a reason.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    let mut shown: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
