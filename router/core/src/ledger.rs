//! The ledger of one handling: which writes it began, and what is known of them from earlier tries of the same event or burst.
//!
//! When is a result final? While the handling runs nobody knows what the handler makes of a reply, so:
//!
//! - A reply that answers the request (HTTP below 500 and none of 408, 425, 429; a command that ended; the value of a plugin's own work)
//!   is stored at once. If the handling is cut short (a crash, its time-out, a lost session, a forced drain, a panic), the next try gets
//!   it without performing the write.
//! - If the handler itself ends with an error, those replies are forgotten: it may have found in one what it does not like, and to show it
//!   the same reply again would fail for ever. What the plugin called final (`final_when`) stays.
//! - A write whose result is unknown (no answer in time, a call that broke off, HTTP 500, 502, 504, the death of the process) leaves its
//!   intent, so that the next try can look first. One that was certainly not done leaves nothing.
//! - Once the event is remembered as done, nothing of it is left: the inbox knows it from then on.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use router_api::{
    Begun, Clock, Effect, EffectClass, EffectError, EffectReply, Intent, Ledger, LedgerKey, LedgerResult, RouteName, Store,
    failpoint::{self, Failpoint},
};

use crate::redact::Redactor;

mod digest;
mod reply;

/// Writes of one handling that are remembered; further ones are performed and not remembered.
pub const WRITES_MAX: usize = 10_000;

/// In bytes; a longer name of an effect is cut for the record, and counts whole in the digest.
const NAME_BYTES_MAX: usize = 200;

/// Hears a sentence.
pub type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// See the module.
pub struct HandlingLedger {
    route: RouteName,
    subject: Arc<str>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    redactor: Option<Arc<Redactor>>,
    tell: Tell,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    writes: Vec<Write>,
    /// Why an intent could not be stored.
    unstored: Option<String>,
    /// Said so already.
    is_full: bool,
}

struct Write {
    key: LedgerKey,
    now: Now,
}

/// What the store says of a write, and why.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Now {
    /// Begun; nobody knows what came of it.
    Unknown,
    /// Begun, and not done, or with an answer that is no result.
    Void,
    /// Done, as far as anybody but the handler can tell.
    Done,
    /// Done by the plugin's own word.
    Final,
}

impl HandlingLedger {
    /// For one handling of `subject`. `tell` hears what goes wrong without harm.
    #[must_use]
    pub fn new(route: RouteName, subject: Arc<str>, store: Arc<dyn Store>, clock: Arc<dyn Clock>, redactor: Option<Arc<Redactor>>, tell: Tell) -> Self {
        Self { route, subject, store, clock, redactor, tell, known: Mutex::default() }
    }

    /// Has the handling begun a write?
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.known().writes.is_empty()
    }

    /// Why a write was not begun: its intent could not be stored.
    #[must_use]
    pub fn unstored(&self) -> Option<String> {
        self.known().unstored.clone()
    }

    /// The handler itself ended with an error: only what is final stays, and what is unknown.
    pub async fn end_with_an_error(&self) {
        let is_void = |write: &&Write| matches!(write.now, Now::Void | Now::Done);
        let void: Vec<LedgerKey> = self.known().writes.iter().filter(is_void).map(|write| write.key.clone()).collect();
        if void.is_empty() {
            return;
        }
        failpoint::pass(Failpoint::RepliesBefore);
        if let Err(error) = self.store.ledger_forget(&self.route, &void).await {
            (self.tell)(format!("the ledger of route `{}` keeps results that should be forgotten: {error}", self.route));
        }
        failpoint::pass(Failpoint::RepliesAfter);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds the writes")
    }

    /// Gives the write its key; `None` when there are too many.
    fn note(&self, effect: &Effect) -> Option<(usize, LedgerKey)> {
        let digest = digest::of(effect);
        let mut name = effect.name.clone();
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        let mut known = self.known();
        if known.writes.len() >= WRITES_MAX {
            if !std::mem::replace(&mut known.is_full, true) {
                drop(known);
                (self.tell)(format!("a handling of route `{}` has more than {WRITES_MAX} writes; the ledger does not keep further ones", self.route));
            }
            return None;
        }
        let is_equal = |write: &&Write| write.key.digest == digest && write.key.effect == name;
        let ordinal = u32::try_from(known.writes.iter().filter(is_equal).count()).unwrap_or(u32::MAX);
        let key = LedgerKey { subject: self.subject.to_string(), effect: name, ordinal, digest };
        known.writes.push(Write { key: key.clone(), now: Now::Unknown });
        Some((known.writes.len() - 1, key))
    }

    fn set(&self, index: usize, now: Now) {
        if let Some(write) = self.known().writes.get_mut(index) {
            write.now = now;
        }
    }
}

#[async_trait]
impl Ledger for HandlingLedger {
    async fn begin(&self, effect: &Effect) -> Result<Begun, EffectError> {
        let Some((index, key)) = self.note(effect) else { return Ok(Begun::First(Intent(usize::MAX))) };
        failpoint::pass(Failpoint::IntentBefore);
        let entry = match self.store.ledger_begin(&self.route, &key, self.clock.now()).await {
            Ok(entry) => entry,
            Err(error) => {
                let sentence = format!("`{}` was not begun, since the ledger cannot keep it: {error}", key.effect);
                self.known().unstored = Some(sentence.clone());
                return Err(EffectError::new(EffectClass::Cancelled, sentence));
            }
        };
        failpoint::pass(Failpoint::IntentAfter);
        let Some(entry) = entry else { return Ok(Begun::First(Intent(index))) };
        let Some(result) = entry.result else { return Ok(Begun::Again(Intent(index))) };
        match result.reply.as_ref().and_then(|reply| reply::decode(reply, &effect.request)) {
            Some(reply) => {
                self.set(index, if result.is_final { Now::Final } else { Now::Done });
                Ok(Begun::Done(reply))
            }
            None => Ok(Begun::Again(Intent(index))),
        }
    }

    async fn end(&self, intent: Intent, result: &Result<EffectReply, EffectError>, judged: Option<bool>) {
        let Intent(index) = intent;
        let Some(key) = self.known().writes.get(index).map(|write| write.key.clone()) else { return };
        let (reply, now) = match (result, judged) {
            (Ok(_), Some(false)) => return self.set(index, Now::Void),
            (Ok(reply), Some(true)) => (reply, Now::Final),
            (Ok(reply), None) => match reply::standing(reply) {
                Now::Done => (reply, Now::Done),
                other => return self.set(index, other),
            },
            (Err(error), _) => {
                let is_unknown = matches!(error.class, EffectClass::Timeout | EffectClass::Failed | EffectClass::Cancelled);
                return self.set(index, if is_unknown { Now::Unknown } else { Now::Void });
            }
        };
        let kept = LedgerResult {
            at: self.clock.now(),
            summary: reply::summary(reply),
            reply: reply::encode(reply, self.redactor.as_deref()),
            is_final: now == Now::Final,
        };
        failpoint::pass(Failpoint::ResultBefore);
        let ended = self.store.ledger_end(&self.route, &key, kept).await;
        failpoint::pass(Failpoint::ResultAfter);
        match ended {
            Ok(()) => self.set(index, now),
            // It was done all the same: the handling goes on, and only a repetition would do it again.
            Err(error) => (self.tell)(format!("the result of `{}` on route `{}` is not in the ledger: {error}", key.effect, self.route)),
        }
    }
}
