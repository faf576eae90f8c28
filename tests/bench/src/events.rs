//! The events that are drained: envelopes as Bloodbank's version 2 has them, of 1 to 2 KiB, of 512 sessions.

use std::fmt::Write as _;

use lapin::BasicProperties;

/// Where the router looks for events.
pub const EXCHANGE: &str = "bloodbank.events.v1";

/// The keys, which all fit `session.thread.#`.
const KEYS: [&str; 6] = [
    "session.thread.start",
    "session.thread.message",
    "session.thread.agent.action",
    "session.thread.agent.thinking",
    "session.thread.agent.response",
    "session.thread.end",
];

const TOOLS: [&str; 4] = ["Write", "Edit", "Bash", "Read"];

const SESSIONS: u64 = 512;

/// The `number`th event: key, body, properties. Two numbers have two ids. `sent` is in nanoseconds, of whatever clock the reader has.
pub fn event(number: u64, sent: u64) -> (String, Vec<u8>, BasicProperties) {
    let key = KEYS[(number % 6) as usize];
    let id = format!("7f3c1a52-0d4e-4c6b-8b1f-{number:012x}");
    // Spread over 1 to 2 KiB, and the same in every run.
    let filling = 260 + (number.wrapping_mul(2_654_435_761) >> 7) % 1_000;
    let mut body = String::with_capacity(2_048);
    let _ = write!(
        body,
        r#"{{"sent_ns":{sent},"event_id":"{id}","event_type":"{key}","timestamp":"2026-02-03T09:15:27.204918+00:00","version":"1.0.0","source":{{"host":"127.0.0.1","type":"agent","app":"claude-code","meta":null}},"correlation_ids":["5b0e7d14-6a2f-4f0b-8f55-{session:012x}"],"agent_context":null,"payload":{{"session_id":"5b0e7d14-6a2f-4f0b-8f55-{session:012x}","thread_id":null,"conversation_id":null,"tool_metadata":{{"tool_name":"{tool}","tool_input":{{"file_path":"/home/ada/shop/api/cart{number}.py","content":""#,
        session = number % SESSIONS,
        tool = TOOLS[(number % 4) as usize],
    );
    while (body.len() as u64) < 640 + filling {
        body.push_str("total = price * count\\n");
    }
    body.push_str(r#""},"execution_time_ms":41,"success":true,"error_message":null,"output_preview":null},"working_directory":"/home/ada/shop","git_branch":"feat/search","git_status":"modified","files_in_context":["/home/ada/shop/api/cart.py","/home/ada/shop/api/order.py"],"turn_number":3,"model":"claude-sonnet-4-5","tags":[]}}"#);
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_message_id(id.as_str().into());
    (key.to_owned(), body.into_bytes(), properties)
}

/// When an event was sent, read without parsing it: the field stands first.
pub fn sent_in(body: &[u8]) -> Option<u64> {
    let digits = body.strip_prefix(br#"{"sent_ns":"#)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}
