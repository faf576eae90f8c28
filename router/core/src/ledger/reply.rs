//! Replies of writes as the ledger keeps them: which count as results, how they look in a sentence, and what of them is stored.

use std::time::Duration;

use bytes::Bytes;
use router_api::{CommandReply, EffectReply, EffectRequest, HttpReply, bytes_as_text};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Now;
use crate::redact::Redactor;

/// In bytes of bodies and outputs. Of a longer reply only the summary is kept, so a repetition looks first or does the write again.
const REPLY_BYTES_MAX: usize = 256 * 1024;

/// Headers that are secret by what they are.
const SECRET_HEADERS: [&str; 4] = ["set-cookie", "authorization", "proxy-authorization", "www-authenticate"];

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kept {
    Http {
        status: u16,
        headers: Vec<(String, String)>,
        #[serde(with = "bytes_as_text")]
        body: Bytes,
    },
    Command {
        code: Option<i32>,
        signal: Option<i32>,
        #[serde(with = "bytes_as_text")]
        stdout: Bytes,
        #[serde(with = "bytes_as_text")]
        stderr: Bytes,
        bytes_cut: u64,
        elapsed_ms: u64,
    },
    Own {
        value: Value,
    },
}

/// What a reply says about its write where the plugin says nothing.
pub(super) fn standing(reply: &EffectReply) -> Now {
    match reply {
        EffectReply::Http(HttpReply { status: 500 | 502 | 504, .. }) => Now::Unknown,
        EffectReply::Http(HttpReply { status: 408 | 425 | 429 | 500..=599, .. }) => Now::Void,
        EffectReply::Http(_) | EffectReply::Command(_) | EffectReply::Own(_) => Now::Done,
    }
}

/// For people.
pub(super) fn summary(reply: &EffectReply) -> String {
    match reply {
        EffectReply::Http(reply) => format!("HTTP {}", reply.status),
        EffectReply::Command(CommandReply { code: Some(code), .. }) => format!("exit code {code}"),
        EffectReply::Command(CommandReply { signal: Some(signal), .. }) => format!("ended by signal {signal}"),
        EffectReply::Command(_) => "ended".to_owned(),
        EffectReply::Own(_) => "done".to_owned(),
    }
}

/// The reply as it is stored; `None` where it is too long, or where it has secrets in it that a handler would miss: only the output of a
/// command is kept without them.
pub(super) fn encode(reply: &EffectReply, redactor: Option<&Redactor>) -> Option<Bytes> {
    let clean = |bytes: &Bytes| {
        redactor.map_or_else(
            || (bytes.clone(), 0),
            |redactor| {
                let redacted = redactor.redact(bytes);
                (redacted.body, redacted.count)
            },
        )
    };
    let kept = match reply {
        EffectReply::Http(HttpReply { status, headers, body }) => {
            if body.len() > REPLY_BYTES_MAX || headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > REPLY_BYTES_MAX {
                return None;
            }
            let headers: Vec<_> = headers.iter().filter(|(name, _)| !SECRET_HEADERS.contains(&name.as_str())).cloned().collect();
            let is_secret = |text: &str| redactor.is_some_and(|redactor| redactor.redact_text(text) != text);
            if clean(body).1 > 0 || headers.iter().any(|(_, value)| is_secret(value)) {
                return None;
            }
            Kept::Http { status: *status, headers, body: body.clone() }
        }
        EffectReply::Command(CommandReply { code, signal, stdout, stderr, bytes_cut, elapsed }) => {
            if stdout.len().saturating_add(stderr.len()) > REPLY_BYTES_MAX {
                return None;
            }
            let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            Kept::Command { code: *code, signal: *signal, stdout: clean(stdout).0, stderr: clean(stderr).0, bytes_cut: *bytes_cut, elapsed_ms }
        }
        EffectReply::Own(value) => {
            let text = Bytes::from(value.to_string());
            if text.len() > REPLY_BYTES_MAX || clean(&text).1 > 0 {
                return None;
            }
            Kept::Own { value: value.clone() }
        }
    };
    serde_json::to_vec(&kept).ok().map(Bytes::from)
}

/// The stored reply, if it can be read and answers this kind of request.
pub(super) fn decode(text: &[u8], request: &EffectRequest) -> Option<EffectReply> {
    Some(match (serde_json::from_slice(text).ok()?, request) {
        (Kept::Http { status, headers, body }, EffectRequest::Http(_)) => EffectReply::Http(HttpReply { status, headers, body }),
        (Kept::Command { code, signal, stdout, stderr, bytes_cut, elapsed_ms }, EffectRequest::Command(_)) => {
            EffectReply::Command(CommandReply { code, signal, stdout, stderr, bytes_cut, elapsed: Duration::from_millis(elapsed_ms) })
        }
        (Kept::Own { value }, EffectRequest::Own { .. }) => EffectReply::Own(value),
        _ => return None,
    })
}
