//! `dagster`: launches a job or assets of Dagster's through its public GraphQL, once for what a session changed. What is asked is in
//! `dagster/query.rs` and `params.rs`, what the answers mean in `answer.rs`, when there is nothing to launch in `changes.rs`, and how
//! a run is followed to its end in `follow.rs`.

mod answer;
mod changes;
mod follow;
mod params;
mod query;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use router_api::{
    BuildContext, BuildError, Context, EffectClass, EffectError, Endpoint, Envelope, Handler, HandlerError, HttpReply, HttpRequest, JsonTemplate, Method,
    Outcome, Plugin, Template, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    answer::{Launch, Location, Run},
    changes::{Changes, Launched},
    follow::{FOLLOW_MS_MAX, Follow},
    params::{ASSET_JOB, Params, TAG_EVENT, TAG_HANDLING, TAG_SESSION},
};
use crate::token;

/// Launches a Dagster job, or materializes assets.
///
/// Dagster does not recognise repeats by itself, so each run carries tags, and before a launch whose earlier try may have gone
/// through the plugin asks Dagster for a run with this handling's tag. Two routers on one queue can still launch twice in a small window.
///
/// "Launched" means that Dagster took the run in; whether it succeeds later is Dagster's own matter, unless `follow_ms` says to look.
/// What is answered decides, not the HTTP status alone: a wrong `run_config` or a job that does not exist goes to the dead letters; a
/// code location that does not load, and a Dagster that cannot be reached, stop the route for a while without counting attempts; other
/// errors are tried again.
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
    /// The job. Default: `post_session_pipeline`, or with `assets` Dagster's own job for them.
    job: Option<String>,
    /// Materializes these assets, such as `assets = ["session_report", "marts/sessions"]`, where `/` stands between the parts of a key.
    /// With `job`, only those assets of that job. Default: none, the whole job.
    #[serde(default)]
    assets: Vec<String>,
    /// The job's configuration, a tree whose texts are templates:
    /// `run_config = { ops = { process_session = { config = { session_id = "{{ session_id }}" } } } }`. What an event fills in may
    /// not name a variable of Dagster's environment. Default: empty.
    run_config: Option<JsonTemplate>,
    /// Further tags of the run, such as `"33god/repo" = "{{ working_directory }}"`; values may be templates. `33god/event_id`,
    /// `33god/session_id` (where there is a session) and `33god/handling` (the same for every repeat) are always set.
    #[serde(default)]
    tags: BTreeMap<String, Template>,
    /// Launch only for a session that changed something since its last launch: an event (one of the burst) whose `files_modified` or
    /// `git_commits` is not empty, or whose `tools_used` counts writes, and not just as at the last launch. Others are skipped.
    /// Default: true.
    #[serde(default = "yes")]
    only_if_changed: bool,
    /// How long one request may take, in milliseconds. Dagster without its daemon answers only when the run has begun, so leave some
    /// seconds. Default: 30000.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
    /// Looks after the run for so long, in milliseconds, and emits `dagster.run.finished` when it has ended, with the payload
    /// `{run, status, succeeded, job, location, session_id, event_id, started_at, ended_at, duration_ms, url}`. It looks after 2 seconds,
    /// 4, 8 and so on, and then every five minutes. 0 to 604800000, a week. Default: 0, runs are not followed.
    #[serde(default)]
    follow_ms: u64,
}

fn repository() -> String {
    "__repository__".to_owned()
}

const JOB: &str = "post_session_pipeline";

fn yes() -> bool {
    true
}

fn timeout_ms() -> u64 {
    30_000
}

#[async_trait]
impl Plugin for Dagster {
    const NAME: &'static str = "dagster";

    async fn build(self, _: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        let mut error = BuildError::default();
        let mut told = |field: String, message: &str, help: &str| error.problems.extend(BuildError::at(field, message).help(help).problems);
        if self.url.is_none() {
            told("url".into(), "is missing", "write the GraphQL address of the Dagster webserver, such as `url = \"http://127.0.0.1:3000/graphql\"`");
        }
        let job = self.job.unwrap_or_else(|| if self.assets.is_empty() { JOB } else { ASSET_JOB }.to_owned());
        for (field, text) in [("location", &self.location), ("repository", &self.repository), ("job", &job)] {
            if text.is_empty() || text.contains("{{") {
                told(field.into(), "must be a fixed name", "events choose neither code nor job; make a route for each job");
            }
        }
        for (index, asset) in self.assets.iter().enumerate() {
            if asset.split('/').any(str::is_empty) || asset.contains("{{") {
                told(format!("assets.{index}"), "is no key of an asset", "write its parts with `/` between them, without a template");
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
        if let Some(token) = &self.api_token
            && let Err(wrong) = token::check("api_token", token)
        {
            error.problems.extend(wrong.problems);
        }
        let mut told = |field: String, message: &str, help: &str| error.problems.extend(BuildError::at(field, message).help(help).problems);
        if self.timeout_ms == 0 {
            told("timeout_ms".into(), "0 leaves no time to answer", "leave it out for 30000");
        }
        if self.follow_ms > FOLLOW_MS_MAX {
            told("follow_ms".into(), "is more than a week", "use 604800000 or less");
        }
        let (Some(url), true) = (self.url, error.problems.is_empty()) else { return Err(error) };
        Ok(Box::new(Launcher {
            params: Params::new([&self.location, &self.repository, &job], &self.assets, self.run_config, self.tags),
            url,
            api_token: self.api_token,
            location: self.location,
            repository: self.repository,
            job,
            only_if_changed: self.only_if_changed,
            timeout: Duration::from_millis(self.timeout_ms),
            follow: Follow::new(self.follow_ms),
        }))
    }
}

struct Launcher {
    url: Endpoint,
    api_token: Option<String>,
    location: String,
    repository: String,
    job: String,
    params: Params,
    only_if_changed: bool,
    timeout: Duration,
    follow: Follow,
}

#[async_trait]
impl Handler for Launcher {
    async fn handle(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        if self.follow.takes(event) {
            return self.look_after(event, cx).await;
        }
        let changes = Changes::of(cx);
        let session = event.session_id().filter(|_| self.only_if_changed);
        if self.only_if_changed && changes.is_empty() {
            return Ok(Outcome::skipped("the session changed nothing: `files_modified` and `git_commits` are empty, and `tools_used` counts no writes"));
        }
        if let Some(session) = session
            && let Some(launched) = Launched::last(cx, session).await?
        {
            // A repeat: the router died after the launch and before the event was done.
            if launched.by == cx.idempotency_key() {
                return Ok(self.launched(event, cx, &launched.run, "launched by an earlier attempt: run"));
            }
            if !changes.is_beyond(&launched) {
                return Ok(Outcome::skipped(format!("the session changed nothing since run {} was launched for it", launched.run)));
            }
        }
        let params = self.params.of(event, cx)?;
        let earlier = if cx.attempt().number > 1 { self.look_up(cx).await? } else { None };
        let (run, said) = match earlier {
            Some(run) => (run, "launched by an earlier attempt: run"),
            None => (self.launch(cx, params).await?, "launched run"),
        };
        if let Some(session) = session {
            Launched::remember(cx, session, &changes, &run).await?;
        }
        Ok(self.launched(event, cx, &run, said))
    }
}

impl Launcher {
    fn launched(&self, event: &Envelope, cx: &Context, run: &str, said: &str) -> Outcome {
        self.follow.begin(cx, run, event.session_id(), event.id().map(|id| id.as_str()));
        cx.note(format!("{said} {run}"));
        Outcome::Done
    }

    async fn launch(&self, cx: &Context, params: Value) -> Result<String, HandlerError> {
        let reply = cx
            .http(self.request(query::LAUNCH, json!({ "params": params })))
            .named("launch")
            .look_first(|| {
                Box::pin(async move {
                    // A later try has just looked.
                    let run = if cx.attempt().number > 1 { None } else { self.look_up(cx).await? };
                    Ok(run.map(|run| answer::accepted(&run)))
                })
            })
            // Of what else Dagster answers, much heals: a job is not found as long as its code location is broken.
            .final_when(answer::is_accepted)
            .await
            .map_err(|error| self.later(error))?;
        match Launch::of(reply).map_err(|error| self.later(error))? {
            Launch::Accepted { run } => Ok(run),
            Launch::JobNotFound { message } => Err(self.why_not_found(cx, message).await?.into()),
        }
    }

    /// A launch that was not answered in time may still be under way in Dagster, and is not found by a look before it is done. So the
    /// next try comes not at once.
    fn later(&self, mut error: EffectError) -> EffectError {
        if error.class == EffectClass::Timeout {
            error.retry_after = error.retry_after.max(Some(self.timeout));
        }
        error
    }

    /// The run that an earlier try has launched after all: one that was answered too late, or whose router died.
    async fn look_up(&self, cx: &Context) -> Result<Option<String>, EffectError> {
        let filter = json!({ "tags": [{ "key": TAG_HANDLING, "value": cx.idempotency_key() }] });
        let reply: HttpReply = cx.http(self.request(query::LOOK_UP, json!({ "filter": filter }))).named("look-up").read().await?;
        answer::run_found(reply)
    }

    /// Dagster says "not found" of a job in a location that does not load, too, in the same words.
    async fn why_not_found(&self, cx: &Context, message: String) -> Result<EffectError, EffectError> {
        let reply: HttpReply = cx.http(self.request(query::LOCATIONS, json!({}))).named("locations").read().await?;
        let location = &self.location;
        let (class, text, detail) = match Location::of(reply, location)? {
            Location::Loaded => (EffectClass::Refused, format!("code location `{location}` has no job `{}` in `{}`", self.job, self.repository), message),
            Location::Broken { error } => (EffectClass::Unreachable, format!("code location `{location}` does not load"), error),
            Location::Loading => (EffectClass::Failed, format!("code location `{location}` is still loading"), message),
            Location::Absent { others } => (EffectClass::Failed, format!("Dagster has no code location `{location}`, only {others}"), message),
        };
        let mut error = EffectError::new(class, text);
        error.detail = Some(detail);
        Ok(error)
    }

    /// Has a run that was launched earlier ended by now?
    async fn look_after(&self, event: &Envelope, cx: &Context) -> Result<Outcome, HandlerError> {
        let followed = self.follow.read(event, cx)?;
        let reply: HttpReply = cx.http(self.request(query::RUN, json!({ "id": followed.run }))).named("run").read().await?;
        let run = match Run::of(reply)? {
            Run::Gone => return Ok(Outcome::skipped(format!("Dagster knows no run {} any more", followed.run))),
            Run::Under { status } => {
                let run = followed.run.clone();
                cx.note(format!("run {run} is {status}"));
                if self.follow.go_on(cx, followed) {
                    return Ok(Outcome::Done);
                }
                return Ok(Outcome::skipped(format!("run {run} is still {status}, and is followed no longer")));
            }
            Run::Ended(run) => run,
        };
        cx.note(format!("run {} ended: {}", followed.run, run.status));
        cx.emit(
            &self.follow.finished,
            json!({
                "run": followed.run,
                "status": run.status,
                "succeeded": run.status == "SUCCESS",
                "job": run.job,
                "location": self.location,
                "session_id": followed.session_id,
                "event_id": followed.event_id,
                "started_at": run.started_at.map(|at| at.to_string()),
                "ended_at": run.ended_at.map(|at| at.to_string()),
                "duration_ms": run.duration_ms(),
                "url": self.page_of(&followed.run),
            }),
        );
        Ok(Outcome::Done)
    }

    /// Where a person looks at a run. Dagster serves its pages beside its GraphQL.
    fn page_of(&self, run: &str) -> Option<String> {
        let url = self.url.url();
        let base = url.as_str().split('?').next()?.trim_end_matches('/').strip_suffix("/graphql")?;
        Some(format!("{base}/runs/{run}"))
    }

    fn request(&self, query: &str, variables: Value) -> HttpRequest {
        let request = HttpRequest::new(Method::Post, self.url.url())
            .header("accept", "application/json")
            .json(&json!({ "query": query, "variables": variables }))
            .timeout(self.timeout);
        match &self.api_token {
            Some(token) => request.secret_header("dagster-cloud-api-token", token),
            None => request,
        }
    }
}

register!(Dagster);
