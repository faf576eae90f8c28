//! A TCP proxy that disturbs: it stands between the router and its broker and does what networks do.
//!
//! It knows frames, so that a connection can be cut in the middle of one, and confirms can be lost. It runs in a thread of its own,
//! so that a test that blocks does not change what the network does.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime,
    sync::{mpsc, oneshot, watch},
};

use crate::{broker::port::Port, eventually};

mod frames;
mod relay;

/// A port that is still taken is tried again so often, in a minute.
const BIND_TRIES: u32 = 6_000;
const BIND_AGAIN: Duration = Duration::from_millis(10);

/// A direction of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Towards {
    /// From the client.
    Broker,
    /// From the broker.
    Client,
}

/// When a connection is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum After {
    /// After so many bytes.
    Bytes(u64),
    /// After so many frames and so many bytes of the next one, which is never all of it.
    Frames {
        /// Whole frames that go through.
        whole: u64,
        /// Bytes of the next one that go through too.
        bytes: usize,
    },
}

/// What becomes of a question that is waited for with [`FaultProxy::trap`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// It never arrives, and is never answered.
    Lose,
    /// Its connection is cut, on both sides.
    Cut,
    /// It never arrives, and the client is told that its connection is closed with this code.
    Close(u16),
}

/// A method of AMQP: its class and its number.
pub type Method = (u16, u16);

/// `queue.declare`, passive or not.
pub const QUEUE_DECLARE: Method = (50, 10);

/// `queue.bind`.
pub const QUEUE_BIND: Method = (50, 20);

/// `exchange.declare`, passive or not.
pub const EXCHANGE_DECLARE: Method = (40, 10);

/// `basic.consume`.
pub const CONSUME: Method = (60, 20);

/// Whose confirms become refusals.
#[derive(Clone, Copy, Default)]
enum Refusing {
    #[default]
    Nobody,
    /// Whoever is confirmed next.
    Next,
    /// The channel of this number, on the connection of this number.
    Channel(u64, [u8; 2]),
}

/// A question that is waited for.
struct Trap {
    method: Method,
    name: String,
    then: Then,
}

/// What the network is like now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Weather {
    /// Connections up to this number get nothing through, in either direction.
    frozen_up_to: u64,
    /// Connections up to this number are cut.
    cut_up_to: u64,
    delay: Duration,
    bytes_per_s: Option<u32>,
    drops_confirms: bool,
    drops_acks: bool,
    drops_towards_client: bool,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    open: AtomicU64,
    cuts: AtomicU64,
    dropped: AtomicU64,
    bytes: [AtomicU64; 2],
    frames: [AtomicU64; 2],
    heartbeats: [AtomicU64; 2],
}

/// What went through a proxy until now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Connections that were taken.
    pub accepted: u64,
    /// Connections that are there now.
    pub open: u64,
    /// Connections that the proxy cut.
    pub cuts: u64,
    /// Frames that it took away.
    pub dropped: u64,
    /// Bytes from clients to the broker.
    pub bytes_to_broker: u64,
    /// Bytes from the broker to clients.
    pub bytes_to_client: u64,
    /// Frames from clients to the broker, without heartbeats.
    pub frames_to_broker: u64,
    /// Frames from the broker to clients, without heartbeats.
    pub frames_to_client: u64,
    /// Heartbeats from clients to the broker.
    pub heartbeats_to_broker: u64,
}

/// A cut that waits for its moment.
struct Armed {
    towards: Towards,
    after: After,
}

/// What the proxy and its connections have in common.
struct Shared {
    /// Where new connections lead.
    target: Mutex<SocketAddr>,
    counts: Counts,
    armed: Mutex<Option<Armed>>,
    traps: Mutex<Vec<Trap>>,
    refusing: Mutex<Refusing>,
    /// The next deliveries wait for the next answer of a queue.
    holding: AtomicBool,
}

enum Order {
    /// Listen, or do not. Answered when it is so.
    Listen(bool, oneshot::Sender<io::Result<()>>),
}

/// The proxy. Everything ends with it.
pub struct FaultProxy {
    port: Port,
    shared: Arc<Shared>,
    weather: watch::Sender<Weather>,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// A proxy before this address, which lets everything through for now.
    ///
    /// # Panics
    ///
    /// When no port is free.
    #[must_use]
    pub fn before(target: SocketAddr) -> Self {
        let port = Port::reserve();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            counts: Counts::default(),
            armed: Mutex::new(None),
            traps: Mutex::default(),
            refusing: Mutex::default(),
            holding: AtomicBool::new(false),
        });
        let (weather, seen) = watch::channel(Weather::default());
        let (orders, receiver) = mpsc::channel(1);
        let (address, of_thread) = (port.address(), shared.clone());
        let thread = std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
            runtime.block_on(accept(address, of_thread, seen, receiver));
        });
        let proxy = Self { port, shared, weather, orders: Some(orders), thread: Some(thread) };
        proxy.listen(true);
        proxy
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Cuts all connections now, both sides, as a reset. New ones are taken.
    pub fn cut(&self) {
        let accepted = self.shared.counts.accepted.load(Ordering::SeqCst);
        self.weather.send_modify(|weather| weather.cut_up_to = accepted);
    }

    /// Cuts the connection on which this much more has gone through, counted from now over all connections. Once.
    pub fn cut_after(&self, towards: Towards, after: After) {
        *self.shared.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Armed { towards, after });
    }

    /// Is there a cut that has not come yet?
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.shared.armed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Lets nothing through on the connections that are there, whose sockets stay. New ones are not affected.
    pub fn half_open(&self) {
        let accepted = self.shared.counts.accepted.load(Ordering::SeqCst);
        self.weather.send_modify(|weather| weather.frozen_up_to = accepted);
    }

    /// Lets nothing through any more; new connections are taken and get no answer.
    pub fn black_hole(&self) {
        self.weather.send_modify(|weather| weather.frozen_up_to = u64::MAX);
    }

    /// Cuts all connections and refuses new ones.
    ///
    /// # Panics
    ///
    /// When the proxy has ended.
    pub fn refuse(&self) {
        self.listen(false);
        self.cut();
    }

    /// Holds every read back for so long, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Lets so many bytes a second through on each connection and in each direction.
    pub fn throttle(&self, bytes_per_s: u32) {
        self.weather.send_modify(|weather| weather.bytes_per_s = Some(bytes_per_s.max(1)));
    }

    /// Loses the confirms: what clients publish arrives, and they are not told.
    pub fn drop_confirms(&self) {
        self.weather.send_modify(|weather| weather.drops_confirms = true);
    }

    /// Makes refusals of the confirms of the channel on which the next one comes, and of no other channel: what clients publish arrives,
    /// and they are told that it was not taken.
    pub fn refuse_on_one_channel(&self) {
        *self.shared.refusing.lock().unwrap_or_else(PoisonError::into_inner) = Refusing::Next;
    }

    /// Loses the acknowledgements of clients: the broker goes on to hold what they have finished with.
    pub fn drop_acks(&self) {
        self.weather.send_modify(|weather| weather.drops_acks = true);
    }

    /// Leads new connections to another address; those that are there stay.
    pub fn redirect(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Loses everything from the broker but heartbeats: clients stay connected and hear nothing.
    pub fn drop_towards_client(&self) {
        self.weather.send_modify(|weather| weather.drops_towards_client = true);
    }

    /// Waits for each question of this method that names this queue, or exchange, from now on.
    pub fn trap(&self, method: Method, name: &str, then: Then) {
        self.shared.traps.lock().unwrap_or_else(PoisonError::into_inner).push(Trap { method, name: name.to_owned(), then });
    }

    /// Holds the next deliveries back until the broker has told a client of a queue, behind which they come then. What is held when the
    /// connection ends is lost.
    pub fn deliver_late(&self) {
        self.shared.holding.store(true, Ordering::SeqCst);
    }

    /// Has what [`FaultProxy::deliver_late`] held back come through?
    #[must_use]
    pub fn has_delivered(&self) -> bool {
        !self.shared.holding.load(Ordering::SeqCst)
    }

    /// Ends all disturbances. Connections that are still there go on where they stood, those that were half-open too.
    ///
    /// # Panics
    ///
    /// When the port was taken by somebody else.
    pub fn heal(&self) {
        self.shared.armed.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.traps.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.shared.refusing.lock().unwrap_or_else(PoisonError::into_inner) = Refusing::Nobody;
        self.weather.send_modify(|weather| *weather = Weather { cut_up_to: weather.cut_up_to, ..Weather::default() });
        self.listen(true);
    }

    /// What went through until now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let counts = &self.shared.counts;
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Counters {
            accepted: read(&counts.accepted),
            open: read(&counts.open),
            cuts: read(&counts.cuts),
            dropped: read(&counts.dropped),
            bytes_to_broker: read(&counts.bytes[Towards::Broker as usize]),
            bytes_to_client: read(&counts.bytes[Towards::Client as usize]),
            frames_to_broker: read(&counts.frames[Towards::Broker as usize]),
            frames_to_client: read(&counts.frames[Towards::Client as usize]),
            heartbeats_to_broker: read(&counts.heartbeats[Towards::Broker as usize]),
        }
    }

    /// Waits until the counters are as wanted, and returns them.
    ///
    /// # Panics
    ///
    /// When they are not after five minutes.
    pub fn await_counters(&self, what: &str, wanted: impl Fn(&Counters) -> bool) -> Counters {
        eventually(what, || Some(self.counters()).filter(|counters| wanted(counters)))
    }

    fn listen(&self, wanted: bool) {
        let (answer, answered) = oneshot::channel();
        let orders = self.orders.as_ref().expect("there are orders until the proxy is dropped");
        // Not the blocking calls, which refuse to be made from a test that is asynchronous. The thread of the proxy is always at
        // hand, and nobody else gives it orders meanwhile for long.
        let mut order = Some(Order::Listen(wanted, answer));
        eventually("the proxy takes an order", || match orders.try_send(order.take()?) {
            Ok(()) => Some(()),
            Err(mpsc::error::TrySendError::Full(back)) => {
                order = Some(back);
                None
            }
            Err(mpsc::error::TrySendError::Closed(_)) => panic!("the proxy has ended"),
        });
        let mut answered = answered;
        let done = eventually("the proxy obeys", || match answered.try_recv() {
            Ok(done) => Some(done),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => panic!("the proxy has ended"),
        });
        done.unwrap_or_else(|error| panic!("the proxy cannot listen at {}: {error}", self.address()));
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            // Its loop ends with the orders, and connections with their runtime.
            let _ = thread.join();
        }
    }
}

/// Takes connections until there are no more orders.
async fn accept(address: SocketAddr, shared: Arc<Shared>, weather: watch::Receiver<Weather>, mut orders: mpsc::Receiver<Order>) {
    let mut listener: Option<TcpListener> = None;
    loop {
        let taken = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                None => return,
                Some(Order::Listen(false, answer)) => {
                    listener = None;
                    let _ = answer.send(Ok(()));
                }
                Some(Order::Listen(true, answer)) => {
                    let done = if listener.is_some() { Ok(()) } else { bind_again(address).await.map(|bound| listener = Some(bound)) };
                    let _ = answer.send(done);
                }
            },
            taken = taken => {
                // A client that went before it was taken is none.
                let Ok((client, _)) = taken else { continue };
                let number = shared.counts.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
                tokio::spawn(relay::connection(number, client, target, shared.clone(), weather.clone()));
            }
        }
    }
}

/// Takes the port up again. Whoever starts a process meanwhile has given it a copy of the listener that is gone, which is open until
/// that process is another program.
async fn bind_again(address: SocketAddr) -> io::Result<TcpListener> {
    for _ in 0..BIND_TRIES {
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::time::sleep(BIND_AGAIN).await,
            done => return done,
        }
    }
    bind(address)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Connections that ended a moment ago still occupy the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

/// Ends a connection so that the other side sees a reset.
fn reset(stream: TcpStream) {
    let _ = set_socket_linger(&stream, Some(Duration::ZERO));
    drop(stream);
}

/// Connects to the broker, from the loopback interface.
async fn reach(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.connect(target).await
}
