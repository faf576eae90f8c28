//! What Claude Code may write to the hook's standard input. The first byte chooses how the hook was called. Whatever comes: no panic, and
//! what lands in the spool are events.

use std::{path::PathBuf, time::Duration};

use router_api::{DecodeLimits, Envelope, RoutingKey};
use router_claude::{Call, Interface, Settings};

pub(super) const WORDS: &[&str] = &[
    "\"hook_event_name\":\"PostToolUse\",",
    "\"hook_event_name\":\"SessionStart\",\"source\":\"resume\",",
    "\"hook_event_name\":\"SessionEnd\",\"reason\":\"clear\",",
    "\"hook_event_name\":\"Stop\",",
    "\"session_id\":\"../../etc\",",
    "\"session_id\":null,",
    "\"cwd\":\"/nowhere\",",
    "\"transcript_path\":\"/dev/zero\",",
    "\"tool_name\":\"Bash\",",
    "\"tool_input\":{\"command\":\"git commit\"},",
    "\"tool_response\":{\"stdout\":\"x\",\"gitOperation\":{}},",
    "\"agent_id\":\"a\",",
    "\\u0000",
    "\\ud800",
    "1e999",
];

pub(super) fn run(data: &[u8]) {
    let Some((first, input)) = data.split_first() else { return };
    let interface = match first % 4 {
        0 => Interface::Hook,
        1 => Interface::ToolAction,
        2 => Interface::SessionStart,
        _ => Interface::SessionEnd { reason: None },
    };
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let settings = Settings::from_environment(|name| match name {
        "HOME" => Some(at("home")),
        "EVENT_ROUTER_SPOOL" => Some(at("spool")),
        "CLAUDE_PROJECT_DIR" => Some(at("project")),
        "BLOODBANK_MESSAGES" | "BLOODBANK_SNAPSHOTS" => Some("1".to_owned()),
        _ => None,
    });
    std::fs::create_dir(at("project")).expect("a directory");
    let call = Call {
        interface,
        settings: &settings,
        host: "host".to_owned(),
        directory: PathBuf::from(at("project")),
        now: jiff::Timestamp::UNIX_EPOCH,
        elapsed: &|| Duration::ZERO,
        process: &|| None,
        random: &|| [7; 32],
    };
    let published = call.publish(input);
    let Some(spool) = published.spool else { return };
    let Ok(Some(drain)) = spool.drain() else { return };
    let batch = drain.batch(1_000, 64 * 1024 * 1024).expect("what was just written can be read");
    assert_eq!(batch.records.len(), published.events.len(), "what is said to be told waits");
    for record in &batch.records {
        let key = RoutingKey::new(&record.key).expect("a routing key");
        let event = Envelope::decode(key, record.body.clone(), DecodeLimits::default()).expect("an event");
        super::envelope::ask_everything(&event);
        assert!(event.id().is_some());
    }
}
