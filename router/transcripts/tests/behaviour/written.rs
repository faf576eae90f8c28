//! Transcripts that tests write.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// `usage` of an answer.
pub struct Usage {
    pub input: u64,
    pub output: u64,
    pub flat: u64,
    pub for_5m: u64,
    pub for_1h: u64,
    pub read: u64,
}

pub const NONE: Usage = Usage { input: 0, output: 0, flat: 0, for_5m: 0, for_1h: 0, read: 0 };

/// A line with (a part of) an answer.
pub fn answer(at: &str, message: &str, request: &str, model: &str, fields: &str, usage: &Usage) -> String {
    let by_time = if usage.for_5m + usage.for_1h > 0 {
        format!(r#","cache_creation":{{"ephemeral_5m_input_tokens":{},"ephemeral_1h_input_tokens":{}}}"#, usage.for_5m, usage.for_1h)
    } else {
        String::new()
    };
    format!(
        r#"{{"type":"assistant","uuid":"u-{message}-{}","sessionId":"s-1","timestamp":"{at}","cwd":"/home/user/p","gitBranch":"main","version":"2.1.330"{fields},"requestId":"{request}","message":{{"id":"{message}","model":"{model}","role":"assistant","content":[],"usage":{{"input_tokens":{},"output_tokens":{},"cache_creation_input_tokens":{},"cache_read_input_tokens":{}{by_time}}}}}}}"#,
        usage.output,
        usage.input,
        usage.output,
        usage.flat.max(usage.for_5m + usage.for_1h),
        usage.read,
    ) + "\n"
}

pub const SONNET: &str = "claude-sonnet-4-5-20250929";
pub const HAIKU: &str = "claude-haiku-4-5-20251001";

/// The worked example, main chain: two answers, the first of them on two lines, and a line that no model wrote.
pub fn example() -> String {
    let first = |output| Usage { input: 10, output, for_5m: 500, for_1h: 1_500, read: 1_000, ..NONE };
    [
        answer("2026-11-22T10:00:01.000Z", "msg_01", "req_01", SONNET, "", &first(5)),
        answer("2026-11-22T10:00:02.000Z", "msg_01", "req_01", SONNET, "", &first(300)),
        answer("2026-11-22T10:00:03.000Z", "msg_02", "req_02", SONNET, "", &Usage { input: 20, output: 100, flat: 400, read: 3_000, ..NONE }),
        answer("2026-11-22T10:00:04.000Z", "msg_03", "req_03", "<synthetic>", "", &Usage { output: 9, ..NONE }),
    ]
    .concat()
}

/// … and what its subagent answered.
pub fn example_of_subagent() -> String {
    answer("2026-11-22T10:00:05.000Z", "msg_04", "req_04", HAIKU, r#","isSidechain":true"#, &Usage { input: 7, output: 70, ..NONE })
}

/// What the worked example costs.
pub const EXAMPLE_USD: f64 = 0.020_022;

/// Puts the example below `project`; returns the transcript.
pub fn put_example(project: &Path, session: &str) -> PathBuf {
    let transcript = put(project, &format!("{session}.jsonl"), &example());
    put(project, &format!("{session}/subagents/agent-1.jsonl"), &example_of_subagent());
    transcript
}

pub fn put(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

#[track_caller]
pub fn assert_near(cost: Option<f64>, expected: f64) {
    assert!(cost.is_some_and(|cost| (cost - expected).abs() < 1e-9), "{cost:?} is not {expected}");
}
