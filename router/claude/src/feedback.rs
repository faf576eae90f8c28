//! What CI said, back to the agent: at the end of a turn the router is asked how the last CI run of the working directory ended, and a
//! red one is handed to the agent, once.
//!
//! Opt-in. It asks over the router's own socket and waits for a moment only; where there is no router or no run there is nothing to say. An
//! agent that goes on because of a hook is left alone, so that no red run keeps it going for ever. A green run is told where the same
//! session was told of a red one before it: then it is news.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::OpenOptionsExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::whole_file;

/// Names the router's socket.
pub const SOCKET: &str = "EVENT_ROUTER_SOCKET";

/// For the router to answer: nobody waits longer at the end of a turn.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// Characters of what the agent is told; Claude Code itself cuts at 10,000.
const TEXT_CHARS_MAX: usize = 8_000;
/// Of them, of each output.
const TAIL_CHARS_MAX: usize = 3_500;
/// Files that are named.
const FILES_MAX: usize = 20;
/// Sessions whose last told run is remembered.
const SESSIONS_MAX: usize = 200;
/// Bytes of the file that remembers them.
const MEMORY_BYTES_MAX: u64 = 256 * 1024;

/// A turn that ends.
#[derive(Debug, Clone, Copy)]
pub struct Stop<'a> {
    /// The router's socket.
    pub socket: &'a Path,
    /// Where the session works.
    pub working_directory: &'a Path,
    /// Of Claude Code.
    pub session_id: &'a str,
    /// The agent goes on because of an earlier hook.
    pub stop_hook_active: bool,
    /// A file that remembers what was told. Made if it is not there.
    pub memory: &'a Path,
    /// So long the router may take: [`PATIENCE`].
    pub patience: Duration,
}

/// What was told to a session last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    session: String,
    /// The event of the run.
    run: String,
    red: bool,
}

/// The hook's output for the end of a turn, if there is something to say.
#[must_use]
pub fn at_stop(stop: &Stop<'_>) -> Option<Value> {
    if stop.stop_hook_active {
        return None;
    }
    let last = last_run(stop.socket, stop.working_directory, stop.patience).ok()??;
    let mut memory = remembered(stop.memory);
    let before = memory.iter().position(|told| told.session == stop.session_id).map(|at| memory.remove(at));
    let run = last["event_id"].as_str().map_or_else(|| last["seq"].to_string(), str::to_owned);
    if before.as_ref().is_some_and(|told| told.run == run) {
        return None;
    }
    let red = is_red(&last["run"]);
    let text = text(&last["run"]).filter(|_| red || before.as_ref().is_some_and(|told| told.red))?;
    memory.push(Told { session: stop.session_id.to_owned(), run, red });
    let excess = memory.len().saturating_sub(SESSIONS_MAX);
    memory.drain(..excess);
    // What cannot be remembered is not told: it would be told at every turn.
    whole_file::replace(stop.memory, &serde_json::to_vec(&memory).ok()?).ok()?;
    Some(json!({ "hookSpecificOutput": { "hookEventName": "Stop", "additionalContext": text } }))
}

/// Beside the spool, since that is a place of the user's own.
#[must_use]
pub fn memory_beside(spool: &Path) -> PathBuf {
    let mut path = spool.as_os_str().to_owned();
    path.push("-feedback.json");
    path.into()
}

fn remembered(path: &Path) -> Vec<Told> {
    whole_file::read(path, MEMORY_BYTES_MAX).ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// How the last run of a directory ended, as the router knows it; `None` if it knows of none.
///
/// # Errors
///
/// When the router does not answer within a moment, or not with what is asked for.
pub fn last_run(socket: &Path, directory: &Path, patience: Duration) -> io::Result<Option<Value>> {
    let (sender, receiver) = sync_channel(1);
    let (socket, directory) = (socket.to_owned(), directory.to_owned());
    // A router that stands still holds up whoever connects, and one that is slow has a byte to say now and then: somebody else has to do the
    // waiting, and ends with the process.
    std::thread::Builder::new().stack_size(256 * 1024).spawn(move || {
        let _ = sender.send(ask(&socket, &directory, patience));
    })?;
    receiver.recv_timeout(patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn ask(socket: &Path, directory: &Path, patience: Duration) -> io::Result<Option<Value>> {
    let mut stream = connect(socket)?;
    let mut target = String::from("/api/v1/last-run?working_directory=");
    for byte in directory.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => target.push(char::from(*byte)),
            _ => target.push_str(&format!("%{byte:02X}")),
        }
    }
    stream.set_write_timeout(Some(patience))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        match stream.read(&mut part)? {
            0 => break,
            count => answer.extend_from_slice(&part[..count]),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
    }
    parsed(&answer)
}

fn parsed(answer: &[u8]) -> io::Result<Option<Value>> {
    let odd = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| odd("the answer is no HTTP"))?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(odd(&format!("the answer is {status}")));
    }
    let mut body: Value = serde_json::from_slice(&answer[end + 4..]).map_err(|error| odd(&format!("the answer is not understood: {error}")))?;
    Ok(Some(body["result"].take()).filter(|result| !result.is_null()))
}

/// By way of its directory: the address of a socket has 107 bytes at most.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let directory = OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::DIRECTORY.bits().cast_signed()).open(directory)?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

fn is_red(run: &Value) -> bool {
    matches!(run["status"].as_str(), Some("failed" | "error"))
}

/// What the agent is told of a run; nothing of one that says neither yes nor no.
#[must_use]
pub fn text(run: &Value) -> Option<String> {
    let said = |name: &str| run[name].as_str().map(plain).filter(|text| !text.trim().is_empty());
    let command = said("command").map(|command| format!(" of `{}`", head(&command, 300))).unwrap_or_default();
    let directory = said("working_directory").map(|directory| format!(" in `{}`", head(&directory, 300))).unwrap_or_default();
    if run["status"] == "passed" {
        return Some(format!("The last CI run{command}{directory} has passed: what was red before is green now."));
    }
    if !is_red(run) {
        return None;
    }
    let how = match (run["timed_out"].as_bool(), run["exit_code"].as_i64(), run["signal"].as_i64()) {
        (Some(true), ..) => " it ran into its time limit".to_owned(),
        (_, Some(code), _) => format!(" exit code {code}"),
        (_, None, Some(signal)) => format!(" ended by signal {signal}"),
        _ => " it did not end by itself".to_owned(),
    };
    let mut text = format!("The last CI run{command}{directory} has failed:{how}.");
    let files: Vec<String> = run["files"].as_array().into_iter().flatten().filter_map(Value::as_str).map(|file| head(&plain(file), 200)).collect();
    if !files.is_empty() {
        let more = files.len().saturating_sub(FILES_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text.push_str(&format!("\nIt ran after changes to: {}{more}", files[..files.len().min(FILES_MAX)].join(", ")));
    }
    for (name, title) in [("output_tail", "The end of its output"), ("error_tail", "The end of its error output")] {
        if let Some(tail) = said(name) {
            text.push_str(&format!("\n\n{title}:\n{}", end(tail.trim_end(), TAIL_CHARS_MAX)));
        }
    }
    Some(head(&text, TEXT_CHARS_MAX))
}

/// Without what a terminal would obey.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A colour or a movement: up to its letter.
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
                chars.next();
            }
            '\n' | '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

fn head(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max { text.to_owned() } else { text.chars().take(chars_max - 1).chain(['…']).collect() }
}

fn end(text: &str, chars_max: usize) -> String {
    let chars = text.chars().count();
    if chars <= chars_max { text.to_owned() } else { std::iter::once('…').chain(text.chars().skip(chars - chars_max + 1)).collect() }
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead as _, io::BufReader, os::unix::net::UnixListener};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn run(status: &str) -> Value {
        json!({ "status": status, "exit_code": 1, "command": "pytest -q", "working_directory": "/shop", "files": ["/shop/cart.py"],
                "output_tail": "\u{1b}[31m1 failed\u{1b}[0m\nassert 1 == 2\n", "error_tail": "" })
    }

    /// Answers each question with the next of `answers`.
    fn router(directory: &Path, answers: Vec<String>) -> (PathBuf, std::thread::JoinHandle<Vec<String>>) {
        let socket = directory.join("router.db.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = std::thread::spawn(move || {
            let asked = answers.into_iter().map(|answer| {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let mut first = String::new();
                reader.read_line(&mut first).unwrap();
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
                first
            });
            asked.collect()
        });
        (socket, serving)
    }

    fn answer(id: &str, run: &Value) -> String {
        let body =
            json!({ "schema": "event-router.last-run.v1", "result": { "seq": 7, "event_id": id, "at": "2026-03-02T09:14:06Z", "run": run } }).to_string();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_red_run_is_told_once_to_each_session_and_a_green_one_only_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let none = "HTTP/1.1 200 OK\r\n\r\n{\"schema\":\"x\",\"result\":null}".to_owned();
        let answers = vec![
            answer("r-0", &run("passed")),
            answer("r-1", &run("failed")),
            answer("r-1", &run("failed")),
            answer("r-1", &run("failed")),
            answer("r-2", &run("passed")),
            answer("r-2", &run("passed")),
            none,
            "HTTP/1.1 404 Not Found\r\n\r\n{}".to_owned(),
        ];
        let (socket, serving) = router(directory.path(), answers);
        let memory = directory.path().join("feedback.json");
        let ask = |session_id: &str| {
            let stop = Stop { socket: &socket, working_directory: Path::new("/a shop"), session_id, stop_hook_active: false, memory: &memory, patience: LONG };
            at_stop(&stop).map(|output| output["hookSpecificOutput"]["additionalContext"].as_str().unwrap().to_owned())
        };
        assert_eq!(ask("s-1"), None, "nothing was red");
        let told = ask("s-1").unwrap();
        assert!(told.contains("has failed: exit code 1") && told.contains("`pytest -q`") && told.contains("1 failed\nassert 1 == 2"), "{told}");
        assert!(!told.contains('\u{1b}') && !told.contains("[31m"), "{told}");
        assert_eq!(ask("s-1"), None, "told already");
        assert!(ask("s-2").is_some(), "another agent");
        assert!(ask("s-1").unwrap().contains("has passed"));
        assert_eq!(ask("s-1"), None);
        assert_eq!((ask("s-1"), ask("s-1")), (None, None), "no run, and no such path");
        assert!(serving.join().unwrap()[0].starts_with("GET /api/v1/last-run?working_directory=/a%20shop HTTP/1.1"));
        assert_eq!(ask("s-1"), None, "the router is away");
    }

    #[test]
    fn an_agent_that_goes_on_because_of_a_hook_is_not_asked_about() {
        let nowhere = Path::new("/nonexistent/router.db.sock");
        let stop = Stop { socket: nowhere, working_directory: Path::new("/"), session_id: "s", stop_hook_active: true, memory: nowhere, patience: LONG };
        assert_eq!(at_stop(&stop), None);
    }

    #[test]
    fn what_is_told_has_a_bound_and_ends_with_the_end_of_the_output() {
        let mut long = run("failed");
        long["output_tail"] = "x\n".repeat(100_000).into();
        long["error_tail"] = format!("{}the very end", "ä".repeat(50_000)).into();
        long["command"] = "c".repeat(10_000).into();
        long["files"] = vec!["f".repeat(100); 500].into();
        let text = text(&long).unwrap();
        assert!(text.chars().count() <= TEXT_CHARS_MAX && text.contains("480 more"), "{}", text.len());
        assert!(text.starts_with("The last CI run"));
        let timed_out = json!({ "status": "error", "timed_out": true, "exit_code": null });
        assert!(super::text(&timed_out).unwrap().contains("time limit"));
        assert_eq!(super::text(&json!({ "status": "no_tests" })), None);
        assert_eq!(super::text(&json!("nonsense")), None);
    }
}
