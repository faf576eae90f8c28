//! The provider `github`: starts a workflow of GitHub Actions by one of its two dispatches.

use std::{collections::BTreeMap, time::Duration};

use router_api::{
    BuildError, Context, EffectClass, EffectError, Endpoint, Envelope, HandlerError, HttpReply, HttpRequest, JsonTemplate, Method, Outcome, Scope, TargetUrl,
    Template,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{only_one, writes::distinct};
use crate::{page::not_a_page, token};

/// A repository on GitHub, and what is started there.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GitHub {
    /// `owner/name`. Required.
    repository: String,
    /// A token that may start workflows (fine-grained: `Actions` write for `workflow`, `Contents` write for `event_type`). Never shown;
    /// write `${VAR}`. Required.
    token: String,
    /// The workflow's file, such as `ci.yml`, or its number: starts it by a workflow dispatch, on `ref`. Either this or `event_type`.
    workflow: Option<String>,
    /// The branch or tag to run on. An event without one, or with `HEAD` or `unknown`, is skipped. Default: the event's `git_branch`.
    #[serde(rename = "ref")]
    reference: Option<Template>,
    /// The workflow's inputs, at most 25, such as `event = "{{ id }}"`; GitHub refuses those that the workflow does not declare. Default:
    /// none.
    #[serde(default)]
    inputs: BTreeMap<String, Template>,
    /// Starts all workflows that wait for this type by a repository dispatch, on the default branch. At most 100 characters.
    event_type: Option<String>,
    /// What a repository dispatch carries, a table of at most 10 members whose texts are templates. Default: `handling` (the same for
    /// every repeat), `event_id`, `session_id`, `branch` and `files`.
    payload: Option<JsonTemplate>,
    /// The address of the API. Default: `https://api.github.com`; GitHub Enterprise Server has it at `https://HOST/api/v3`.
    api: Option<Endpoint>,
    /// How long one request may take, in milliseconds. Default: 15000.
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn timeout_ms() -> u64 {
    15_000
}

const INPUTS_MAX: usize = 25;
const PAYLOAD_MEMBERS_MAX: usize = 10;
/// GitHub takes less than 64 KB.
const PAYLOAD_BYTES_MAX: usize = 64_000;
/// Files that the default payload lists at most, and bytes of their names.
const FILES_MAX: usize = 200;
const FILES_BYTES_MAX: usize = 32_000;
const REF_BYTES_MAX: usize = 255;

pub(super) struct Dispatcher {
    url: TargetUrl,
    token: String,
    what: What,
    timeout: Duration,
}

enum What {
    Workflow { reference: Option<Template>, inputs: BTreeMap<String, Template> },
    Repository { event_type: String, payload: Option<JsonTemplate> },
}

impl Dispatcher {
    pub(super) fn new(options: GitHub) -> Result<Self, BuildError> {
        let mut error = BuildError::default();
        let mut told = |field: &str, message: &str, help: &str| error.problems.extend(BuildError::at(field, message).help(help).problems);
        let is_name =
            |text: &str| !text.is_empty() && text != "." && text != ".." && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let owner = options.repository.split_once('/').filter(|(owner, name)| is_name(owner) && is_name(name));
        if owner.is_none() {
            told("repository", "is no `owner/name`", "events choose no repository; make a route for each");
        }
        let token = token::check("token", &options.token);
        match (&options.workflow, &options.event_type) {
            (Some(workflow), None) if !is_name(workflow) => told("workflow", "is no name of a workflow's file", "such as `ci.yml`, without its directory"),
            (None, Some(event_type)) if event_type.is_empty() || event_type.chars().count() > 100 || event_type.contains("{{") => {
                told("event_type", "is no fixed text of 1 to 100 characters", "what varies belongs into `payload`");
            }
            (None, None) | (Some(_), Some(_)) => told("workflow", "is needed, or `event_type`, and not both", "a workflow dispatch runs on `ref`"),
            _ => {}
        }
        if options.workflow.is_none() && (options.reference.is_some() || !options.inputs.is_empty()) {
            told("ref", "`ref` and `inputs` belong to `workflow`", "a repository dispatch carries `payload`");
        }
        if options.event_type.is_none() && options.payload.is_some() {
            told("payload", "belongs to `event_type`", "a workflow takes `inputs`");
        }
        if options.inputs.len() > INPUTS_MAX {
            told("inputs", "are more than 25, which GitHub does not take", "put several values into one");
        }
        if let Some(payload) = &options.payload
            && Value::from(payload.clone()).as_object().is_none_or(|members| members.len() > PAYLOAD_MEMBERS_MAX)
        {
            told("payload", "is no table of at most 10 members", "put several values into one");
        }
        if options.timeout_ms == 0 {
            told("timeout_ms", "0 leaves no time to answer", "leave it out for 15000");
        }
        let _ = error.collect(token);
        let (Some((owner, name)), true) = (owner, error.problems.is_empty()) else { return Err(error) };
        let api = options.api.map_or_else(|| Endpoint::parse("https://api.github.com"), Ok)?;
        let (url, what) = match (options.workflow, options.event_type) {
            (Some(workflow), _) => (
                api.join(["repos", owner, name, "actions", "workflows", workflow.as_str(), "dispatches"]),
                What::Workflow { reference: options.reference, inputs: options.inputs },
            ),
            (None, event_type) => {
                (api.join(["repos", owner, name, "dispatches"]), What::Repository { event_type: event_type.unwrap_or_default(), payload: options.payload })
            }
        };
        let url = url.map_err(|error| BuildError::at("repository", error.to_string()))?;
        Ok(Self { url, token: options.token, what, timeout: Duration::from_millis(options.timeout_ms) })
    }

    pub(super) async fn run(&self, event: &Envelope, cx: &Context, files: &[String]) -> Result<Outcome, HandlerError> {
        let scope = Scope::of(event, cx).with("files", json!(files));
        let body = match &self.what {
            What::Workflow { reference, inputs } => {
                let reference = match reference {
                    Some(template) => template.render(&scope)?,
                    None => {
                        let branches = cx.burst().iter().filter_map(|event| event.git_branch());
                        only_one(branches.filter(|branch| !matches!(*branch, "" | "HEAD" | "unknown")), "branches", "git_branch")?;
                        event.git_branch().unwrap_or_default().to_owned()
                    }
                };
                if matches!(reference.as_str(), "" | "HEAD" | "unknown") {
                    return Ok(Outcome::skipped("the event names no branch that a workflow could run on"));
                }
                if reference.len() > REF_BYTES_MAX || reference.starts_with('-') || reference.chars().any(|c| c.is_control() || c == ' ') {
                    return Err(HandlerError::reject("the event's branch is no name that git has"));
                }
                let inputs = inputs.iter().map(|(name, template)| Ok((name.clone(), Value::from(template.render(&scope)?))));
                json!({ "ref": reference, "inputs": inputs.collect::<Result<Map<_, _>, EffectError>>()?, "return_run_details": true })
            }
            What::Repository { event_type, payload } => {
                let payload = match payload {
                    Some(template) => template.render(&scope)?,
                    None => default_payload(event, cx, files),
                };
                json!({ "event_type": event_type, "client_payload": payload })
            }
        };
        let request = HttpRequest::new(Method::Post, self.url.clone())
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            .secret_header("authorization", format!("Bearer {}", self.token))
            .json(&body)
            .timeout(self.timeout);
        if request.body.len() > PAYLOAD_BYTES_MAX {
            return Err(HandlerError::reject(format!("the request becomes {} bytes long with this event, GitHub takes less than 64 KB", request.body.len())));
        }
        let is_taken = |reply: &HttpReply| (200..300).contains(&reply.status) && not_a_page(reply.clone(), "api").is_ok();
        let reply = cx.http(request).named("dispatch").final_when(is_taken).await?;
        let reply = not_a_page(accepted(reply, cx)?, "api")?;
        let run = reply.json().ok().and_then(|run| run["html_url"].as_str().map(str::to_owned));
        cx.note(run.map_or_else(|| "GitHub took the dispatch".to_owned(), |url| format!("started {url}")));
        Ok(Outcome::Done)
    }
}

fn default_payload(event: &Envelope, cx: &Context, files: &[String]) -> Value {
    let mut bytes = 0;
    let listed: Vec<&String> = files
        .iter()
        .take(FILES_MAX)
        .take_while(|file| {
            bytes += file.len();
            bytes <= FILES_BYTES_MAX
        })
        .collect();
    let short = |text: Option<&str>| text.filter(|text| text.len() <= 1_024).map(str::to_owned);
    json!({
        "handling": cx.idempotency_key(),
        "event_id": short(event.id().map(|id| id.as_str())),
        "session_id": short(event.session_id()),
        "session_ids": distinct(cx.burst().iter().filter_map(|event| event.session_id()).filter(|id| id.len() <= 128)).into_iter().take(20).collect::<Vec<_>>(),
        "branch": short(event.git_branch()),
        "files": listed,
        "files_count": files.len(),
    })
}

/// GitHub says 403 to one that may not and to one that asks too often. Who goes on asking then may be shut out for good, so the route
/// stops for as long as GitHub says.
fn accepted(reply: HttpReply, cx: &Context) -> Result<HttpReply, EffectError> {
    /// GitHub's own advice where it does not say how long.
    const WAIT: Duration = Duration::from_secs(60);
    let is_limit = matches!(reply.status, 403 | 429)
        && (reply.status == 429
            || reply.header("retry-after").is_some()
            || reply.header("x-ratelimit-remaining").is_some_and(|left| left.trim() == "0")
            || String::from_utf8_lossy(&reply.body).to_lowercase().contains("secondary rate limit"));
    if !is_limit {
        return reply.ok();
    }
    let until_reset = || {
        let reset = reply.header("x-ratelimit-reset").filter(|_| reply.header("x-ratelimit-remaining").is_some_and(|left| left.trim() == "0"))?;
        let reset = jiff::Timestamp::from_second(reset.trim().parse().ok()?).ok()?;
        Some(Duration::try_from(reset.duration_since(cx.now())).unwrap_or(Duration::ZERO).clamp(Duration::from_secs(1), Duration::from_secs(2 * 60 * 60)))
    };
    let wait = reply.retry_after().or_else(until_reset).unwrap_or(WAIT);
    let mut error = EffectError::new(EffectClass::Unreachable, format!("GitHub's rate limit is reached (it answered {})", reply.status));
    error.retry_after = Some(wait);
    error.detail = Some(router_api::excerpt(&reply.body));
    Err(error)
}
