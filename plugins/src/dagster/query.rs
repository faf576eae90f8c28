//! What is asked of Dagster: the four GraphQL requests, of which one changes anything. Whatever an event says travels in variables,
//! never in the text of a query.

/// Launches a run. Every member of the answer's union is asked for, so that a refusal comes with its reason.
pub(super) const LAUNCH: &str = "mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename \
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

/// Finds a run by its tags.
pub(super) const LOOK_UP: &str = "query LookUp($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 1) { __typename \
    ... on Runs { results { runId } } \
    ... on InvalidPipelineRunsFilterError { message } \
    ... on PythonError { className message } } }";

/// How the code locations are.
pub(super) const LOCATIONS: &str = "query Locations { workspaceOrError { __typename \
    ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { className message } } } } \
    ... on PythonError { className message } } }";

/// How a run is.
pub(super) const RUN: &str = "query Run($id: ID!) { runOrError(runId: $id) { __typename \
    ... on Run { runId status jobName startTime endTime } \
    ... on RunNotFoundError { message } \
    ... on PythonError { className message } } }";
