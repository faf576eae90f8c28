//! The provider `buildbot`: forces a build, or reports a change, which Buildbot gathers by itself.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use router_api::{
    BuildError, Context, EffectClass, EffectError, Endpoint, Envelope, HandlerError, HttpReply, HttpRequest, Method, Outcome, Scope, TargetUrl, Template,
    excerpt,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// A Buildbot master, and how it is told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Buildbot {
    /// Its address, such as `http://127.0.0.1:8010`. Required.
    #[schemars(required)]
    url: Option<Endpoint>,
    /// Forces a build by the force scheduler of this name. Either this or `change_hook`.
    scheduler: Option<String>,
    /// The builders of the scheduler that build; all of them, if empty.
    #[serde(default)]
    builders: Vec<String>,
    /// Reports a change to the change hook of this dialect, such as `base`; Buildbot's own schedulers decide what is built.
    change_hook: Option<String>,
    /// The user of the change hook. Default: none.
    user: Option<String>,
    /// Its password. Never shown; write `${VAR}`.
    password: Option<String>,
    /// Further parameters of the force scheduler, or properties of the change, such as `tests = "{{ files | join(' ') }}"`. A force
    /// scheduler drops those that it does not declare. `event_id`, `session_id` and `handling` (the same for every repeat) are always
    /// sent.
    #[serde(default)]
    properties: BTreeMap<String, Template>,
    /// The project, repository and revision of the change or build; values may be templates. Default: none.
    project: Option<Template>,
    /// See `project`.
    repository: Option<Template>,
    /// See `project`.
    revision: Option<Template>,
    /// The branch. Default: the event's `git_branch`, where there is one.
    branch: Option<Template>,
    /// How long one request may take, in milliseconds. Default: 15000.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn timeout_ms() -> u64 {
    15_000
}

/// Of one value that an event fills in, in bytes. Buildbot keeps properties in its database for ever.
const VALUE_BYTES_MAX: usize = 1_024;
const FILES_MAX: usize = 500;
const OWN_PROPERTIES: &[&str] = &["event_id", "session_id", "handling", "builderNames", "reason", "branch", "project", "repository", "revision", "files"];

pub(super) struct Master {
    url: TargetUrl,
    is_force: bool,
    authorization: Option<String>,
    timeout: Duration,
    options: Buildbot,
}

impl Master {
    pub(super) fn new(options: Buildbot) -> Result<Self, BuildError> {
        let mut error = BuildError::default();
        let mut told = |field: String, message: &str, help: &str| error.problems.extend(BuildError::at(field, message).help(help).problems);
        if options.url.is_none() {
            told("url".into(), "is missing", "write the address of the Buildbot master, such as `url = \"http://127.0.0.1:8010\"`");
        }
        let is_force = options.scheduler.is_some();
        if is_force == options.change_hook.is_some() {
            told("scheduler".into(), "is needed, or `change_hook`, and not both", "a force scheduler builds each time, a change is gathered with others");
        }
        for (field, name) in [("scheduler", &options.scheduler), ("change_hook", &options.change_hook)] {
            if name.as_ref().is_some_and(|name| name.is_empty() || name.contains("{{") || name == "." || name == "..") {
                told(field.into(), "must be a fixed name", "make a route for each");
            }
        }
        if !is_force && !options.builders.is_empty() {
            told("builders".into(), "belong to `scheduler`", "the schedulers that see a change name their builders themselves");
        }
        if options.builders.iter().any(|name| name.is_empty() || name.contains("{{")) {
            told("builders".into(), "must be fixed names", "make a route for each");
        }
        if is_force && (options.user.is_some() || options.password.is_some()) {
            told("user".into(), "is for the change hook", "the master's JSON-RPC knows no such user; put a proxy before it");
        }
        if options.user.is_some() != options.password.is_some() {
            told("user".into(), "and `password` belong together", "write both, or none");
        }
        for name in options.properties.keys() {
            if name.is_empty() || OWN_PROPERTIES.contains(&name.as_str()) {
                told(format!("properties.{name}"), "is set by the plugin itself", "choose another name");
            }
        }
        if options.timeout_ms == 0 {
            told("timeout_ms".into(), "0 leaves no time to answer", "leave it out for 15000");
        }
        let (Some(url), true) = (&options.url, error.problems.is_empty()) else { return Err(error) };
        let url = match (&options.scheduler, &options.change_hook) {
            (Some(scheduler), _) => url.join(["api", "v2", "forceschedulers", scheduler]),
            (None, dialect) => url.join(["change_hook", dialect.as_deref().unwrap_or_default()]),
        };
        Ok(Self {
            url: url.map_err(|error| BuildError::at("url", error.to_string()))?,
            is_force,
            authorization: options
                .user
                .as_ref()
                .zip(options.password.as_ref())
                .map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))),
            timeout: Duration::from_millis(options.timeout_ms),
            options,
        })
    }

    pub(super) async fn run(&self, event: &Envelope, cx: &Context, files: &[String]) -> Result<Outcome, HandlerError> {
        let scope = Scope::of(event, cx).with("files", json!(files));
        let mut properties = json!({ "handling": cx.idempotency_key() });
        for (name, value) in [("event_id", event.id().map(|id| id.as_str())), ("session_id", event.session_id())] {
            if let Some(value) = value {
                properties[name] = Value::from(cut(value));
            }
        }
        for (name, template) in &self.options.properties {
            properties[name.as_str()] = Value::from(limited(name, template.render(&scope)?)?);
        }
        let options = &self.options;
        let mut place = Vec::new();
        for (name, template) in
            [("project", &options.project), ("repository", &options.repository), ("revision", &options.revision), ("branch", &options.branch)]
        {
            if let Some(template) = template {
                place.push((name, limited(name, template.render(&scope)?)?));
            }
        }
        if options.branch.is_none()
            && let Some(branch) = event.git_branch().filter(|branch| !matches!(*branch, "" | "HEAD" | "unknown"))
        {
            place.push(("branch", limited("branch", branch.to_owned())?));
        }
        let request = if self.is_force { self.force(place, properties, files) } else { self.change(place, &properties, files) };
        let request = request.header("accept", "application/json").timeout(self.timeout);
        let (is_force, judge) = (self.is_force, |reply: &HttpReply, is_force| outcome(reply.clone(), is_force).is_ok());
        let reply = cx.http(request).named(if is_force { "force" } else { "change" }).final_when(move |reply| judge(reply, is_force)).await?;
        cx.note(outcome(reply, is_force)?);
        Ok(Outcome::Done)
    }

    fn force(&self, place: Vec<(&str, String)>, mut params: Value, files: &[String]) -> HttpRequest {
        for (name, value) in place {
            params[name] = Value::from(value);
        }
        if !self.options.builders.is_empty() {
            params["builderNames"] = json!(self.options.builders);
        }
        params["reason"] = Value::from(format!("event-router: {} written files", files.len()));
        HttpRequest::new(Method::Post, self.url.clone()).json(&json!({ "jsonrpc": "2.0", "method": "force", "id": 1, "params": params }))
    }

    fn change(&self, place: Vec<(&str, String)>, properties: &Value, files: &[String]) -> HttpRequest {
        let files: Vec<String> = files.iter().take(FILES_MAX).map(|file| cut(file)).collect();
        let mut fields = vec![
            ("author", "event-router".to_owned()),
            ("comments", format!("{} written files", files.len())),
            ("files", json!(files).to_string()),
            ("properties", properties.to_string()),
        ];
        fields.extend(place);
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", form_encoded(value))).collect();
        let mut request = HttpRequest::new(Method::Post, self.url.clone()).header("content-type", "application/x-www-form-urlencoded");
        request.body = body.join("&").into();
        match &self.authorization {
            Some(authorization) => request.secret_header("authorization", authorization),
            None => request,
        }
    }
}

/// Percent-encoded whole, so that no value becomes a second field.
fn form_encoded(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    value.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn cut(value: &str) -> String {
    value[..value.floor_char_boundary(VALUE_BYTES_MAX)].to_owned()
}

fn limited(name: &str, value: String) -> Result<String, EffectError> {
    if value.len() <= VALUE_BYTES_MAX {
        return Ok(value);
    }
    let message = format!("`{name}` becomes {} bytes long with this event, {VALUE_BYTES_MAX} are the limit", value.len());
    Err(EffectError::new(EffectClass::Refused, message))
}

/// What came of it, for people. Buildbot's JSON-RPC says 500 to an unknown scheduler or builder, and 200 to an unknown method, so the
/// body decides before the status does.
fn outcome(reply: HttpReply, is_force: bool) -> Result<String, EffectError> {
    if !is_force {
        let reply = reply.ok()?;
        let said: String = String::from_utf8_lossy(&reply.body).trim().chars().take(80).collect();
        // "1 change found", as a hook says it.
        if !said.contains(" found") {
            return Err(told(EffectClass::Failed, "the answer is none of a change hook: is `url` a Buildbot master?", excerpt(&reply.body)));
        }
        return Ok(format!("Buildbot says: {said}"));
    }
    let Ok(body) = reply.json() else {
        let body = excerpt(&reply.body);
        reply.ok()?;
        return Err(told(EffectClass::Failed, "the answer is no JSON: is `url` a Buildbot master?", body));
    };
    if let Some(result) = body["result"].as_array() {
        return Ok(format!("forced buildset {}", result.first().map(Value::to_string).unwrap_or_default()));
    }
    let error = &body["error"];
    if error.is_null() {
        reply.ok()?;
        return Err(told(EffectClass::Refused, "Buildbot forced nothing: it does not know what was asked", body.to_string()));
    }
    let message = error["message"].as_str().map_or_else(|| error["message"].to_string(), str::to_owned);
    if message.contains("has no attribute 'force'") {
        return Err(told(EffectClass::Refused, "Buildbot has no force scheduler of the name in `scheduler`", message));
    }
    if message.contains("builderNames not specified or not supported") {
        return Err(told(EffectClass::Refused, "the force scheduler has no builder of a name in `builders`", message));
    }
    if (400..500).contains(&reply.status) {
        reply.ok()?;
    }
    Err(told(EffectClass::Failed, "Buildbot could not force a build", message))
}

fn told(class: EffectClass, message: &str, detail: String) -> EffectError {
    let mut error = EffectError::new(class, message);
    error.detail = Some(excerpt(detail.as_bytes()));
    error
}
