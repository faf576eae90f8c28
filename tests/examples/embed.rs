//! The router inside a program of one's own: any tokio `main`, the parts joined by hand, no command line.
//!
//! `cargo run -p router-tests --example embed` takes one event in, waits until a route has handled it, and stops in good order.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

// Links the plugins that routes can name.
use plugins as _;

use event_router::{OsChance, SystemClock};
use router_api::{Clock, Publication, Registry, Transport as _};
use router_core::{
    Router,
    config::{self, ProcessEnvironment},
    observe::{Observer, RouterEvent},
};
use router_effects::{Performer, PerformerOptions};
use router_embedded::{Embedded, EmbeddedOptions};
use tokio::sync::mpsc;

/// Hands what became of events to the program. It must not wait: where nobody listens, it drops.
struct Fates(mpsc::Sender<String>);

impl Observer for Fates {
    fn observe(&self, event: &RouterEvent) {
        if let RouterEvent::Finished { route, event, .. } = event {
            let _ = self.0.try_send(format!("route `{route}` has handled `{}`", event.key()));
        }
    }
}

/// Runs a router over the configuration and the store in `directory`, and says what it did.
pub async fn run(directory: &Path) -> Result<String, Box<dyn Error + Send + Sync>> {
    // The parts: which plugins there are, who acts on the outside, what time it is.
    let registry = Registry::linked()?;
    let effects = Performer::new(PerformerOptions::default())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    // The configuration, with every problem at once if it has any.
    let located = config::locate(&[directory.join("router.toml")], None, directory);
    let loaded = config::load(&located, &registry, effects.clone(), &ProcessEnvironment).await.map_err(|problems| problems.report.render(false))?;

    // The transport, which is the store as well: one file.
    let embedded = Embedded::open(EmbeddedOptions::new(&loaded.config.store.path), Arc::clone(&clock))?;

    let (sender, mut fates) = mpsc::channel(100);
    let router = Router::builder(registry, embedded.clone(), embedded.clone(), effects, clock, Arc::new(OsChance)).observer(Arc::new(Fates(sender))).build();
    // Starts the routes; a later call with another configuration changes what has changed.
    router.apply(loaded.config).await?;

    // An event comes in: on disk when this returns.
    let event = br#"{"event_type": "order.placed", "order": 7}"#;
    router.admin().publish(Publication::new("order.placed".parse()?, event.as_slice())).await?;
    let fate = tokio::time::timeout(Duration::from_secs(60), fates.recv()).await?.ok_or("the router has gone")?;

    // First the routes, then the store.
    router.drain().await;
    embedded.close().await;
    Ok(fate)
}

#[tokio::main]
#[allow(dead_code, reason = "a test includes this file and calls `run`")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("router.toml"), ROUTER_TOML)?;
    let fate = run(directory.path()).await?;
    std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{fate}\n"))?;
    Ok(())
}

/// What the example runs with.
pub const ROUTER_TOML: &str = r#"
[store]
path = "router.db"

[http]
listen = "off"

[[route]]
name = "log-orders"
on = ["order.#"]
handler = "log"
"#;
