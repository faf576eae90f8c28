//! The archive of a bus knows what this router has settled, and nothing of what still lies in a queue there or what another router has
//! taken. Where it knows nothing of a route that wants the event, that is said instead of nothing.

use router_api::{ArchivedEvent, DecodeLimits, DeliveryRecord, DeliveryState, Envelope, Matcher};

use crate::{config::RouteConfig, matcher::RouteMatcher};

/// Adds to each event the routes that want it and of which nothing is known.
pub(crate) fn add<'r>(events: &mut [ArchivedEvent], routes: impl Iterator<Item = &'r RouteConfig>, decode: DecodeLimits) {
    let routes: Vec<_> = routes.filter(|route| route.enabled).map(|route| (&route.name, RouteMatcher::of(route))).collect();
    for event in events {
        // What does not decode goes wherever its key leads, to be given up there.
        let envelope = Envelope::decode(event.key.clone(), event.body.clone(), decode).ok();
        for (name, matcher) in &routes {
            let is_known = event.deliveries.iter().any(|delivery| delivery.route == **name);
            if !is_known && matcher.takes(&event.key) && envelope.as_ref().is_none_or(|envelope| matcher.matches(envelope)) {
                let (route, at) = ((*name).clone(), event.stored_at);
                event.deliveries.push(DeliveryRecord { route, state: DeliveryState::Unsettled, attempts: 0, at });
            }
        }
    }
}
