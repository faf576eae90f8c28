//! A relay before a real server that stops a chosen request: before it arrives, or after it was answered and before the answer goes
//! back. So the router can be killed at each step of a write.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
};

/// Where the next request with the mark stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stop {
    /// The server never sees it.
    Before,
    /// The server has done it; nobody hears of that.
    After,
    /// The answer goes back, and then the test is told.
    Answered,
}

/// Where the next marked request stops, and who is told.
type Next = Mutex<Option<(Stop, Sender<()>)>>;

pub struct Relay {
    address: SocketAddr,
    next: Arc<Next>,
}

impl Relay {
    /// To `server`, watching for requests whose body has `mark` in it.
    pub fn new(server: SocketAddr, mark: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface is there");
        let address = listener.local_addr().expect("it is bound");
        let next: Arc<Next> = Arc::default();
        let shared = Arc::clone(&next);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let next = Arc::clone(&shared);
                std::thread::spawn(move || exchange(client, server, mark, &next));
            }
        });
        Self { address, next }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the next marked request; what is returned tells when it has stopped.
    pub fn stop(&self, stop: Stop) -> Receiver<()> {
        let (sender, receiver) = channel();
        *self.next.lock().expect("no thread panics with it") = Some((stop, sender));
        receiver
    }
}

/// One request, one connection.
fn exchange(mut client: TcpStream, server: SocketAddr, mark: &str, next: &Next) {
    let Some(asked) = whole(&mut client) else { return };
    let is_marked = String::from_utf8_lossy(&asked).contains(mark);
    let stop = if is_marked { next.lock().expect("no thread panics with it").take() } else { None };
    if let Some((Stop::Before, told)) = &stop {
        hold(client, told);
        return;
    }
    // A server that is down is down for who asks, too.
    let Ok(mut upstream) = TcpStream::connect(server) else { return };
    if upstream.write_all(&asked).is_err() {
        return;
    }
    let Some(answer) = whole(&mut upstream) else { return };
    match &stop {
        Some((Stop::After, told)) => {
            hold(client, told);
            return;
        }
        _ => {
            let _ = client.write_all(&answer);
            let _ = client.shutdown(Shutdown::Both);
        }
    }
    if let Some((Stop::Answered, told)) = &stop {
        let _ = told.send(());
    }
}

/// Tells the test, and leaves the client without an answer until it is gone: a connection that closed would tell it something.
fn hold(mut client: TcpStream, told: &Sender<()>) {
    let _ = told.send(());
    let _ = client.read(&mut [0]);
}

/// A request or an answer: head and body by its length, or all there is.
fn whole(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let end = all.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if length.is_some_and(|length| all.len() >= end + length) {
                return Some(all);
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return (!all.is_empty()).then_some(all),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
        }
    }
}
