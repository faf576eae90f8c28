//! `health`: does a router answer? For containers and scripts: one line or one JSON object, and exit code 0 or 1.

use std::{sync::Arc, time::Duration};

use router_api::{
    Admin as _, Cancellation, Effect, EffectContext, EffectKind, EffectPort, EffectReply, EffectRequest, Endpoint, HttpRequest, Method, RouteState,
    RouterStatus,
};
use router_claude::spool::{Look, Waiting};
use router_effects::{Performer, PerformerOptions};
use router_http::AdminClient;
use serde::Serialize;

use crate::{
    Ended,
    args::{Global, HealthArgs},
    commands::block_on,
    setup::{self, InvalidConfig},
    spool,
    terminal::{BAD, GOOD, Output, WARN, counted, harmless, styled},
};

/// For the whole question; shorter than any sensible limit of who asks.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a door is unless the configuration says otherwise.
const DOOR: &str = "http://127.0.0.1:8682/healthz";

pub(crate) fn run(global: &Global, args: &HealthArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let answer = match &args.url {
        Some(url) => ask_door(url),
        // A running router keeps its configuration while the file is being edited, so a file that cannot be used now says nothing
        // about it. The router on its store is asked, where that can be told, and else the usual door.
        None => match setup::load_to_read(global) {
            Ok(setup) => ask_socket(&setup.config.store.path),
            Err(error) => {
                let store = error.downcast_ref::<InvalidConfig>().and_then(|invalid| invalid.store.clone());
                match store.map(|store| ask_socket(&store)) {
                    Some(Ok(well)) => Ok(well),
                    _ => {
                        let url = DOOR.parse().expect("the literal is an address");
                        let asked = "the configuration cannot be used (`event-router check`), so the usual door was asked";
                        ask_door(&url).map_err(|why| format!("{why}; {asked}"))
                    }
                }
            }
        },
    };
    let healthy = answer.is_ok();
    let spool = spool_of(global);
    if args.json.json {
        let (said, status) = answer.map_or_else(|why| (why, None), |well| (well.said, well.status));
        out.json(&HealthAnswer {
            schema: "event-router.health.v1",
            healthy,
            said,
            degraded: status.as_ref().and_then(trouble),
            version: status.as_ref().map(|status| status.version.clone()),
            routes_on: status.as_ref().map(|status| names(status, |state| state != RouteState::Disabled)),
            routes_paused: status.as_ref().map(|status| names(status, |state| state == RouteState::Paused)),
            spool,
        })?;
    } else {
        match answer {
            Ok(well) => {
                out.line(format_args!("{} {}", styled(GOOD, "healthy:"), harmless(&well.said)))?;
                if let Some(trouble) = well.status.as_ref().and_then(trouble) {
                    out.line(format_args!("{} {}", styled(WARN, "degraded:"), harmless(&trouble)))?;
                }
            }
            Err(why) => out.line(format_args!("{} {}", styled(BAD, "unhealthy:"), harmless(&why)))?,
        }
        if let Some(spool) = spool {
            out.line(format_args!("spool: {}", harmless(&spool.sentence())))?;
        }
    }
    Ok(if healthy { Ended::Well } else { Ended::Badly })
}

/// For programs. What only the router itself can tell is null where a door was asked, or nobody answered.
#[derive(Serialize)]
struct HealthAnswer {
    schema: &'static str,
    healthy: bool,
    /// The line that people get.
    said: String,
    /// What keeps the transport from taking or giving events; null if nothing does.
    degraded: Option<String>,
    version: Option<String>,
    routes_on: Option<Vec<String>>,
    routes_paused: Option<Vec<String>>,
    /// Where hooks leave their events; null where there is none.
    spool: Option<SpoolAnswer>,
}

/// What waits in the spool that the environment names, which a router on this machine drains.
#[derive(Serialize)]
struct SpoolAnswer {
    directory: String,
    waiting_events: u64,
    waiting_bytes: u64,
    oldest_at: Option<jiff::Timestamp>,
    /// Events that the router found to be none; the last of them are kept there.
    refused: u64,
    lost_full: u64,
    lost_damaged: u64,
    /// Why the rest is not known.
    error: Option<String>,
}

fn spool_of(global: &Global) -> Option<SpoolAnswer> {
    let spool = spool::of_environment(&setup::environment(global).ok()?).filter(|spool| spool.directory().is_dir())?;
    let (look, error) = spool.look().map_or_else(|error| (Look { waiting: spool.waiting(), ..Look::default() }, Some(error.to_string())), |look| (look, None));
    let Waiting { bytes, lost, .. } = look.waiting;
    Some(SpoolAnswer {
        directory: spool.directory().display().to_string(),
        waiting_events: look.events,
        waiting_bytes: bytes,
        oldest_at: look.oldest,
        refused: lost.refused,
        lost_full: lost.full,
        lost_damaged: lost.damaged,
        error,
    })
}

impl SpoolAnswer {
    fn sentence(&self) -> String {
        let mut said = match (&self.error, self.waiting_events) {
            (Some(error), _) => format!("`{}` cannot be read: {error}", self.directory),
            (None, 0) => format!("nothing waits in `{}`", self.directory),
            (None, count) => {
                let since = self.oldest_at.map(|at| format!(", the oldest since {at:.0}")).unwrap_or_default();
                format!("{} in `{}`{since}", counted(count, "event waits", "events wait"), self.directory)
            }
        };
        for (count, what) in [(self.refused, "refused by the router"), (self.lost_full, "lost since it was full"), (self.lost_damaged, "damaged")] {
            if count > 0 {
                said.push_str(&format!("; {count} {what}"));
            }
        }
        said
    }
}

/// A router answers.
struct Well {
    said: String,
    status: Option<RouterStatus>,
}

fn names(status: &RouterStatus, wanted: impl Fn(RouteState) -> bool) -> Vec<String> {
    status.routes.iter().filter(|route| wanted(route.state)).map(|route| route.name.to_string()).collect()
}

/// What a URL of the command line is.
#[derive(Debug, Clone)]
pub(crate) struct HealthUrl(Endpoint);

impl std::str::FromStr for HealthUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Endpoint::parse(text).map(Self).map_err(|error| error.to_string())
    }
}

fn ask_socket(store: &std::path::Path) -> Result<Well, String> {
    let asked = block_on(async {
        let asking = async {
            let client = AdminClient::connect(store).await.map_err(|error| error.to_string())?;
            client.status().await.map_err(|error| error.to_string())
        };
        Ok(tokio::time::timeout(PATIENCE, asking).await)
    });
    match asked {
        Ok(Ok(Ok(status))) => Ok(Well { said: sentence(&status), status: Some(status) }),
        Ok(Ok(Err(why))) => Err(why),
        Ok(Err(_)) => Err(format!("the router does not answer within {} s", PATIENCE.as_secs())),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// Does somebody answer well at an address?
///
/// # Errors
///
/// Why not, as a sentence fragment.
pub(crate) fn answers(url: &str) -> Result<(), String> {
    ask_door(&url.parse()?).map(drop)
}

fn ask_door(url: &HealthUrl) -> Result<Well, String> {
    let port: Arc<dyn EffectPort> = Performer::new(PerformerOptions::default()).map_err(|error| error.to_string())?;
    let effect = Effect {
        name: "health".to_owned(),
        kind: EffectKind::Read,
        request: EffectRequest::Http(HttpRequest::new(Method::Get, url.0.url()).timeout(PATIENCE)),
        dry_run_reply: None,
    };
    let cx = EffectContext { route: "health".to_owned(), handling: "health".to_owned(), remaining: PATIENCE, cancellation: Cancellation::never() };
    let asked = block_on(async { Ok(port.perform(effect, None, &cx).await) });
    match asked {
        Ok(Ok(EffectReply::Http(reply))) if (200..300).contains(&reply.status) => {
            Ok(Well { said: format!("{} answers {}", url.0.url(), reply.status), status: None })
        }
        Ok(Ok(EffectReply::Http(reply))) => Err(format!("{} answers {}", url.0.url(), reply.status)),
        Ok(Ok(_)) => Err("the answer is none of HTTP".to_owned()),
        Ok(Err(error)) => Err(format!("{}: {error}", url.0.url())),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// A route whose target is down is the target's trouble: the router is healthy, and says so.
fn sentence(status: &RouterStatus) -> String {
    let on = status.routes.iter().filter(|route| route.state != RouteState::Disabled).count() as u64;
    let mut said = format!("event-router {}, {} on", status.version, counted(on, "route", "routes"));
    let paused: Vec<&str> = status.routes.iter().filter(|route| route.state == RouteState::Paused).map(|route| route.name.as_str()).collect();
    if !paused.is_empty() {
        said.push_str(&format!(", paused: {}", paused.join(", ")));
    }
    said
}

/// A broker that is away is not mended by a restart of the router, so the router is not ill; but nothing goes on meanwhile.
fn trouble(status: &RouterStatus) -> Option<String> {
    let condition = &status.condition;
    let is_well = condition.reachable && condition.accepts;
    (!is_well).then(|| if condition.troubles.is_empty() { "the transport is away".to_owned() } else { condition.troubles.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_door_is_an_address_and_a_word_is_none() {
        assert!(DOOR.parse::<HealthUrl>().is_ok());
        assert!("localhost".parse::<HealthUrl>().is_err());
    }

    #[test]
    fn a_route_that_pauses_is_named_and_does_not_make_the_router_ill() {
        let route = |name: &str, state: &str| serde_json::json!({ "name": name, "handler": "log", "mode": "live", "state": state, "note": null, "queue": null, "open_bursts": 0 });
        let status = serde_json::json!({
            "version": "1.2.3", "started_at": "2026-01-02T03:04:05Z", "transport": "embedded", "config_hash": "h",
            "routes": [route("a", "running"), route("b", "paused"), route("c", "disabled")],
        });
        assert_eq!(sentence(&serde_json::from_value(status).unwrap()), "event-router 1.2.3, 2 routes on, paused: b");
    }
}
