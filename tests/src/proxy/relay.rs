//! One connection through the proxy.

use std::{
    net::SocketAddr,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    After, Method, Refusing, Shared, Then, Towards, Weather,
    frames::{self, Frames, Kind, Piece},
    reach, reset,
};

/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// Written at once when there is a limit per second, so that the limit is not a series of bursts.
const TRICKLE_BYTES: usize = 1 << 10;

/// `queue.declare-ok`.
const QUEUE_DECLARE_OK: Method = (50, 11);
/// `basic.deliver`.
const DELIVER: Method = (60, 60);

/// What the proxy itself says to a client at once.
const SAYINGS_MAX: usize = 8;

/// How a direction ended.
enum End {
    /// Its source has nothing more to say.
    Finished,
    /// A side went away, or the proxy cuts.
    Broken,
}

/// Counts a connection as open while it lives.
struct Open<'a>(&'a AtomicU64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Carries a connection until it ends or is cut.
pub(super) async fn connection(number: u64, client: TcpStream, target: SocketAddr, shared: Arc<Shared>, mut weather: watch::Receiver<Weather>) {
    shared.counts.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(&shared.counts.open);
    let Ok(broker) = reach(target).await else {
        reset(client);
        return;
    };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let is_cut = {
        let (said, sayings) = mpsc::channel(SAYINGS_MAX);
        let up = Direction { number, towards: Towards::Broker, shared: &shared, weather: weather.clone(), said: Some(said), sayings: None, held: Vec::new() };
        let down =
            Direction { number, towards: Towards::Client, shared: &shared, weather: weather.clone(), said: None, sayings: Some(sayings), held: Vec::new() };
        let both = async {
            // One side that only stops talking is passed on as such; one that breaks ends both.
            let up = up.carry(&mut from_client, &mut to_broker);
            let down = down.carry(&mut from_broker, &mut to_client);
            tokio::pin!(up, down);
            tokio::select! {
                end = &mut up => if matches!(end, End::Finished) { down.await } else { End::Broken },
                end = &mut down => if matches!(end, End::Finished) { up.await } else { End::Broken },
            }
        };
        tokio::select! {
            biased;
            // The sender outlives the runtime that this runs on.
            _ = weather.wait_for(|weather| weather.cut_up_to >= number) => {
                shared.counts.cuts.fetch_add(1, Ordering::SeqCst);
                true
            }
            end = both => matches!(end, End::Broken),
        }
    };
    if is_cut {
        // What was written before is on its way: a reset does not take it back from the loopback interface.
        for (read, write) in [(from_client, to_client), (from_broker, to_broker)] {
            if let Ok(stream) = read.reunite(write) {
                reset(stream);
            }
        }
    }
}

struct Direction<'a> {
    number: u64,
    towards: Towards,
    shared: &'a Shared,
    weather: watch::Receiver<Weather>,
    /// What the proxy itself says to the client, in the direction that finds a reason to …
    said: Option<mpsc::Sender<Vec<u8>>>,
    /// … and in the one that brings it there.
    sayings: Option<mpsc::Receiver<Vec<u8>>>,
    /// Deliveries, and what came behind them on their channel.
    held: Vec<Piece>,
}

impl Direction<'_> {
    async fn carry(mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let mut frames = Frames::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.thaw().await;
            let read = tokio::select! {
                biased;
                // Nothing is read while nothing goes through: what a client writes then fills its own buffers.
                () = freeze(&mut self.weather, self.number) => continue,
                saying = next(&mut self.sayings) => {
                    if to.write_all(&saying).await.is_err() {
                        return End::Broken;
                    }
                    continue;
                }
                read = from.read(&mut buffer) => read,
            };
            match read {
                Err(_) => return End::Broken,
                Ok(0) => {
                    let rest = frames.rest();
                    let written = to.write_all(&rest).await.is_ok() && to.shutdown().await.is_ok();
                    return if written { End::Finished } else { End::Broken };
                }
                Ok(length) => {
                    let delay = self.weather.borrow().delay;
                    if !delay.is_zero() {
                        sleep(delay).await;
                    }
                    for piece in frames.take(&buffer[..length]) {
                        if let Err(end) = self.pass(piece, to).await {
                            return end;
                        }
                    }
                }
            }
        }
    }

    /// Waits while nothing goes through.
    async fn thaw(&mut self) {
        let number = self.number;
        let _ = self.weather.wait_for(|weather| weather.frozen_up_to < number).await;
    }

    async fn pass(&mut self, mut piece: Piece, to: &mut OwnedWriteHalf) -> Result<(), End> {
        self.thaw().await;
        if self.is_refused(&piece) {
            piece.refuse();
        }
        let now = *self.weather.borrow();
        if self.is_lost(now, piece.kind) {
            self.shared.counts.dropped.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        if let Some(then) = self.trapped(&piece) {
            self.shared.counts.dropped.fetch_add(1, Ordering::SeqCst);
            return match then {
                Then::Lose => Ok(()),
                Then::Cut => {
                    self.shared.counts.cuts.fetch_add(1, Ordering::SeqCst);
                    Err(End::Broken)
                }
                Then::Close(code) => {
                    if let Some(said) = &self.said {
                        // Whoever is told so often has heard it.
                        let _ = said.try_send(frames::close(code));
                    }
                    Ok(())
                }
            };
        }
        if let Some(bytes) = self.cut_within(&piece) {
            let _ = self.write(&piece.bytes[..bytes], now, to).await;
            self.shared.counts.cuts.fetch_add(1, Ordering::SeqCst);
            return Err(End::Broken);
        }
        let Some(piece) = self.hold(piece) else { return Ok(()) };
        let releases = !self.held.is_empty() && piece.is(QUEUE_DECLARE_OK);
        self.forward(&piece, now, to).await?;
        if releases {
            for piece in std::mem::take(&mut self.held) {
                self.forward(&piece, now, to).await?;
            }
            self.shared.holding.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Keeps a delivery that is held back, and what comes behind it on its channel.
    fn hold(&mut self, piece: Piece) -> Option<Piece> {
        let is_held = self.held.first().is_some_and(|first| first.channel() == piece.channel());
        let begins = || self.held.is_empty() && piece.is(DELIVER) && self.shared.holding.load(Ordering::SeqCst);
        if self.towards == Towards::Client && (is_held || begins()) {
            self.held.push(piece);
            return None;
        }
        Some(piece)
    }

    async fn forward(&mut self, piece: &Piece, now: Weather, to: &mut OwnedWriteHalf) -> Result<(), End> {
        // Counted first: who has seen a frame arrive finds it counted.
        let counts = &self.shared.counts;
        counts.bytes[self.towards as usize].fetch_add(u64::try_from(piece.bytes.len()).unwrap_or(u64::MAX), Ordering::SeqCst);
        if !matches!(piece.kind, Kind::Opaque | Kind::Greeting | Kind::Heartbeat) {
            counts.frames[self.towards as usize].fetch_add(1, Ordering::SeqCst);
        }
        if piece.kind == Kind::Heartbeat {
            counts.heartbeats[self.towards as usize].fetch_add(1, Ordering::SeqCst);
        }
        self.write(&piece.bytes, now, to).await.map_err(|_| End::Broken)?;
        Ok(())
    }

    fn is_lost(&self, now: Weather, kind: Kind) -> bool {
        match (self.towards, kind) {
            (_, Kind::Opaque | Kind::Greeting | Kind::Heartbeat) | (Towards::Broker, Kind::Other) => false,
            (Towards::Client, Kind::Confirm) => now.drops_confirms || now.drops_towards_client,
            (Towards::Client, Kind::Other) => now.drops_towards_client,
            (Towards::Broker, Kind::Confirm) => now.drops_acks,
        }
    }

    /// Is it a confirm of the channel that is refused everything?
    fn is_refused(&self, piece: &Piece) -> bool {
        let (Towards::Client, Kind::Confirm, Some(channel)) = (self.towards, piece.kind, piece.channel()) else { return false };
        let mut refusing = self.shared.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*refusing, Refusing::Next) {
            *refusing = Refusing::Channel(self.number, channel);
        }
        matches!(*refusing, Refusing::Channel(number, refused) if number == self.number && refused == channel)
    }

    /// Is it a question that is waited for?
    fn trapped(&self, piece: &Piece) -> Option<Then> {
        if self.towards != Towards::Broker || piece.kind != Kind::Other {
            return None;
        }
        let traps = self.shared.traps.lock().unwrap_or_else(PoisonError::into_inner);
        traps.iter().find(|trap| piece.asks(trap.method, &trap.name)).map(|trap| trap.then)
    }

    /// How much of a piece still goes through, when the armed cut falls into it.
    fn cut_within(&self, piece: &Piece) -> Option<usize> {
        let mut armed = self.shared.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = armed.as_mut().filter(|cut| cut.towards == self.towards)?;
        let length = piece.bytes.len();
        let within = match &mut cut.after {
            After::Bytes(left) => match usize::try_from(*left) {
                Ok(left) if left < length => Some(left),
                _ => {
                    *left -= u64::try_from(length).unwrap_or(u64::MAX);
                    None
                }
            },
            // Heartbeats come when they come, and count as none.
            After::Frames { .. } if matches!(piece.kind, Kind::Opaque | Kind::Greeting | Kind::Heartbeat) => None,
            After::Frames { whole: 0, bytes } => Some((*bytes).min(length.saturating_sub(1))),
            After::Frames { whole, .. } => {
                *whole -= 1;
                None
            }
        }?;
        armed.take();
        Some(within)
    }

    async fn write(&mut self, bytes: &[u8], now: Weather, to: &mut OwnedWriteHalf) -> std::io::Result<()> {
        let Some(bytes_per_s) = now.bytes_per_s else { return to.write_all(bytes).await };
        for some in bytes.chunks(TRICKLE_BYTES) {
            let share = f64::from(u32::try_from(some.len()).unwrap_or(u32::MAX)) / f64::from(bytes_per_s);
            // A limit that was taken away meanwhile holds back nothing.
            let number = self.number;
            tokio::select! {
                () = sleep(Duration::from_secs_f64(share)) => {}
                _ = self.weather.wait_for(|weather| weather.bytes_per_s.is_none() && weather.frozen_up_to < number) => {}
            }
            to.write_all(some).await?;
        }
        Ok(())
    }
}

/// The next thing that the proxy itself has to say, if it ever has.
async fn next(sayings: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Vec<u8> {
    let saying = match sayings {
        Some(sayings) => sayings.recv().await,
        None => None,
    };
    match saying {
        Some(saying) => saying,
        None => std::future::pending().await,
    }
}

/// Waits until nothing goes through any more.
async fn freeze(weather: &mut watch::Receiver<Weather>, number: u64) {
    if weather.wait_for(|weather| weather.frozen_up_to >= number).await.is_err() {
        std::future::pending().await
    }
}
