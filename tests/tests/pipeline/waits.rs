//! Chains of waits: a route that looks again and again, and what cuts it off where it would never end.

use std::time::Duration;

use router_api::{DeadLetterReason, Destination, Publication, RoutingKey, Transport};
use serde_json::json;

use crate::bench::{Answer, Bench, HOUR, SECOND, route};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A router whose handler answers the event from outside and each wait so.
async fn answering(answer: Answer) -> Bench {
    let bench = Bench::new();
    bench.behave(move |_| answer.clone());
    let mut looking = route("looking");
    looking.on = vec!["in.#".parse().unwrap()];
    bench.apply(&[looking]).await;
    bench.send("in.event", "e1").await;
    bench.settle_down().await;
    bench
}

fn wait(delay: Duration) -> Answer {
    Answer::EmitIn(delay, "look.again", Box::new(Answer::Done))
}

async fn reasons(bench: &Bench) -> Vec<DeadLetterReason> {
    bench.dead_letters().await.iter().map(|letter| letter.letter.reason).collect()
}

#[tokio::test]
async fn a_route_looks_again_for_as_long_as_it_wants_and_what_it_then_emits_is_no_loop() {
    let bench = Bench::new();
    bench.behave(|call| match (call.route.as_str(), call.ids[0].as_str()) {
        ("told", _) => Answer::Done,
        _ => wait(60 * SECOND),
    });
    let (mut looking, mut told) = (route("looking"), route("told"));
    (looking.on, told.on) = (vec!["in.#".parse().unwrap()], vec!["out.#".parse().unwrap()]);
    bench.apply(&[looking, told]).await;
    bench.send("in.event", "e1").await;
    bench.settle_down().await;
    bench.pass(2 * HOUR).await;
    assert!(bench.calls().len() >= 100, "{}", bench.calls().len());
    bench.behave(|call| if call.route == "told" { Answer::Done } else { Answer::Emit("out.ended", Box::new(Answer::Done)) });
    bench.pass(120 * SECOND).await;
    assert_eq!(bench.calls().iter().filter(|call| call.route == "told").count(), 1);
    assert_eq!(reasons(&bench).await, []);
}

#[tokio::test]
async fn waits_that_spin_or_branch_or_that_nobody_ends_are_cut_off() {
    for (name, answer, span, calls) in [
        // Eight hops each; what branches does so until then.
        ("spins", wait(Duration::from_millis(999)), HOUR, 9..=9),
        ("branches", Answer::EmitIn(SECOND, "look.again", Box::new(wait(SECOND))), HOUR, 100..=600),
        ("goes around", Answer::Emit("in.other", Box::new(wait(SECOND))), HOUR, 100..=600),
        // A hop where it begins, one for each week: that is eight weeks, a look each day.
        ("nobody ends it", wait(DAY), 100 * DAY, 50..=70),
    ] {
        let bench = answering(answer).await;
        bench.pass(span).await;
        let made = bench.calls().len();
        assert!(calls.contains(&made), "{name}: {made}");
        bench.pass(span).await;
        assert_eq!(bench.calls().len(), made, "{name}: it is over");
        assert!(reasons(&bench).await.contains(&DeadLetterReason::Loop), "{name}");
    }
}

#[tokio::test]
async fn an_event_from_outside_that_says_it_is_a_wait_begins_a_chain_like_any_other() {
    let bench = Bench::new();
    bench.behave(|_| wait(SECOND));
    bench.apply(&[route("looking")]).await;
    for (id, delivered_to) in
        [("forged", Destination::Subscribers), ("foreign", Destination::Route { route: "looking".parse().unwrap(), delay: Duration::ZERO })]
    {
        let whose = if id == "forged" { "looking" } else { "other" };
        let body = json!({ "event_id": id, "event_type": "look.again", "timestamp": "2026-01-01T00:00:00Z", "version": "1.0.0", "correlation_ids": [],
            "source": { "host": "h", "type": "service", "app": "event-router", "meta": { "route": whose, "waits_since": "2026-01-01T00:00:00Z" } }, "payload": {} });
        let publication = Publication { hops: 8, to: delivered_to, ..Publication::new(RoutingKey::new("look.again").unwrap(), body.to_string()) };
        bench.transport.publish(publication).await.unwrap();
    }
    bench.settle_down().await;
    bench.pass(HOUR).await;
    // Both had used up their hops.
    assert_eq!((bench.calls().len(), reasons(&bench).await), (2, vec![DeadLetterReason::Loop; 2]));
}
