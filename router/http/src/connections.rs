//! Accepting connections within limits, and ending within a bound.
//!
//! At most [`ServeLimits::connections_max`] connections are open. When one more knocks, the one that has been idle longest
//! makes room (idle: no request of it is being answered, so a sender that dribbles headers counts as idle); when all are busy,
//! the newcomer waits in the kernel's queue. So two thousand silent sockets do not shut out the hook that has something to say.

use std::{
    collections::HashMap,
    future::Future,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::lingering::Lingering;

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
}

impl Listener for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let (stream, _) = Self::accept(self).await?;
        // Answers are small and are waited for.
        let _ = stream.set_nodelay(true);
        Ok(stream)
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
        let connection = open.enter();
        let (router, stopping) = (router.clone(), stopping.clone());
        tasks.spawn(async move {
            let _permit = permit;
            answer(stream, router, limits, connection, stopping).await;
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

async fn answer<S>(stream: S, router: axum::Router, limits: ServeLimits, connection: Arc<OpenConnection>, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let entered = Arc::clone(&connection);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut router = router.clone();
        let busy = entered.busy();
        async move {
            let _busy = busy;
            router.call(request.map(axum::body::Body::new)).await
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
        let state =
            Arc::new(ConnectionState { evicted: evicted.clone(), activity: Mutex::new(Activity { requests: 0, turn: TURNS.fetch_add(1, Ordering::Relaxed) }) });
        self.all.lock().expect(NO_PANIC).insert(number, Arc::clone(&state));
        Arc::new(OpenConnection { number, state, evicted, all: Arc::clone(&self.all) })
    }

    /// Closes the connection that has been idle longest, if any is idle.
    fn evict_idle(&self) {
        let all = self.all.lock().expect(NO_PANIC);
        let idle = all.values().filter_map(|state| {
            let activity = *state.activity.lock().expect(NO_PANIC);
            (activity.requests == 0 && !state.evicted.is_cancelled()).then_some((activity.turn, state))
        });
        if let Some((_, state)) = idle.min_by_key(|(turn, _)| *turn) {
            state.evicted.cancel();
        }
    }
}

impl OpenConnection {
    fn busy(self: &Arc<Self>) -> Busy {
        self.state.activity.lock().expect(NO_PANIC).requests += 1;
        Busy { connection: Arc::clone(self) }
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
        activity.turn = TURNS.fetch_add(1, Ordering::Relaxed);
    }
}
