//! `log`: the smallest plugin, and the one to copy.

use async_trait::async_trait;
use router_api::{BuildContext, BuildError, Context, Envelope, Handler, HandlerError, Outcome, Plugin, Scope, Template, register};
use schemars::JsonSchema;
use serde::Deserialize;

/// Writes one line into the router's log for each event, or for each burst of them. A dry run shows the line instead.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How loud: `debug`, `info` (the default) or `warn`.
    #[serde(default)]
    level: Level,
    /// What to write, such as `{{ tool_name }} wrote {{ file_path }}`. Without it the line has no content of the event, only its key
    /// and id. Control characters become spaces.
    template: Option<Template>,
}

#[derive(Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Debug,
    #[default]
    Info,
    Warn,
}

#[async_trait]
impl Plugin for Log {
    const NAME: &'static str = "log";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(self))
    }
}

#[async_trait]
impl Handler for Log {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let text = self.template.as_ref().map(|template| template.render(&Scope::of(event, cx))).transpose()?;
        let text = text.unwrap_or_else(|| format!("route `{}` saw `{}`", cx.route(), cx.key())).replace(char::is_control, " ");
        if cx.is_dry_run() {
            cx.note(format!("would log: {text}"));
            return Ok(Outcome::Done);
        }
        let (route, key, id, events) = (cx.route().as_str(), cx.key().as_str(), event.id().map(|id| id.as_str()), cx.burst().len());
        match self.level {
            Level::Debug => tracing::debug!(route, key, event_id = id, events, "{text}"),
            Level::Info => tracing::info!(route, key, event_id = id, events, "{text}"),
            Level::Warn => tracing::warn!(route, key, event_id = id, events, "{text}"),
        }
        Ok(Outcome::Done)
    }
}

register!(Log);
