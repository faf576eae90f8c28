//! The provider `command`: a program that runs in the directory where files were written.

use std::{path::Path, time::Duration};

use router_api::{
    ArgvTemplate, CommandReply, CommandRequest, Context, EffectClass, EffectError, Envelope, HandlerError, Outcome, Program, RoutingKey, Scope, display_argv,
};
use serde_json::{Value, json};

use super::writes::distinct;
use crate::{
    directory::{Directory, Roots, is_below, is_not_here},
    environment::Environment,
};

pub(super) struct Local {
    pub(super) program: Program,
    pub(super) command: ArgvTemplate,
    pub(super) directory: Option<Directory>,
    pub(super) environment: Environment,
    pub(super) timeout: Option<Duration>,
    pub(super) output_tail_bytes: usize,
    pub(super) no_tests_codes: Vec<i32>,
    pub(super) finished: RoutingKey,
}

impl Local {
    /// Does an element of the command become the files?
    pub(super) fn takes_files(&self) -> bool {
        self.command.elements().iter().any(|element| element.split_whitespace().collect::<String>() == "{{files}}")
    }

    pub(super) async fn run(&self, event: &Envelope, cx: &Context, directory: &Path, roots: &Roots, files: Vec<String>) -> Result<Outcome, HandlerError> {
        // The command is given what lies where it runs.
        let files: Vec<String> = files.into_iter().filter(|file| is_below(file, directory)).collect();
        if self.takes_files() && files.is_empty() {
            return Ok(Outcome::skipped(format!("no file of the event lies in `{}`", directory.display())));
        }
        let scope = Scope::of(event, cx).with("files", json!(files));
        let mut request = CommandRequest::new(self.program.clone()).args(self.command.render(&scope)?).cwd(directory).below(roots.paths());
        request.timeout = self.timeout;
        let request = self.environment.fill(request, &scope)?;
        let command = display_argv(&request.display_argv());
        let is_own_limit = self.timeout.is_some_and(|timeout| timeout < cx.remaining());

        let (reply, timed_out) = match cx.command(request).named("run").await {
            Ok(reply) => (reply, false),
            Err(EffectError { class: EffectClass::Timeout, .. }) if is_own_limit => {
                (CommandReply { elapsed: self.timeout.unwrap_or_default(), ..CommandReply::default() }, true)
            }
            // The bus brings what sessions on other machines write, too; what the configuration names is to be here.
            Err(error) if is_not_here(&error) && !matches!(self.directory, Some(Directory::Fixed(_))) => {
                return Ok(Outcome::skipped(format!("not on this machine: there is no directory `{}`", directory.display())));
            }
            Err(error) => return Err(error.into()),
        };
        let status = match reply.code {
            Some(0) => "passed",
            Some(code) if self.no_tests_codes.contains(&code) => "no_tests",
            Some(_) => "failed",
            None => "error",
        };
        cx.note(in_short(status, &reply, timed_out, files.len()));
        cx.emit(
            &self.finished,
            json!({
                "status": status,
                "exit_code": reply.code,
                "signal": reply.signal,
                "timed_out": timed_out,
                "files": files,
                "events": cx.burst().len(),
                "session_id": cx.burst().iter().rev().find_map(|event| event.session_id()),
                "session_ids": distinct(cx.burst().iter().filter_map(|event| event.session_id())),
                "working_directory": directory.to_string_lossy(),
                "git_branch": event.git_branch(),
                "command": command,
                "duration_ms": u64::try_from(reply.elapsed.as_millis()).unwrap_or(u64::MAX),
                "output_tail": tail(&reply.stdout, self.output_tail_bytes),
                "error_tail": tail(&reply.stderr, self.output_tail_bytes),
            }),
        );
        Ok(Outcome::Done)
    }
}

/// `failed: exit code 1, 7 files, 2.5 s`.
fn in_short(status: &str, reply: &CommandReply, timed_out: bool, files: usize) -> String {
    let ended = match (reply.code, reply.signal) {
        _ if timed_out => "ended at `timeout_ms`".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    };
    let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    format!("{status}: {ended}, {files}, {:.1} s", reply.elapsed.as_secs_f64())
}

/// The end of an output, cut at the beginning of a character.
fn tail(output: &[u8], bytes_max: usize) -> Value {
    let cut = &output[output.len().saturating_sub(bytes_max)..];
    let begins_inside = if cut.len() < output.len() { cut.iter().take(3).take_while(|byte| *byte & 0xc0 == 0x80).count() } else { 0 };
    Value::from(String::from_utf8_lossy(&cut[begins_inside..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_output_begins_with_a_whole_character() {
        assert_eq!(tail("aéz".as_bytes(), 2), "z");
        assert_eq!(tail("aéz".as_bytes(), 3), "éz");
        assert_eq!(tail(b"short", 100), "short");
        assert_eq!(tail(b"\xffx", 100), "\u{fffd}x");
    }

    #[test]
    fn distinct_texts_keep_their_order() {
        assert_eq!(distinct(["b", "a", "b"].into_iter()), ["b", "a"]);
    }
}
