//! A plugin of somebody else.

use router_api::{BuildContext, BuildError, Context, Envelope, Handler, HandlerError, Outcome, Plugin, async_trait, register};

/// Answers the start of a session with an event `greeting.said`.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Greet {
    /// What to say.
    greeting: String,
}

register!(Greet);

#[async_trait]
impl Plugin for Greet {
    const NAME: &'static str = "greet";

    async fn build(self, _cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(self))
    }
}

#[async_trait]
impl Handler for Greet {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let Some(session) = event.session_id() else { return Ok(Outcome::skipped("no session")) };
        cx.emit(&"greeting.said".parse()?, serde_json::json!({ "text": self.greeting, "session_id": session }));
        Ok(Outcome::Done)
    }
}
