//! Commands as real processes: what reaches them, what they cannot reach, and that they end.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use router_api::{
    Cancellation, Canceller, CommandReply, CommandRequest, Effect, EffectClass, EffectContext, EffectError, EffectKind, EffectPort, EffectReply, EffectRequest,
    Program,
};
use router_effects::{Environment, Performer, PerformerOptions, ProcessLimits, end_stragglers};

/// Generous; nothing here comes near it unless it is broken.
const LONG: Duration = Duration::from_secs(60);

fn options() -> PerformerOptions {
    let variables =
        [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/nonexistent"), ("LANG", "C.UTF-8"), ("SECRET_TOKEN", "hunter2"), ("LD_PRELOAD", "/evil.so")];
    let environment = Environment::of(variables.map(|(name, value)| (OsString::from(name), OsString::from(value))), &[]);
    PerformerOptions { environment: Some(environment), grace: Duration::from_millis(300), ..PerformerOptions::default() }
}

fn performer() -> Arc<Performer> {
    Performer::new(options()).unwrap()
}

fn context(handling: &str, remaining: Duration) -> EffectContext {
    EffectContext { route: "r".to_owned(), handling: handling.to_owned(), remaining, cancellation: Cancellation::never() }
}

fn effect(request: CommandRequest) -> Effect {
    Effect { name: "run".to_owned(), kind: EffectKind::Write, request: EffectRequest::Command(request), dry_run_reply: None }
}

async fn run_in(performer: &Performer, request: CommandRequest, cx: &EffectContext) -> Result<CommandReply, EffectError> {
    match performer.perform(effect(request), None, cx).await? {
        EffectReply::Command(reply) => Ok(reply),
        other => panic!("{other:?}"),
    }
}

async fn run(request: CommandRequest) -> Result<CommandReply, EffectError> {
    run_in(&performer(), request, &context("some-handling", LONG)).await
}

fn program(name: &str) -> Program {
    performer().resolve_program(name, Path::new("/")).unwrap()
}

/// A script that `sh` reads from a file; arguments follow.
struct Script {
    dir: tempfile::TempDir,
}

impl Script {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("script.sh"), text).unwrap();
        Self { dir }
    }

    fn request(&self) -> CommandRequest {
        CommandRequest::new(program("sh")).args([self.dir.path().join("script.sh").to_str().unwrap()]).cwd(self.dir.path())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// Waits until the script has written a line into the file.
    async fn wrote(&self, name: &str) -> String {
        let begun = Instant::now();
        loop {
            let text = self.read(name);
            if text.ends_with('\n') {
                return text.trim().to_owned();
            }
            assert!(begun.elapsed() < LONG, "{name} was never written");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn lives(pid: &str) -> bool {
    // A zombie has ended; only nobody has asked for its end yet.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

async fn gone(pid: &str) {
    assert!(!pid.is_empty());
    let begun = Instant::now();
    while lives(pid) {
        assert!(begun.elapsed() < LONG, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn hostile_arguments_and_input_arrive_byte_for_byte() {
    let hostile = [
        "; touch /tmp/pwned",
        "$(id)",
        "`id`",
        "a\nb",
        "a\r\nb",
        "a b\tc",
        "'",
        "\"",
        "'\"'\"'",
        "\\",
        "\\n",
        "*",
        "?",
        "~",
        "$HOME",
        "${IFS}",
        "&& id",
        "| id",
        "> x",
        "--",
        "-rf",
        "",
        " ",
        "%s%n",
        "!!",
        "#x",
        "\u{1b}[31m",
        "é😀\u{202e}",
        "\u{7f}",
        "{{ key }}",
    ];
    let script = Script::new("printf '%s\\0' \"$@\"; cat >&2");
    let input = hostile.join("\0\n");
    let reply = run(script.request().args(hostile).stdin(input.clone())).await.unwrap();
    let expected: String = hostile.iter().map(|argument| format!("{argument}\0")).collect();
    assert_eq!(reply.stdout, Bytes::from(expected));
    assert_eq!(reply.stderr, Bytes::from(input));
    assert!(reply.success());
}

#[tokio::test]
async fn a_child_sees_the_allowed_variables_and_its_own() {
    let reply = run(CommandRequest::new(program("env")).env("BRANCH", "a=b\nc; $(id)").env("HOME", "/elsewhere")).await.unwrap();
    let text = String::from_utf8(reply.stdout.to_vec()).unwrap();
    assert!(text.contains("BRANCH=a=b\nc; $(id)\n"), "{text}");
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    for name in &names {
        assert!(["BRANCH", "HOME", "LANG", "PATH", "EVENT_ROUTER_HANDLING", "EVENT_ROUTER_COMMAND"].contains(name), "{name} in {text}");
    }
    assert!(text.contains("EVENT_ROUTER_HANDLING=some-handling\n") && text.contains("HOME=/elsewhere\n"));
    assert!(!text.contains("hunter2") && !text.contains("evil.so"));
}

#[tokio::test]
async fn dangerous_variables_and_nul_are_forbidden() {
    for (name, value) in [
        ("LD_PRELOAD", "x"),
        ("PATH", "/tmp"),
        ("BASH_ENV", "x"),
        ("ENV", "x"),
        ("IFS", "x"),
        ("DYLD_INSERT_LIBRARIES", "x"),
        ("PYTHONPATH", "x"),
        ("EVENT_ROUTER_HANDLING", "x"),
        ("lower", "x"),
        ("A=B", "x"),
        ("A\0", "x"),
        ("", "x"),
        ("FINE", "a\0b"),
    ] {
        let request = CommandRequest::new(program("true")).env(name, value);
        let error = run(request.clone()).await.unwrap_err();
        assert_eq!(error.class, EffectClass::Forbidden, "{name:?}");
        assert_eq!(performer().check(&effect(request)).unwrap_err().class, EffectClass::Forbidden, "a dry run is told, too");
    }
    assert_eq!(run(CommandRequest::new(program("true")).args(["a\0b"])).await.unwrap_err().class, EffectClass::Forbidden);
    assert_eq!(run(CommandRequest::new(program("true")).cwd("/a\0b")).await.unwrap_err().class, EffectClass::Forbidden);
}

#[tokio::test]
async fn no_file_of_the_router_is_open_in_a_child() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reply = run(CommandRequest::new(program("ls")).args(["-l", "/proc/self/fd"])).await.unwrap();
    let text = String::from_utf8(reply.stdout.to_vec()).unwrap();
    let targets: Vec<&str> = text.lines().filter_map(|line| line.split_once(" -> ")).map(|(_, target)| target).collect();
    assert_eq!(targets.len(), 4, "standard streams and the listed directory: {text}");
    assert_eq!(targets[0], "/dev/null", "without input it reads nothing");
    assert!(!text.contains(file.path().to_str().unwrap()) && !text.contains("socket:"), "{text}");
    drop(listener);
}

#[tokio::test]
async fn exit_codes_and_signals_are_replies() {
    let script = Script::new("if [ \"$1\" = signal ]; then kill -SEGV $$; fi; echo out; echo err >&2; exit \"$1\"");
    for code in [0, 1, 2, 42, 255] {
        let reply = run(script.request().args([code.to_string()])).await.unwrap();
        assert_eq!((reply.code, reply.signal, &reply.stdout[..], &reply.stderr[..]), (Some(code), None, &b"out\n"[..], &b"err\n"[..]));
    }
    let reply = run(script.request().args(["signal"])).await.unwrap();
    assert_eq!((reply.code, reply.signal), (None, Some(11)));
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed_at_its_limit() {
    let script = Script::new("trap '' TERM; echo $$ > pid; echo last words; while :; do sleep 0.05; done");
    // Where the machine is too slow for it to begin by then, it has longer.
    for limit in [1, 8, 64].map(Duration::from_secs) {
        let begun = Instant::now();
        let error = run_in(&performer(), script.request().timeout(limit), &context("h-stubborn", LONG * 2)).await.unwrap_err();
        assert_eq!(error.class, EffectClass::Timeout, "{error}");
        assert!(begun.elapsed() < limit + LONG);
        if error.detail.is_some() {
            assert_eq!(error.detail.as_deref(), Some("last words\n"));
            gone(script.read("pid").trim()).await;
            return;
        }
    }
    panic!("it never began");
}

#[tokio::test]
async fn a_command_may_clean_up_in_its_grace() {
    let script = Script::new("trap 'echo cleaned > cleaned; exit 0' TERM; echo started > started; while :; do sleep 0.02; done");
    let performer = Performer::new(PerformerOptions { grace: LONG, ..options() }).unwrap();
    // Where the machine is too slow for it to begin by then, it has longer.
    for limit in [1, 8, 64].map(Duration::from_secs) {
        let error = run_in(&performer, script.request().timeout(limit), &context("h-clean", LONG * 2)).await.unwrap_err();
        assert_eq!(error.class, EffectClass::Timeout, "it was late all the same");
        if !script.read("started").is_empty() {
            assert_eq!(script.read("cleaned"), "cleaned\n");
            return;
        }
    }
    panic!("it never began");
}

#[tokio::test]
async fn children_grandchildren_and_those_who_left_the_group_end_with_it() {
    let script = Script::new(
        "trap '' TERM
         sleep 1000 & echo $! > child
         setsid sleep 1001 & 
         setsid sh -c 'trap \"\" TERM; echo $$ > setsid; (setsid sh -c \"echo \\$\\$ > deeper; sleep 1002\" &); sleep 1003' &
         setsid env -i /bin/sh -c 'echo $$ > bare; sleep 1004; true' &
         sh -c 'setsid sh -c \"echo \\$\\$ > orphan; sleep 1005; true\" & exit 0'
         while :; do sleep 0.05; done",
    );
    let performer = performer();
    let cx = context("h-family", LONG);
    let (canceller, cancellation) = Canceller::new();
    let cx = EffectContext { cancellation, ..cx };
    let work = tokio::spawn({
        let request = script.request();
        async move { run_in(&performer, request, &cx).await }
    });
    let mut pids = Vec::new();
    for name in ["child", "setsid", "deeper", "bare", "orphan"] {
        let pid = script.wrote(name).await;
        assert!(lives(&pid), "{name}");
        pids.push(pid);
    }
    canceller.cancel();
    assert_eq!(work.await.unwrap().unwrap_err().class, EffectClass::Cancelled);
    for pid in &pids {
        gone(pid).await;
    }
}

#[tokio::test]
async fn dropping_the_work_ends_the_whole_family() {
    let script = Script::new("trap '' TERM; echo $$ > pid; setsid sh -c 'echo $$ > setsid; sleep 1000; true' & while :; do sleep 0.05; done");
    let performer = performer();
    let cx = context("h-drop", LONG);
    let pids = {
        let mut work = Box::pin(run_in(&performer, script.request(), &cx));
        tokio::select! {
            result = &mut work => panic!("it ended by itself: {result:?}"),
            pids = async { [script.wrote("pid").await, script.wrote("setsid").await] } => pids,
        }
    };
    for pid in &pids {
        gone(pid).await;
    }
}

#[tokio::test]
async fn what_a_finished_command_left_in_its_group_ends_and_a_daemon_stays() {
    let script =
        Script::new("sleep 1000 & echo $! > child; setsid sh -c 'echo $$ > daemon; exec sleep 1001' & while [ ! -s daemon ]; do sleep 0.02; done; exit 3");
    let begun = Instant::now();
    let reply = run_in(&performer(), script.request(), &context("h-daemon", LONG)).await.unwrap();
    assert_eq!(reply.code, Some(3));
    assert!(begun.elapsed() < LONG * 5, "both hold the pipes open, and nobody waits for them");
    gone(script.read("child").trim()).await;
    let daemon = script.read("daemon").trim().to_owned();
    assert!(lives(&daemon));
    assert_eq!(end_stragglers("h-daemon-of-another"), 0);
    assert!(lives(&daemon));
    assert_eq!(end_stragglers("h-daemon"), 1);
    gone(&daemon).await;
}

#[tokio::test]
async fn two_commands_of_one_handling_do_not_end_each_other() {
    let performer = performer();
    let slow = Script::new("echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; echo done");
    let hanging = Script::new("setsid sleep 1000 & while :; do sleep 0.05; done");
    let cx = context("h-two", LONG);
    let (slow_reply, ()) = tokio::join!(run_in(&performer, slow.request(), &cx), async {
        slow.wrote("pid").await;
        let error = run_in(&performer, hanging.request().timeout(Duration::from_millis(300)), &cx).await.unwrap_err();
        assert_eq!(error.class, EffectClass::Timeout);
        fs::write(slow.dir.path().join("go"), "").unwrap();
    });
    assert_eq!(&slow_reply.unwrap().stdout[..], b"done\n");
}

#[tokio::test]
async fn a_hundred_megabytes_of_output_leave_their_end_in_little_memory() {
    let rss = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let script = Script::new("head -c 100000000 /dev/zero; printf 'the end'; head -c 1000000 /dev/zero | tr '\\0' e >&2");
    let before = rss();
    let reply = run(script.request()).await.unwrap();
    assert!(reply.success(), "{reply:?}");
    assert!(rss() < before + 40, "{before} MiB before, {} after", rss());
    assert_eq!((reply.stdout.len(), reply.stderr.len()), (64 * 1024, 64 * 1024));
    assert!(reply.stdout.ends_with(b"the end"));
    assert_eq!(reply.bytes_cut, 100_000_007 + 1_000_000 - 2 * 64 * 1024);
}

#[tokio::test]
async fn much_input_and_much_output_do_not_wait_for_each_other() {
    let input = Bytes::from(vec![b'x'; 3_000_000]);
    let script = Script::new("cat; echo; echo over >&2");
    let reply = run(script.request().stdin(input.clone())).await.unwrap();
    assert_eq!(reply.bytes_cut, 3_000_001 - 64 * 1024);
    let deaf = Script::new("echo done");
    assert!(run(deaf.request().stdin(input)).await.unwrap().success(), "a program need not read its input");
    let closed = Script::new("exec <&-; echo $(wc -c < /dev/null)");
    assert!(run(closed.request().stdin("x")).await.unwrap().success());
}

#[tokio::test]
async fn the_working_directory_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let reply = run(CommandRequest::new(program("pwd")).cwd(dir.path())).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&reply.stdout).trim(), dir.path().canonicalize().unwrap().to_str().unwrap());
    for bad in ["/no/such/dir", "/etc/passwd", "relative/dir", "", "/etc/passwd/x"] {
        let error = run(CommandRequest::new(program("pwd")).cwd(bad)).await.unwrap_err();
        assert_eq!(error.class, EffectClass::Refused, "{bad}");
        assert!(error.message.contains(bad), "{}", error.message);
    }
    let error = run(CommandRequest::new(program("pwd")).cwd("/no/such/dir")).await.unwrap_err();
    assert_eq!(error.message, "`/no/such/dir` is not a directory on this machine");
}

#[tokio::test]
async fn programs_that_cannot_run_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Program::resolved("tool", dir.path().join("tool"));
    let error = run(CommandRequest::new(gone)).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Unreachable, "it was there when the route was built: {error}");
    let plain = dir.path().join("plain");
    fs::write(&plain, "x").unwrap();
    assert_eq!(run(CommandRequest::new(Program::resolved("plain", plain))).await.unwrap_err().class, EffectClass::Unreachable);
    let error = run(CommandRequest::new(Program::unresolved("pytest"))).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Refused);
    assert!(error.message.contains("pytest"));
    let many = vec!["x".repeat(100_000); 100];
    assert_eq!(run(CommandRequest::new(program("true")).args(many)).await.unwrap_err().class, EffectClass::Refused);
    assert_eq!(run(CommandRequest::new(program("true")).args(["x".repeat(200_000)])).await.unwrap_err().class, EffectClass::Refused);
}

#[tokio::test]
async fn a_command_without_time_does_not_begin() {
    let script = Script::new("touch begun");
    let error = run_in(&performer(), script.request(), &context("h-late", Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.class, EffectClass::Timeout);
    let (canceller, cancellation) = Canceller::new();
    canceller.cancel();
    let cx = EffectContext { cancellation, ..context("h-cancelled", LONG) };
    assert_eq!(run_in(&performer(), script.request(), &cx).await.unwrap_err().class, EffectClass::Cancelled);
    assert!(!script.dir.path().join("begun").exists());
}

#[tokio::test]
async fn limits_reach_the_child() {
    let limits = ProcessLimits { files: Some(77), file_bytes: Some(1_000_000), cpu_s: Some(30), ..ProcessLimits::default() };
    let performer = Performer::new(PerformerOptions { limits, ..options() }).unwrap();
    // The limits come right after the start, so the child waits until it sees them.
    let script = Script::new("while [ \"$(ulimit -n)\" != 77 ] || [ \"$(ulimit -t)\" != 30 ]; do sleep 0.01; done; cat /proc/self/limits");
    let reply = run_in(&performer, script.request(), &context("h-limits", LONG)).await.unwrap();
    let text = String::from_utf8(reply.stdout.to_vec()).unwrap();
    let limit = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_ascii_whitespace().next().unwrap().to_owned();
    assert_eq!(
        (limit("Max open files"), limit("Max file size"), limit("Max cpu time"), limit("Max core file size")),
        ("77".into(), "1000000".into(), "30".into(), "0".into())
    );
}

#[tokio::test]
async fn a_command_leads_a_group_of_its_own() {
    let script = Script::new("read -r _ _ _ _ group _ < /proc/$$/stat; echo $$ $group");
    let reply = run(script.request()).await.unwrap();
    let text = String::from_utf8(reply.stdout.to_vec()).unwrap();
    let (pid, group) = text.trim().split_once(' ').unwrap();
    assert_eq!(pid, group);
}
