//! A router on either transport: the built binary with a home of its own.

use std::sync::Arc;

use router_tests::{Broker, Home, Service, Vhost};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transport {
    Embedded,
    RabbitMq,
}

pub const TRANSPORTS: [Transport; 2] = [Transport::Embedded, Transport::RabbitMq];

/// A step of a handling that a test keeps the router from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Held {
    /// The intent of a write: it is not begun.
    Intents,
    /// The result of a write, after the write.
    Results,
    /// What a plugin remembers, after the result.
    States,
    /// The end of an event, on the embedded transport.
    Ends,
}

impl Held {
    fn what(self) -> &'static str {
        match self {
            Self::Intents => "INSERT ON ledger",
            Self::Results => "UPDATE ON ledger",
            Self::States => "INSERT ON plugin_state",
            Self::Ends => "UPDATE OF state ON deliveries WHEN NEW.state = 2",
        }
    }
}

pub struct World {
    pub home: Home,
    // Kept for as long as the router uses it.
    _vhost: Option<Arc<Vhost>>,
}

impl World {
    pub fn new(transport: Transport, routes: &str) -> Self {
        let home = Home::new("");
        let vhost = (transport == Transport::RabbitMq).then(|| Arc::new(Broker::shared().vhost()));
        let head = vhost.as_ref().map(|vhost| format!("[transport]\nkind = \"amqp\"\nurl = \"{}\"\n", vhost.url())).unwrap_or_default();
        // Tests wait for what they see, so nothing needs to take long.
        let defaults = "[defaults.retry]\nfirst_delay_ms = 200\nmax_delay_ms = 2_000\n[defaults.breaker]\nfirst_delay_ms = 500\nmax_delay_ms = 1_000\n";
        home.configure(&format!("{head}\n{defaults}\n{routes}"));
        Self { home, _vhost: vhost }
    }

    pub fn serve(&self) -> Service {
        self.home.serve()
    }

    /// Reasons of the dead letters of a route, as texts.
    pub fn letters(&self, route: &str) -> Vec<String> {
        let listed = self.home.run(&["dead-letters", "list", "--route", route, "--json"]).code(0).json();
        listed["dead_letters"].as_array().expect("a list").iter().map(Value::to_string).collect()
    }

    /// What the router may not write into its store from now on, until [`World::free`]: see `tests/ledger_kills.rs`.
    pub fn hold(&self, held: &[Held]) {
        let trigger = |held: &Held| format!("CREATE TRIGGER held_{held:?} BEFORE {} BEGIN SELECT RAISE(ABORT, 'the test holds it'); END;", held.what());
        self.sql(&held.iter().map(trigger).collect::<String>());
    }

    pub fn free(&self, held: &[Held]) {
        self.sql(&held.iter().map(|held| format!("DROP TRIGGER held_{held:?};")).collect::<String>());
    }

    /// Has the route done this event, for good?
    pub fn is_done(&self, route: &str, id: &str) -> bool {
        self.count("SELECT count(*) FROM inbox WHERE route = ?1 AND key = ?2", &[&route, &id]) > 0
    }

    fn count(&self, query: &str, parameters: &[&dyn rusqlite::ToSql]) -> i64 {
        let store = rusqlite::Connection::open_with_flags(self.home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
        store.busy_timeout(std::time::Duration::from_secs(60)).expect("it is a number");
        store.query_row(query, parameters, |row| row.get(0)).expect("the query fits the schema")
    }

    fn sql(&self, text: &str) {
        let store = rusqlite::Connection::open(self.home.store()).expect("the store can be opened");
        store.busy_timeout(std::time::Duration::from_secs(60)).expect("it is a number");
        store.execute_batch(text).expect("it fits the schema");
        // What another program has written is damage to the router; without its sums it looks at everything and goes on.
        let _ = std::fs::remove_file(self.home.store().with_extension("db.sums"));
    }

    /// The payloads that a route with `tee -a NAME` has written.
    pub fn told(&self, name: &str) -> Vec<Value> {
        self.home.read(name).lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(|event| event["payload"].clone()).collect()
    }
}

/// A Bloodbank event.
pub fn event(key: &str, id: &str, payload: &Value) -> Value {
    json!({ "event_id": id, "event_type": key, "timestamp": "2026-11-22T12:00:00Z", "version": "1.0.0", "source": { "host": "h", "type": "hook", "app": "test" }, "correlation_ids": [], "payload": payload })
}

/// The session `session` has ended, with these files changed.
pub fn ended(id: &str, session: &str, files: &[&str]) -> Value {
    event("session.thread.end", id, &json!({ "session_id": session, "files_modified": files, "git_commits": [], "working_directory": "/srv/app" }))
}

/// A tool has written `file`.
pub fn written(id: &str, directory: &str, file: &str) -> Value {
    let payload = json!({ "session_id": "s-1", "tool_metadata": { "tool_name": "Write", "tool_input": { "file_path": file }, "success": true }, "working_directory": directory, "git_branch": "main" });
    event("session.thread.agent.action", id, &payload)
}
