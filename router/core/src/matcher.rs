//! What a route asks of an event before it is handled: does it want it, and in which lane does it stand? One answer for the
//! transport's intake and for the worker.

use std::{borrow::Cow, sync::Arc};

use router_api::{Envelope, Field, FieldPath, Matcher, RoutingKey, RoutingPattern};

use crate::{config::RouteConfig, filter::EventFilter};

/// The patterns, filter, lane key and dedup key of one route.
#[derive(Debug, Clone)]
pub struct RouteMatcher {
    on: Vec<RoutingPattern>,
    when: EventFilter,
    lane: Option<FieldPath>,
    dedup: Option<Vec<FieldPath>>,
}

impl RouteMatcher {
    /// Of a route.
    #[must_use]
    pub fn of(route: &RouteConfig) -> Self {
        Self {
            on: route.on.clone(),
            when: route.when.clone(),
            lane: route.coalesce.as_ref().map(|coalesce| coalesce.by.clone()).or_else(|| route.order_by.clone()),
            dedup: route.dedup.as_ref().map(|dedup| dedup.by.clone()),
        }
    }

    /// Does the key fit one of the patterns?
    #[must_use]
    pub fn takes(&self, key: &RoutingKey) -> bool {
        self.on.iter().any(|pattern| pattern.matches(key))
    }

    /// What recognises a repetition of the event on this route; `None` where dedup is off or the event has none of the fields.
    #[must_use]
    pub fn dedup_key(&self, event: &Envelope) -> Option<String> {
        let fields = self.dedup.as_ref()?;
        if fields.is_empty() {
            return event.dedup_id();
        }
        let values: Vec<Option<String>> = fields.iter().map(|path| event.field(path).map(|field| text(field).into_owned())).collect();
        // A JSON array keeps ("a", "b") and ("a,b") apart.
        values.iter().any(Option::is_some).then(|| serde_json::json!(values).to_string())
    }
}

impl RouteMatcher {
    /// As [`Matcher::lane`], without a copy where the event has the text.
    pub(crate) fn lane_of<'e>(&self, event: &'e Envelope) -> Option<Cow<'e, str>> {
        let field = event.field(self.lane.as_ref()?)?;
        Some(text(field)).filter(|lane| !lane.is_empty() && lane != "null")
    }
}

impl Matcher for RouteMatcher {
    fn matches(&self, event: &Envelope) -> bool {
        self.when.matches(event)
    }

    fn lane(&self, event: &Envelope) -> Option<String> {
        self.lane_of(event).map(Cow::into_owned)
    }
}

/// A lane or dedup key can be long (a 1 MB field): what is over this is replaced by its digest.
const KEY_BYTES_MAX: usize = 512;

fn text(field: Field<'_>) -> Cow<'_, str> {
    let text = match field {
        Field::Text(text) => text,
        Field::Value(serde_json::Value::String(text)) => Cow::Borrowed(text.as_str()),
        Field::Value(value) => Cow::Owned(value.to_string()),
    };
    if text.len() <= KEY_BYTES_MAX { text } else { Cow::Owned(format!("sha256:{}", crate::hex(&<sha2::Sha256 as sha2::Digest>::digest(text.as_bytes())))) }
}

/// Shares one matcher between the transport and the worker.
#[must_use]
pub fn shared(route: &RouteConfig) -> Arc<RouteMatcher> {
    Arc::new(RouteMatcher::of(route))
}
