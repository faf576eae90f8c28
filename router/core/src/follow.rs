//! Following the archive for somebody who looks on: which of its events he means, and waiting for the next one.

use std::{sync::Arc, time::Duration};

use router_api::{AdminError, ArchivedEvent, Clock, DecodeLimits, Envelope, FollowRequest, Followed, Matcher, PageQuery, Store};

use crate::{config::RouteConfig, filter::EventFilter, matcher::RouteMatcher, redrive::sentence};

/// Between two looks at an archive that has nothing new.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Pages that one request looks through, so that a filter that fits nothing has an answer after a bounded while.
const PAGES_MAX: usize = 8;

/// Answers a request from `store`. `waits` is false where nobody stores anything meanwhile.
///
/// # Errors
///
/// When the filter is wrong, there is no such route, or the store cannot be read.
pub(crate) async fn follow<'r>(
    store: &dyn Store,
    clock: &Arc<dyn Clock>,
    decode: DecodeLimits,
    routes: impl IntoIterator<Item = &'r RouteConfig>,
    request: &FollowRequest,
    waits: bool,
) -> Result<Followed, AdminError> {
    let wanted = Wanted::of(request, routes, decode)?;
    let begun = clock.monotonic();
    let mut query = PageQuery {
        after: request.after.unwrap_or(u64::MAX),
        session: request.session.clone(),
        key: request.key.clone(),
        from: request.from,
        to: request.to,
        limit: request.limit(),
        bytes_max: FollowRequest::BYTES_MAX,
    };
    let mut followed = Followed::default();
    let Some(after) = request.after else {
        followed.next = store.page(&query).await?.newest;
        followed.at_end = true;
        return Ok(followed);
    };
    let mut pages = 0;
    loop {
        let page = store.page(&query).await?;
        if page.newest < query.after {
            // Another store than the one whose number this is: it begins where that one ends.
            return Ok(Followed { next: page.newest, at_end: true, ..followed });
        }
        if let Some(behind) = request.behind_max
            && page.newest.saturating_sub(query.after) > behind
            && pages == 0
        {
            followed.missed = page.newest - behind - after;
            query.after = page.newest - behind;
            pages += 1;
            continue;
        }
        followed.events.extend(page.events.into_iter().filter(|event| wanted.has(event)));
        followed.next = page.looked_to;
        followed.at_end = page.looked_to >= page.newest;
        pages += 1;
        let waited = clock.monotonic().saturating_sub(begun) >= request.wait();
        let is_done = if followed.at_end { !waits || waited } else { pages > PAGES_MAX };
        if !followed.events.is_empty() || followed.missed > 0 || is_done {
            return Ok(followed);
        }
        query.after = page.looked_to;
        if followed.at_end {
            clock.sleep(LOOK_AGAIN).await;
            // Waiting is no looking: what comes at last is looked through as if it had been there.
            pages = 1;
        }
    }
}

/// What cannot be asked of the store.
struct Wanted {
    filter: Option<EventFilter>,
    route: Option<RouteMatcher>,
    decode: DecodeLimits,
}

impl Wanted {
    fn of<'r>(request: &FollowRequest, routes: impl IntoIterator<Item = &'r RouteConfig>, decode: DecodeLimits) -> Result<Self, AdminError> {
        let filter = match &request.when {
            Some(tree) => Some(EventFilter::compile(tree).map_err(|problems| {
                let problems: Vec<String> = problems.iter().map(sentence).collect();
                AdminError::Invalid(format!("the filter is wrong: {}", problems.join("; ")))
            })?),
            None => None,
        };
        let route = match &request.route {
            None => None,
            Some(name) => {
                let mut names = Vec::new();
                let mut found = None;
                for route in routes {
                    if route.name == *name {
                        found = Some(RouteMatcher::of(route));
                    }
                    names.push(format!("`{}`", route.name));
                }
                Some(found.ok_or_else(|| AdminError::NotFound(format!("there is no route `{name}`; there are {}", names.join(", "))))?)
            }
        };
        Ok(Self { filter, route, decode })
    }

    fn has(&self, event: &ArchivedEvent) -> bool {
        if self.filter.is_none() && self.route.is_none() {
            return true;
        }
        if self.route.as_ref().is_some_and(|route| !route.takes(&event.key)) {
            return false;
        }
        let Ok(envelope) = Envelope::decode(event.key.clone(), event.body.clone(), self.decode) else {
            // A route gets what does not decode too, and gives it up; a filter fits nothing of it.
            return self.filter.is_none();
        };
        self.route.as_ref().is_none_or(|route| route.matches(&envelope)) && self.filter.as_ref().is_none_or(|filter| filter.matches(&envelope))
    }
}
