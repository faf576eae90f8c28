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
