//! Worktrees, session records and error reports on the built program: with real git repositories and worktrees, and with a server that
//! keeps records as `docs/integrations/flume.md` asks for. iMi itself is a script that prints what recordings of it print.

#[allow(dead_code, reason = "examples are made for the description of HTTP only; an expectation is not seen as met here")]
#[path = "../openapi/schema.rs"]
mod schema;

mod flume;
mod hostile;
mod imi;
mod rabbitmq;
mod report;
mod server;
mod shown;
