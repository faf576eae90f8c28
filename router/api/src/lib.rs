#![doc = include_str!("../README.md")]

mod admin;
mod body;
mod calls;
mod clock;
mod context;
mod dead_letter;
mod described;
mod dialect;
mod dry_run;
mod effect;
mod envelope;
pub mod failpoint;
mod follow;
mod handler;
mod keep_alive;
mod key;
mod ledger;
mod names;
mod places;
mod plugin;
mod program;
mod session;
mod session_book;
mod store;
pub mod suggest;
mod template;
mod text;
mod time;
mod transport;
mod trie;
mod variable;
mod view;

pub use admin::{
    Accepted, Admin, AdminError, BreakerState, DeadLetterGroup, DeadLetterGroups, DeadLetterSelection, EnableFrom, EnableRequest, Enabled, RedriveRequest,
    Redriven, Reloaded, RouteCommand, RouteCommanded, RouteRates, RouteState, RouteStatus, RouterStatus, TakenUp,
};
pub use calls::{CommandCall, EffectCall, HttpCall};
pub use clock::{BoxFuture, Cancellation, Canceller, Chance, Clock};
pub use context::{Attempt, Context, ContextParts, Emit, ID_NAMESPACE};
pub use dead_letter::{AttemptRecord, DeadLetter, DeadLetterReason, FailureClass};
pub use dialect::Dialect;
pub use dry_run::{DryRun, RecordedEffect};
pub use effect::{
    CommandReply, CommandRequest, Effect, EffectClass, EffectContext, EffectError, EffectKind, EffectPort, EffectReply, EffectRequest, HttpHeader, HttpReply,
    HttpRequest, Method, OwnWork, excerpt, last_line,
};
pub use envelope::{DecodeError, DecodeLimits, Envelope, Source};
pub use follow::{FollowRequest, Followed, Page, PageQuery};
pub use handler::{BoxError, Handler, HandlerError, Outcome, Permanent};
pub use keep_alive::{KeepAlive, Lease, Leased};
pub use key::{KeyError, RoutingKey, RoutingPattern};
pub use ledger::{Begun, DoneBefore, Intent, Ledger, LedgerEntry, LedgerKey, LedgerResult};
pub use names::{EventId, RouteName, RouteNameError, bytes_as_text};
pub use plugin::{BuildContext, BuildError, BuildProblem, Plugin, Registration, Registry, RegistryError, RouteMode};
pub use program::{Endpoint, Program, TargetUrl, display_argv};
pub use session::{ModelUsage, Session, SessionEnd, SessionError, SessionOrigin, SessionState, Sessions};
pub use session_book::{
    ActiveSessions, KeptSession, RelatedSession, Relation, SESSION_SLOT_SECONDS, SessionEntry, SessionList, SessionQuery, SessionShown, SessionSlot,
    SessionStats, SessionsImported, StatsBy, StatsQuery, StatsRow, StoredSession, SumsQuery, TokenKinds,
};
pub use store::{
    ArchiveEntry, ArchivedEvent, Archivist, DeliveryRecord, DeliveryState, EventQuery, FateRecord, FrozenBurst, NotedAttempts, RunningSlot, SeenEvent, Store,
    StoreError, Suspect,
};
pub use suggest::suggest;
pub use template::{ArgvTemplate, JsonTemplate, Scope, Template, UrlTemplate};
pub use time::read as read_time;
pub use transport::{
    BurstNote, Condition, Consumer, DeadLetterQuery, Decoded, Delivery, Destination, Fate, Features, InboxKey, Matcher, PlanChange, PlanLine, Publication,
    Published, QueueKind, QueueStats, QueueWish, SettleError, Settlement, StoredDeadLetter, Subscription, Transport, TransportAdmin, TransportError,
};
pub use trie::PatternTrie;
pub use variable::check_variable_name;
pub use view::{Field, FieldPath, FieldPathError};

#[doc(no_inline)]
pub use async_trait::async_trait;
#[doc(hidden)]
pub use inventory;
