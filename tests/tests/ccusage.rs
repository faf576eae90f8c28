//! Totals of an import beside those of `ccusage daily`, where that is installed: `CCUSAGE` names its program. It comes from npm
//! (`ccusage`, 20.0.24 is what this was written for) and needs `node`, so that nothing is compared where nobody asked for it.
//!
//! Where results differ is a test, too: `docs/sessions.md` says why.

use std::{path::Path, process::Command};

use jiff::{SignedDuration, Timestamp};
use router_tests::Home;
use serde_json::{Value, json};

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const FORK: &str = "22222222-2222-4222-8222-222222222222";

/// `None` where nobody asked for a comparison.
fn program() -> Option<String> {
    std::env::var("CCUSAGE").ok().filter(|program| !program.is_empty())
}

fn line(hours: i64, session: &str, message: &str, request: &str, model: &str, is_sidechain: bool, usage: Value) -> String {
    let at = Timestamp::now() - SignedDuration::from_hours(24 + hours);
    json!({
        "type": "assistant", "uuid": format!("{message}{request}"), "sessionId": session, "timestamp": format!("{at:.3}"), "cwd": "/home/ada/shop",
        "version": "2.1.330", "isSidechain": is_sidechain, "requestId": request,
        "message": { "id": message, "model": model, "role": "assistant", "content": [], "usage": usage },
    })
    .to_string()
        + "\n"
}

fn usage(input: u64, output: u64, cache_write: u64, cache_read: u64) -> Value {
    json!({ "input_tokens": input, "output_tokens": output, "cache_creation_input_tokens": cache_write, "cache_read_input_tokens": cache_read })
}

/// Tokens and dollars of all days, by `ccusage`.
fn theirs(program: &str, directory: &Path) -> (u64, f64) {
    report(program, &["daily"], directory)
}

fn report(program: &str, which: &[&str], directory: &Path) -> (u64, f64) {
    let ran = Command::new(program)
        .args(which)
        .args(["--json", "--offline", "--mode", "calculate"])
        .env("CLAUDE_CONFIG_DIR", directory)
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|error| panic!("`{program}` cannot be run: {error}"));
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&ran.stderr)));
    let totals = &answer["totals"];
    (totals["totalTokens"].as_u64().unwrap_or_else(|| panic!("no total in {answer}")), totals["totalCost"].as_f64().expect("a cost"))
}

/// Tokens and dollars of all days, by us.
fn ours(home: &Home) -> (u64, Option<f64>) {
    let answer = home.run(&["sessions", "import", "claude", "--json"]).code(0).json();
    let total = &answer["stats"]["total"];
    (total["tokens"].as_u64().expect("a total"), total["cost_usd"].as_f64())
}

fn example(home: &Home, more: &str) {
    let first = |output: u64| {
        let mut usage = usage(10, output, 2_000, 1_000);
        usage["cache_creation"] = json!({ "ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1_500 });
        usage
    };
    let sonnet = "claude-sonnet-4-5-20250929";
    let text = [
        line(9, ONE, "msg_01", "req_01", sonnet, false, first(5)),
        line(9, ONE, "msg_01", "req_01", sonnet, false, first(300)),
        line(8, ONE, "msg_02", "req_02", sonnet, false, usage(20, 100, 400, 3_000)),
        line(8, ONE, "msg_03", "req_03", "<synthetic>", false, usage(0, 0, 0, 0)),
    ]
    .concat();
    home.write(&format!("claude/projects/-p/{ONE}.jsonl"), &(text.clone() + more));
    let subagent = line(7, ONE, "msg_04", "req_04", "claude-haiku-4-5-20251001", true, usage(7, 70, 0, 0))
        + &line(7, ONE, "msg_02", "req_99", sonnet, true, usage(20, 100, 400, 3_000));
    home.write(&format!("claude/projects/-p/{ONE}/subagents/agent-1.jsonl"), &subagent);
    let own = line(5, FORK, "msg_05", "req_05", sonnet, false, usage(1, 2, 3, 4));
    home.write(&format!("claude/projects/-p/{FORK}.jsonl"), &(text.replace(ONE, FORK) + &own + "{\"type\":\"assistant\",\"message\":{\"usa"));
}

#[test]
fn totals_of_copies_forks_replays_and_cut_lines_are_those_of_ccusage() {
    let Some(program) = program() else { return };
    let home = Home::new("");
    example(&home, "");
    let (their_tokens, their_cost) = theirs(&program, &home.path().join("claude"));
    let (our_tokens, our_cost) = ours(&home);
    let our_cost = our_cost.expect("every model has a price");
    assert_eq!(our_tokens, their_tokens);
    assert!((our_cost - their_cost).abs() < 1e-6, "{our_cost} here, {their_cost} there");
}

#[test]
fn what_a_model_without_a_price_took_is_unknown_here_and_nothing_there() {
    let Some(program) = program() else { return };
    let home = Home::new("");
    example(&home, &line(6, ONE, "msg_06", "req_06", "own-model", false, usage(0, 1_000, 0, 0)));
    let (their_tokens, their_cost) = theirs(&program, &home.path().join("claude"));
    let (our_tokens, our_cost) = ours(&home);
    assert_eq!((our_tokens, our_cost), (their_tokens, None));
    assert!(their_cost > 0.0);
}

#[test]
fn a_price_of_another_day_and_one_that_they_have_not_are_told_apart() {
    let Some(program) = program() else { return };
    for (model, ours_is, theirs_is) in [
        // Their table is older: more than 200,000 tokens cost more there, as far as they are more.
        ("claude-sonnet-4-5", 250_000.0 * 3e-6 + 100.0 * 15e-6, 200_000.0 * 3e-6 + 50_000.0 * 6e-6 + 100.0 * 15e-6),
        // Ours has this one, at its price for long requests.
        ("claude-haiku-5-5", 250_000.0 * 0.5e-6 + 100.0 * 2.5e-6, 0.0),
    ] {
        let home = Home::new("");
        home.write(&format!("claude/projects/-p/{ONE}.jsonl"), &line(1, ONE, "msg_01", "req_01", model, false, usage(250_000, 100, 0, 0)));
        let (their_tokens, their_cost) = theirs(&program, &home.path().join("claude"));
        let (our_tokens, our_cost) = ours(&home);
        assert_eq!(our_tokens, their_tokens);
        let our_cost = our_cost.expect("its price is known");
        assert!((our_cost - ours_is).abs() < 1e-9 && (their_cost - theirs_is).abs() < 1e-9, "{model}: {our_cost} here, {their_cost} there");
    }
}

#[test]
fn an_answer_that_a_side_chain_replays_counts_twice_in_their_report_by_session_alone() {
    let Some(program) = program() else { return };
    let home = Home::new("");
    let sonnet = "claude-sonnet-4-5-20250929";
    let answer = |request: &str, is_sidechain| line(2, ONE, "msg_01", request, sonnet, is_sidechain, usage(20, 100, 400, 3_000));
    home.write(&format!("claude/projects/-p/{ONE}.jsonl"), &answer("req_01", false));
    home.write(&format!("claude/projects/-p/{ONE}/subagents/agent-1.jsonl"), &answer("req_99", true));
    let directory = home.path().join("claude");
    let (daily, by_session) = (theirs(&program, &directory), report(&program, &["claude", "session"], &directory));
    assert_eq!((ours(&home).0, daily.0), (3_520, 3_520));
    assert_eq!(by_session.0, 7_040);
}
