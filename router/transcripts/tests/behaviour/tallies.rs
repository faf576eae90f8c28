//! One session, followed from call to call.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use proptest::prelude::*;
use router_transcripts::{Prices, Tally, Tokens, Totals};

use crate::written::{EXAMPLE_USD, HAIKU, NONE, SONNET, Usage, answer, assert_near, example, example_of_subagent, put, put_example};

fn totals(transcript: &Path) -> Totals {
    let mut tally = Tally::default();
    assert!(tally.read_on(transcript, u64::MAX).unwrap());
    tally.totals(&Prices::builtin())
}

#[test]
fn the_worked_example_costs_what_a_hand_adds_up() {
    let directory = tempfile::tempdir().unwrap();
    let totals = totals(&put_example(directory.path(), "s-1"));
    assert_eq!(totals.tokens, Tokens { input: 37, output: 470, cache_write_5m: 900, cache_write_1h: 1_500, cache_read: 4_000 });
    assert_eq!((totals.tokens.total(), totals.messages), (6_907, 3));
    assert_near(totals.cost_usd, EXAMPLE_USD);
    let models: Vec<&str> = totals.models.iter().map(|model| model.model.as_str()).collect();
    assert_eq!(models, [SONNET, HAIKU]);
    assert_near(totals.models[0].cost_usd, 0.019_665);
    assert_near(totals.models[1].cost_usd, 0.000_357);
    assert_eq!((totals.model.as_deref(), totals.git_branch.as_deref(), totals.prices_as_of.as_str()), (Some(SONNET), Some("main"), "2026-11-22"));
}

#[test]
fn a_replay_on_a_side_chain_under_a_request_of_its_own_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let replay = answer(
        "2026-11-22T10:01:00.000Z",
        "msg_02",
        "req_99",
        SONNET,
        r#","isSidechain":true"#,
        &Usage { input: 20, output: 100, flat: 400, read: 3_000, ..NONE },
    );
    let transcript = put(directory.path(), "s-1.jsonl", &(example() + &replay));
    put(directory.path(), "s-1/subagents/agent-1.jsonl", &(replay + &example_of_subagent()));
    assert_near(totals(&transcript).cost_usd, EXAMPLE_USD);
}

#[test]
fn what_was_copied_from_the_parent_was_paid_for_there() {
    let directory = tempfile::tempdir().unwrap();
    let copied = example().replace(r#""type":"assistant""#, r#""type":"assistant","forkedFrom":{"sessionId":"s-0","messageUuid":"m"}"#);
    let own = answer("2026-11-22T11:00:00.000Z", "msg_09", "req_09", HAIKU, "", &Usage { output: 100, ..NONE });
    let totals = totals(&put(directory.path(), "s-1.jsonl", &(copied + &own)));
    assert_eq!((totals.tokens.total(), totals.parent.as_deref()), (100, Some("s-0")));
    assert_near(totals.cost_usd, 0.000_5);
}

#[test]
fn a_model_without_a_price_makes_the_cost_unknown_and_never_zero() {
    let directory = tempfile::tempdir().unwrap();
    let strange = answer("2026-11-22T11:00:00.000Z", "msg_09", "req_09", "strange-1", "", &Usage { output: 1, ..NONE });
    let totals = totals(&put(directory.path(), "s-1.jsonl", &(example() + &strange)));
    assert_eq!((totals.cost_usd, totals.unknown_models.as_slice()), (None, ["strange-1".to_owned()].as_slice()));
    assert_eq!(totals.models.iter().filter(|model| model.cost_usd.is_none()).count(), 1);
    assert_eq!(totals.tokens.total(), 6_831);
}

#[test]
fn a_cost_that_an_old_transcript_says_is_taken_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let old = answer("2025-06-01T11:00:00.000Z", "msg_09", "req_09", "strange-1", r#","costUSD":0.5"#, &Usage { output: 1, ..NONE });
    let totals = totals(&put(directory.path(), "s-1.jsonl", &old));
    assert_near(totals.cost_usd, 0.5);
    assert_eq!(totals.tokens.output, 1);
}

#[test]
fn a_session_that_was_read_and_stored_after_every_few_bytes_comes_to_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let transcript = put_example(directory.path(), "s-1");
    let mut tally = Tally::default();
    let mut calls = 0;
    while !tally.read_on(&transcript, 1).unwrap() {
        tally = serde_json::from_str(&serde_json::to_string(&tally).unwrap()).unwrap();
        calls += 1;
        assert!(calls < 100, "it does not come to an end");
    }
    assert!(calls >= 4, "{calls} calls read more than they were allowed to");
    assert_near(tally.totals(&Prices::builtin()).cost_usd, EXAMPLE_USD);
}

#[test]
fn what_is_written_between_two_calls_is_added_wherever_it_was_cut() {
    let directory = tempfile::tempdir().unwrap();
    let text = example() + &example_of_subagent();
    for cut in [1, 17, 400, text.find('\n').unwrap(), text.find('\n').unwrap() + 1, text.len() - 1] {
        let transcript = put(directory.path(), "s-1.jsonl", &text[..cut]);
        let mut tally = Tally::default();
        assert!(tally.read_on(&transcript, u64::MAX).unwrap());
        OpenOptions::new().append(true).open(&transcript).unwrap().write_all(&text.as_bytes()[cut..]).unwrap();
        assert!(tally.read_on(&transcript, u64::MAX).unwrap());
        let totals = tally.totals(&Prices::builtin());
        assert_near(totals.cost_usd, EXAMPLE_USD);
        assert_eq!(totals.lines_skipped, 0, "cut at {cut}");
    }
}

#[test]
fn a_transcript_that_was_written_anew_counts_its_answers_once() {
    let directory = tempfile::tempdir().unwrap();
    let transcript = put_example(directory.path(), "s-1");
    let mut tally = Tally::default();
    tally.read_on(&transcript, u64::MAX).unwrap();
    let summary = "{\"type\":\"summary\",\"summary\":\"s\"}\n".to_owned();
    fs::write(&transcript, summary + &example()).unwrap();
    tally.read_on(&transcript, u64::MAX).unwrap();
    assert_near(tally.totals(&Prices::builtin()).cost_usd, EXAMPLE_USD);
}

#[test]
fn lines_that_are_not_understood_are_counted_and_take_nothing_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let strange = "\n  \nnot json\n[1,2]\n{\"type\":\"assistant\",\"message\":\"text\"}\n{\"type\":\"new\",\"message\":{\"usage\":7}}\n\u{0}\u{1}\n";
    let totals = totals(&put(directory.path(), "s-1.jsonl", &(strange.to_owned() + &example() + &example_of_subagent())));
    assert_near(totals.cost_usd, EXAMPLE_USD);
    assert_eq!(totals.lines_skipped, 3);
}

#[test]
fn turns_tools_files_and_commits_are_counted_once() {
    let directory = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"type":"user","uuid":"u1","promptId":"p1","sessionId":"s-1","timestamp":"2026-11-22T10:00:00.000Z","cwd":"/home/user/p","message":{"role":"user","content":"do it"}}"#,
        r#"{"type":"user","uuid":"u2","promptId":"p1","timestamp":"2026-11-22T10:00:00.100Z","message":{"role":"user","content":"do it"}}"#,
        r#"{"type":"assistant","uuid":"a1","message":{"id":"m1","content":[{"type":"tool_use","id":"t1","name":"Write","input":{"file_path":"/home/user/p/src/a.py"}},{"type":"tool_use","id":"t2","name":"Bash","input":{}}]}}"#,
        r#"{"type":"assistant","uuid":"a1","message":{"id":"m1","content":[{"type":"tool_use","id":"t1","name":"Write","input":{}}]}}"#,
        r#"{"type":"user","uuid":"u3","message":{"content":[{"type":"tool_result","tool_use_id":"t1"}]},"toolUseResult":{"type":"create","filePath":"/home/user/p/src/a.py"}}"#,
        r#"{"type":"user","uuid":"u4","message":{"content":[{"type":"tool_result","tool_use_id":"t2"}]},"toolUseResult":{"stdout":"","gitOperation":{"commit":{"sha":"abc1234","kind":"committed"}}}}"#,
        r#"{"type":"user","uuid":"u5","message":{"content":[{"type":"tool_result","tool_use_id":"t3","is_error":true}]},"toolUseResult":"Error: no"}"#,
        r#"{"type":"user","uuid":"u6","promptId":"p2","timestamp":"2026-11-22T10:09:00.000Z","message":{"role":"user","content":"and now"}}"#,
    ];
    let transcript = put(directory.path(), "s-1.jsonl", &(lines.join("\n") + "\n"));
    put(
        directory.path(),
        "s-1/subagents/agent-1.jsonl",
        "{\"type\":\"user\",\"uuid\":\"x\",\"message\":{\"content\":\"look\"}}\n{\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"tool_use\",\"id\":\"t9\",\"name\":\"Read\"}]}}\n",
    );
    let totals = totals(&transcript);
    assert_eq!((totals.turns, totals.failures, totals.is_complete), (2, 1, true));
    assert_eq!(totals.tools.into_iter().collect::<Vec<_>>(), [("Bash".to_owned(), 1), ("Write".to_owned(), 1)]);
    assert_eq!(totals.subagent_tools.into_iter().collect::<Vec<_>>(), [("Read".to_owned(), 1)]);
    assert_eq!(totals.files_modified.into_iter().collect::<Vec<_>>(), ["src/a.py"]);
    assert_eq!(totals.git_commits.into_iter().collect::<Vec<_>>(), ["abc1234"]);
    assert_eq!(totals.started_at.unwrap().to_string(), "2026-11-22T10:00:00Z");
    assert_eq!(totals.last_at.unwrap().to_string(), "2026-11-22T10:09:00Z");
}

#[test]
fn a_transcript_that_is_not_there_is_told_from_one_that_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let mut tally = Tally::default();
    assert_eq!(tally.read_on(&directory.path().join("gone.jsonl"), 1).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert!(tally.read_on(&put(directory.path(), "s.jsonl", ""), 1).unwrap());
    assert_eq!(tally.totals(&Prices::builtin()).cost_usd, Some(0.0));
}

#[test]
fn what_is_stored_of_a_long_session_stays_small() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for number in 0..3_000 {
        text += &answer("2026-11-22T10:00:00.000Z", &format!("m{number}"), &format!("r{number}"), SONNET, "", &Usage { output: 1, ..NONE });
    }
    let transcript = put(directory.path(), "s.jsonl", &(text.clone() + &text));
    let mut tally = Tally::default();
    tally.read_on(&transcript, u64::MAX).unwrap();
    assert_eq!(tally.totals(&Prices::builtin()).tokens.output, 3_000);
    let stored = serde_json::to_string(&tally).unwrap().len();
    assert!(stored < 300_000, "{stored} bytes");
    let back: Tally = serde_json::from_str(&serde_json::to_string(&tally).unwrap()).unwrap();
    assert_eq!(back.totals(&Prices::builtin()), tally.totals(&Prices::builtin()));
}

#[test]
fn what_another_version_stored_is_read_as_far_as_it_is_known() {
    let tally: Tally = serde_json::from_str(r#"{"lines_skipped":3,"new":{"x":1}}"#).unwrap();
    assert_eq!(tally.totals(&Prices::builtin()).lines_skipped, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However lines are doubled and mixed, and wherever calls end, one answer counts once, with its largest usage.
    #[test]
    fn order_and_repetition_decide_nothing(picks in prop::collection::vec((0u64..12, 1u64..4), 1..60), step in 1u64..2_000) {
        let directory = tempfile::tempdir().unwrap();
        let mut expected = std::collections::BTreeMap::new();
        let mut text = String::new();
        for (id, part) in &picks {
            let output = id * 10 + part;
            let known = expected.entry(*id).or_insert(0);
            *known = output.max(*known);
            text += &answer("2026-11-22T10:00:00.000Z", &format!("m{id}"), &format!("r{id}"), SONNET, "", &Usage { output, ..NONE });
        }
        let transcript = put(directory.path(), "s.jsonl", &text);
        let mut tally = Tally::default();
        while !tally.read_on(&transcript, step).unwrap() {
            tally = serde_json::from_str(&serde_json::to_string(&tally).unwrap()).unwrap();
        }
        prop_assert_eq!(tally.totals(&Prices::builtin()).tokens.output, expected.values().sum::<u64>());
    }

    /// Nothing that stands in a file makes it panic or fail.
    #[test]
    fn bytes_of_any_kind_are_read(bytes in prop::collection::vec(any::<u8>(), 0..2_000), cut in 0usize..400) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.jsonl");
        let valid = example();
        let mut all = valid.as_bytes()[..cut.min(valid.len())].to_vec();
        all.extend(bytes);
        fs::write(&path, all).unwrap();
        let mut tally = Tally::default();
        prop_assert!(tally.read_on(&path, u64::MAX).unwrap());
        let _ = tally.totals(&Prices::builtin());
    }
}
