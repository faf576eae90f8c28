//! What binding would change on the broker, found out without changing it.
//!
//! Exchanges and queues are looked at (passively), and those that are there are declared as they should be, which changes nothing and is
//! refused where they differ. Bindings cannot be asked for in AMQP: they are known from our own record, or from the management API where
//! there is one, else they are said to be unknown. The bindings between our own exchanges and queues are left out: they are made anew
//! with every session.

use std::collections::{BTreeMap, BTreeSet};

use lapin::{ExchangeKind, types::FieldTable};
use router_api::{PlanChange, PlanLine, RoutingPattern, Subscription, TransportError};
use serde::Deserialize;
use url::Url;

use crate::{
    AmqpOptions, Topology, archive,
    arguments::{self, Form},
    bindings::{Bindings, Recorded},
    connection::Session,
    failure::Failure,
    names,
    scratch::Scratch,
    topology,
};

/// Bindings of one queue that are read from the management API at most.
const LISTED_MAX: usize = 10_000;

/// What a plan is made from.
pub(crate) struct Plan<'a> {
    pub(crate) options: &'a AmqpOptions,
    pub(crate) session: &'a Session,
    pub(crate) bindings: &'a Bindings,
}

/// What is known of the bindings of a queue.
enum Known {
    /// All of them, from the management API.
    All(BTreeSet<String>),
    /// Ours, from our own record; and why not all.
    Ours(BTreeSet<String>, String),
}

impl Plan<'_> {
    /// One line for each thing that binding `subscriptions`, the complete set, needs or takes away.
    pub(crate) async fn of(&self, subscriptions: &[Subscription]) -> Result<Vec<PlanLine>, TransportError> {
        if self.options.topology == Topology::Off {
            let detail = "`topology = \"off\"`: everything is taken for granted, and nothing is made".to_owned();
            return Ok(vec![line("topology", PlanChange::Unknown, Some(detail))]);
        }
        let mut lines = Vec::new();
        let mut scratch = Scratch::new(self.session);
        self.shared(&mut scratch, &mut lines).await?;
        let (record, trouble) = match self.bindings.all().await {
            Ok(record) => (record, None),
            Err(error) => (BTreeMap::new(), Some(error.to_string())),
        };
        for subscription in subscriptions {
            self.route(&mut scratch, subscription, &record, trouble.as_deref(), &mut lines).await?;
        }
        self.left(&mut scratch, subscriptions, &record, &mut lines).await?;
        scratch.end().await;
        Ok(lines)
    }

    async fn shared(&self, scratch: &mut Scratch, lines: &mut Vec<PlanLine>) -> Result<(), Failure> {
        lines.push(self.exchange(scratch, &self.options.exchange, ExchangeKind::Topic, FieldTable::default()).await?);
        lines.push(self.exchange(scratch, names::LOST, ExchangeKind::Fanout, FieldTable::default()).await?);
        let (mut lost, ready) = self.queue(scratch, names::LOST, arguments::lost_queue()).await?;
        if ready.is_some_and(|ready| ready > 0) {
            let ready = ready.unwrap_or_default();
            lost.detail = Some(format!("{ready} events lie in it that came back for queues that are gone: move them with a shovel, or purge it"));
        }
        lines.push(lost);
        lines.push(self.exchange(scratch, names::RETURN, ExchangeKind::Direct, arguments::return_exchange()).await?);
        for step in names::WAIT_STEPS {
            let name = names::wait_of(step);
            lines.push(self.exchange(scratch, &name, ExchangeKind::Fanout, FieldTable::default()).await?);
            lines.push(self.queue(scratch, &name, arguments::wait_queue(step)).await?.0);
        }
        if let Some(options) = &self.options.archive {
            // One that is there is used as it is, whatever it keeps.
            let name = names::ARCHIVE;
            let object = format!("stream `{name}`");
            lines.push(match scratch.look(name).await {
                Ok(Some(_)) => line(object, PlanChange::Keep, None),
                Ok(None) => self.missing(object, Some(arguments::shown(&archive::stream(options)))),
                Err(failure) => refused(object, failure)?,
            });
        }
        Ok(())
    }

    async fn route(
        &self,
        scratch: &mut Scratch,
        subscription: &Subscription,
        record: &BTreeMap<String, Recorded>,
        trouble: Option<&str>,
        lines: &mut Vec<PlanLine>,
    ) -> Result<(), Failure> {
        let name = names::queue_of(subscription);
        let wanted = arguments::route_queue(subscription, self.options);
        lines.push(self.queue(scratch, &names::dead_queue(&subscription.route), arguments::dead_queue()).await?.0);
        let (queue, ready) = match subscription.queue.name {
            Some(_) => self.adopted(scratch, subscription, &name, wanted).await?,
            None => self.queue(scratch, &name, wanted).await?,
        };
        let is_refused = queue.change == PlanChange::Refused;
        lines.push(queue);
        if is_refused {
            // Nothing of it would be bound.
            return Ok(());
        }
        let known = match ready {
            // A new queue has none.
            None => Known::All(BTreeSet::new()),
            Some(_) => self.known(&name, record.get(&name), trouble).await,
        };
        let wants: BTreeSet<&str> = subscription.patterns.iter().map(RoutingPattern::as_str).collect();
        for pattern in &wants {
            let object = binding(pattern, &name);
            lines.push(match &known {
                Known::All(all) if all.contains(*pattern) => line(object, PlanChange::Keep, None),
                Known::All(_) => self.missing(object, None),
                Known::Ours(ours, _) if ours.contains(*pattern) => line(object, PlanChange::Keep, Some("as our own record has it".to_owned())),
                Known::Ours(_, why) => line(object, PlanChange::Unknown, Some(format!("made if it is not there: {why}"))),
            });
        }
        let ours: BTreeSet<&str> = record.get(&name).into_iter().flat_map(|recorded| &recorded.patterns).map(RoutingPattern::as_str).collect();
        for pattern in ours.difference(&wants) {
            let is_there = match &known {
                Known::All(all) => all.contains(*pattern),
                Known::Ours(..) => true,
            };
            if is_there {
                lines.push(self.removed(binding(pattern, &name), format!("`{pattern}` was taken from `on` of route `{}`", subscription.route)));
            }
        }
        if let Known::All(all) = &known {
            for pattern in all.iter().filter(|pattern| !wants.contains(pattern.as_str()) && !ours.contains(pattern.as_str())) {
                lines.push(line(binding(pattern, &name), PlanChange::Keep, Some("not made by this router, and left to whoever made it".to_owned())));
            }
        }
        Ok(())
    }

    /// Queues of ours that no subscription has.
    async fn left(
        &self,
        scratch: &mut Scratch,
        subscriptions: &[Subscription],
        record: &BTreeMap<String, Recorded>,
        lines: &mut Vec<PlanLine>,
    ) -> Result<(), Failure> {
        let used: BTreeSet<String> = subscriptions.iter().map(names::queue_of).collect();
        for (queue, recorded) in record.iter().filter(|(queue, _)| !used.contains(*queue)) {
            let ready = match scratch.look(queue).await {
                Ok(Some(count)) => count.ready,
                // Gone, and its bindings with it.
                Ok(None) => continue,
                Err(failure) => {
                    lines.push(refused(format!("queue `{queue}`"), failure)?);
                    continue;
                }
            };
            let route = &recorded.route;
            let why = if subscriptions.iter().any(|subscription| subscription.route == *route) { "has another queue now" } else { "is off or gone" };
            lines.push(line(format!("queue `{queue}`"), PlanChange::Keep, Some(format!("route `{route}` {why}; {ready} events wait in it"))));
            for pattern in &recorded.patterns {
                lines.push(self.removed(binding(pattern.as_str(), queue), format!("route `{route}` {why}")));
            }
        }
        Ok(())
    }

    async fn exchange(&self, scratch: &mut Scratch, name: &str, kind: ExchangeKind, arguments: FieldTable) -> Result<PlanLine, Failure> {
        let object = format!("exchange `{name}`");
        match scratch.has_exchange(name).await {
            Ok(true) => {}
            Ok(false) => return Ok(self.missing(object, None)),
            Err(failure) => return refused(object, failure),
        }
        match scratch.exchange(name, kind, arguments).await {
            Ok(()) => Ok(line(object, PlanChange::Keep, None)),
            Err(failure) if topology::may_not_make(&failure) => Ok(line(object, PlanChange::Keep, Some(NOT_COMPARED.to_owned()))),
            Err(failure) if failure.is_inequivalent() => refused(object, topology::other_exchange(name, failure)),
            Err(failure) => refused(object, failure),
        }
    }

    /// One of our own queues, and what waits in it if it is there.
    async fn queue(&self, scratch: &mut Scratch, name: &str, arguments: FieldTable) -> Result<(PlanLine, Option<u32>), Failure> {
        let object = format!("queue `{name}`");
        let ready = match scratch.look(name).await {
            Ok(Some(count)) => count.ready,
            Ok(None) => return Ok((self.missing(object, Some(arguments::shown(&arguments))), None)),
            Err(failure) => return Ok((refused(object, failure)?, None)),
        };
        let line = match scratch.queue(name, &Form::of(arguments)).await {
            Ok(()) => line(object, PlanChange::Keep, None),
            Err(failure) if topology::may_not_make(&failure) => line(object, PlanChange::Keep, Some(NOT_COMPARED.to_owned())),
            Err(failure) if failure.is_inequivalent() => refused(object, topology::other_queue(name, failure))?,
            Err(failure) => refused(object, failure)?,
        };
        Ok((line, Some(ready)))
    }

    /// A queue that a route adopts: as it is, with what that costs.
    async fn adopted(&self, scratch: &mut Scratch, subscription: &Subscription, name: &str, wanted: FieldTable) -> Result<(PlanLine, Option<u32>), Failure> {
        let object = format!("queue `{name}`");
        let ready = match scratch.look(name).await {
            Ok(Some(count)) => count.ready,
            Ok(None) => return Ok((self.missing(object, Some(arguments::shown(&wanted))), None)),
            Err(failure) => return Ok((refused(object, failure)?, None)),
        };
        let detail = match topology::form_of(scratch, name, wanted).await? {
            Some(form) => {
                let costs = form.costs(subscription.queue.parallel);
                if costs.is_empty() { "adopted".to_owned() } else { format!("adopted: {}", costs.join("; ")) }
            }
            None => "adopted; the broker does not say how it was made".to_owned(),
        };
        Ok((line(object, PlanChange::Keep, Some(detail)), Some(ready)))
    }

    /// Something that is not there.
    fn missing(&self, object: impl Into<String>, detail: Option<String>) -> PlanLine {
        if self.options.topology == Topology::Verify {
            let detail = "it is not there, and `topology = \"verify\"` makes nothing: make it, or set `topology = \"declare\"`".to_owned();
            return line(object, PlanChange::Refused, Some(detail));
        }
        line(object, PlanChange::Create, detail)
    }

    /// A binding of ours that nobody wants any more.
    fn removed(&self, object: String, why: String) -> PlanLine {
        if self.options.topology == Topology::Verify {
            return line(object, PlanChange::Keep, Some(format!("{why}, but `topology = \"verify\"` takes nothing away")));
        }
        line(object, PlanChange::Remove, Some(why))
    }

    async fn known(&self, queue: &str, recorded: Option<&Recorded>, trouble: Option<&str>) -> Known {
        let ours = || recorded.into_iter().flat_map(|recorded| &recorded.patterns).map(|pattern| pattern.as_str().to_owned()).collect();
        let Some(management) = &self.options.management else {
            let why = trouble.map_or_else(
                || "AMQP cannot list bindings, and our own record does not have it; with `management_url` it could be told".to_owned(),
                |trouble| format!("AMQP cannot list bindings, and our own record cannot be read ({trouble})"),
            );
            return Known::Ours(ours(), why);
        };
        match management.get(&bindings_path(&self.options.url, queue)).await.and_then(|listed| keys_of(listed, &self.options.exchange)) {
            Ok(all) => Known::All(all),
            Err(error) => Known::Ours(ours(), format!("the management API did not say: {error}")),
        }
    }
}

const NOT_COMPARED: &str = "this user may not declare it, so that its arguments cannot be compared";

fn line(object: impl Into<String>, change: PlanChange, detail: Option<String>) -> PlanLine {
    PlanLine { object: object.into(), change, detail }
}

/// A refusal is an answer; a lost session is none.
fn refused(object: String, failure: Failure) -> Result<PlanLine, Failure> {
    if failure.is_refused() { Ok(line(object, PlanChange::Refused, Some(failure.sentence().to_owned()))) } else { Err(failure) }
}

fn binding(pattern: &str, queue: &str) -> String {
    format!("binding `{pattern}` of queue `{queue}`")
}

/// Where the management API lists the bindings of a queue.
fn bindings_path(url: &str, queue: &str) -> String {
    // As it stands in the broker's URL it is percent-encoded already; `/` alone and nothing at all are the virtual host `/`.
    let vhost = Url::parse(url).ok().map(|url| url.path().trim_start_matches('/').to_owned()).filter(|vhost| !vhost.is_empty());
    let queue: String = url::form_urlencoded::byte_serialize(queue.as_bytes()).collect();
    // A form has `+` for a space, a path has not.
    format!("/api/queues/{}/{}/bindings", vhost.as_deref().unwrap_or("%2F"), queue.replace('+', "%20"))
}

/// The keys with which a queue is bound to `exchange`.
fn keys_of(listed: serde_json::Value, exchange: &str) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Listed {
        source: String,
        routing_key: String,
    }
    let listed: Vec<Listed> = serde_json::from_value(listed).map_err(|error| format!("its list of bindings cannot be read: {error}"))?;
    if listed.len() > LISTED_MAX {
        return Err(format!("the queue has {} bindings, more than {LISTED_MAX}", listed.len()));
    }
    Ok(listed.into_iter().filter(|listed| listed.source == exchange).map(|listed| listed.routing_key).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bindings_are_asked_for_where_the_virtual_host_has_them() {
        for (url, path) in [
            ("amqp://u:p@h", "/api/queues/%2F/services.router.a/bindings"),
            ("amqp://u:p@h/", "/api/queues/%2F/services.router.a/bindings"),
            ("amqp://u:p@h/%2f?heartbeat=3", "/api/queues/%2f/services.router.a/bindings"),
            ("amqp://u:p@h/my%20host", "/api/queues/my%20host/services.router.a/bindings"),
        ] {
            assert_eq!(bindings_path(url, "services.router.a"), path, "{url}");
        }
        assert_eq!(bindings_path("amqp://h/v", "a b/c+d"), "/api/queues/v/a%20b%2Fc%2Bd/bindings");
    }

    #[test]
    fn only_the_bindings_of_the_exchange_are_read() {
        let listed = json!([
            { "source": "", "routing_key": "q", "destination": "q" },
            { "source": "x", "routing_key": "a.#", "destination": "q" },
            { "source": "services.router.sys.return", "routing_key": "q", "destination": "q" },
        ]);
        assert_eq!(keys_of(listed, "x"), Ok(BTreeSet::from(["a.#".to_owned()])));
        assert!(keys_of(json!({ "error": "not_authorised" }), "x").unwrap_err().contains("cannot be read"));
    }
}
