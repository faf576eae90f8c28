//! Accepting connections within limits, and ending within a bound.
//!
//! At most [`ServeLimits::connections_max`] connections are open. When one more knocks, the one that has been idle longest
//! makes room (idle: no request of it is being answered, so a sender that dribbles headers counts as idle), else the one whose body
//! has been coming in longest; when all requests are complete and being answered, the newcomer waits in the kernel's queue. So two
//! thousand silent or slow sockets do not shut out the hook that has something to say.
//!
//! An address of another machine has no more than [`ServeLimits::address_connections_max`] of them served. Its next one makes one of
//! its own idle ones go, else it waits, and those that wait are the first to go when the door is full. Loopback is exempt: it is the
//! one address of everybody on this machine, a reverse proxy's clients included.
//!
//! A client may close its side once it has asked (`nc -N`), and gets its answer all the same.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::{HeaderValue, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::{
    heads::WatchedHeads,
    lingering::Lingering,
    local_user::LocalUser,
    wire::{ErrorAnswer, ErrorKind},
};

/// Where a request comes from; among the extensions of each request over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The other side of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OtherSide {
    peer: Option<Peer>,
    user: Option<LocalUser>,
}

/// What one door allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeLimits {
    /// Open at once.
    pub connections_max: usize,
    /// Served at once for one address of another machine.
    pub address_connections_max: usize,
    /// For the head of a request, and for silence between two requests.
    pub header_timeout: Duration,
    /// For the body of a request.
    pub body_timeout: Duration,
    /// For the transport to make an event safe.
    pub publish_timeout: Duration,
    /// What runs at a stop may take so long.
    pub drain: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            address_connections_max: 64,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            publish_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// Header lines of a request.
const HEADERS_MAX: usize = 64;

/// Bytes of a request's head; also the read buffer of a connection.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// After a failed `accept`, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Something that accepts connections.
pub(crate) trait Listener: Send {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The other side, as far as it is known.
    fn other_side(stream: &Self::Stream) -> OtherSide;
}

impl Listener for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let (stream, _) = Self::accept(self).await?;
        // Answers are small and are waited for.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn other_side(stream: &Self::Stream) -> OtherSide {
        OtherSide { peer: stream.peer_addr().ok().map(|address| Peer(address.ip().to_canonical())), user: None }
    }
}

impl Listener for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }

    fn other_side(stream: &Self::Stream) -> OtherSide {
        OtherSide { peer: None, user: stream.peer_cred().ok().map(|credentials| LocalUser(credentials.uid())) }
    }
}

/// Accepts until `shutdown`, then lets what runs finish within the drain limit and ends the rest.
pub(crate) async fn serve<L: Listener>(listener: L, router: axum::Router, limits: ServeLimits, shutdown: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let open = Arc::new(OpenConnections::new(limits.address_connections_max));
    let stopping = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::select! {
                    () = &mut shutdown => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        if slots.available_permits() == 0 {
            open.evict_idle();
        }
        let permit = tokio::select! {
            () = &mut shutdown => break,
            permit = Arc::clone(&slots).acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let side = L::other_side(&stream);
        let (connection, place) = open.enter(side.peer.map(|peer| peer.0).filter(|address| !address.is_loopback()));
        let (router, stopping) = (router.clone(), stopping.clone());
        tasks.spawn(async move {
            let _permit = permit;
            let Some(_place) = connection.turn(place, &stopping).await else { return };
            answer(stream, side, router, limits, connection, stopping).await;
        });
    }
    drop(listener);
    stopping.cancel();
    let drained = tokio::time::timeout(limits.drain, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = tasks.len(), "connections did not end in time and are closed");
        tasks.shutdown().await;
    }
}

async fn answer<S>(stream: S, side: OtherSide, router: axum::Router, limits: ServeLimits, connection: Arc<OpenConnection>, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let entered = Arc::clone(&connection);
    let (stream, ambiguous) = WatchedHeads::new(stream);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut router = router.clone();
        let busy = entered.busy();
        let refused = ambiguous.seen();
        let body = Arc::clone(&entered);
        async move {
            let _busy = busy;
            if refused {
                let answer = ErrorAnswer::new(ErrorKind::BadRequest, "the length of the request is stated in two ways, or is no number");
                return Ok(closing(answer.into_response()));
            }
            // The parser goes by the encoding alone, so nothing more is read from such a connection.
            let encoded = request.headers().contains_key(header::TRANSFER_ENCODING);
            let mut request = request.map(|incoming| axum::body::Body::new(ReadBody::new(incoming, body)));
            if let Some(peer) = side.peer {
                request.extensions_mut().insert(peer);
            }
            if let Some(user) = side.user {
                request.extensions_mut().insert(user);
            }
            let response = router.call(request).await;
            if encoded { response.map(closing) } else { response }
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Lingering::new(stream)), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = connection.evicted.cancelled() => return,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // What a stranger does wrong is no trouble of ours.
        tracing::debug!(error = %error, "a connection ended early");
    }
}

/// The same answer, and the end of the connection behind it.
fn closing(mut response: axum::response::Response) -> axum::response::Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A request's body that notes when all of it has come in.
struct ReadBody {
    incoming: Incoming,
    connection: Arc<OpenConnection>,
}

impl ReadBody {
    fn new(incoming: Incoming, connection: Arc<OpenConnection>) -> Self {
        if incoming.is_end_stream() {
            connection.complete();
        }
        Self { incoming, connection }
    }
}

impl Body for ReadBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if self.incoming.is_end_stream() || matches!(polled, Poll::Ready(None)) {
            self.connection.complete();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The open connections, to find the one that makes room.
struct OpenConnections {
    next: AtomicU64,
    address_max: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    all: HashMap<u64, Arc<ConnectionState>>,
    /// Of each address that has a connection: what it may still be served.
    addresses: HashMap<IpAddr, Arc<Semaphore>>,
}

struct ConnectionState {
    evicted: CancellationToken,
    address: Option<IpAddr>,
    activity: Mutex<Activity>,
}

#[derive(Clone, Copy)]
struct Activity {
    /// Its address has as many as it may have; nothing of this one is read yet.
    waiting: bool,
    requests: u32,
    /// All of the request has come in: its sender waits for the answer.
    complete: bool,
    /// Grows with each connection and each finished request, so the smallest is idle longest.
    turn: u64,
}

struct OpenConnection {
    number: u64,
    state: Arc<ConnectionState>,
    evicted: CancellationToken,
    open: Arc<Mutex<Open>>,
}

/// What a connection has of its address's share.
enum Place {
    /// Its address has no limit.
    Unlimited,
    /// One of those that are served, as long as this is held.
    Served(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
    /// None yet.
    Waiting(Arc<Semaphore>),
}

/// Held while a request is answered.
struct Busy {
    connection: Arc<OpenConnection>,
}

const NO_PANIC: &str = "no code panics while it holds the connections";

/// Shared by all doors: only the order of its numbers matters.
static TURNS: AtomicU64 = AtomicU64::new(0);

impl OpenConnections {
    fn new(address_max: usize) -> Self {
        Self { next: AtomicU64::new(0), address_max, open: Arc::default() }
    }

    /// A new one, of an address that has a limit or of one that has none.
    fn enter(&self, address: Option<IpAddr>) -> (Arc<OpenConnection>, Place) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let evicted = CancellationToken::new();
        let mut open = self.open.lock().expect(NO_PANIC);
        let place = match address {
            None => Place::Unlimited,
            Some(address) => {
                let slots = Arc::clone(open.addresses.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.address_max))));
                Arc::clone(&slots).try_acquire_owned().map_or(Place::Waiting(slots), Place::Served)
            }
        };
        let waiting = matches!(place, Place::Waiting(_));
        if waiting {
            open.evict_idle(address);
        }
        let activity = Activity { waiting, requests: 0, complete: false, turn: TURNS.fetch_add(1, Ordering::Relaxed) };
        let state = Arc::new(ConnectionState { evicted: evicted.clone(), address, activity: Mutex::new(activity) });
        open.all.insert(number, Arc::clone(&state));
        (Arc::new(OpenConnection { number, state, evicted, open: Arc::clone(&self.open) }), place)
    }

    fn evict_idle(&self) {
        self.open.lock().expect(NO_PANIC).evict_idle(None);
    }
}

impl Open {
    /// Closes the connection that has been idle longest, else the one that has been sending a body longest, if there is either; before
    /// these, one that waits. With an address, only of those that are served to it.
    fn evict_idle(&self, address: Option<IpAddr>) {
        let idle = self.all.values().filter_map(|state| {
            let activity = *state.activity.lock().expect(NO_PANIC);
            let is_meant = address.is_none() || (state.address == address && !activity.waiting);
            (is_meant && !activity.complete && !state.evicted.is_cancelled()).then_some((!activity.waiting, activity.requests > 0, activity.turn, state))
        });
        if let Some((.., state)) = idle.min_by_key(|(served, sending, turn, _)| (*served, *sending, *turn)) {
            state.evicted.cancel();
        }
    }
}

impl OpenConnection {
    /// Waits until its address may have another one served. `None` if it has to go before.
    async fn turn(&self, place: Place, stopping: &CancellationToken) -> Option<Place> {
        let Place::Waiting(slots) = place else { return Some(place) };
        let slot = tokio::select! {
            slot = slots.acquire_owned() => slot.expect("the semaphore is never closed"),
            () = self.evicted.cancelled() => return None,
            () = stopping.cancelled() => return None,
        };
        self.state.activity.lock().expect(NO_PANIC).waiting = false;
        Some(Place::Served(slot))
    }

    fn busy(self: &Arc<Self>) -> Busy {
        self.state.activity.lock().expect(NO_PANIC).requests += 1;
        Busy { connection: Arc::clone(self) }
    }

    /// All of the request is there; from now on the connection is not closed to make room.
    fn complete(&self) {
        self.state.activity.lock().expect(NO_PANIC).complete = true;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.open.lock().expect(NO_PANIC);
        open.all.remove(&self.number);
        if let Some(address) = self.state.address
            && !open.all.values().any(|state| state.address == Some(address))
        {
            open.addresses.remove(&address);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut activity = self.connection.state.activity.lock().expect(NO_PANIC);
        activity.requests -= 1;
        activity.complete = false;
        activity.turn = TURNS.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf},
        sync::{Notify, mpsc},
        task::JoinHandle,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A connection from anywhere.
    struct From {
        stream: DuplexStream,
        address: IpAddr,
    }

    impl AsyncRead for From {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for From {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    struct Arrivals(tokio::sync::Mutex<mpsc::Receiver<From>>);

    impl Listener for Arrivals {
        type Stream = From;

        async fn accept(&self) -> io::Result<From> {
            match self.0.lock().await.recv().await {
                Some(from) => Ok(from),
                None => std::future::pending().await,
            }
        }

        fn other_side(stream: &From) -> OtherSide {
            OtherSide { peer: Some(Peer(stream.address)), user: None }
        }
    }

    struct Serving {
        arrivals: mpsc::Sender<From>,
        /// Each lets one `/slow` be answered.
        go: Arc<Notify>,
        /// How many `/slow` are being answered or were.
        asked: mpsc::Receiver<()>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    fn serving(connections_max: usize, address_connections_max: usize) -> Serving {
        let (arrivals, accepted) = mpsc::channel(1);
        let (tell, asked) = mpsc::channel(16);
        let (go, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let slow = {
            let go = Arc::clone(&go);
            move || async move {
                tell.send(()).await.unwrap();
                go.notified().await;
                "slow"
            }
        };
        let router = Router::new().route("/", get(|| async { "quick" })).route("/slow", get(slow));
        // No time-out helps a test here: what makes room is an eviction or nothing.
        let limits = ServeLimits { connections_max, address_connections_max, header_timeout: PATIENCE * 10, ..ServeLimits::default() };
        let task = tokio::spawn(serve(Arrivals(tokio::sync::Mutex::new(accepted)), router, limits, stop.clone().cancelled_owned()));
        Serving { arrivals, go, asked, stop, task }
    }

    impl Serving {
        async fn connect(&self, address: &str) -> DuplexStream {
            let (near, far) = tokio::io::duplex(64 * 1024);
            self.arrivals.send(From { stream: far, address: address.parse().unwrap() }).await.unwrap();
            near
        }

        async fn end(self) {
            self.stop.cancel();
            tokio::time::timeout(PATIENCE, self.task).await.expect("serving ends").unwrap();
        }
    }

    async fn ask(stream: &mut DuplexStream, path: &str) {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    }

    async fn rest(stream: &mut DuplexStream) -> String {
        let mut all = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut all)).await.expect("an answer or an end").unwrap();
        all
    }

    #[tokio::test]
    async fn an_address_that_has_its_share_gives_up_its_own_silent_ones_and_nobody_elses() {
        let door = serving(100, 2);
        let mut other = door.connect("192.0.2.9").await;
        let mut first = door.connect("192.0.2.1").await;
        let mut second = door.connect("192.0.2.1").await;
        let mut third = door.connect("192.0.2.1").await;
        ask(&mut third, "/").await;
        assert!(rest(&mut third).await.ends_with("quick"));
        assert_eq!(rest(&mut first).await, "", "the oldest of its own went");
        for stream in [&mut second, &mut other] {
            ask(stream, "/").await;
            assert!(rest(stream).await.ends_with("quick"), "the others stayed");
        }
        door.end().await;
    }

    #[tokio::test]
    async fn an_address_whose_share_is_at_work_waits_and_holds_nobody_up() {
        let mut door = serving(4, 2);
        let mut working = Vec::new();
        for _ in 0..2 {
            let mut stream = door.connect("192.0.2.1").await;
            ask(&mut stream, "/slow").await;
            door.asked.recv().await.unwrap();
            working.push(stream);
        }
        let mut waiting = door.connect("192.0.2.1").await;
        ask(&mut waiting, "/").await;
        let mut last = door.connect("192.0.2.1").await;
        // The door is full now, and of those that could go the one that waits longest goes first.
        let mut other = door.connect("192.0.2.9").await;
        ask(&mut other, "/").await;
        assert!(rest(&mut other).await.ends_with("quick"), "another address is served at once");
        assert_eq!(rest(&mut waiting).await, "");
        ask(&mut last, "/").await;
        door.go.notify_one();
        assert!(rest(&mut last).await.ends_with("quick"), "it is served when there is room again");
        door.go.notify_waiters();
        door.go.notify_one();
        for stream in &mut working {
            assert!(rest(stream).await.ends_with("slow"), "what is at work is never closed");
        }
        door.end().await;
    }

    #[tokio::test]
    async fn this_machine_has_no_share_but_the_whole() {
        let door = serving(100, 1);
        for address in ["127.0.0.1", "::1"] {
            let mut silent = door.connect(address).await;
            let mut other = door.connect(address).await;
            for stream in [&mut other, &mut silent] {
                ask(stream, "/").await;
                assert!(rest(stream).await.ends_with("quick"), "{address}");
            }
        }
        door.end().await;
    }
}
