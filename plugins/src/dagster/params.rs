//! What a launch asks for: which job or assets, its configuration, its tags.

use std::collections::BTreeMap;

use router_api::{Context, EffectClass, EffectError, Envelope, JsonTemplate, Scope, Template};
use serde_json::{Value, json};

use super::changes::digest;

pub(super) const TAG_EVENT: &str = "33god/event_id";
pub(super) const TAG_SESSION: &str = "33god/session_id";
/// Not the event's id: another route may launch another job for the same event.
pub(super) const TAG_HANDLING: &str = "33god/handling";

/// Dagster's name for the job that materializes assets.
pub(super) const ASSET_JOB: &str = "__ASSET_JOB";

/// Of a tag's value, in bytes.
const TAG_BYTES_MAX: usize = 4_096;
/// Of an id that becomes a tag; of a longer one its digest.
const ID_BYTES_MAX: usize = 256;

pub(super) struct Params {
    /// The same for every launch of the route.
    selector: Value,
    run_config: Option<JsonTemplate>,
    tags: BTreeMap<String, Template>,
}

impl Params {
    pub(super) fn new([location, repository, job]: [&str; 3], assets: &[String], run_config: Option<JsonTemplate>, tags: BTreeMap<String, Template>) -> Self {
        let mut selector = json!({ "repositoryLocationName": location, "repositoryName": repository, "jobName": job });
        if !assets.is_empty() {
            let keys = assets.iter().map(|asset| json!({ "path": asset.split('/').collect::<Vec<_>>() }));
            selector["assetSelection"] = Value::Array(keys.collect());
        }
        Self { selector, run_config, tags }
    }

    /// # Errors
    ///
    /// Those of the templates, and what an event may not say.
    pub(super) fn of(&self, event: &Envelope, cx: &Context) -> Result<Value, EffectError> {
        let scope = Scope::of(event, cx);
        let handling = cx.idempotency_key();
        let mut tags = vec![
            json!({ "key": TAG_EVENT, "value": event.id().map_or_else(|| handling.clone(), |id| id_value(id.as_str())) }),
            json!({ "key": TAG_HANDLING, "value": handling }),
        ];
        if let Some(session) = event.session_id() {
            tags.push(json!({ "key": TAG_SESSION, "value": id_value(session) }));
        }
        for (name, template) in &self.tags {
            let value = template.render(&scope)?;
            if value.len() > TAG_BYTES_MAX {
                let message = format!("the tag `{name}` becomes {} bytes long with this event, {TAG_BYTES_MAX} are the limit", value.len());
                return Err(EffectError::new(EffectClass::Refused, message));
            }
            tags.push(json!({ "key": name, "value": value }));
        }
        let run_config = match &self.run_config {
            Some(template) => {
                let filled = template.render(&scope)?;
                no_environment(&Value::from(template.clone()), &filled, "run_config")?;
                filled
            }
            None => json!({}),
        };
        Ok(json!({ "selector": self.selector, "runConfigData": run_config, "executionMetadata": { "tags": tags } }))
    }
}

fn id_value(id: &str) -> String {
    if id.len() <= ID_BYTES_MAX { id.to_owned() } else { format!("sha256:{}", digest(id)) }
}

/// Dagster reads `{"env": "NAME"}` in a run configuration as a variable of its own environment. The configuration may say that; an
/// event whose field is put in whole may not.
fn no_environment(template: &Value, filled: &Value, path: &str) -> Result<(), EffectError> {
    match (template, filled) {
        (Value::Object(template), Value::Object(filled)) => {
            filled.iter().try_for_each(|(name, value)| no_environment(&template[name], value, &format!("{path}.{name}")))
        }
        (Value::Array(template), Value::Array(filled)) => {
            template.iter().zip(filled).enumerate().try_for_each(|(index, (template, filled))| no_environment(template, filled, &format!("{path}.{index}")))
        }
        (_, filled) if names_environment(filled) => {
            let message = format!("`{path}` would be filled with `{{\"env\": …}}`, which Dagster reads as a variable of its own environment");
            Err(EffectError::new(EffectClass::Forbidden, message))
        }
        _ => Ok(()),
    }
}

fn names_environment(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.keys().any(|name| name == "env") || members.values().any(names_environment),
        Value::Array(items) => items.iter().any(names_environment),
        _ => false,
    }
}
