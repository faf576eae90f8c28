//! A request at the door. The first byte chooses a path (or that the rest is the request itself, whatever it is), the second a media type;
//! the rest is the body. The door answers with a status that blames the right side, publishes only what it accepted, and lives on.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use router_api::{
    Admin, AdminError, ArchivedEvent, BoxFuture, Chance, Clock, DeadLetterQuery, DecodeLimits, EventQuery, Publication, Published, RouterStatus,
    StoredDeadLetter,
};
use router_http::{Access, Door, DoorParts};

pub(super) const WORDS: &[&str] = &[
    "\"event_type\":\"a.b\",",
    "\"payload\":{}",
    "[{},{}]",
    "\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"",
    "\"hook_event_name\":\"PostToolUse\",",
    "\"session_id\":\"s\",",
    "\\u0000",
    "GET / HTTP/1.1\r\n",
    "POST /events?key=a HTTP/1.1\r\n",
    "Host: 127.0.0.1\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Type: application/json\r\n",
    "\r\n\r\n",
    "0\r\n\r\n",
    "ffffffffffffffff\r\n",
];

const PATHS: &[&str] = &[
    "/events?key=a.b",
    "/events",
    "/publish",
    "/events/custom",
    "/events/agent/thread/prompt",
    "/events/agent/bob/state/changed",
    "/events/claude-code/tool-action",
    "/hooks/claude-code",
    "/api/v1/events",
    "/healthz",
    "/%00",
    "/events?key=%ff&key=a",
];

const MEDIA: &[&str] = &[
    "application/json",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/x-ndjson",
    "application/json; charset=utf-8",
    "text/plain",
];

/// So long a stuck door is waited for; longer than the door's own limits.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Accepting {
    published: Mutex<Vec<Publication>>,
}

#[async_trait]
impl Admin for Accepting {
    async fn status(&self) -> Result<RouterStatus, AdminError> {
        Err(AdminError::NotFound("nothing".into()))
    }

    async fn publish(&self, publication: Publication) -> Result<Published, AdminError> {
        self.published.lock().expect("nobody panics here").push(publication);
        Ok(Published { routed: true, seq: Some(1) })
    }

    async fn events(&self, _: &EventQuery) -> Result<Vec<ArchivedEvent>, AdminError> {
        Ok(Vec::new())
    }

    async fn event(&self, _: &str) -> Result<Vec<ArchivedEvent>, AdminError> {
        Ok(Vec::new())
    }

    async fn dead_letters(&self, _: &DeadLetterQuery) -> Result<Vec<StoredDeadLetter>, AdminError> {
        Ok(Vec::new())
    }

    async fn dead_letter(&self, _: &str) -> Result<StoredDeadLetter, AdminError> {
        Err(AdminError::NotFound("nothing".into()))
    }
}

/// A clock that stands, and no chance.
struct Still;

impl Clock for Still {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

impl Chance for Still {
    fn next_u64(&self) -> u64 {
        7
    }
}

struct Open {
    address: SocketAddr,
    admin: Arc<Accepting>,
}

/// One door for all inputs: what one of them leaves behind must not harm the next.
static DOOR: LazyLock<Mutex<Open>> = LazyLock::new(|| {
    let admin = Arc::new(Accepting::default());
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let parts =
        DoorParts { admin: admin.clone(), clock: Arc::new(Still), chance: Arc::new(Still), decode: DecodeLimits { body_bytes_max: 20_000, depth_max: 32 } };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let door = Door::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Access::default(), parts).await.expect("a free port");
            sender.send(door.address()).expect("somebody waits");
            door.serve(std::future::pending()).await;
        });
    });
    Mutex::new(Open { address: receiver.recv().expect("the door opens"), admin })
});

impl Open {
    /// What the door answers to these bytes, after which nothing more comes.
    fn exchange(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("the door is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        // The door may refuse before it has read everything.
        let _ = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => panic!("the door left a client alone"),
            _ => answer,
        }
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

pub(super) fn run(data: &[u8]) {
    let [path, media, body @ ..] = data else { return };
    let open = DOOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let answer = if *path == b'!' {
        open.exchange(body)
    } else {
        let (path, media) = (PATHS[usize::from(*path) % PATHS.len()], MEDIA[usize::from(*media) % MEDIA.len()]);
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n", open.address, body.len())
                .into_bytes();
        request.extend_from_slice(body);
        let answer = open.exchange(&request);
        let status = status(&answer);
        // A connection that ends without an answer is one whose answer the system threw away with the unread rest of a large body.
        assert!(status.is_none_or(|status| (200..500).contains(&status)), "a client's mistake is the client's: {}", String::from_utf8_lossy(&answer));
        answer
    };
    let published = std::mem::take(&mut *open.admin.published.lock().expect("nobody panics here"));
    let text = String::from_utf8_lossy(&answer);
    if *path != b'!' && status(&answer).is_some_and(|status| status >= 400) && !text.contains("207") {
        assert!(published.is_empty() || text.contains("\"results\""), "what was refused was published: {text}");
    }
    assert!(published.iter().all(|publication| publication.key.as_str().len() <= 255));
    let health = open.exchange(format!("GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", open.address).as_bytes());
    assert_eq!(status(&health), Some(200), "the door lives on");
}
