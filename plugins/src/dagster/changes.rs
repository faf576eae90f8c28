//! What a session changed, and whether a run was launched for that already.
//!
//! Old producers end a session after every turn, and a session that is taken up again ends again: with the files and commits of
//! before, if nothing was done. So what was changed is remembered with each launch, as a digest, in the route's own state.

use router_api::{Context, Envelope, HandlerError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Tools that write files.
const WRITERS: &[&str] = &["Write", "Edit", "MultiEdit", "NotebookEdit"];

/// Sessions that are remembered: each has one place, by its digest, and a later one that falls on the same place takes it. What is
/// forgotten costs at most a launch too many.
const PLACES: u16 = 4_096;

/// What the events of a handling say that their session changed: a digest for each event that names a change, oldest first.
pub(super) struct Changes(Vec<String>);

impl Changes {
    pub(super) fn of(cx: &Context) -> Self {
        Self(cx.burst().iter().filter_map(|event| digest_of(event)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has anything changed since `launch`?
    pub(super) fn is_beyond(&self, launch: &Launched) -> bool {
        self.0.iter().any(|digest| *digest != launch.changes)
    }
}

/// `None` where the event names no change. An ended session lists modified files, which are those that git shows as unstaged, and
/// commits; the number of writes tells a file that was written again.
fn digest_of(event: &Envelope) -> Option<String> {
    let payload = event.payload();
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    let mut is_changed = false;
    for name in ["files_modified", "git_commits"] {
        part(name);
        let mut items: Vec<String> = payload.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter().map(text_of).collect();
        items.sort_unstable();
        items.dedup();
        is_changed |= !items.is_empty();
        items.iter().for_each(|item| part(item));
    }
    let writes = WRITERS.iter().filter_map(|tool| payload.get("tools_used")?.get(tool)?.as_u64()).fold(0, u64::saturating_add);
    part(&writes.to_string());
    (is_changed || writes > 0).then(|| hex(&hash.finalize()))
}

/// A list's element is a text, or an object of a producer's own.
fn text_of(item: &Value) -> String {
    item.as_str().map_or_else(|| item.to_string(), str::to_owned)
}

/// The last launch for a session.
#[derive(Serialize, Deserialize)]
pub(super) struct Launched {
    /// A digest: an id can be of any length.
    session: String,
    changes: String,
    /// The handling, a repeat of which must not take its own launch for an earlier one.
    pub(super) by: String,
    pub(super) run: String,
}

impl Launched {
    /// # Errors
    ///
    /// When the store cannot be read.
    pub(super) async fn last(cx: &Context, session: &str) -> Result<Option<Self>, HandlerError> {
        let digest = digest(session);
        let kept = cx.state(&place(&digest)).await?.and_then(|value| serde_json::from_value::<Self>(value).ok());
        Ok(kept.filter(|launched| launched.session == digest))
    }

    /// # Errors
    ///
    /// When the store cannot be written.
    pub(super) async fn remember(cx: &Context, session: &str, changes: &Changes, run: &str) -> Result<(), HandlerError> {
        // The newest: that is how the next end is compared.
        let Some(changes) = changes.0.last().cloned() else { return Ok(()) };
        let session = digest(session);
        let place = place(&session);
        cx.set_state(&place, Some(json!(Self { session, changes, by: cx.idempotency_key(), run: run.to_owned() }))).await?;
        Ok(())
    }
}

fn place(digest: &str) -> String {
    let number = u16::from_str_radix(&digest[..4], 16).expect("a digest is written in hexadecimal digits");
    format!("launched.{}", number % PLACES)
}

/// Of any text, in hexadecimal digits.
pub(super) fn digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
