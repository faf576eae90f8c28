//! Effects on their way: what `cx.http(..)`, `cx.command(..)` and `cx.effect(..)` return, to be said more about and then awaited.
//!
//! Here is also the order in which a write goes through the ledger: refused or not, intent, look, work, result.

use std::future::{Future, IntoFuture};

use serde_json::Value;

use crate::{
    Begun, BoxError, BoxFuture, CommandReply, CommandRequest, Context, Effect, EffectError, EffectKind, EffectReply, EffectRequest, HttpReply, HttpRequest,
    OwnWork,
};

type Look<'a> = Box<dyn FnOnce() -> BoxFuture<'a, Result<Option<EffectReply>, EffectError>> + Send + 'a>;
type Judge<'a> = Box<dyn FnOnce(&EffectReply) -> bool + Send + 'a>;

/// What a plugin says of a write, for the ledger.
#[derive(Default)]
struct Terms<'a> {
    look: Option<Look<'a>>,
    judge: Option<Judge<'a>>,
}

impl Context {
    /// Calls a URL. Await the result; `.read()`, `.named(..)`, `.dry_run_reply(..)`, `.look_first(..)` and `.final_when(..)` come before.
    pub fn http(&self, request: HttpRequest) -> HttpCall<'_> {
        HttpCall { cx: self, effect: effect("http", EffectRequest::Http(request)), terms: Terms::default(), work: None }
    }

    /// Runs a program. Await the result; `.read()`, `.named(..)`, `.dry_run_reply(..)`, `.look_first(..)` and `.final_when(..)` come
    /// before.
    pub fn command(&self, request: CommandRequest) -> CommandCall<'_> {
        CommandCall { cx: self, effect: effect("command", EffectRequest::Command(request)), terms: Terms::default(), work: None }
    }

    /// Does a plugin's own I/O (SQL, gRPC, …) under the same rules: `work` is not called in a dry run. Await the result.
    ///
    /// `input` is what the work depends on: for records, and to recognise a repetition. An error of `work` comes as one that may heal
    /// ([`crate::EffectClass::Failed`]).
    pub fn effect<'a, F, Fut>(&'a self, name: &str, input: Value, work: F) -> EffectCall<'a>
    where
        F: FnOnce() -> Fut + Send + 'a,
        Fut: Future<Output = Result<Value, BoxError>> + Send + 'a,
    {
        let work: OwnWork<'a> = Box::new(|| Box::pin(async move { work().await }));
        EffectCall { cx: self, effect: effect(name, EffectRequest::Own { input }), terms: Terms::default(), work: Some(work) }
    }
}

fn effect(name: &str, request: EffectRequest) -> Effect {
    Effect { name: name.to_owned(), kind: EffectKind::Write, request, dry_run_reply: None }
}

async fn perform<'a>(cx: &'a Context, effect: Effect, work: Option<OwnWork<'a>>, terms: Terms<'a>) -> Result<EffectReply, EffectError> {
    let (effects, ledger) = cx.ports();
    let Some(ledger) = ledger.filter(|_| effect.kind == EffectKind::Write) else {
        return effects.perform(effect, work, &cx.effect_context()).await;
    };
    // What is refused for what it says is never begun.
    effects.check(&effect)?;
    let intent = match ledger.begin(&effect).await? {
        Begun::Done(reply) => return Ok(reply),
        Begun::First(intent) => intent,
        Begun::Again(intent) => match terms.look {
            Some(look) => match look().await? {
                None => intent,
                Some(reply) => {
                    let judged = terms.judge.map(|judge| judge(&reply));
                    let found = Ok(reply);
                    ledger.end(intent, &found, judged).await;
                    return found;
                }
            },
            None => intent,
        },
    };
    let result = effects.perform(effect, work, &cx.effect_context()).await;
    let judged = terms.judge.and_then(|judge| result.as_ref().ok().map(judge));
    ledger.end(intent, &result, judged).await;
    result
}

macro_rules! call {
    ($(#[$doc:meta])* $name:ident, $reply:ty, $variant:ident) => {
        $(#[$doc])*
        #[must_use = "nothing happens until it is awaited"]
        pub struct $name<'a> {
            cx: &'a Context,
            effect: Effect,
            terms: Terms<'a>,
            work: Option<OwnWork<'a>>,
        }

        impl<'a> $name<'a> {
            /// It changes nothing outside: performed in a dry run too, and never stored.
            pub fn read(mut self) -> Self {
                self.effect.kind = EffectKind::Read;
                self
            }

            /// Names it within the handling, for records and for the ledger.
            pub fn named(mut self, name: impl Into<String>) -> Self {
                self.effect.name = name.into();
                self
            }

            /// The answer with which a dry run goes on, instead of ending here.
            pub fn dry_run_reply(mut self, reply: $reply) -> Self {
                self.effect.dry_run_reply = Some(EffectReply::$variant(reply));
                self
            }

            /// Asked instead of repeating at once, when this write was begun before and its result is unknown: the process died
            /// meanwhile, or no answer came in time.
            ///
            /// `Ok(Some(reply))`: it was done, and this is its result. `Ok(None)`: it was not, perform it. An error ends the call and
            /// leaves the question open for the next attempt. Asking changes nothing outside, so effects in it are `.read()`.
            pub fn look_first<F>(mut self, look: F) -> Self
            where
                F: FnOnce() -> BoxFuture<'a, Result<Option<$reply>, EffectError>> + Send + 'a,
            {
                self.terms.look = Some(Box::new(move || Box::pin(async move { Ok(look().await?.map(EffectReply::$variant)) })));
                self
            }

            /// Says of the reply whether it is final. A final one is kept even where the handling then fails, and a repetition gets it
            /// without performing the write again; one that is not is not stored at all.
            ///
            /// Without this, a reply is kept when the handling is cut short (a crash, its time-out), and forgotten when the handler
            /// itself ends with an error: it may have found in the reply what it does not like.
            pub fn final_when<F>(mut self, judge: F) -> Self
            where
                F: FnOnce(&$reply) -> bool + Send + 'a,
            {
                self.terms.judge = Some(Box::new(move |reply| match reply {
                    EffectReply::$variant(reply) => judge(reply),
                    _ => unreachable!("an effect port answers in kind"),
                }));
                self
            }
        }

        impl<'a> IntoFuture for $name<'a> {
            type Output = Result<$reply, EffectError>;
            type IntoFuture = BoxFuture<'a, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(async move {
                    match perform(self.cx, self.effect, self.work, self.terms).await? {
                        EffectReply::$variant(reply) => Ok(reply),
                        _ => unreachable!("an effect port answers in kind"),
                    }
                })
            }
        }
    };
}

call!(
    /// An HTTP call to be awaited.
    HttpCall, HttpReply, Http
);
call!(
    /// A command to be awaited.
    CommandCall, CommandReply, Command
);
call!(
    /// A plugin's own I/O to be awaited.
    EffectCall, Value, Own
);
