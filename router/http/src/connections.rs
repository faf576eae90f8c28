//! Accepting connections within limits, and ending within a bound.
//!
//! At most [`ServeLimits::connections_max`] connections are open. When one more knocks, the one that has been idle longest
//! makes room (idle: no request of it is being answered, so a sender that dribbles headers counts as idle), else the one whose body
//! has been coming in longest; when all requests are complete and being answered, the newcomer waits in the kernel's queue. So two
//! thousand silent or slow sockets do not shut out the hook that has something to say.

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
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::{
    heads::WatchedHeads,
    lingering::Lingering,
    wire::{ErrorAnswer, ErrorKind},
};

/// Where a request comes from; among the extensions of each request over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What one door allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeLimits {
    /// Open at once.
    pub connections_max: usize,
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

    /// The other side's address, where it has one.
    fn peer(_stream: &Self::Stream) -> Option<Peer> {
        None
    }
}

impl Listener for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let (stream, _) = Self::accept(self).await?;
        // Answers are small and are waited for.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn peer(stream: &Self::Stream) -> Option<Peer> {
        stream.peer_addr().ok().map(|address| Peer(address.ip().to_canonical()))
    }
}

impl Listener for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Accepts until `shutdown`, then lets what runs finish within the drain limit and ends the rest.
pub(crate) async fn serve<L: Listener>(listener: L, router: axum::Router, limits: ServeLimits, shutdown: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let open = Arc::new(OpenConnections::default());
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
        let (connection, peer) = (open.enter(), L::peer(&stream));
        let (router, stopping) = (router.clone(), stopping.clone());
        tasks.spawn(async move {
            let _permit = permit;
            answer(stream, peer, router, limits, connection, stopping).await;
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

async fn answer<S>(stream: S, peer: Option<Peer>, router: axum::Router, limits: ServeLimits, connection: Arc<OpenConnection>, stopping: CancellationToken)
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
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            let response = router.call(request).await;
            if encoded { response.map(closing) } else { response }
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
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
#[derive(Default)]
struct OpenConnections {
    next: AtomicU64,
    all: Arc<Mutex<HashMap<u64, Arc<ConnectionState>>>>,
}

struct ConnectionState {
    evicted: CancellationToken,
    activity: Mutex<Activity>,
}

#[derive(Clone, Copy)]
struct Activity {
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
    all: Arc<Mutex<HashMap<u64, Arc<ConnectionState>>>>,
}

/// Held while a request is answered.
struct Busy {
    connection: Arc<OpenConnection>,
}

const NO_PANIC: &str = "no code panics while it holds the connections";

/// Shared by all doors: only the order of its numbers matters.
static TURNS: AtomicU64 = AtomicU64::new(0);

impl OpenConnections {
    fn enter(&self) -> Arc<OpenConnection> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let evicted = CancellationToken::new();
        let state = Arc::new(ConnectionState {
            evicted: evicted.clone(),
            activity: Mutex::new(Activity { requests: 0, complete: false, turn: TURNS.fetch_add(1, Ordering::Relaxed) }),
        });
        self.all.lock().expect(NO_PANIC).insert(number, Arc::clone(&state));
        Arc::new(OpenConnection { number, state, evicted, all: Arc::clone(&self.all) })
    }

    /// Closes the connection that has been idle longest, else the one that has been sending a body longest, if there is either.
    fn evict_idle(&self) {
        let all = self.all.lock().expect(NO_PANIC);
        let idle = all.values().filter_map(|state| {
            let activity = *state.activity.lock().expect(NO_PANIC);
            (!activity.complete && !state.evicted.is_cancelled()).then_some((activity.requests > 0, activity.turn, state))
        });
        if let Some((.., state)) = idle.min_by_key(|(sending, turn, _)| (*sending, *turn)) {
            state.evicted.cancel();
        }
    }
}

impl OpenConnection {
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
        self.all.lock().expect(NO_PANIC).remove(&self.number);
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
