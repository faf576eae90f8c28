//! What Dagster's answers mean. The body decides before the status does: most failures come with status 200, and some that are for
//! ever come with 500.

use jiff::Timestamp;
use router_api::{EffectClass, EffectError, HttpReply, excerpt};
use serde_json::{Value, json};

/// What came of a launch that Dagster understood.
#[derive(Debug)]
pub(super) enum Launch {
    /// The run is Dagster's now.
    Accepted { run: String },
    /// No such job: or its code location does not load.
    JobNotFound { message: String },
}

impl Launch {
    /// # Errors
    ///
    /// Every other answer, with the class that fits it.
    pub(super) fn of(reply: HttpReply) -> Result<Self, EffectError> {
        // A gateway may have passed the request on before it gave up. Such an answer must count as a try: the next one looks first.
        let is_outcome_unknown = matches!(reply.status, 502 | 504);
        let answer = member(reply, "launchRun").map_err(|mut error| {
            if is_outcome_unknown && error.class == EffectClass::Unreachable {
                error.class = EffectClass::Timeout;
                error.message.push_str(", and the run may have been launched");
            }
            error
        })?;
        let message = || text(&answer, "message");
        Err(match answer["__typename"].as_str().unwrap_or_default() {
            "LaunchRunSuccess" => match run_id(&answer["run"]) {
                Some(run) => return Ok(Self::Accepted { run }),
                None => error(EffectClass::Failed, "Dagster says that it launched a run, and not which", answer.to_string()),
            },
            "PipelineNotFoundError" => return Ok(Self::JobNotFound { message: message() }),
            "RunConfigValidationInvalid" => {
                let problems = answer["errors"].as_array().map_or(&[][..], Vec::as_slice);
                let told: Vec<_> = problems.iter().map(|problem| format!("{}: {}", text(problem, "reason"), text(problem, "message"))).collect();
                error(EffectClass::Refused, "the job refuses the `run_config`", told.join("\n"))
            }
            "UnauthorizedError" => error(EffectClass::Refused, "Dagster lets nobody launch runs here (read-only, or a token without permission)", message()),
            "PythonError" => python_error(&answer),
            kind @ ("RunConflict"
            | "ConflictingExecutionParamsError"
            | "InvalidStepError"
            | "InvalidOutputError"
            | "InvalidSubsetError"
            | "PresetNotFoundError"
            | "NoModeProvidedError") => error(EffectClass::Refused, &format!("Dagster refuses the launch with `{kind}`"), answer.to_string()),
            kind => error(EffectClass::Failed, &format!("Dagster answers a launch with `{kind}`, which is not known here"), answer.to_string()),
        })
    }
}

/// The answer that a run would have had which was found later.
pub(super) fn accepted(run: &str) -> HttpReply {
    HttpReply::new(200, json!({ "data": { "launchRun": { "__typename": "LaunchRunSuccess", "run": { "runId": run } } } }).to_string())
}

/// Is the run Dagster's now?
pub(super) fn is_accepted(reply: &HttpReply) -> bool {
    matches!(Launch::of(reply.clone()), Ok(Launch::Accepted { .. }))
}

/// The run that a look-up by tag found.
///
/// # Errors
///
/// When Dagster does not say.
pub(super) fn run_found(reply: HttpReply) -> Result<Option<String>, EffectError> {
    let answer = member(reply, "runsOrError")?;
    match answer["__typename"].as_str().unwrap_or_default() {
        "Runs" => match answer["results"].get(0) {
            None => Ok(None),
            Some(run) => match run_id(run) {
                Some(run) => Ok(Some(run)),
                None => Err(error(EffectClass::Failed, "Dagster says that there is a run, and not which", answer.to_string())),
            },
        },
        "PythonError" => Err(python_error(&answer)),
        kind => Err(error(EffectClass::Failed, &format!("Dagster answers a look-up with `{kind}`"), text(&answer, "message"))),
    }
}

/// How a code location is.
#[derive(Debug)]
pub(super) enum Location {
    Loaded,
    Loading,
    /// Its code does not load, or its server is down.
    Broken {
        error: String,
    },
    Absent {
        others: String,
    },
}

impl Location {
    /// # Errors
    ///
    /// When Dagster does not say.
    pub(super) fn of(reply: HttpReply, name: &str) -> Result<Self, EffectError> {
        let answer = member(reply, "workspaceOrError")?;
        if answer["__typename"] != "Workspace" {
            return Err(python_error(&answer));
        }
        let entries = answer["locationEntries"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(entry) = entries.iter().find(|entry| entry["name"] == name) else {
            let others: Vec<_> = entries.iter().take(10).map(|entry| format!("`{}`", text(entry, "name"))).collect();
            return Ok(Self::Absent { others: if others.is_empty() { "none at all".to_owned() } else { others.join(", ") } });
        };
        let loaded = &entry["locationOrLoadError"];
        Ok(match (loaded["__typename"].as_str(), entry["loadStatus"].as_str()) {
            (Some("PythonError"), _) => Self::Broken { error: text(loaded, "message") },
            (_, Some("LOADING")) | (None, _) => Self::Loading,
            _ => Self::Loaded,
        })
    }
}

/// How a run is.
#[derive(Debug)]
pub(super) enum Run {
    /// Not ended.
    Under {
        status: String,
    },
    Ended(EndedRun),
    /// Somebody deleted it.
    Gone,
}

#[derive(Debug)]
pub(super) struct EndedRun {
    pub(super) status: String,
    pub(super) job: String,
    pub(super) started_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
}

impl EndedRun {
    pub(super) fn duration_ms(&self) -> Option<u64> {
        u64::try_from(self.ended_at?.duration_since(self.started_at?).as_millis()).ok()
    }
}

impl Run {
    /// # Errors
    ///
    /// When Dagster does not say.
    pub(super) fn of(reply: HttpReply) -> Result<Self, EffectError> {
        let answer = member(reply, "runOrError")?;
        match answer["__typename"].as_str().unwrap_or_default() {
            "Run" => {}
            "RunNotFoundError" => return Ok(Self::Gone),
            "PythonError" => return Err(python_error(&answer)),
            kind => return Err(error(EffectClass::Failed, &format!("Dagster answers a question about a run with `{kind}`"), answer.to_string())),
        }
        let status: String = text(&answer, "status").chars().take(64).collect();
        Ok(match status.as_str() {
            "SUCCESS" | "FAILURE" | "CANCELED" => {
                Self::Ended(EndedRun { job: text(&answer, "jobName"), started_at: time(&answer["startTime"]), ended_at: time(&answer["endTime"]), status })
            }
            // What Dagster may add later is no end until it is named here.
            _ => Self::Under { status },
        })
    }
}

/// Dagster tells times in seconds, with a fraction.
fn time(value: &Value) -> Option<Timestamp> {
    let seconds = value.as_f64().filter(|seconds| (0.0..1e11).contains(seconds))?;
    Timestamp::UNIX_EPOCH.checked_add(jiff::SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
}

/// The answer's one member, if there is an answer of GraphQL's at all.
fn member(reply: HttpReply, name: &str) -> Result<Value, EffectError> {
    let Ok(mut body) = reply.json() else {
        let body = excerpt(&reply.body);
        // A status that speaks of failure says more than a body that does not parse.
        reply.ok()?;
        return Err(error(EffectClass::Failed, "the answer is no JSON: is `url` the GraphQL address?", body));
    };
    if let Some(answer) = body.pointer_mut(&format!("/data/{name}")).filter(|answer| answer.is_object()) {
        return Ok(answer.take());
    }
    let problems: Vec<String> = body["errors"].as_array().map_or(&[][..], Vec::as_slice).iter().map(|problem| text(problem, "message")).collect();
    if problems.is_empty() {
        let body = excerpt(&reply.body);
        reply.ok()?;
        return Err(error(EffectClass::Failed, "the answer has neither data nor errors: is `url` the GraphQL address?", body));
    }
    // Dagster says 500 to a variable that does not fit its schema, and will say so for ever.
    let is_our_mistake = reply.status == 400 || problems.iter().any(|problem| problem.starts_with("Variable '$"));
    let class = if is_our_mistake { EffectClass::Refused } else { reply.ok().err().map_or(EffectClass::Failed, |error| error.class) };
    Err(error(class, "Dagster does not carry out the request", problems.join("\n")))
}

/// Something in Dagster's own code, or in the user's, went wrong.
fn python_error(answer: &Value) -> EffectError {
    let class_name = text(answer, "className");
    let class = if class_name == "DagsterUserCodeUnreachableError" { EffectClass::Unreachable } else { EffectClass::Failed };
    error(class, &format!("Dagster failed with `{class_name}`"), text(answer, "message"))
}

/// A run's name: Dagster makes them of letters, digits and `-`.
fn run_id(run: &Value) -> Option<String> {
    run["runId"].as_str().filter(|id| is_run_id(id)).map(str::to_owned)
}

pub(super) fn is_run_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn error(class: EffectClass, message: &str, detail: String) -> EffectError {
    let mut error = EffectError::new(class, message);
    error.detail = Some(excerpt(detail.as_bytes()));
    error
}
