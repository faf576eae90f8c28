//! A command that stays: the line that it is given for an event, and the verdict that it answers with.
//!
//! Both are wire formats that programs in other languages rely on; `docs/without-rust.md` describes them.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use router_api::{CommandReply, Context, Envelope, HandlerError, Outcome, RoutingKey, excerpt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::put_on_one_line;

/// Events that one verdict may emit.
const EMITS_MAX: usize = 100;
/// A delay that a verdict asks for is cut to this.
const DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The line for a handling, and the `id` in it: the event, or all events of the burst.
pub(super) fn line(event: &Envelope, cx: &Context, whole_burst: bool) -> (String, Bytes) {
    let idempotency_key = cx.idempotency_key();
    let id = format!("{idempotency_key}/{}", cx.attempt().number);
    let mut head =
        json!({ "id": id, "attempt": cx.attempt().number, "route": cx.route().as_str(), "key": event.key().as_str(), "idempotency_key": idempotency_key })
            .to_string();
    head.pop();
    let mut line = BytesMut::from(head.as_bytes());
    // The bodies go in as they came, so that no number loses a digit.
    if whole_burst {
        line.put_slice(b",\"events\":[");
        for (index, event) in cx.burst().iter().enumerate() {
            if index > 0 {
                line.put_u8(b',');
            }
            put_on_one_line(&mut line, event.raw());
        }
        line.put_slice(b"]}\n");
    } else {
        line.put_slice(b",\"event\":");
        put_on_one_line(&mut line, event.raw());
        line.put_slice(b"}\n");
    }
    (id, line.freeze())
}

/// What a program says came of an event. Members that are not known are for the program's own use.
#[derive(Deserialize)]
struct Verdict {
    outcome: Word,
    reason: Option<String>,
    delay_ms: Option<u64>,
    note: Option<String>,
    emit: Option<Vec<Emitted>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Word {
    Done,
    Skipped,
    Retry,
    Reject,
    Pause,
}

#[derive(Deserialize)]
struct Emitted {
    key: RoutingKey,
    payload: Value,
}

/// What the answer means for the event.
///
/// # Errors
///
/// `retry`, `reject` and `pause`; and `retry` for an answer that is no verdict, since the program may be mended by then.
pub(super) fn outcome(reply: &CommandReply, cx: &Context) -> Result<Outcome, HandlerError> {
    let verdict: Verdict = match serde_json::from_slice(&reply.stdout) {
        Ok(verdict) => verdict,
        Err(error) => {
            let line = excerpt(&reply.stdout[..reply.stdout.len().min(200)]);
            return Err(HandlerError::retry(format!("the answer is no verdict ({error}): {line}")));
        }
    };
    let emits = verdict.emit.unwrap_or_default();
    if emits.len() > EMITS_MAX {
        return Err(HandlerError::reject(format!("the verdict emits {} events, {EMITS_MAX} are the limit", emits.len())));
    }
    let reason =
        |default: &str| verdict.reason.as_deref().filter(|reason| !reason.trim().is_empty()).map_or(default.to_owned(), |text| excerpt(text.as_bytes()));
    let delay = verdict.delay_ms.map(|ms| Duration::from_millis(ms).min(DELAY_MAX));
    let outcome = match (verdict.outcome, delay) {
        (Word::Done, _) => Outcome::Done,
        (Word::Skipped, _) => Outcome::skipped(reason("the command had nothing to do")),
        (Word::Retry, None) => return Err(HandlerError::retry(reason("the command asked to be tried again"))),
        (Word::Retry, Some(delay)) => return Err(HandlerError::retry_after(delay, reason("the command asked to be tried again"))),
        (Word::Reject, _) => return Err(HandlerError::reject(reason("the command refused the event"))),
        (Word::Pause, delay) => return Err(HandlerError::Pause { delay, error: reason("the command asked for a pause").into() }),
    };
    for Emitted { key, payload } in emits {
        cx.emit(&key, payload);
    }
    if let Some(note) = verdict.note {
        cx.note(note);
    }
    Ok(outcome)
}
