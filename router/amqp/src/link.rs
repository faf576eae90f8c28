//! The supervised loop behind one connection: open, make ready, watch, and begin anew after a wait.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::Event;
use router_api::{Cancellation, Chance};
use tokio::{sync::watch, time::Instant};

use crate::{
    AmqpOptions,
    backoff::Backoff,
    connection::{OnSession, Session},
    dial::dial,
    failure::{Failure, shown_url, within},
};

/// The broker's connection is looked at so often, should lapin not tell of its end.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so long the next loss is a new one.
const HEALTHY: Duration = Duration::from_secs(30);
/// What lasts is said again after so long.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// For the goodbye to the broker.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Consumers, topology, administration.
    Taking,
    /// The publisher.
    Giving,
}

/// What is known about one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkState {
    /// Live and ready.
    pub(crate) session: Option<Session>,
    /// Why there is none.
    pub(crate) trouble: Option<Failure>,
    /// The broker's reason for taking nothing.
    pub(crate) blocked: Option<String>,
    /// How many sessions there have been.
    pub(crate) sessions: u64,
    /// For good.
    pub(crate) closed: bool,
}

/// Keeps one connection.
pub(crate) struct Link {
    role: Role,
    options: Arc<AmqpOptions>,
    chance: Arc<dyn Chance>,
    on_session: Option<Arc<dyn OnSession>>,
    closing: Cancellation,
    state: watch::Sender<LinkState>,
}

impl Link {
    pub(crate) fn new(
        role: Role,
        options: Arc<AmqpOptions>,
        chance: Arc<dyn Chance>,
        on_session: Option<Arc<dyn OnSession>>,
        closing: Cancellation,
    ) -> Arc<Self> {
        Arc::new(Self { role, options, chance, on_session, closing, state: watch::Sender::new(LinkState::default()) })
    }

    pub(crate) fn states(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Runs until it is closed.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        let mut said = Said::default();
        let mut epoch = 0;
        while !self.closing.is_cancelled() {
            epoch += 1;
            let opened = tokio::select! {
                opened = self.open(epoch) => opened,
                () = self.closing.cancelled() => break,
            };
            let failure = match opened {
                Ok(opened) => {
                    let since = Instant::now();
                    let failure = self.keep(opened).await;
                    if since.elapsed() >= HEALTHY {
                        backoff.reset();
                    }
                    failure
                }
                Err(failure) => failure,
            };
            if self.closing.is_cancelled() {
                break;
            }
            let wait = backoff.next(failure.is_refused(), &*self.chance);
            said.failure(&failure, wait, self.state.borrow().sessions > 0);
            self.state.send_modify(|state| state.trouble = Some(failure));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.closing.cancelled() => {}
            }
        }
        self.state.send_modify(|state| *state = LinkState { closed: true, sessions: state.sessions, ..LinkState::default() });
    }

    async fn open(&self, epoch: u64) -> Result<Opened, Failure> {
        let name = match self.role {
            Role::Taking => format!("{} (taking)", self.options.name),
            Role::Giving => format!("{} (giving)", self.options.name),
        };
        let connection = Arc::new(dial(&self.options, &name).await?);
        let events = connection.events_listener().boxed();
        let (session, over) = Session::new(epoch, connection);
        if let Some(on_session) = &self.on_session
            && let Err(failure) = on_session.ready(&session).await
        {
            over.cancel();
            let _ = within("goodbye", GOODBYE_LIMIT, session.connection().close(200, "not ready".into())).await;
            return Err(failure);
        }
        Ok(Opened { session, over, events })
    }

    /// Shows the session to everybody until it is over; says why it is.
    async fn keep(&self, opened: Opened) -> Failure {
        let Opened { session, over, mut events } = opened;
        let url = shown_url(&self.options.url);
        self.state.send_modify(|state| {
            state.session = Some(session.clone());
            state.trouble = None;
            state.sessions += 1;
            state.blocked = session.connection().status().blocked().then(|| "it is short of memory or disk".to_owned());
        });
        if self.role == Role::Taking {
            tracing::info!("connected to `{url}`");
        }
        let mut failure = Failure::lost(format!("the connection to `{url}` is lost"));
        loop {
            let status = session.connection().status();
            if !status.connected() {
                break;
            }
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!("the broker `{url}` takes no events for now: {reason}");
                        self.state.send_modify(|state| state.blocked = Some(reason));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the broker `{url}` takes events again");
                        self.state.send_modify(|state| state.blocked = None);
                    }
                    // A refused question costs its channel and is told here as well, perhaps long afterwards.
                    Some(Event::Error(error)) if is_of_a_channel(&error) => {}
                    // Told a moment before the connection's state changes.
                    Some(Event::Error(error)) => {
                        failure = Failure::of(&format!("the connection to `{url}` is lost"), &error);
                        let _ = tokio::time::timeout(Duration::from_millis(20), self.closing.cancelled()).await;
                    }
                    Some(_) => {}
                    None => break,
                },
                () = session.spent() => {
                    failure = Failure::lost(format!("the connection to `{url}` has no channel left and is opened anew"));
                    break;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.closing.cancelled() => break,
            }
        }
        self.state.send_modify(|state| {
            state.session = None;
            state.blocked = None;
            state.trouble = Some(failure.clone());
        });
        over.cancel();
        if session.connection().status().connected() {
            let _ = within("goodbye", GOODBYE_LIMIT, session.connection().close(200, "goodbye".into())).await;
        }
        failure
    }
}

fn is_of_a_channel(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(said) if matches!(said.kind(), lapin::protocol::AMQPErrorKind::Soft(_)))
}

struct Opened {
    session: Session,
    over: router_api::Canceller,
    events: futures_util::stream::BoxStream<'static, Event>,
}

/// What was said last, so that a broker that stays away does not fill the log.
#[derive(Default)]
struct Said {
    last: Option<(String, Instant)>,
}

impl Said {
    fn failure(&mut self, failure: &Failure, wait: Duration, was_reached: bool) {
        let is_news = match &self.last {
            Some((sentence, at)) => sentence != failure.sentence() || at.elapsed() >= SAY_AGAIN,
            None => true,
        };
        if !is_news {
            return;
        }
        self.last = Some((failure.sentence().to_owned(), Instant::now()));
        if failure.is_refused() && !was_reached {
            // Whoever has just begun may end because of it.
            tracing::error!("{failure}");
        } else if failure.is_refused() {
            tracing::error!("{failure}; it is tried again, next in {} ms", wait.as_millis());
        } else {
            tracing::warn!("{failure}; it is tried again, next in {} ms", wait.as_millis());
        }
    }
}
