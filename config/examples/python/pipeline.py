"""Launches a Dagster job for a session that has changed something."""
import json
import os
import urllib.request

from handler import Verdict, handler

LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


@handler
def launch(event, asked):
    end = event["payload"]
    if not end.get("files_modified"):
        raise Verdict("skipped", "the session changed no file")
    selector = {"repositoryLocationName": "pipelines", "repositoryName": "__repository__", "jobName": "post_session_pipeline"}
    tags = [{"key": "event_router/key", "value": asked["idempotency_key"]}]
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
    body = json.dumps({"query": LAUNCH, "variables": {"params": params}}).encode()
    request = urllib.request.Request(os.environ["DAGSTER_URL"], body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=15) as reply:
        launched = json.load(reply)["data"]["launchPipelineExecution"]
    if launched["__typename"] != "LaunchRunSuccess":
        raise Verdict("reject", launched.get("message") or launched["__typename"])
    return f"run {launched['run']['runId']}"
