//! `dagster`: launches a job of Dagster's through its public GraphQL, once for each event. What Dagster's answers mean is in
//! `dagster/answer.rs`.

mod answer;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, Context, EffectClass, EffectError, Endpoint, Envelope, Handler, HandlerError, HttpReply, HttpRequest, JsonTemplate, Method,
    Outcome, Plugin, Scope, Template, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use self::answer::{Launch, Location};

/// Launches a Dagster job.
///
/// Dagster does not recognise repeats by itself, so each run carries tags, and before a launch that is not the first try the plugin asks
/// Dagster for a run with this handling's tag. Two routers on one queue can still launch twice in a small window.
///
/// "Launched" means that Dagster took the run in; whether it succeeds later is Dagster's own matter. What is answered decides, not
/// the HTTP status alone: a wrong `run_config` or a job that does not exist goes to the dead letters; a code location that does not load, and a Dagster that
/// cannot be reached, stop the route for a while without counting attempts; other errors are tried again.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dagster {
    /// The GraphQL address of the Dagster webserver, such as `http://127.0.0.1:3000/graphql`. Required. It has no authentication of its
    /// own: keep it on the loopback or behind a proxy.
    #[schemars(required)]
    url: Option<Endpoint>,
    /// For Dagster+: the user token, sent as `Dagster-Cloud-Api-Token` and never shown. Write `${VAR}`. Default: none.
    api_token: Option<String>,
    /// The code location, such as `pipelines.py`. Required.
    location: String,
    /// The repository within the location. Default: `__repository__`, Dagster's own.
    #[serde(default = "repository")]
    repository: String,
    /// The job. Default: `post_session_pipeline`.
    #[serde(default = "job")]
    job: String,
    /// The job's configuration, a tree whose texts are templates:
    /// `run_config = { ops = { process_session = { config = { session_id = "{{ session_id }}" } } } }`. Default: empty.
    run_config: Option<JsonTemplate>,
    /// Further tags of the run, such as `"33god/repo" = "{{ working_directory }}"`; values may be templates. `33god/event_id`,
    /// `33god/session_id` (where there is a session) and `33god/handling` (the same for every repeat) are always set.
    #[serde(default)]
    tags: BTreeMap<String, Template>,
    /// Launch only for a session that changed something: an event (one of the burst) whose `files_modified` or `git_commits` is not
    /// empty. Others are skipped. Default: true.
    #[serde(default = "yes")]
    only_if_changed: bool,
    /// How long one request may take, in milliseconds. Dagster without its daemon answers only when the run has begun, so leave some
    /// seconds. Default: 30000.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn repository() -> String {
    "__repository__".to_owned()
}

fn job() -> String {
    "post_session_pipeline".to_owned()
}

fn yes() -> bool {
    true
}

fn timeout_ms() -> u64 {
    30_000
}

const TAG_EVENT: &str = "33god/event_id";
const TAG_SESSION: &str = "33god/session_id";
/// Not the event's id: another route may launch another job for the same event.
const TAG_HANDLING: &str = "33god/handling";

const LAUNCH: &str = "mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename \
    ... on LaunchRunSuccess { run { runId } } \
    ... on RunConfigValidationInvalid { errors { reason message } } \
    ... on PipelineNotFoundError { message } \
    ... on RunConflict { message } \
    ... on ConflictingExecutionParamsError { message } \
    ... on UnauthorizedError { message } \
    ... on InvalidStepError { invalidStepKey } \
    ... on InvalidOutputError { stepKey invalidOutputName } \
    ... on InvalidSubsetError { message } \
    ... on PresetNotFoundError { message } \
    ... on NoModeProvidedError { message } \
    ... on PythonError { className message } } }";

const LOOK_UP: &str = "query LookUp($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 1) { __typename \
    ... on Runs { results { runId } } \
    ... on InvalidPipelineRunsFilterError { message } \
    ... on PythonError { className message } } }";

const LOCATIONS: &str = "query Locations { workspaceOrError { __typename \
    ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { className message } } } } \
    ... on PythonError { className message } } }";

#[async_trait]
impl Plugin for Dagster {
    const NAME: &'static str = "dagster";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut error = BuildError::default();
        let mut told = |field: String, message: &str, help: &str| error.problems.extend(BuildError::at(field, message).help(help).problems);
        if self.url.is_none() {
            told("url".into(), "is missing", "write the GraphQL address of the Dagster webserver, such as `url = \"http://127.0.0.1:3000/graphql\"`");
        }
        for (field, text) in [("location", &self.location), ("repository", &self.repository), ("job", &self.job)] {
            if text.is_empty() || text.contains("{{") {
                told(field.into(), "must be a fixed name", "events choose neither code nor job; make a route for each job");
            }
        }
        if self.run_config.as_ref().is_some_and(|template| !Value::from(template.clone()).is_object()) {
            told("run_config".into(), "is no table", "Dagster's run configuration begins with `ops`, `resources` or `execution`");
        }
        for name in self.tags.keys() {
            if [TAG_EVENT, TAG_SESSION, TAG_HANDLING].contains(&name.as_str()) {
                told(format!("tags.{name}"), "is set by the plugin itself", "choose another name");
            } else if name.is_empty() || name.len() > 127 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                told(format!("tags.{name}"), "is no name of a tag", "use 1 to 127 letters, digits and `-`, `_`, `.`, `/`");
            }
        }
        if self.timeout_ms == 0 {
            told("timeout_ms".into(), "0 leaves no time to answer", "leave it out for 30000");
        }
        let (Some(url), true) = (self.url.clone(), error.problems.is_empty()) else { return Err(error) };
        Ok(Box::new(Launcher { url, options: self }))
    }
}

struct Launcher {
    url: Endpoint,
    options: Dagster,
}

#[async_trait]
impl Handler for Launcher {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        if self.options.only_if_changed && !cx.burst().iter().any(|event| has_changes(event.payload())) {
            return Ok(Outcome::skipped("the session changed nothing: `files_modified` and `git_commits` are empty"));
        }
        let params = self.params(event, cx)?;
        if cx.attempt().number > 1 && self.is_launched(cx).await? {
            cx.note("launched by an earlier attempt");
            return Ok(Outcome::Done);
        }
        let reply = cx.http(self.request(LAUNCH, json!({ "params": params }))).named("launch").await?;
        match Launch::of(reply)? {
            Launch::Accepted { run } => {
                cx.note(format!("launched run {run}"));
                Ok(Outcome::Done)
            }
            Launch::JobNotFound { message } => Err(self.why_not_found(cx, message).await?.into()),
        }
    }
}

impl Launcher {
    fn params(&self, event: &Envelope, cx: &Context) -> Result<Value, EffectError> {
        let scope = Scope::of(event, cx);
        let handling = cx.idempotency_key();
        let mut tags = vec![
            json!({ "key": TAG_EVENT, "value": event.id().map_or(handling.as_str(), |id| id.as_str()) }),
            json!({ "key": TAG_HANDLING, "value": handling }),
        ];
        if let Some(session) = event.session_id() {
            tags.push(json!({ "key": TAG_SESSION, "value": session }));
        }
        for (name, value) in &self.options.tags {
            tags.push(json!({ "key": name, "value": value.render(&scope)? }));
        }
        let run_config = self.options.run_config.as_ref().map_or_else(|| Ok(json!({})), |template| template.render(&scope))?;
        Ok(json!({
            "selector": { "repositoryLocationName": self.options.location, "repositoryName": self.options.repository, "jobName": self.options.job },
            "runConfigData": run_config,
            "executionMetadata": { "tags": tags },
        }))
    }

    /// Has an earlier try launched the run after all? One that was answered too late, or whose router died.
    async fn is_launched(&self, cx: &Context) -> Result<bool, EffectError> {
        let filter = json!({ "tags": [{ "key": TAG_HANDLING, "value": cx.idempotency_key() }] });
        let reply: HttpReply = cx.http(self.request(LOOK_UP, json!({ "filter": filter }))).named("look-up").read().await?;
        answer::has_runs(reply)
    }

    /// Dagster says "not found" of a job in a location that does not load, too, in the same words.
    async fn why_not_found(&self, cx: &Context, message: String) -> Result<EffectError, EffectError> {
        let reply: HttpReply = cx.http(self.request(LOCATIONS, json!({}))).named("locations").read().await?;
        let location = &self.options.location;
        let (class, text, detail) = match Location::of(reply, location)? {
            Location::Loaded => {
                (EffectClass::Refused, format!("code location `{location}` has no job `{}` in `{}`", self.options.job, self.options.repository), message)
            }
            Location::Broken { error } => (EffectClass::Unreachable, format!("code location `{location}` does not load"), error),
            Location::Loading => (EffectClass::Failed, format!("code location `{location}` is still loading"), message),
            Location::Absent { others } => (EffectClass::Failed, format!("Dagster has no code location `{location}`, only {others}"), message),
        };
        let mut error = EffectError::new(class, text);
        error.detail = Some(detail);
        Ok(error)
    }

    fn request(&self, query: &str, variables: Value) -> HttpRequest {
        let request = HttpRequest::new(Method::Post, self.url.url())
            .header("accept", "application/json")
            .json(&json!({ "query": query, "variables": variables }))
            .timeout(Duration::from_millis(self.options.timeout_ms));
        match &self.options.api_token {
            Some(token) => request.secret_header("dagster-cloud-api-token", token),
            None => request,
        }
    }
}

fn has_changes(payload: &Value) -> bool {
    ["files_modified", "git_commits"].iter().any(|name| payload.get(name).and_then(Value::as_array).is_some_and(|list| !list.is_empty()))
}

register!(Dagster);
