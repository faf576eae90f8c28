//! Sessions with the broker: two supervised connections, one to take events from, one to give events to.
//!
//! They are two so that a broker that is short of memory, and therefore reads nothing more from who publishes, still gets our
//! acknowledgements and shrinks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lapin::{ErrorKind, protocol::AMQPErrorKind};
use router_api::{Cancellation, Canceller, Chance, Condition, TransportError};
use tokio::sync::watch;

use crate::{
    AmqpOptions, archive,
    dial::is_plain_beyond_this_machine,
    failure::{Failure, LIMIT, shown_url, within},
    hold::Hold,
    link::{Link, LinkState, Role},
    notes::Notes,
    standing::{self, Standing},
};

/// For the end of both connections.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Is told of each session to take from, before anyone else sees it.
#[async_trait]
pub(crate) trait OnSession: Send + Sync + 'static {
    /// Makes the broker's side ready: declares what is bound.
    async fn ready(&self, session: &Session) -> Result<(), Failure>;
}

/// One connection from its opening to its loss. What came over it is worth nothing afterwards.
#[derive(Clone)]
pub(crate) struct Session {
    /// Higher for each later session; for who reads a log.
    epoch: u64,
    connection: Arc<lapin::Connection>,
    over: Cancellation,
    numbers: Arc<Numbers>,
}

/// What is known of the numbers that the connection's channels have.
///
/// lapin (4.12.3) never gives a number back to use whose channel the broker has closed: whoever is given it next, which is after all the
/// others, hears the old refusal without the broker being asked, and the number is taken for good. A connection that lasts asks many
/// questions that are refused, so its numbers run out in the end.
#[derive(Default)]
struct Numbers {
    /// Lost for good.
    stale: AtomicU32,
    /// None is left; only another connection helps.
    spent: tokio::sync::Notify,
}

impl Session {
    pub(crate) fn new(epoch: u64, connection: Arc<lapin::Connection>) -> (Self, Canceller) {
        let (canceller, over) = Canceller::new();
        (Self { epoch, connection, over, numbers: Arc::default() }, canceller)
    }

    /// A new channel, for `what`.
    pub(crate) async fn channel(&self, what: &str) -> Result<lapin::Channel, Failure> {
        let opening = async {
            loop {
                match self.connection.create_channel().await {
                    // The next number is another one, and there are no more than the broker allows.
                    Err(error) if is_stale(&error) && self.connection.status().connected() => {
                        self.numbers.stale.fetch_add(1, Ordering::Relaxed);
                    }
                    other => return other,
                }
            }
        };
        let opened = within(what, LIMIT, async { Ok(opening.await) }).await?;
        opened.map_err(|error| match error.kind() {
            ErrorKind::ChannelsLimitReached => self.no_channel(what),
            _ => Failure::of(what, &error),
        })
    }

    fn no_channel(&self, what: &str) -> Failure {
        let most = self.connection.configuration().channel_max();
        if self.numbers.stale.load(Ordering::Relaxed) == 0 {
            return Failure::lost(format!("{what}: the connection has {most} channels already, which is all that the broker allows; raise its `channel_max`"));
        }
        self.numbers.spent.notify_one();
        Failure::lost(format!("{what}: the connection has no channel left of {most}, and is opened anew"))
    }

    /// Resolves when no channel can be opened any more until there is another connection.
    pub(crate) async fn spent(&self) {
        self.numbers.spent.notified().await;
    }

    /// Is the connection lost?
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled() || !self.connection.status().connected()
    }

    /// Resolves when the connection is lost.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn connection(&self) -> &Arc<lapin::Connection> {
        &self.connection
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("epoch", &self.epoch).field("over", &self.is_over()).finish_non_exhaustive()
    }
}

/// Is it a refusal of long ago? A broker never answers the opening of a channel by closing that channel.
fn is_stale(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(said) => matches!(said.kind(), AMQPErrorKind::Soft(_)),
        // Closed by the broker with a code that is none of the protocol's.
        ErrorKind::InvalidChannelState(..) => true,
        _ => false,
    }
}

/// What can be done with the connection to give to.
#[derive(Clone)]
pub(crate) enum Giving {
    /// Publish.
    Open(Session),
    /// There is no session, or nobody knows yet whether the queues stand.
    Away(String),
    /// The broker takes nothing for now.
    Blocked(String),
    /// For good.
    Closed,
}

/// Keeps two connections to the broker, for as long as it is not closed.
pub(crate) struct Bus {
    shown: String,
    taking: Arc<Link>,
    giving: Arc<Link>,
    closing: Canceller,
    hold: Hold,
    standing: Arc<Standing>,
    /// What else is wrong, by who found it.
    notes: Arc<Notes>,
    /// The supervisors.
    ended: tokio::sync::Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Bus {
    /// Returns at once and connects in the background. Waits here are on a network and use the real time, whatever clock the router
    /// has.
    pub(crate) fn start(
        options: Arc<AmqpOptions>,
        chance: Arc<dyn Chance>,
        on_session: Arc<dyn OnSession>,
        hold: Hold,
        standing: Arc<Standing>,
        notes: Arc<Notes>,
    ) -> Arc<Self> {
        let shown = shown_url(&options.url);
        if is_plain_beyond_this_machine(&options.url) {
            tracing::warn!("`{shown}` sends the password and all events in clear text over the network: use `amqps`");
        }
        let (closing, closed) = Canceller::new();
        let taking = Link::new(Role::Taking, Arc::clone(&options), Arc::clone(&chance), Some(on_session), closed.clone());
        let giving = Link::new(Role::Giving, options, chance, None, closed);
        let ended = [&taking, &giving].map(|link| tokio::spawn(Arc::clone(link).run())).into();
        Arc::new(Self { shown, taking, giving, closing, hold, standing, notes, ended: tokio::sync::Mutex::new(ended) })
    }

    /// A live session to take from, whose topology stands; waits until there is one.
    ///
    /// # Errors
    ///
    /// Refused by the broker, so that waiting heals nothing; or closed.
    pub(crate) async fn session(&self) -> Result<Session, TransportError> {
        let mut states = self.taking.states();
        loop {
            {
                let state = states.borrow_and_update();
                if state.closed {
                    return Err(TransportError::Unavailable(format!("the connection to `{}` is closed", self.shown)));
                }
                if let Some(session) = state.session.as_ref().filter(|session| !session.is_over()) {
                    return Ok(session.clone());
                }
                if let Some(trouble) = state.trouble.as_ref().filter(|trouble| trouble.is_refused()) {
                    return Err(TransportError::Refused(trouble.sentence().to_owned()));
                }
            }
            if states.changed().await.is_err() {
                return Err(TransportError::Unavailable(format!("the connection to `{}` is closed", self.shown)));
            }
        }
    }

    /// Waits until events can be taken and given, and what is wanted is bound.
    ///
    /// # Errors
    ///
    /// As for [`Bus::session`].
    pub(crate) async fn reached(&self) -> Result<(), TransportError> {
        let mut changes = self.changes();
        loop {
            self.session().await?;
            if self.is_reached() {
                return Ok(());
            }
            changes.changed().await;
        }
    }

    /// The same without waiting. A broker that takes nothing for now is there all the same.
    pub(crate) fn is_reached(&self) -> bool {
        let Some(session) = self.now() else { return false };
        let is_given = match self.giving() {
            Giving::Away(_) => false,
            Giving::Open(_) => !self.hold.is_held(session.epoch()),
            Giving::Blocked(_) | Giving::Closed => true,
        };
        is_given && self.standing.held(session.epoch()).is_none() && self.standing.unsettled().is_none()
    }

    /// What is waited for beside the connections.
    pub(crate) fn awaited(&self) -> Option<String> {
        self.held().or_else(|| self.standing.unsettled())
    }

    /// The same as [`Bus::session`] without waiting.
    pub(crate) fn now(&self) -> Option<Session> {
        self.taking.states().borrow().session.clone().filter(|session| !session.is_over())
    }

    /// Why there is no session, if somebody knows.
    pub(crate) fn trouble(&self) -> Option<Failure> {
        self.taking.states().borrow().trouble.clone()
    }

    /// What can be done with the connection to give to.
    pub(crate) fn giving(&self) -> Giving {
        let state = self.giving.states().borrow().clone();
        if state.closed {
            return Giving::Closed;
        }
        let Some(session) = state.session.clone().filter(|session| !session.is_over()) else {
            return Giving::Away(self.away(&state));
        };
        // What is published before the queues stand would count as wanted by nobody.
        if self.now().is_none() {
            return Giving::Away(self.away(&self.taking.states().borrow()));
        }
        match state.blocked {
            Some(reason) => Giving::Blocked(format!("the broker `{}` takes no events for now: {reason}", self.shown)),
            None => Giving::Open(session),
        }
    }

    /// Both connections' changes, for who waits for [`Bus::giving`] to be another.
    pub(crate) fn changes(&self) -> Changes {
        Changes { taking: self.taking.states(), giving: self.giving.states(), hold: self.hold.changes(), standing: self.standing.changes() }
    }

    /// Why nothing may be published to whoever wants it, although the broker would take it.
    pub(crate) fn held(&self) -> Option<String> {
        let taking = self.now()?;
        self.standing
            .held(taking.epoch())
            .or_else(|| self.is_held_by_the_archive().then(|| format!("the archive's stream is not up yet on the broker `{}`", self.shown)))
    }

    pub(crate) fn is_held_by_the_archive(&self) -> bool {
        self.now().is_some_and(|taking| self.hold.is_held(taking.epoch()))
    }

    /// Is nothing known to be wrong with the archive?
    pub(crate) fn is_archive_well(&self) -> bool {
        !self.is_held_by_the_archive() && self.notes.is_quiet(archive::TOPIC)
    }

    /// The archive no longer keeps `session` from publishing.
    pub(crate) fn release(&self, session: &Session) {
        self.hold.release(session.epoch());
    }

    /// How the broker is, from what is known.
    pub(crate) fn condition(&self) -> Condition {
        let reachable = self.now().is_some();
        let giving = self.giving();
        let mut troubles = Vec::new();
        if !reachable {
            troubles.push(self.away(&self.taking.states().borrow()));
        }
        match &giving {
            Giving::Away(why) | Giving::Blocked(why) if !troubles.contains(why) => troubles.push(why.clone()),
            _ => {}
        }
        let awaited = self.awaited();
        troubles.extend(awaited.clone());
        troubles.extend(self.notes.all());
        let reconnects = self.taking.states().borrow().sessions.saturating_sub(1);
        Condition { reachable, accepts: matches!(giving, Giving::Open(_)) && awaited.is_none(), troubles, reconnects }
    }

    /// Shows `sentences` among the troubles until `topic` has others; none ends them.
    pub(crate) fn note(&self, topic: &'static str, sentences: Vec<String>) {
        self.notes.set(topic, sentences);
    }

    /// Resolves when [`Bus::close`] was called: for what runs beside.
    pub(crate) async fn closing(&self) {
        self.closing.listener().cancelled().await;
    }

    /// Ends both connections, within a limit.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        let ended = std::mem::take(&mut *self.ended.lock().await);
        let all = futures_util::future::join_all(ended);
        if tokio::time::timeout(CLOSE_LIMIT, all).await.is_err() {
            tracing::warn!("the connections to `{}` did not end within {} s and are left to end by themselves", self.shown, CLOSE_LIMIT.as_secs());
        }
    }

    /// Why there is no session to take from, in any case.
    pub(crate) fn why_away(&self) -> String {
        self.away(&self.taking.states().borrow())
    }

    fn away(&self, state: &LinkState) -> String {
        match &state.trouble {
            Some(trouble) => trouble.sentence().to_owned(),
            None => format!("the broker `{}` is not reached yet", self.shown),
        }
    }
}

/// See [`Bus::changes`].
pub(crate) struct Changes {
    taking: watch::Receiver<LinkState>,
    giving: watch::Receiver<LinkState>,
    hold: watch::Receiver<u64>,
    standing: standing::Changes,
}

impl Changes {
    /// Resolves when something has changed since the last call; never after both connections ended.
    pub(crate) async fn changed(&mut self) {
        let changed = tokio::select! {
            changed = self.taking.changed() => changed,
            changed = self.giving.changed() => changed,
            changed = self.hold.changed() => changed,
            () = self.standing.changed() => Ok(()),
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
