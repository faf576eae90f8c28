//! What one line of a transcript says: [`Line`]. Each field is read by itself, so that one of a new shape takes no other with it.

use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{Tokens, fingerprint::fingerprint};

/// Bytes of a name, an id or a path; a longer one is none.
const TEXT_BYTES_MAX: usize = 1_024;
/// What a program says of itself instead of a model.
const SYNTHETIC: &str = "<synthetic>";
/// Texts with which lines begin that nobody asked, though they stand where questions stand.
const NOT_ASKED: [&str; 6] = ["<local-command-", "<bash-", "<command-name>", "<command-message>", "[Request interrupted", "Caveat: The messages below"];

/// What one line says, as far as anything here wants it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) at: Option<Timestamp>,
    pub(crate) session_id: Option<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) git_branch: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) is_sidechain: bool,
    /// A copy of a line of the session that this one was forked from.
    pub(crate) is_forked: bool,
    /// The session that it was copied from.
    pub(crate) forked_from: Option<String>,
    /// Somebody asked something; the same number for the same question.
    pub(crate) asked: Option<u64>,
    pub(crate) answer: Option<Answer>,
    /// Uses of tools that begin here: number and name.
    pub(crate) tools: Vec<(u64, String)>,
    /// Tools that failed.
    pub(crate) failures: u64,
    pub(crate) written: Option<String>,
    pub(crate) commit: Option<String>,
}

/// A model's answer, or a part of one: an answer has a line for each of its blocks.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Answer {
    /// Fingerprint of its id; `None` where it has none and nothing can be told to be the same.
    pub(crate) id: Option<u64>,
    pub(crate) request: u64,
    pub(crate) model: Option<String>,
    pub(crate) is_fast: bool,
    pub(crate) says_speed: bool,
    pub(crate) tokens: Tokens,
    /// Older versions wrote down what it cost.
    pub(crate) cost_said: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'l> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'l RawValue>,
    #[serde(borrow)]
    uuid: Option<&'l RawValue>,
    #[serde(borrow)]
    session_id: Option<&'l RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'l RawValue>,
    #[serde(borrow)]
    cwd: Option<&'l RawValue>,
    #[serde(borrow)]
    git_branch: Option<&'l RawValue>,
    #[serde(borrow)]
    version: Option<&'l RawValue>,
    #[serde(borrow)]
    is_sidechain: Option<&'l RawValue>,
    #[serde(borrow)]
    is_meta: Option<&'l RawValue>,
    #[serde(borrow)]
    is_compact_summary: Option<&'l RawValue>,
    #[serde(borrow)]
    forked_from: Option<&'l RawValue>,
    #[serde(borrow)]
    prompt_id: Option<&'l RawValue>,
    #[serde(borrow)]
    request_id: Option<&'l RawValue>,
    #[serde(borrow, rename = "costUSD")]
    cost_usd: Option<&'l RawValue>,
    #[serde(borrow)]
    message: Option<&'l RawValue>,
    #[serde(borrow)]
    tool_use_result: Option<&'l RawValue>,
    #[serde(borrow)]
    data: Option<&'l RawValue>,
}

/// What a subagent did, told within the line of its parent.
#[derive(Deserialize)]
struct RawProgress<'l> {
    #[serde(borrow)]
    message: Option<&'l RawValue>,
}

#[derive(Deserialize)]
struct RawMessage<'l> {
    #[serde(borrow)]
    id: Option<&'l RawValue>,
    #[serde(borrow)]
    model: Option<&'l RawValue>,
    #[serde(borrow)]
    content: Option<&'l RawValue>,
    #[serde(borrow)]
    usage: Option<&'l RawValue>,
}

#[derive(Deserialize)]
struct RawUsage<'l> {
    #[serde(borrow)]
    input_tokens: Option<&'l RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'l RawValue>,
    #[serde(borrow)]
    cache_creation_input_tokens: Option<&'l RawValue>,
    #[serde(borrow)]
    cache_read_input_tokens: Option<&'l RawValue>,
    #[serde(borrow)]
    cache_creation: Option<&'l RawValue>,
    #[serde(borrow)]
    speed: Option<&'l RawValue>,
}

#[derive(Deserialize)]
struct RawCacheCreation<'l> {
    #[serde(borrow)]
    ephemeral_5m_input_tokens: Option<&'l RawValue>,
    #[serde(borrow)]
    ephemeral_1h_input_tokens: Option<&'l RawValue>,
}

#[derive(Deserialize)]
struct RawBlock<'l> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'l RawValue>,
    #[serde(borrow)]
    id: Option<&'l RawValue>,
    #[serde(borrow)]
    name: Option<&'l RawValue>,
    #[serde(borrow)]
    is_error: Option<&'l RawValue>,
    #[serde(borrow)]
    text: Option<&'l RawValue>,
}

#[derive(Deserialize)]
struct RawResult<'l> {
    #[serde(borrow, rename = "filePath")]
    file_path: Option<&'l RawValue>,
    #[serde(borrow)]
    notebook_path: Option<&'l RawValue>,
    #[serde(borrow)]
    edit_mode: Option<&'l RawValue>,
    #[serde(borrow)]
    error: Option<&'l RawValue>,
    #[serde(borrow)]
    staged: Option<&'l RawValue>,
    #[serde(borrow)]
    success: Option<&'l RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'l RawValue>,
    #[serde(borrow, rename = "structuredPatch")]
    structured_patch: Option<&'l RawValue>,
    #[serde(borrow, rename = "oldString")]
    old_string: Option<&'l RawValue>,
    #[serde(borrow)]
    edits: Option<&'l RawValue>,
    #[serde(borrow, rename = "gitOperation")]
    git_operation: Option<&'l RawValue>,
}

#[derive(Deserialize)]
struct RawGit<'l> {
    #[serde(borrow)]
    commit: Option<&'l RawValue>,
}

#[derive(Deserialize)]
struct RawCommit<'l> {
    #[serde(borrow)]
    sha: Option<&'l RawValue>,
}

#[derive(Deserialize)]
struct RawFork<'l> {
    #[serde(borrow, rename = "sessionId")]
    session_id: Option<&'l RawValue>,
}

impl Line {
    /// `None` for what is no JSON object.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let raw: Raw<'_> = serde_json::from_slice(bytes).ok()?;
        let mut line = Self::of(&raw);
        // A subagent's answer within a line of its parent; the subagent's own transcript has it, too, under the same id.
        if line.answer.is_none()
            && let Some(progress) = raw.data.and_then(parsed::<RawProgress<'_>>)
            && let Some(inner) = progress.message.and_then(parsed::<Raw<'_>>)
        {
            line.answer = answer(&inner);
            line.is_sidechain = line.is_sidechain || is_true(inner.is_sidechain) || line.answer.is_some();
            line.at = line.at.or_else(|| time(inner.timestamp));
        }
        Some(line)
    }

    /// As a line of a subagent's transcript, or of a session's own: nobody asks a subagent, and it is on no main chain.
    pub(crate) fn within(mut self, is_subagent: bool) -> Self {
        if is_subagent {
            self.is_sidechain = true;
            self.asked = None;
        }
        self
    }

    fn of(raw: &Raw<'_>) -> Self {
        let mut line = Self {
            at: time(raw.timestamp),
            session_id: text(raw.session_id),
            cwd: text(raw.cwd),
            git_branch: text(raw.git_branch).filter(|branch| branch != "HEAD"),
            version: text(raw.version),
            is_sidechain: is_true(raw.is_sidechain),
            is_forked: raw.forked_from.is_some(),
            forked_from: raw.forked_from.and_then(parsed::<RawFork<'_>>).and_then(|fork| text(fork.session_id)),
            answer: answer(raw),
            ..Self::default()
        };
        let kind = text(raw.kind);
        let content = raw.message.and_then(parsed::<RawMessage<'_>>).and_then(|message| message.content);
        let is_text = content.is_some_and(|content| content.get().starts_with('"'));
        let blocks: Vec<&RawValue> = content.filter(|_| !is_text).and_then(|content| serde_json::from_str(content.get()).ok()).unwrap_or_default();
        let mut has_result = raw.tool_use_result.is_some();
        let mut first_text = content.filter(|_| is_text);
        for block in blocks.into_iter().filter_map(parsed::<RawBlock<'_>>) {
            match text(block.kind).as_deref() {
                Some("tool_use") => {
                    if let (Some(id), Some(name)) = (text(block.id), text(block.name)) {
                        line.tools.push((fingerprint(&["tool", &id]), name));
                    }
                }
                Some("tool_result") => {
                    has_result = true;
                    line.failures += u64::from(is_true(block.is_error));
                }
                Some("text") => first_text = first_text.or(block.text),
                _ => {}
            }
        }
        if kind.as_deref() == Some("user") {
            let is_question = !has_result && !is_true(raw.is_meta) && !is_true(raw.is_compact_summary) && !line.is_sidechain;
            if is_question && content.is_some() && !first_text.is_some_and(|text| NOT_ASKED.iter().any(|opening| text.get()[1..].starts_with(opening))) {
                let id = text(raw.prompt_id).or_else(|| text(raw.uuid)).or_else(|| text(raw.timestamp));
                line.asked = id.map(|id| fingerprint(&["asked", &id]));
            }
            if line.failures == 0
                && let Some(result) = raw.tool_use_result.and_then(parsed::<RawResult<'_>>)
            {
                line.written = written(&result);
                line.commit = result
                    .git_operation
                    .and_then(parsed::<RawGit<'_>>)
                    .and_then(|git| parsed::<RawCommit<'_>>(git.commit?))
                    .and_then(|commit| text(commit.sha));
            }
        }
        line
    }
}

/// The result of a tool says by its shape whether it wrote: one that only names a file has nothing of what a change consists of.
fn written(result: &RawResult<'_>) -> Option<String> {
    if is_true(result.staged) {
        return None;
    }
    if let Some(notebook) = text(result.notebook_path) {
        let has_failed = text(result.error).is_some_and(|error| !error.is_empty());
        return (result.edit_mode.is_some() && !has_failed).then_some(notebook);
    }
    let is_change = result.structured_patch.is_some()
        || result.old_string.is_some()
        || result.edits.is_some()
        || is_true(result.success)
        || matches!(text(result.kind).as_deref(), Some("create" | "update"));
    text(result.file_path).filter(|_| is_change)
}

fn answer(raw: &Raw<'_>) -> Option<Answer> {
    let message: RawMessage<'_> = raw.message.and_then(parsed)?;
    let usage: RawUsage<'_> = message.usage.and_then(parsed)?;
    let model = text(message.model);
    if model.as_deref() == Some(SYNTHETIC) {
        return None;
    }
    let request = text(raw.request_id).unwrap_or_default();
    let flat = count(usage.cache_creation_input_tokens);
    let by_time = usage.cache_creation.and_then(parsed::<RawCacheCreation<'_>>);
    let (for_5m, for_1h) = by_time.map_or((0, 0), |parts| (count(parts.ephemeral_5m_input_tokens), count(parts.ephemeral_1h_input_tokens)));
    let (cache_write_5m, cache_write_1h) = if for_5m == 0 && for_1h == 0 { (flat, 0) } else { (for_5m, for_1h) };
    let speed = text(usage.speed);
    Some(Answer {
        id: text(message.id).map(|id| fingerprint(&[&id])),
        request: fingerprint(&[&request]),
        model,
        is_fast: speed.as_deref() == Some("fast"),
        says_speed: speed.is_some(),
        tokens: Tokens {
            input: count(usage.input_tokens),
            output: count(usage.output_tokens),
            cache_write_5m,
            cache_write_1h,
            cache_read: count(usage.cache_read_input_tokens),
        },
        cost_said: raw.cost_usd.and_then(|cost| serde_json::from_str::<f64>(cost.get()).ok()).filter(|cost| cost.is_finite() && *cost >= 0.0),
    })
}

fn parsed<'l, T: Deserialize<'l>>(raw: &'l RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn owned<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

fn text(raw: Option<&RawValue>) -> Option<String> {
    // Before it is copied: a text of this length is nothing that is looked for.
    raw.filter(|raw| raw.get().len() <= TEXT_BYTES_MAX + 2).and_then(|raw| owned::<String>(Some(raw))).filter(|text| !text.is_empty())
}

fn is_true(raw: Option<&RawValue>) -> bool {
    raw.is_some_and(|raw| raw.get() == "true")
}

/// Beyond it a number is no count of tokens, and sums would not fit.
const COUNT_MAX: u64 = 1 << 50;

fn count(raw: Option<&RawValue>) -> u64 {
    owned::<u64>(raw).filter(|count| *count <= COUNT_MAX).unwrap_or(0)
}

fn time(raw: Option<&RawValue>) -> Option<Timestamp> {
    text(raw)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line::parse(text.as_bytes()).expect("it is an object")
    }

    #[test]
    fn a_field_of_a_new_shape_takes_no_other_with_it() {
        let line = line(
            r#"{"type":["assistant"],"uuid":7,"cwd":{"a":1},"timestamp":"2026-11-22T10:00:00.5Z","gitBranch":"main","message":{"id":"msg_1","model":"claude-opus-5","content":{"new":1},"usage":{"input_tokens":"many","output_tokens":3,"cache_creation":7,"cache_creation_input_tokens":4,"cache_read_input_tokens":-1}}}"#,
        );
        assert_eq!((line.cwd, line.git_branch.as_deref()), (None, Some("main")));
        let answer = line.answer.unwrap();
        assert_eq!(answer.tokens, Tokens { output: 3, cache_write_5m: 4, ..Tokens::default() });
        assert_eq!(answer.model.as_deref(), Some("claude-opus-5"));
        for broken in ["", "[]", "7", "{\"type\":", "null", "\u{0}"] {
            assert_eq!(Line::parse(broken.as_bytes()), None, "{broken:?}");
        }
        assert_eq!(Line::parse(b"{\"type\":\"\xff\"}"), None);
    }

    #[test]
    fn only_what_somebody_asked_is_a_turn() {
        let asked =
            |fields: &str, content: &str| line(&format!(r#"{{"type":"user","uuid":"u"{fields},"message":{{"role":"user","content":{content}}}}}"#)).asked;
        assert!(asked("", r#""do it""#).is_some());
        assert!(asked("", r#"[{"type":"text","text":"do it"},{"type":"image"}]"#).is_some());
        assert_eq!(asked(r#","promptId":"p""#, r#""a""#), asked(r#","promptId":"p","uuid2":1"#, r#""b""#));
        assert_ne!(asked(r#","promptId":"p""#, r#""a""#), asked(r#","promptId":"q""#, r#""a""#));
        for (fields, content) in [
            (r#","isMeta":true"#, r#""x""#),
            (r#","isSidechain":true"#, r#""x""#),
            (r#","isCompactSummary":true"#, r#""x""#),
            ("", r#"[{"type":"tool_result","tool_use_id":"t","content":"x"}]"#),
            ("", r#""<local-command-stdout>x""#),
            ("", r#"[{"type":"text","text":"[Request interrupted by user]"}]"#),
        ] {
            assert_eq!(asked(fields, content), None, "{fields} {content}");
        }
    }

    #[test]
    fn a_result_tells_of_a_written_file_and_of_a_commit_by_its_shape() {
        let result = |result: &str, is_error: &str| {
            line(&format!(r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t"{is_error}}}]}},"toolUseResult":{result}}}"#))
        };
        let written = |text: &str| result(text, "").written;
        assert_eq!(written(r#"{"type":"create","filePath":"/a/b.py","content":"x"}"#).as_deref(), Some("/a/b.py"));
        assert_eq!(written(r#"{"filePath":"/a/b.py","oldString":"x","newString":"y"}"#).as_deref(), Some("/a/b.py"));
        assert_eq!(written(r#"{"filePath":"/a/b.py","success":true}"#).as_deref(), Some("/a/b.py"));
        assert_eq!(written(r#"{"notebook_path":"/a/n.ipynb","edit_mode":"replace","error":""}"#).as_deref(), Some("/a/n.ipynb"));
        for nothing in [
            r#"{"type":"update","filePath":"/a/b.py","staged":true}"#,
            r#"{"type":"text","file":{"filePath":"/a/b.py"}}"#,
            r#"{"plan":"x","filePath":"/a/plan.md"}"#,
            r#"{"notebook_path":"/a/n.ipynb","edit_mode":"replace","error":"no cell"}"#,
            r#""Error: no""#,
        ] {
            assert_eq!(written(nothing), None, "{nothing}");
        }
        let commit = r#"{"stdout":"","gitOperation":{"commit":{"sha":"abc1234","kind":"committed","branch":"main"}}}"#;
        assert_eq!(result(commit, "").commit.as_deref(), Some("abc1234"));
        let failed = result(commit, r#","is_error":true"#);
        assert_eq!((failed.commit, failed.failures), (None, 1));
    }

    #[test]
    fn what_a_subagent_answered_is_read_within_the_line_of_its_parent() {
        let line = line(
            r#"{"type":"progress","data":{"message":{"timestamp":"2026-11-22T10:00:00Z","requestId":"req_4","message":{"id":"msg_4","model":"claude-haiku-4-5","usage":{"output_tokens":10}}}}}"#,
        );
        assert!(line.is_sidechain && line.at.is_some());
        assert_eq!(line.answer.unwrap().tokens.output, 10);
    }

    #[test]
    fn what_the_program_says_itself_is_no_answer_of_a_model() {
        assert_eq!(line(r#"{"type":"assistant","message":{"id":"m","model":"<synthetic>","usage":{"output_tokens":10}}}"#).answer, None);
    }
}
