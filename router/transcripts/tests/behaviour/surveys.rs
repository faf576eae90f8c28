//! Every session below a directory.

use router_transcripts::{Prices, SessionTranscript, Survey, SurveyLimits, survey};

use crate::written::{EXAMPLE_USD, HAIKU, NONE, Usage, answer, assert_near, example, put, put_example};

const PARENT: &str = "11111111-1111-4111-8111-111111111111";
const FORK: &str = "22222222-2222-4222-8222-222222222222";

fn read(root: &std::path::Path) -> Survey {
    survey(root, SurveyLimits::default()).unwrap()
}

fn cost(session: &SessionTranscript) -> f64 {
    session.totals(&Prices::builtin()).cost_usd.unwrap()
}

#[test]
fn an_answer_that_a_fork_has_too_counts_for_its_parent() {
    let root = tempfile::tempdir().unwrap();
    put_example(&root.path().join("projects/-home-user-p"), PARENT);
    let question = r#"{"type":"user","uuid":"q1","timestamp":"2026-11-22T10:00:00.000Z","message":{"content":"do it"}}"#.to_owned() + "\n";
    let parent = question.clone() + &example();
    put(&root.path().join("projects/-home-user-p"), &format!("{PARENT}.jsonl"), &parent);
    let own = answer("2026-11-22T12:00:00.000Z", "msg_09", "req_09", HAIKU, "", &Usage { output: 100, ..NONE });
    let copies = parent.replace(r#"{"type":"user""#, &format!(r#"{{"forkedFrom":{{"sessionId":"{PARENT}"}},"type":"user""#));
    // Its name comes first, and its copies are as old as what they are copies of.
    put(&root.path().join("projects/-a-first"), &format!("{FORK}.jsonl"), &(r#"{"type":"summary"}"#.to_owned() + "\n" + &copies + &own));
    let all = read(root.path());
    assert_eq!((all.files, all.lines_skipped, all.sessions.len()), (3, 0, 2));
    let totals: Vec<_> = all.sessions.iter().map(|session| (session.session_id.as_str(), session.totals(&Prices::builtin()))).collect();
    assert_eq!((totals[0].0, totals[1].0), (PARENT, FORK));
    assert_near(totals[0].1.cost_usd, EXAMPLE_USD);
    assert_near(totals[1].1.cost_usd, 0.000_5);
    assert_eq!((totals[0].1.turns, totals[1].1.turns), (1, 0));
    assert_eq!((totals[0].1.parent.as_deref(), totals[1].1.parent.as_deref()), (None, Some(PARENT)));
}

#[test]
fn what_is_left_of_a_parent_that_is_gone_counts_for_its_fork() {
    let root = tempfile::tempdir().unwrap();
    let copied = example().replace(r#""type":"assistant""#, r#""type":"assistant","forkedFrom":{"sessionId":"gone","messageUuid":"m"}"#);
    let own = answer("2026-11-22T12:00:00.000Z", "msg_09", "req_09", HAIKU, "", &Usage { output: 100, ..NONE });
    put(root.path(), &format!("{FORK}.jsonl"), &(copied + &own));
    let all = read(root.path());
    assert!((cost(&all.sessions[0]) - 0.019_665 - 0.000_5).abs() < 1e-9, "{}", cost(&all.sessions[0]));
    assert_eq!(all.sessions[0].totals(&Prices::builtin()).parent.as_deref(), Some("gone"));
}

#[test]
fn a_subagent_belongs_to_its_session_wherever_its_transcript_lies() {
    let root = tempfile::tempdir().unwrap();
    put_example(root.path(), PARENT);
    let beside = answer("2026-11-22T10:00:06.000Z", "msg_07", "req_07", HAIKU, r#","isSidechain":true"#, &Usage { output: 200, ..NONE });
    put(root.path(), "agent-7.jsonl", &beside.replace("s-1", PARENT));
    let all = read(root.path());
    assert_eq!(all.sessions.len(), 1);
    assert!((cost(&all.sessions[0]) - EXAMPLE_USD - 0.001).abs() < 1e-9);
    assert!(all.sessions[0].path.ends_with(format!("{PARENT}.jsonl")));
}

#[test]
fn one_file_may_be_asked_for_and_usage_stands_in_quarters_of_an_hour() {
    let root = tempfile::tempdir().unwrap();
    let transcript = put_example(root.path(), PARENT);
    put(root.path(), "other.jsonl", &answer("2026-11-22T12:00:00.000Z", "m", "r", HAIKU, "", &NONE));
    let one = read(&transcript);
    assert_eq!((one.sessions.len(), one.files), (1, 2));
    assert!((cost(&one.sessions[0]) - EXAMPLE_USD).abs() < 1e-9);
    let slots: Vec<i64> = one.sessions[0].usage.iter().map(|usage| usage.slot.unwrap().0).collect();
    assert!(slots.iter().all(|slot| slot * 900 == "2026-11-22T10:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second()), "{slots:?}");
}

#[test]
fn what_was_not_written_to_since_is_left_out_and_said() {
    let root = tempfile::tempdir().unwrap();
    put_example(root.path(), PARENT);
    let limits = SurveyLimits { since: Some("2200-01-01T00:00:00Z".parse().unwrap()), ..SurveyLimits::default() };
    let none = survey(root.path(), limits).unwrap();
    assert_eq!((none.sessions.len(), none.older), (0, 2));
    let few = survey(root.path(), SurveyLimits { files_max: 1, ..SurveyLimits::default() }).unwrap();
    assert!(few.is_cut && few.files == 1);
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    assert!(survey(std::path::Path::new("/nowhere/at/all"), SurveyLimits::default()).is_err());
}
