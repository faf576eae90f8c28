//! The task that publishes: it owns the channel, keeps the order, and finds an answer for each request in every case.
//!
//! A channel that the broker closes takes all that is on the way with it, though one publication alone was at fault. They are sent
//! again on a new channel one at a time: whichever closes it alone is the one, and hears the broker's words; the others succeed.
//!
//! A channel on which something was not taken is left for another one before long. When the machine is lost that leads a stream, RabbitMQ
//! elects another leader, and a channel that has published to it before may go on to refuse everything that would come to the stream,
//! for ever (seen on 3.10.8): with the archive, that is everything. A new channel finds the new leader.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lapin::{
    BasicProperties, Channel, Confirmation,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use crate::{
    confirms::Confirms,
    connection::{Bus, Changes, Giving, Session},
    failure::{Failure, LIMIT, within},
    publisher::{Confirmed, PublishFailure, late, too_large},
    returns::{Ended, Returned, Returns},
};

/// Publications without a confirmation.
const WINDOW: usize = 1_024;
/// Their bodies together; a larger one goes alone.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;
/// Between two tries to open a channel on a live connection.
const REOPEN_AFTER: Duration = Duration::from_millis(100);
/// So old a channel on which something was not taken is left; doubled each time, since a queue may simply be full, up to …
const RENEW_FIRST: Duration = Duration::from_secs(1);
/// … this. A channel that was well for so long has the first again.
const RENEW_MAX: Duration = Duration::from_secs(60);
/// For the end of a channel that is given up.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// One publication, and who waits for it.
pub(crate) struct Request {
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    pub(crate) body: Bytes,
    pub(crate) properties: BasicProperties,
    pub(crate) answer: oneshot::Sender<Result<Confirmed, PublishFailure>>,
    pub(crate) deadline: Instant,
}

impl Request {
    fn answer(self, answer: Result<Confirmed, PublishFailure>) {
        // Who asked may have gone.
        let _ = self.answer.send(answer);
    }
}

/// See the module.
pub(crate) struct Pump {
    bus: Arc<Bus>,
    changes: Changes,
    requests: mpsc::Receiver<Request>,
    body_bytes_max: Arc<AtomicUsize>,
    suspect: Arc<Notify>,
    /// From a channel that is gone, in their order.
    again: VecDeque<Request>,
    /// So many of the next ones go one at a time.
    alone: usize,
    renew_after: Duration,
}

/// Why a channel is not served any more.
enum End {
    /// Nobody asks any more.
    Finished,
    /// Take the next channel.
    Again,
}

impl Pump {
    pub(crate) fn new(bus: Arc<Bus>, requests: mpsc::Receiver<Request>, body_bytes_max: Arc<AtomicUsize>, suspect: Arc<Notify>) -> Self {
        let changes = bus.changes();
        Self { bus, changes, requests, body_bytes_max, suspect, again: VecDeque::new(), alone: 0, renew_after: RENEW_FIRST }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let failure = match self.bus.giving() {
                Giving::Open(session) => match self.open(&session).await {
                    Ok(channel) => match self.serve(&session, channel).await {
                        End::Finished => return,
                        End::Again => continue,
                    },
                    Err(failure) => {
                        self.refuse_again(&unavailable(&failure));
                        tokio::time::sleep(REOPEN_AFTER).await;
                        continue;
                    }
                },
                Giving::Away(why) => PublishFailure::Unavailable(why),
                Giving::Blocked(why) => PublishFailure::Blocked(why),
                Giving::Closed => return,
            };
            self.refuse_again(&failure);
            tokio::select! {
                request = self.requests.recv() => match request {
                    // It may just have changed: asked anew, it is sent or refused.
                    Some(request) => self.again.push_back(request),
                    None => return,
                },
                () = self.changes.changed() => {}
            }
        }
    }

    async fn open(&self, session: &Session) -> Result<Channel, Failure> {
        let what = "cannot open a channel to publish";
        let open = async {
            let channel = session.channel(what).await?;
            within(what, LIMIT, channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Ok(channel)
        };
        tokio::select! {
            opened = open => opened,
            () = session.over() => Err(Failure::lost("the connection to the broker was lost")),
        }
    }

    async fn serve(&mut self, session: &Session, channel: Channel) -> End {
        let mut flight = Flight::new(channel);
        let mut blocked: Option<String> = None;
        loop {
            // What is on the way is answered first: it would be published twice.
            let leaves = flight.nacked_at.is_some_and(|at| at.duration_since(flight.opened) >= self.renew_after);
            if leaves && !flight.is_awaited() {
                self.renew_after = (self.renew_after * 2).min(RENEW_MAX);
                self.again.extend(flight.give_up());
                return End::Again;
            }
            while !leaves && blocked.is_none() && flight.has_room(self.alone > 0) {
                let Some(request) = self.again.pop_front() else {
                    break;
                };
                flight.send(request);
            }
            let may_take = !leaves && self.again.is_empty() && flight.has_room(self.alone > 0);
            let overdue = flight.next_deadline().filter(|_| blocked.is_none());
            tokio::select! {
                biased;
                pass = flight.confirms.pass() => {
                    self.alone = self.alone.saturating_sub(pass.len());
                    let was_well = flight.nacked_at.is_none();
                    let error = flight.settle(pass);
                    if was_well && flight.nacked_at.is_some() && flight.opened.elapsed() >= RENEW_MAX {
                        self.renew_after = RENEW_FIRST;
                    }
                    if let Some(error) = error {
                        self.after_error(session, flight, &error);
                        return End::Again;
                    }
                }
                () = session.over() => {
                    for request in flight.give_up() {
                        request.answer(Err(PublishFailure::Unavailable("the connection to the broker was lost before it confirmed".to_owned())));
                    }
                    return End::Again;
                }
                () = self.changes.changed() => match self.bus.giving() {
                    Giving::Blocked(why) => {
                        flight.answer_all(&PublishFailure::Blocked(why.clone()));
                        self.refuse_again(&PublishFailure::Blocked(why.clone()));
                        blocked = Some(why);
                    }
                    Giving::Open(_) if blocked.take().is_some() => flight.progress = Instant::now(),
                    _ => {}
                },
                () = at(overdue), if overdue.is_some() => if flight.expire() {
                    self.again.extend(flight.give_up());
                    return End::Again;
                },
                request = self.requests.recv(), if may_take || blocked.is_some() => match (request, &blocked) {
                    (None, _) => return End::Finished,
                    (Some(request), Some(why)) => request.answer(Err(PublishFailure::Blocked(why.clone()))),
                    (Some(request), None) => flight.send(request),
                },
            }
        }
    }

    /// The channel is closed: who was at fault?
    fn after_error(&mut self, session: &Session, flight: Flight, error: &lapin::Error) {
        let failure = Failure::of("cannot publish", error);
        let mut waiting = flight.give_up();
        if session.is_over() {
            for request in waiting {
                request.answer(Err(unavailable(&failure)));
            }
            return;
        }
        if let Some(most) = size_limit_in(failure.sentence()) {
            tracing::warn!("the broker takes events of at most {most} bytes");
            self.body_bytes_max.fetch_min(most, Ordering::Relaxed);
            let (small, large): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|request| request.body.len() <= most);
            for request in large {
                let sentence = too_large(request.body.len(), most);
                request.answer(Err(PublishFailure::Refused(sentence)));
            }
            self.again.extend(small);
            return;
        }
        if waiting.len() == 1
            && let Some(request) = waiting.pop()
        {
            // A missing exchange is made again with the next declaration, by us or by whom it belongs to.
            let for_a_person = failure.is_refused() && !failure.is_missing();
            if failure.is_missing() {
                self.suspect.notify_one();
            }
            request.answer(Err(if for_a_person { PublishFailure::Refused(failure.sentence().to_owned()) } else { unavailable(&failure) }));
            return;
        }
        self.alone = waiting.len() + self.again.len();
        waiting.extend(std::mem::take(&mut self.again));
        self.again = waiting.into();
    }

    fn refuse_again(&mut self, failure: &PublishFailure) {
        self.alone = 0;
        for request in self.again.drain(..) {
            request.answer(Err(failure.clone()));
        }
    }
}

/// What is on the way over one channel.
struct Flight {
    channel: Channel,
    confirms: Confirms<lapin::Result<Confirmation>>,
    sent: BTreeMap<u64, Sent>,
    returns: Returns<Mark, Sent>,
    bytes: usize,
    /// When something was confirmed last.
    progress: Instant,
    opened: Instant,
    /// When something was not taken, the last time.
    nacked_at: Option<Instant>,
}

struct Sent {
    id: u64,
    at: Instant,
    bytes: usize,
    nacked: bool,
    /// `None` once it is answered: what was not confirmed in time stays on the way.
    request: Option<Request>,
    mark: Mark,
}

impl Flight {
    fn new(channel: Channel) -> Self {
        let now = Instant::now();
        Self {
            channel,
            confirms: Confirms::default(),
            sent: BTreeMap::new(),
            returns: Returns::default(),
            bytes: 0,
            progress: now,
            opened: now,
            nacked_at: None,
        }
    }

    fn has_room(&self, alone: bool) -> bool {
        self.confirms.len() < if alone { 1 } else { WINDOW } && self.bytes < WINDOW_BYTES
    }

    /// Does somebody wait for an answer of this channel?
    fn is_awaited(&self) -> bool {
        self.sent.values().any(|sent| sent.request.is_some())
    }

    fn send(&mut self, request: Request) {
        if request.answer.is_closed() {
            return;
        }
        let (channel, exchange, key) = (self.channel.clone(), request.exchange.clone(), request.key.clone());
        let (body, properties) = (request.body.clone(), request.properties.clone());
        let id = self.confirms.add(async move {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            channel.basic_publish(exchange, key, options, &body, properties).await?.await
        });
        let mark = Mark {
            exchange: request.exchange.clone(),
            key: request.key.clone(),
            id: request.properties.message_id().as_ref().map(|id| id.as_str().to_owned()),
        };
        self.bytes += request.body.len();
        self.sent.insert(id, Sent { id, at: Instant::now(), bytes: request.body.len(), nacked: false, request: Some(request), mark });
    }

    /// Answers what was confirmed. An error means that the channel is gone.
    fn settle(&mut self, pass: Vec<(u64, lapin::Result<Confirmation>)>) -> Option<lapin::Error> {
        let mut first_error = None;
        let mut ended = Vec::with_capacity(pass.len());
        for (id, confirmation) in pass {
            let (nacked, brought) = match confirmation {
                Ok(Confirmation::Ack(brought)) => (false, brought),
                Ok(Confirmation::Nack(brought)) => (true, brought),
                // Cannot be: the channel is in confirm mode.
                Ok(Confirmation::NotRequested) => (true, None),
                Err(error) => {
                    // It stays among the sent ones, for who finds out what to do with them.
                    // What is sent on a channel that is being closed fails with less to say than what closed it.
                    if error.is_amqp_soft_error() {
                        first_error = Some(error);
                    } else {
                        first_error.get_or_insert(error);
                    }
                    continue;
                }
            };
            let Some(mut sent) = self.sent.remove(&id) else {
                continue;
            };
            self.progress = Instant::now();
            self.bytes -= sent.bytes;
            sent.nacked = nacked;
            if nacked {
                self.nacked_at = Some(self.progress);
            }
            ended.push(Ended { mark: sent.mark.clone(), brought: brought.as_ref().map(Mark::of), what: sent });
        }
        for (sent, routed) in self.returns.settle(ended, self.sent.is_empty()) {
            if let Some(request) = sent.request {
                request.answer(if sent.nacked { Err(nacked()) } else { Ok(Confirmed { routed }) });
            }
        }
        first_error
    }

    fn answer_all(&mut self, failure: &PublishFailure) {
        for request in self.sent.values_mut().filter_map(|sent| sent.request.take()) {
            request.answer(Err(failure.clone()));
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.sent.values().filter_map(|sent| sent.request.as_ref()).map(|request| request.deadline).next()
    }

    /// Answers who has waited too long. True if the channel is of no use any more.
    fn expire(&mut self) -> bool {
        let now = Instant::now();
        let progress = self.progress;
        let mut useless = false;
        for sent in self.sent.values_mut() {
            if let Some(request) = sent.request.take_if(|request| request.deadline <= now) {
                useless |= progress <= sent.at;
                request.answer(Err(late()));
            }
        }
        let given_up = self.sent.values().filter(|sent| sent.request.is_none()).count();
        useless || given_up > WINDOW / 2
    }

    /// All that is not known to have succeeded and that somebody waits for, in its order. The channel is left to its end.
    fn give_up(mut self) -> Vec<Request> {
        let channel = self.channel;
        if channel.status().connected() {
            tokio::spawn(async move { within("goodbye", CLOSE_LIMIT, channel.close(200, "given up".into())).await });
        }
        let mut waiting: Vec<Sent> = self.returns.give_up();
        waiting.extend(self.sent.into_values());
        waiting.sort_by_key(|sent| sent.id);
        waiting.into_iter().filter_map(|sent| sent.request).filter(|request| !request.answer.is_closed()).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    exchange: ShortString,
    key: ShortString,
    id: Option<String>,
}

impl Mark {
    fn of(returned: &BasicReturnMessage) -> Self {
        Self {
            exchange: returned.delivery.exchange.clone(),
            key: returned.delivery.routing_key.clone(),
            id: returned.delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned()),
        }
    }
}

impl Returned for Mark {
    fn is(&self, other: &Self) -> bool {
        self == other
    }
}

fn unavailable(failure: &Failure) -> PublishFailure {
    PublishFailure::Unavailable(failure.sentence().to_owned())
}

fn nacked() -> PublishFailure {
    PublishFailure::Nacked("the broker did not take the event: a queue that it goes to is full or has trouble".to_owned())
}

/// "message size 17 is larger than configured max size 16", with figures of its own.
fn size_limit_in(sentence: &str) -> Option<usize> {
    let (_, figure) = sentence.split_once("larger than configured max size ")?;
    let end = figure.find(|c: char| !c.is_ascii_digit()).unwrap_or(figure.len());
    figure[..end].parse().ok()
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_limit_is_read_from_its_refusal() {
        let said = "cannot publish: the broker answered 406 PRECONDITION_FAILED - message size 65537 is larger than configured max size 65536";
        assert_eq!(size_limit_in(said), Some(65_536));
        assert_eq!(size_limit_in("larger than configured max size 12)"), Some(12));
        assert_eq!(size_limit_in("larger than configured max size unknown"), None);
        assert_eq!(size_limit_in("PRECONDITION_FAILED - something else"), None);
    }
}
