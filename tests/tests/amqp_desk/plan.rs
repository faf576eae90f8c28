//! What a plan says, and that it changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use router_amqp::{Management, Topology};
use router_api::{PlanChange, PlanLine, Subscription, Transport};
use router_tests::AmqpClient;
use serde_json::{Value, json};

use crate::house::*;

const QUEUE: &str = "services.router.a";

impl House {
    /// The plan, once it is certain that making it has changed nothing.
    async fn plan(&self, subscriptions: &[Subscription]) -> Vec<PlanLine> {
        let before = self.shape();
        let lines = within("planning", self.transport.admin().plan(subscriptions)).await.expect("the broker answers");
        assert_eq!(self.shape(), before, "a plan changes nothing");
        lines
    }
}

fn change(lines: &[PlanLine], object: &str) -> PlanChange {
    line(lines, object).change
}

fn line<'l>(lines: &'l [PlanLine], object: &str) -> &'l PlanLine {
    let found: Vec<&PlanLine> = lines.iter().filter(|line| line.object == object).collect();
    assert_eq!(found.len(), 1, "{object}: {lines:#?}");
    found[0]
}

fn detail<'l>(lines: &'l [PlanLine], object: &str) -> &'l str {
    line(lines, object).detail.as_deref().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_empty_broker_everything_would_be_made_and_afterwards_everything_kept() {
    let house = House::with(|options| options.archive = router_amqp::AmqpOptions::new("amqp://x").archive).await;
    let wanted = [subscription("a", &["x.#", "y"])];
    let lines = house.plan(&wanted).await;
    assert!(lines.iter().all(|line| line.change == PlanChange::Create), "{lines:#?}");
    assert!(detail(&lines, "queue `services.router.a`").contains("x-delivery-limit = 1000000"), "{lines:#?}");
    for object in [
        "exchange `bloodbank.events.v1`",
        "exchange `services.router.sys.return`",
        "queue `services.router.sys.wait.1`",
        "stream `services.router.sys.archive`",
    ] {
        assert_eq!(change(&lines, object), PlanChange::Create);
    }
    assert_eq!(change(&lines, "binding `x.#` of queue `services.router.a`"), PlanChange::Create);

    house.bind(&wanted).await;
    let lines = house.plan(&wanted).await;
    let others: Vec<_> = lines.iter().filter(|line| line.change != PlanChange::Keep && !line.object.starts_with("stream")).collect();
    assert!(others.is_empty(), "{others:#?}");
    assert!(detail(&lines, "binding `y` of queue `services.router.a`").contains("our own record"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_taken_away_is_told_and_what_amqp_cannot_tell_is_said_to_be_unknown() {
    let house = House::open().await;
    house.bind(&[subscription("a", &["x", "y"]), subscription("b", &["z"])]).await;
    house.publish("z", "1").await;
    let lines = house.plan(&[subscription("a", &["y", "new"])]).await;
    assert_eq!(change(&lines, "binding `x` of queue `services.router.a`"), PlanChange::Remove);
    assert_eq!(change(&lines, "binding `y` of queue `services.router.a`"), PlanChange::Keep);
    assert_eq!(change(&lines, "binding `new` of queue `services.router.a`"), PlanChange::Unknown);
    assert!(detail(&lines, "binding `new` of queue `services.router.a`").contains("management_url"));
    assert_eq!(change(&lines, "queue `services.router.b`"), PlanChange::Keep);
    assert!(detail(&lines, "queue `services.router.b`").contains("1 events wait"), "{lines:#?}");
    assert_eq!(change(&lines, "binding `z` of queue `services.router.b`"), PlanChange::Remove);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_made_in_another_way_is_refused_with_the_argument_and_a_way_out() {
    let house = House::open().await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    client.declare_queue(QUEUE, &json!({ "x-queue-type": "quorum", "x-delivery-limit": 5 })).await;
    let lines = house.plan(&[subscription("a", &["x"]), subscription("b", &["x"])]).await;
    assert_eq!(change(&lines, "queue `services.router.a`"), PlanChange::Refused);
    let why = detail(&lines, "queue `services.router.a`");
    assert!(why.contains("x-") && why.contains("queue = \"services.router.a\""), "{why}");
    assert_eq!(change(&lines, "queue `services.router.b`"), PlanChange::Create, "another route is not concerned");
    assert!(lines.iter().all(|line| line.object != "binding `x` of queue `services.router.a`"), "it would not be bound: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_of_another_type_is_refused() {
    let house = House::open().await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    client.declare_exchange(EXCHANGE, "fanout", &json!({})).await;
    let lines = house.plan(&[]).await;
    assert_eq!(change(&lines, "exchange `bloodbank.events.v1`"), PlanChange::Refused);
    assert!(detail(&lines, "exchange `bloodbank.events.v1`").contains("type"), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_queue_is_kept_as_it_is_and_says_what_that_costs() {
    let house = House::open().await;
    let client = AmqpClient::connect(&house.vhost.url()).await;
    client.declare_queue("theirs", &json!({ "x-queue-type": "classic", "x-max-length": 1_000 })).await;
    let lines = house.plan(&[adopting("a", &["x"], Some("theirs"))]).await;
    assert_eq!(change(&lines, "queue `theirs`"), PlanChange::Keep);
    let costs = detail(&lines, "queue `theirs`");
    for cost in ["single active consumer", "dead-letter exchange", "too much"] {
        assert!(costs.contains(cost), "{cost}: {costs}");
    }
    assert_eq!(change(&lines, "binding `x` of queue `theirs`"), PlanChange::Unknown);
    assert_eq!(change(&lines, "queue `services.router.a.dead`"), PlanChange::Create);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_verify_what_is_missing_is_refused_and_with_off_nothing_is_looked_at() {
    let house = House::with(|options| options.topology = Topology::Verify).await;
    let lines = house.plan(&[subscription("a", &["x"])]).await;
    assert_eq!(change(&lines, "queue `services.router.a`"), PlanChange::Refused);
    assert!(detail(&lines, "queue `services.router.a`").contains("verify"), "{lines:#?}");
    let house = House::with(|options| options.topology = Topology::Off).await;
    let lines = house.plan(&[subscription("a", &["x"])]).await;
    assert_eq!((lines.len(), lines[0].change), (1, PlanChange::Unknown));
}

/// The management API, as far as a plan needs it: from what the broker says of itself.
struct Listing(Value);

#[async_trait]
impl Management for Listing {
    async fn get(&self, path: &str) -> Result<Value, String> {
        if path.ends_with("/services.router.a/bindings") { Ok(self.0.clone()) } else { Err(format!("no `{path}`")) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_management_api_every_binding_is_known() {
    let listed = ["y", "foreign"].map(|key| json!({ "source": EXCHANGE, "routing_key": key, "destination": QUEUE }));
    let house = House::with(|options| options.management = Some(Arc::new(Listing(json!(listed))))).await;
    house.bind(&[subscription("a", &["x", "y"]), subscription("b", &["x"])]).await;
    let lines = house.plan(&[subscription("a", &["y", "new"]), subscription("b", &["new"])]).await;
    assert_eq!(change(&lines, "binding `y` of queue `services.router.a`"), PlanChange::Keep);
    assert_eq!(change(&lines, "binding `new` of queue `services.router.a`"), PlanChange::Create);
    assert_eq!(change(&lines, "binding `foreign` of queue `services.router.a`"), PlanChange::Keep);
    assert!(detail(&lines, "binding `foreign` of queue `services.router.a`").contains("not made by this router"));
    // By our own record it would be taken away, but it is not there.
    assert!(lines.iter().all(|line| line.object != "binding `x` of queue `services.router.a`"), "{lines:#?}");
    assert!(detail(&lines, "binding `new` of queue `services.router.b`").contains("management API did not say"), "{lines:#?}");
}
