//! A router in a home of its own, on a virtual host, with routes whose handler writes down what it is handed.

use std::{
    future::Future,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use router_tests::{AmqpClient, Home, Service, Vhost};

use crate::oracle::Log;

/// Longer than anything takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Bloodbank's.
pub const EXCHANGE: &str = "bloodbank.events.v1";

/// The route that all tests have, and its queues.
pub const QUEUE: &str = "services.router.kept";
pub const DEAD: &str = "services.router.kept.dead";

/// Stays, writes down when it begins and has done an event, and answers what the event asks for; `once` is to fail the first time. While
/// there is a file `gate` it does not finish, and once there is a file `mended` it succeeds with all. What is to be tried again is so after
/// as many milliseconds as the file `delay` says, where there is one: the router's own delays are random. What asks for it kills the
/// router. One short line is one write, so lines of several processes do not mix.
const KEEP: &str = r#"exec 3>>"$1"
while read -r line; do
    id=${line#*\"id\":\"}
    attempt=${line#*\"attempt\":}
    mark=${line##*\"mark\":\"}
    mark=${mark%%\"*}
    verdict=${mark##* }
    [ "$verdict" = once ] && { [ "${attempt%%[!0-9]*}" = 1 ] && verdict=retry || verdict=done; }
    [ -e ../mended ] && verdict=done
    printf 'begun %s %s\n' "$mark" "${attempt%%[!0-9]*}" >&3
    [ "$verdict" = kill ] && kill -9 "$PPID" && exit
    while [ -e ../gate ]; do sleep 0.05; done
    printf '%s %s %s\n' "$verdict" "$mark" "${attempt%%[!0-9]*}" >&3
    delay=
    [ "$verdict" = retry ] && [ -e ../delay ] && read -r delay < ../delay
    printf '{"id":"%s","outcome":"%s","reason":"asked for"%s}\n' "${id%%\"*}" "$verdict" "${delay:+,\"delay_ms\":$delay}"
done
"#;

/// Prints a line. See the macro `say`.
#[expect(clippy::print_stdout, reason = "what was measured is read by people")]
pub fn tell(line: &str) {
    println!("{line}");
}

/// The large numbers?
pub fn is_long() -> bool {
    std::env::var("EVENT_ROUTER_TEST_FAULTS").is_ok_and(|form| form == "long")
}

/// `short`, or `long` in the long form.
pub fn size<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Waits for what a client of the broker does, from a test that is not asynchronous.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built").block_on(work)
}

/// Looks now and then until there is something, more patiently than `eventually` and without a load of its own.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "still not: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// The route `kept`, ordered by session, with further keys.
pub fn kept(more: &str) -> String {
    route("kept", &format!("order_by = \"session_id\"\n{more}"))
}

/// A route whose handler writes to `NAME.log` in the home.
pub fn route(name: &str, more: &str) -> String {
    route_to(name, &format!("../{name}.log"), more)
}

/// A route whose handler writes to this file.
pub fn route_to(name: &str, log: &str, more: &str) -> String {
    format!(
        "\n[[route]]\nname = \"{name}\"\non = [\"{name}.#\"]\nhandler = \"exec\"\n{more}\n\
         with = {{ command = [\"sh\", \"keep.sh\", \"{log}\"], keep_alive = true }}\n"
    )
}

pub struct World {
    pub home: Home,
    pub vhost: Arc<Vhost>,
    pub url: String,
}

impl World {
    pub fn new(vhost: Vhost, routes: &str) -> Self {
        Self::at(Arc::new(vhost), None, "", routes)
    }

    /// Reached by another URL than the broker's own.
    pub fn at(vhost: Arc<Vhost>, url: Option<String>, transport: &str, routes: &str) -> Self {
        let world = Self { home: Home::new(""), url: url.unwrap_or_else(|| vhost.url()), vhost };
        world.home.write("config/keep.sh", KEEP);
        world.configure(transport, routes);
        world
    }

    /// Another router on the same queues, whose handler writes to the log of this one.
    pub fn neighbour(&self, more: &str) -> Self {
        let log = self.home.path().join("kept.log");
        let routes = route_to("kept", &log.display().to_string(), more);
        Self::at(Arc::clone(&self.vhost), Some(self.url.clone()), "", &routes)
    }

    /// Writes the configuration anew, with further lines of `[transport]`.
    pub fn configure(&self, transport: &str, routes: &str) {
        self.home.configure(&format!("[transport]\nkind = \"amqp\"\nurl = \"${{RABBIT_URL}}\"\n{transport}\n{routes}"));
    }

    pub fn command(&self) -> Command {
        let mut command = self.home.command(&["run", "--log-format", "json"]);
        command.env("RABBIT_URL", &self.url);
        command
    }

    /// Starts a router and waits until it is ready.
    pub fn serve(&self) -> Service {
        Service::start(self.command())
    }

    /// What the handler of a route has written.
    pub fn log(&self, route: &str) -> Log {
        Log::at(self.home.path().join(format!("{route}.log")))
    }

    /// What fails is tried again after exactly this long.
    pub fn retry_after(&self, delay: Duration) {
        self.home.write("delay", &format!("{}\n", delay.as_millis()));
    }

    /// From now on no handling ends.
    pub fn shut_gate(&self) {
        self.home.write("gate", "");
    }

    pub fn open_gate(&self) {
        std::fs::remove_file(self.home.path().join("gate")).expect("the gate was shut");
    }

    /// A client that looks from outside.
    pub fn client(&self) -> AmqpClient {
        wait(AmqpClient::connect(&self.vhost.url()))
    }

    /// Waits until nothing of a queue waits and nothing of it is in hand, however long that takes, as long as it becomes less.
    pub fn await_empty(&self, queue: &str) {
        let mut since = Instant::now();
        let (mut last, mut least) = (None, u64::MAX);
        while since.elapsed() < PATIENCE {
            last = self.vhost.queue(queue).map(|queue| (queue.ready, queue.unacked));
            if last == Some((0, 0)) {
                return;
            }
            if let Some((ready, unacked)) = last
                && ready + unacked < least
            {
                (since, least) = (Instant::now(), ready + unacked);
            }
            std::thread::park_timeout(Duration::from_millis(200));
        }
        panic!("`{queue}` does not become empty: {last:?} are ready and in hand");
    }
}
