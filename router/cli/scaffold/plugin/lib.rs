//! The plugin `{{name}}` of the event router.
//!
//! What is here works: it answers each event with another one. Put your own work into `handle`; what a handler is promised and what
//! it may answer is in the router's `router/api/README.md`.

use router_api::{BuildContext, BuildError, Context, Envelope, Handler, HandlerError, Outcome, Plugin, RoutingKey, async_trait, register};

/// Answers each event with an event of its own.
///
/// This text, and the one at each option, is what `plugins {{name}}` shows.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct {{Name}}Options {
    /// What the answer says.
    text: String,
    /// The routing key of the answer.
    #[serde(default = "answer_key")]
    key: String,
}

fn answer_key() -> String {
    "{{name}}.answered".to_owned()
}

register!({{Name}}Options);

#[async_trait]
impl Plugin for {{Name}}Options {
    const NAME: &'static str = "{{name}}";

    /// Called once for each route, and by `check`: say everything that is wrong, and talk to nobody.
    async fn build(self, _cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut problems = BuildError::default();
        if self.text.trim().is_empty() {
            problems.collect::<()>(Err(BuildError::at("text", "is empty").help("say what the answer tells")));
        }
        let key = problems.collect(self.key.parse().map_err(|error| BuildError::at("key", format!("{error}"))));
        problems.into_result()?;
        let Some(key) = key else { return Err(BuildError::at("key", "is no routing key")) };
        Ok(Box::new({{Name}}Handler { text: self.text, key }))
    }
}

struct {{Name}}Handler {
    text: String,
    key: RoutingKey,
}

#[async_trait]
impl Handler for {{Name}}Handler {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let Some(session) = event.session_id() else { return Ok(Outcome::skipped("no session")) };
        // Outside work goes through the context, `cx.http(…)` and `cx.command(…)`, so that shadow routes and tests perform nothing.
        // It may be repeated after a crash: `cx.idempotency_key()` is the same each time.
        cx.emit(&self.key, serde_json::json!({ "text": self.text, "session_id": session }));
        Ok(Outcome::Done)
    }
}
