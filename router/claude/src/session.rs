//! What is known of one session: turns, tools, files, commits, the model. Kept in a file between the calls of the hook, and in memory by
//! the HTTP door. Every list has a limit, and what is counted is counted once, however often a hook comes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{content::cut, event::derived, input::HookInput, process::Process};

/// Bytes of a session's id; a longer one is none.
pub const SESSION_ID_BYTES_MAX: usize = 256;

/// Names of tools, files and commits of one session that are remembered, each.
const NAMES_MAX: usize = 500;

/// Bytes of such a name; longer ones are left out.
const NAME_BYTES_MAX: usize = 512;

/// Calls and prompts that are known not to be counted twice, when a hook is installed twice.
const CALLS_MAX: usize = 64;

/// Files that count as the context of what is done next: the last ones that were read or written.
const CONTEXT_MAX: usize = 50;

/// Tools that write the file that they name.
const WRITERS: [&str; 4] = ["Write", "Edit", "MultiEdit", "NotebookEdit"];

/// One session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Claude Code's id.
    pub session_id: String,
    /// When its first hook came.
    pub started_at: Option<Timestamp>,
    /// Where it began.
    pub working_directory: Option<String>,
    /// What is checked out there, as of the last hook.
    pub git_branch: Option<String>,
    /// The repository's address.
    pub git_remote: Option<String>,
    /// The turn that runs, counted from 1; 0 before the first.
    pub turn_number: u64,
    /// How often each tool was called, within subagents too.
    pub tools_used: BTreeMap<String, u64>,
    /// How often within subagents.
    pub subagent_tools_used: BTreeMap<String, u64>,
    /// The model, where a hook has told it.
    pub model: Option<String>,
    /// Files that were written, from the root of the repository where they lie in it.
    pub files_modified: BTreeSet<String>,
    /// The files that were read or written last, the last one at the end.
    pub files_in_context: VecDeque<String>,
    /// Commits that were made, in full where that is known.
    pub git_commits: BTreeSet<String>,
    /// Servers whose tools were called, or that the project names.
    pub mcp_servers: BTreeSet<String>,
    /// How often it went on after its end.
    pub resumes: u32,
    /// It has ended, and has not gone on.
    pub ended: bool,
    /// Its start is told, of this many resumes.
    pub told_start: Option<u32>,
    /// The session that it came from.
    pub parent: Option<String>,
    /// When its last hook came.
    pub last_seen: Option<Timestamp>,
    /// How its last turn ended: `success` or `error`.
    pub last_status: Option<String>,
    /// What the assistant said last, where messages are wanted.
    pub summary: Option<String>,
    /// Who calls the hooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Paths of events whose values its user does not want to be seen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redacted_paths: Vec<String>,
    /// Where Claude Code writes what was said.
    pub transcript_path: Option<String>,
    /// Bytes of the transcript in which thoughts were looked for.
    pub thoughts_until: u64,
    pub(crate) prompts: VecDeque<String>,
    pub(crate) calls: VecDeque<Uuid>,
    /// Bytes of names.
    #[serde(skip)]
    pub(crate) weight: usize,
}

/// Where a hook happened, as far as files tell.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The root of the repository.
    pub root: Option<String>,
    /// What is checked out.
    pub branch: Option<String>,
    /// The repository's address.
    pub remote: Option<String>,
    /// The commit that is checked out, in full.
    pub head: Option<String>,
}

impl Surroundings {
    /// Of a directory.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        let Some(repository) = crate::git::Repository::around(directory) else { return Self::default() };
        let root = repository.root.to_str().map(str::to_owned);
        Self { root, branch: repository.branch(), remote: repository.remote(), head: repository.head() }
    }
}

impl Session {
    /// A session of which nothing is known.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self { session_id: id.to_owned(), ..Self::default() }
    }

    /// The turn that runs, counted from 1.
    #[must_use]
    pub fn turn(&self) -> Option<u64> {
        (self.turn_number > 0).then_some(self.turn_number)
    }

    /// Bytes of names, for whoever keeps many sessions.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Begins anew after its end, as the same session.
    fn goes_on(&mut self) {
        self.ended = false;
        self.resumes = self.resumes.wrapping_add(1);
        self.last_status = None;
    }

    /// What the session is from now on.
    pub fn note(&mut self, hook: &HookInput, around: &Surroundings, messages: bool, now: Timestamp) {
        let name = hook.event_name();
        if self.ended && name != "SessionEnd" {
            self.goes_on();
        }
        self.started_at.get_or_insert(now);
        self.last_seen = Some(now);
        if self.working_directory.is_none() {
            self.working_directory = hook.text("cwd").map(|cwd| cut(cwd, NAME_BYTES_MAX * 2));
        }
        self.git_branch = around.branch.clone().or(self.git_branch.take());
        self.git_remote = around.remote.clone().or(self.git_remote.take());
        if let Some(path) = hook.text("transcript_path").filter(|path| path.len() <= 4_096) {
            self.transcript_path = Some(path.to_owned());
        }
        let is_main = is_main(hook);
        if is_main && name != "SessionEnd" {
            self.prompt(hook.text("prompt_id"), name == "UserPromptSubmit");
        }
        let model = match name {
            "SessionStart" => hook.text("model"),
            "PostModelSwitch" => hook.text("to_model"),
            _ => None,
        };
        if let Some(model) = model {
            self.model = Some(cut(model, 200));
        }
        match name {
            "PostToolUse" | "PostToolUseFailure" => self.used(hook, around, !is_main),
            "Stop" | "StopFailure" if is_main => {
                self.last_status = Some(if name == "Stop" { "success" } else { "error" }.to_owned());
                if messages && let Some(text) = hook.text("last_assistant_message") {
                    self.summary = Some(cut(text, crate::content::TEXT_BYTES_MAX));
                }
            }
            "SessionEnd" => self.ended = true,
            _ => {}
        }
    }

    /// Notes a prompt: a new one begins a turn. `begins` is true for the hook of a prompt itself, which may lack its id.
    fn prompt(&mut self, id: Option<&str>, begins: bool) {
        match id {
            Some(id) if self.prompts.iter().any(|known| known == id) => {}
            Some(id) if id.len() <= NAME_BYTES_MAX => {
                remember_last(&mut self.prompts, id.to_owned(), CALLS_MAX);
                self.turn_number += 1;
            }
            _ if begins => self.turn_number += 1,
            _ => {}
        }
    }

    fn used(&mut self, hook: &HookInput, around: &Surroundings, by_subagent: bool) {
        if let Some(call) = call(hook) {
            if self.calls.contains(&call) {
                return;
            }
            remember_last(&mut self.calls, call, CALLS_MAX);
        }
        let tool = hook.text("tool_name").unwrap_or("unknown");
        self.weight += count(&mut self.tools_used, tool);
        if by_subagent {
            self.weight += count(&mut self.subagent_tools_used, tool);
        }
        let server = hook.value()["mcp_server"]["name"].as_str().or_else(|| tool.strip_prefix("mcp__").and_then(|rest| rest.split("__").next()));
        if let Some(server) = server.filter(|server| !server.is_empty()) {
            self.weight += remember(&mut self.mcp_servers, server);
        }
        if hook.event_name() != "PostToolUse" {
            return;
        }
        let (input, response) = (&hook.value()["tool_input"], &hook.value()["tool_response"]);
        let places = [&response["filePath"], &response["notebook_path"], &input["file_path"], &input["notebook_path"]];
        if let Some(file) = places.iter().find_map(|place| place.as_str()) {
            let directory = around.root.as_deref().or(self.working_directory.as_deref());
            let file = relative(file, directory).to_owned();
            if WRITERS.contains(&tool) && response["staged"] != true {
                self.weight += remember(&mut self.files_modified, &file);
            }
            if (tool == "Read" || WRITERS.contains(&tool)) && file.len() <= NAME_BYTES_MAX {
                self.files_in_context.retain(|known| *known != file);
                remember_last(&mut self.files_in_context, file, CONTEXT_MAX);
            }
        }
        if let Some(short) = response["gitOperation"]["commit"]["sha"].as_str() {
            let commit = full_commit(short, around);
            self.weight += remember(&mut self.git_commits, &commit);
        }
    }
}

/// The commit in full where the repository's head is it.
pub(crate) fn full_commit(short: &str, around: &Surroundings) -> String {
    match &around.head {
        Some(head) if short.len() >= 7 && head.starts_with(short) => head.clone(),
        _ => cut(short, 64),
    }
}

/// Hooks within a subagent count neither turns nor ends of them.
pub(crate) fn is_main(hook: &HookInput) -> bool {
    hook.text("agent_id").is_none()
}

/// What makes a call of a tool this one.
pub(crate) fn call(hook: &HookInput) -> Option<Uuid> {
    hook.text("tool_use_id").map(|call| derived(&["call", call]))
}

/// A file below a directory is named from there.
pub(crate) fn relative<'a>(file: &'a str, directory: Option<&str>) -> &'a str {
    let below = directory.and_then(|directory| file.strip_prefix(directory)).and_then(|rest| rest.strip_prefix('/'));
    below.filter(|rest| !rest.is_empty()).unwrap_or(file)
}

fn remember_last<T>(last: &mut VecDeque<T>, item: T, max: usize) {
    while last.len() >= max {
        last.pop_front();
    }
    last.push_back(item);
}

/// The bytes that this costs.
fn remember(names: &mut BTreeSet<String>, name: &str) -> usize {
    let takes = names.len() < NAMES_MAX && name.len() <= NAME_BYTES_MAX && names.insert(name.to_owned());
    if takes { name.len() } else { 0 }
}

/// The bytes that this costs.
fn count(counts: &mut BTreeMap<String, u64>, name: &str) -> usize {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
        return 0;
    }
    if counts.len() >= NAMES_MAX || name.len() > NAME_BYTES_MAX {
        return 0;
    }
    counts.insert(name.to_owned(), 1);
    name.len()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn note(session: &mut Session, hook: Value) {
        let hook = HookInput::parse(hook.to_string().as_bytes(), None).unwrap();
        session.note(&hook, &Surroundings::default(), false, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn a_turn_is_a_prompt_and_a_subagent_has_none() {
        let mut session = Session::new("s");
        note(&mut session, json!({ "hook_event_name": "PreToolUse" }));
        assert_eq!(session.turn(), None);
        for prompt in ["p1", "p1", "p2"] {
            note(&mut session, json!({ "hook_event_name": "UserPromptSubmit", "prompt_id": prompt }));
        }
        note(&mut session, json!({ "hook_event_name": "UserPromptSubmit" }));
        note(&mut session, json!({ "hook_event_name": "PostToolUse", "prompt_id": "p9", "agent_id": "a" }));
        // A late hook of an earlier turn.
        note(&mut session, json!({ "hook_event_name": "PostToolUse", "prompt_id": "p1" }));
        assert_eq!(session.turn(), Some(3));
    }

    #[test]
    fn a_call_counts_once_and_names_have_limits() {
        let mut session = Session::new("s");
        for _ in 0..2 {
            note(&mut session, json!({ "hook_event_name": "PostToolUse", "tool_name": "Read", "tool_use_id": "t1", "agent_id": "a" }));
        }
        assert_eq!((session.tools_used["Read"], session.subagent_tools_used["Read"]), (1, 1));
        for number in 0..1_000 {
            note(
                &mut session,
                json!({ "hook_event_name": "PostToolUse", "tool_name": "Write", "tool_use_id": format!("w{number}"),
                    "tool_response": { "filePath": format!("/f/{number}"), "gitOperation": { "commit": { "sha": format!("{number:07}") } } } }),
            );
        }
        assert_eq!((session.files_modified.len(), session.git_commits.len(), session.files_in_context.len()), (NAMES_MAX, NAMES_MAX, CONTEXT_MAX));
        assert_eq!(session.tools_used["Write"], 1_000);
    }

    #[test]
    fn what_is_held_for_review_is_not_written() {
        let mut session = Session::new("s");
        note(&mut session, json!({ "hook_event_name": "PostToolUse", "tool_name": "Edit", "tool_response": { "filePath": "/a", "staged": true } }));
        assert!(session.files_modified.is_empty());
    }

    #[test]
    fn a_session_that_goes_on_after_its_end_is_the_same_one() {
        let mut session = Session::new("s");
        note(&mut session, json!({ "hook_event_name": "UserPromptSubmit" }));
        note(&mut session, json!({ "hook_event_name": "SessionEnd" }));
        note(&mut session, json!({ "hook_event_name": "SessionEnd" }));
        assert_eq!((session.ended, session.resumes), (true, 0));
        note(&mut session, json!({ "hook_event_name": "SessionStart", "source": "resume" }));
        assert_eq!((session.ended, session.resumes, session.turn()), (false, 1, Some(1)));
    }

    #[test]
    fn a_session_is_the_same_after_it_was_written_and_read() {
        let mut session = Session::new("s");
        note(&mut session, json!({ "hook_event_name": "PostToolUse", "tool_name": "mcp__files__ls", "tool_use_id": "t", "prompt_id": "p", "cwd": "/p" }));
        let read: Session = serde_json::from_str(&serde_json::to_string(&session).unwrap()).unwrap();
        assert_eq!(Session { weight: session.weight, ..read }, session);
        assert!(session.mcp_servers.contains("files"));
        let old: Session = serde_json::from_str(r#"{"session_id":"x","unknown":1}"#).unwrap();
        assert_eq!(old.session_id, "x");
    }
}
