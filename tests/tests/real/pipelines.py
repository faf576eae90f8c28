"""A code location as a user would have one: a job that takes a session, and an asset."""

import dagster as dg


class SessionConfig(dg.Config):
    session_id: str
    files: list[str] = []


@dg.op
def process_session(context: dg.OpExecutionContext, config: SessionConfig):
    context.log.info(f"session {config.session_id} changed {len(config.files)} files")


@dg.job(executor_def=dg.in_process_executor)
def post_session_pipeline():
    process_session()


@dg.asset
def session_report():
    return 1


defs = dg.Definitions(jobs=[post_session_pipeline], assets=[session_report])
