//! A home whose configuration is on a virtual host of its own.

use std::{net::SocketAddr, process::Command, sync::Arc};

use router_tests::{Answer, Broker, Home, Ran, Service, Vhost, request};
use serde_json::{Value, json};

/// The password of the user that the router logs in as. It must not be seen anywhere.
pub const PASSWORD: &str = "hunter22-of-the-journeys";

/// `kept` appends each event to `seen` in the home, `poisoned` refuses every event.
pub const ROUTES: &str = r##"
[[route]]
name = "kept"
on = ["kept.#"]
order_by = "session_id"
handler = "exec"
with = { command = ["tee", "-a", "../seen"] }

[[route]]
name = "poisoned"
on = ["poison.#"]
handler = "exec"
with = { command = ["sh", "-c", "echo this is bad data >&2; exit 65"] }
"##;

/// Bloodbank's.
pub const EXCHANGE: &str = "bloodbank.events.v1";

pub fn event(key: &str, id: &str) -> Vec<u8> {
    json!({ "event_id": id, "event_type": key, "payload": { "session_id": "s-1" } }).to_string().into_bytes()
}

pub struct World {
    pub home: Home,
    pub vhost: Arc<Vhost>,
    pub url: String,
}

impl World {
    /// On the broker that all journeys share, as a user of its own.
    pub fn new(routes: &str) -> Self {
        Self::on(Arc::new(Broker::shared().vhost()), routes)
    }

    pub fn on(vhost: Arc<Vhost>, routes: &str) -> Self {
        let user = format!("router-{}", vhost.name());
        vhost.broker().add_user(&user, PASSWORD);
        vhost.broker().permit(&user, vhost.name(), ".*", ".*", ".*");
        let url = vhost.url_as(&user, PASSWORD);
        let world = Self { home: Home::new(""), vhost, url };
        world.configure("", routes);
        world
    }

    /// Another home on the same virtual host: another machine, as far as the broker can tell.
    pub fn neighbour(&self, routes: &str) -> Self {
        let world = Self { home: Home::new(""), vhost: Arc::clone(&self.vhost), url: self.url.clone() };
        world.configure("", routes);
        world
    }

    /// Writes the configuration anew, with further lines of `[transport]`.
    pub fn configure(&self, transport: &str, routes: &str) {
        self.home.configure(&format!("[transport]\nkind = \"amqp\"\nurl = \"${{RABBIT_URL}}\"\n{transport}\n{routes}"));
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.home.command(args);
        command.env("RABBIT_URL", &self.url);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Self::discreet(Ran::of(self.command(args).output().expect("the program runs")))
    }

    /// Starts the service and waits until it is ready.
    pub fn serve(&self) -> Service {
        Service::start(self.command(&["run", "--log-format", "json"]))
    }

    /// Starts the service and waits for its door only.
    pub fn begin(&self) -> (Service, SocketAddr) {
        let mut service = Service::begin(self.command(&["run", "--log-format", "json"]));
        let line = service.wait_for("events come in at").expect("the service says where its door is");
        let after = line.split("http://").nth(1).expect("the line has an address");
        let address = after.split('/').next().and_then(|address| address.parse().ok()).expect("the address is one");
        (service, address)
    }

    /// Whether it was shown, once more than the test itself asks.
    fn discreet(ran: Ran) -> Ran {
        assert!(!ran.stdout.contains(PASSWORD) && !ran.stderr.contains(PASSWORD), "the password is shown:\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    pub fn queue_names(&self) -> Vec<String> {
        self.vhost.queues().into_iter().map(|queue| queue.name).collect()
    }

    /// No state of a store is there.
    pub fn has_no_store(&self) -> bool {
        !self.home.path().join("state").exists()
    }
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).expect("the door answers")
}

/// The letters of `dead-letters list`, newest first.
pub fn letters(ran: Ran) -> Vec<Value> {
    ran.code(0).json()["dead_letters"].as_array().cloned().expect("a list")
}
