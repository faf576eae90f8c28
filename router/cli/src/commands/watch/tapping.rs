//! Looking on at a bus without a router of ours.

use std::sync::Arc;

use router_amqp::{Tap, Tapped};
use router_api::{Clock, Envelope, FollowRequest, Matcher as _, RoutingPattern, SeenEvent};
use router_core::{
    RouteMatcher,
    config::{AmqpConfig, Config},
    filter::EventFilter,
    redact::Redactor,
};

use super::Watching;
use crate::{
    broker,
    event_line::ShownEvent,
    store_key,
    system::{OsChance, SystemClock},
    terminal::harmless,
};

pub(super) async fn tap(config: &Config, amqp: &AmqpConfig, request: FollowRequest, mut watching: Watching<'_>) -> anyhow::Result<()> {
    let options = broker::options(config, amqp, None);
    let shown = options.shown_url();
    let wanted = Wanted::of(config, &request)?;
    let pattern = match &request.key {
        Some(pattern) => pattern.clone(),
        None => "#".parse::<RoutingPattern>()?,
    };
    let tap = Tap::open(&options, &pattern, Arc::new(SystemClock) as Arc<dyn Clock>).await.map_err(broker::with_hint)?;
    if watching.args.last.is_some() {
        watching.note("nothing here keeps what passed before, so `--last` begins with now");
    }
    watching.note(&format!("no router of this configuration archives the bus; looking on at `{}` by a queue of one's own; Ctrl-C ends", harmless(&shown)));
    let ended = loop {
        let event = match tap.next().await {
            Ok(Tapped::Missed(count)) => {
                watching.missed(count)?;
                continue;
            }
            Ok(Tapped::Event(event)) => event,
            Err(error) => break Err(error.into()),
        };
        if let Some(event) = wanted.of_these(event)
            && !watching.event(&event)?
        {
            break Ok(());
        }
    };
    tap.close().await;
    ended
}

/// What the broker cannot choose by, and what must be done with an event before anybody sees it.
struct Wanted<'c> {
    config: &'c Config,
    redactor: Redactor,
    session: Option<String>,
    route: Option<RouteMatcher>,
    filter: Option<EventFilter>,
}

impl<'c> Wanted<'c> {
    fn of(config: &'c Config, request: &FollowRequest) -> anyhow::Result<Self> {
        let key = if store_key::is_there(&config.store.path) { store_key::of_store(&config.store.path, &OsChance)? } else { store_key::drawn(&OsChance) };
        let redactor = Redactor::new(&config.redact, key).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("redact: {}", problems.join("; "))
        })?;
        let route = match &request.route {
            None => None,
            Some(name) => match config.routes.iter().find(|route| route.name == *name) {
                Some(route) => Some(RouteMatcher::of(route)),
                None => {
                    let names: Vec<String> = config.routes.iter().map(|route| format!("`{}`", route.name)).collect();
                    anyhow::bail!("there is no route `{name}`; there are {}", names.join(", "))
                }
            },
        };
        // It was compiled once already, when the arguments were read.
        let filter = request.when.as_ref().and_then(|when| EventFilter::compile(when).ok());
        Ok(Self { config, redactor, session: request.session.clone(), route, filter })
    }

    /// The event as it may be shown, if it is wanted.
    fn of_these(&self, mut event: SeenEvent) -> Option<ShownEvent> {
        let limits = self.config.limits.decode;
        let mut redactions = 0;
        if event.body.len() > limits.body_bytes_max {
            event.body =
                format!("{{\"event_router\":{{\"left_out\":\"the body is larger than `limits.body_bytes_max`\",\"bytes\":{}}}}}", event.body.len()).into();
        } else {
            let redacted = self.redactor.redact(&event.body);
            (event.body, redactions) = (redacted.body, redacted.count);
        }
        if self.route.as_ref().is_some_and(|route| !route.takes(&event.key)) {
            return None;
        }
        if self.session.is_some() || self.route.is_some() || self.filter.is_some() {
            match Envelope::decode(event.key.clone(), event.body.clone(), limits) {
                Ok(envelope) => {
                    let is_of_session = self.session.is_none() || envelope.session_id() == self.session.as_deref();
                    let fits =
                        self.route.as_ref().is_none_or(|route| route.matches(&envelope)) && self.filter.as_ref().is_none_or(|filter| filter.matches(&envelope));
                    if !is_of_session || !fits {
                        return None;
                    }
                }
                Err(_) if self.session.is_some() || self.filter.is_some() => return None,
                Err(_) => {}
            }
        }
        Some(ShownEvent::seen(event, redactions, limits))
    }
}
