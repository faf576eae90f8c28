//! A whole router in a test does what a real one does, in no time.

use std::time::Duration;

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, Clock, CommandRequest, Context, DeadLetterReason, EffectClass, Envelope, Fate, Handler, HandlerError, Outcome, Plugin, Program,
};
use router_testkit::{Ending, TestRouter, event};
use serde_json::json;

/// Runs a program with the `n` of each event of the burst.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunIt {
    /// The program.
    program: String,
}

struct Running(Program);

#[async_trait]
impl Plugin for RunIt {
    const NAME: &'static str = "run-it";

    async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(Running(cx.program("program", &self.program)?)))
    }
}

#[async_trait]
impl Handler for Running {
    async fn handle(&self, _: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let numbers = cx.burst().iter().map(|event| event.payload()["n"].to_string());
        cx.command(CommandRequest::new(self.0.clone()).args(numbers)).await?.ok()?;
        Ok(Outcome::Done)
    }
}

const ROUTE: &str = "
    name = \"runs\"
    on = [\"a.#\"]
    handler = \"run-it\"
    with = { program = \"make\" }
";

async fn router(keys: &str) -> TestRouter {
    TestRouter::with_route(&format!("{ROUTE}\n{keys}")).plugin::<RunIt>().build().await
}

#[tokio::test]
async fn an_event_that_always_fails_is_buried_with_all_its_attempts_in_no_real_time() {
    let mut test = router("retry = { attempts_max = 5, first_delay_ms = 60_000, max_delay_ms = 3_600_000 }").await;
    test.effects().fail("command", u32::MAX, EffectClass::Failed, "it broke");
    test.send("a.b", json!({ "n": 1 })).await;
    assert!(matches!(test.outcome().await, Ending::Buried { reason: DeadLetterReason::Exhausted, attempts: 5, .. }));
    assert_eq!(test.failed_attempts("runs").await.len(), 5);
    assert!(test.clock().monotonic() > Duration::from_secs(10), "the delays are drawn at random, but not all of them near zero");
    test.end().await;
}

#[tokio::test]
async fn seven_events_of_one_lane_make_one_run() {
    let mut test = router("coalesce = { by = \"session_id\", quiet_ms = 2_000, max_wait_ms = 30_000 }").await;
    for n in 0..7 {
        test.send("a.b", json!({ "n": n, "session_id": "s" })).await;
    }
    assert!(matches!(test.outcome().await, Ending::Finished { events: 7, fate: Fate::Handled { burst: Some(_), .. }, .. }));
    assert_eq!(test.effects().sentences(), ["make 0 1 2 3 4 5 6"]);
    assert_eq!(test.transport().settled().len(), 1, "settled as one");
    test.end().await;
}

#[tokio::test]
async fn what_waits_for_its_next_attempt_survives_a_restart() {
    let mut test = router("retry = { first_delay_ms = 600_000, max_delay_ms = 600_000 }").await;
    test.effects().fail("command", 1, EffectClass::Failed, "it broke");
    test.send("a.b", json!({ "n": 1 })).await;
    test.idle().await;
    assert_eq!(test.effects().requests().len(), 1);
    assert_eq!(test.restart().await.cancelled, 0);
    assert!(matches!(test.outcome().await, Ending::Finished { attempt: 2, .. }));
    test.end().await;
}

#[tokio::test]
async fn what_runs_while_the_process_dies_comes_back_and_is_charged() {
    let mut test = router("").await;
    test.effects().hang("command");
    test.send("a.b", json!({ "n": 1 })).await;
    test.run_until(test.effects().wait_for(1)).await;
    test.effects().forget_rules();
    test.crash().await;
    let ending = test.outcome().await;
    assert!(matches!(ending, Ending::Finished { attempt: 2, .. }), "{ending:?}");
    test.end().await;
}

#[tokio::test]
async fn an_event_that_was_done_before_is_recognised_after_a_restart() {
    let mut test = router("").await;
    let once = event("a.b").with("n", 1);
    test.publish(once.clone()).await;
    assert!(test.outcome().await.is_handled());
    test.restart().await;
    test.publish(once).await;
    assert!(matches!(test.outcome().await, Ending::Duplicate { .. }));
    assert_eq!(test.effects().requests().len(), 1);
    test.end().await;
}

#[tokio::test]
async fn a_settlement_that_fails_is_repeated_until_it_is_recorded() {
    let mut test = router("").await;
    test.transport().fail_settles(3);
    test.send("a.b", json!({ "n": 1 })).await;
    assert!(test.outcome().await.is_handled());
    assert_eq!((test.effects().requests().len(), test.transport().calls().settle), (1, 4));
    test.end().await;
}

#[tokio::test]
async fn a_lost_session_is_taken_up_again_and_charges_nobody() {
    let mut test = router("").await;
    test.effects().hang("command");
    test.send("a.b", json!({ "n": 1 })).await;
    test.run_until(test.effects().wait_for(1)).await;
    test.effects().forget_rules();
    test.transport().lose_session(&"runs".parse().unwrap());
    let ending = test.outcome().await;
    assert!(matches!(ending, Ending::Finished { attempt: 1, .. }), "{ending:?}");
    test.end().await;
}

#[tokio::test]
async fn a_configuration_with_problems_says_all_of_them() {
    let problems = TestRouter::with_route("name = \"Runs\"\non = [\"a\"]\nhandlr = \"run-it\"").plugin::<RunIt>().try_build().await.err();
    let text = problems.expect("two problems").report.render(false);
    assert!(text.contains("Runs") && text.contains("handlr"), "{text}");
}

#[tokio::test]
async fn untold_endings_are_those_that_nobody_asked_for() {
    let mut test = router("").await;
    for n in 0..3 {
        test.send("a.b", json!({ "n": n })).await;
    }
    test.outcome().await;
    test.idle().await;
    assert_eq!(test.untold().len(), 2);
    test.end().await;
}
