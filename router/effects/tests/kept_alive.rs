//! Programs that stay, as real processes: one start for many lines, and every way in which one fails to answer.

use std::{
    ffi::OsString,
    fs,
    num::NonZeroU16,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use router_api::{
    Cancellation, Canceller, CommandReply, CommandRequest, Effect, EffectClass, EffectContext, EffectError, EffectKind, EffectPort, EffectReply, EffectRequest,
    KeepAlive, Lease,
};
use router_effects::{Environment, Performer, PerformerOptions};

/// Generous; nothing here comes near it unless it is broken.
const LONG: Duration = Duration::from_secs(60);

/// Answers each line with its own process id; `id` is all that it understands of JSON. It logs its starts and its end.
const ANSWERS: &str = r#"
echo start $$ >> starts
while read -r line; do
    id=${line#*\"id\":\"}; id=${id%%\"*}
    case "$line" in
        *crash*) echo "cannot go on" >&2; exit 3 ;;
        *hang*) echo $$ > hangs; sleep 600 & wait ;;
        *garbage*) n=0; while [ $n -lt 10 ]; do echo "line $n of no meaning"; n=$((n + 1)); done; sleep 600 ;;
        *chatter*) echo "only once"; echo "{\"id\":\"somebody else\"}" ;;
        *long*) head -c 1100000 /dev/zero | tr '\0' x; sleep 600 ;;
        *last*) echo "{\"id\":\"$id\",\"pid\":$$}"; exit 0 ;;
        *later*) while [ ! -e go ]; do sleep 0.01; done ;;
    esac
    echo "{\"id\":\"$id\",\"pid\":$$}"
done
echo end $$ >> starts
"#;

struct Scene {
    dir: tempfile::TempDir,
    performer: Arc<Performer>,
    lease: Option<Lease>,
    processes: Option<NonZeroU16>,
    idle: Duration,
}

impl Scene {
    fn new(script: &str) -> Self {
        Self::with(script, Duration::from_millis(300))
    }

    /// … whose processes have all the time that they need to end in good order.
    fn patient(script: &str) -> Self {
        Self::with(script, LONG)
    }

    fn with(script: &str, grace: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("script.sh"), script).unwrap();
        let variables = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("SECRET_TOKEN", "hunter2")];
        let environment = Environment::of(variables.map(|(name, value)| (OsString::from(name), OsString::from(value))), &[]);
        let options = PerformerOptions { environment: Some(environment), grace, ..PerformerOptions::default() };
        Self { dir, performer: Performer::new(options).unwrap(), lease: Some(Lease::new()), processes: NonZeroU16::new(1), idle: LONG }
    }

    async fn ask_in(&self, id: &str, what: &str, cx: &EffectContext, edit: impl FnOnce(CommandRequest) -> CommandRequest) -> Result<CommandReply, EffectError> {
        let keep_alive =
            KeepAlive { id: id.to_owned(), processes: self.processes, idle: self.idle, leased: self.lease.as_ref().expect("the lease holds").leased() };
        let request = CommandRequest::new(self.performer.resolve_program("sh", Path::new("/")).unwrap())
            .args([self.dir.path().join("script.sh").to_str().unwrap()])
            .cwd(self.dir.path())
            .stdin(format!("{{\"id\":\"{id}\",\"event\":\"{what}\"}}\n"))
            .keep_alive(keep_alive);
        let effect = Effect { name: "exec".to_owned(), kind: EffectKind::Write, request: EffectRequest::Command(edit(request)), dry_run_reply: None };
        match self.performer.perform(effect, None, cx).await? {
            EffectReply::Command(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&self, id: &str, what: &str) -> Result<String, EffectError> {
        self.ask_in(id, what, &context(Cancellation::never()), |request| request).await.map(|reply| pid(&reply))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn starts(&self) -> usize {
        self.read("starts").lines().filter(|line| line.starts_with("start")).count()
    }

    async fn wait_for(&self, name: &str, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let read = self.read(name);
            if read.contains(text) && read.ends_with('\n') {
                return read;
            }
            assert!(begun.elapsed() < LONG, "`{name}` never said `{text}`");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn context(cancellation: Cancellation) -> EffectContext {
    EffectContext { route: "r".to_owned(), handling: "h".to_owned(), remaining: LONG, cancellation }
}

fn pid(reply: &CommandReply) -> String {
    let answer: serde_json::Value = serde_json::from_slice(&reply.stdout).unwrap();
    answer["pid"].to_string()
}

fn is_there(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // A zombie is gone.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_events_are_one_start_in_a_cleared_environment() {
    let scene = Scene::new(&ANSWERS.replacen("echo start", "env > environment\necho start", 1));
    let first = scene.ask("0", "x").await.unwrap();
    for n in 1..20 {
        assert_eq!(scene.ask(&n.to_string(), "x").await.unwrap(), first);
    }
    assert_eq!(scene.starts(), 1);
    let environment = scene.read("environment");
    assert!(environment.contains("PATH=") && !environment.contains("hunter2"), "{environment}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_process_further_events_wait_in_it_and_find_their_own_answers() {
    let scene = Scene::new(ANSWERS);
    let asked: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let mut answers = tokio::task::JoinSet::new();
    let scene = Arc::new(scene);
    for id in asked {
        let scene = Arc::clone(&scene);
        answers.spawn(async move {
            let reply = scene.ask_in(&id, "x", &context(Cancellation::never()), |request| request).await.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&reply.stdout).unwrap();
            assert_eq!(answer["id"], id.as_str());
        });
    }
    assert_eq!(answers.join_all().await.len(), 30);
    assert_eq!(scene.starts(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_number_each_event_under_way_has_a_process_and_free_ones_are_used_again() {
    let mut scene = Scene::new(ANSWERS);
    scene.processes = None;
    let go = async {
        let begun = Instant::now();
        while scene.starts() < 3 {
            assert!(begun.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fs::write(scene.dir.path().join("go"), "").unwrap();
    };
    let (a, b, c, ()) = tokio::join!(scene.ask("a", "later"), scene.ask("b", "later"), scene.ask("c", "later"), go);
    let mut pids = vec![a.unwrap(), b.unwrap(), c.unwrap()];
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 3);
    assert!(pids.contains(&scene.ask("d", "x").await.unwrap()));
    assert_eq!(scene.starts(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_directory_or_variable_is_another_process() {
    let scene = Scene::new(ANSWERS);
    let first = scene.ask("a", "x").await.unwrap();
    let other = scene.ask_in("b", "x", &context(Cancellation::never()), |request| request.env("LEVEL", "2")).await.unwrap();
    assert_ne!(pid(&other), first);
    assert_eq!(scene.ask("c", "x").await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_fails_what_was_in_it_with_its_last_words_and_the_next_event_starts_it_again() {
    let scene = Scene::new(ANSWERS);
    let first = scene.ask("a", "x").await.unwrap();
    let error = scene.ask("b", "crash").await.unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (EffectClass::Failed, "`sh` ended with exit code 3: cannot go on"));
    assert!(error.detail.unwrap().contains("cannot go on"));
    assert_ne!(scene.ask("c", "x").await.unwrap(), first);
    assert_eq!(scene.starts(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_at_every_start_is_started_ever_more_seldom() {
    let scene = Scene::new("echo start >> starts; echo broken >&2; exit 1");
    let begun = Instant::now();
    for id in ["a", "b", "c", "d"] {
        let error = scene.ask(id, "x").await.unwrap_err();
        assert!(error.class == EffectClass::Failed && error.message.ends_with("broken"), "{error}");
    }
    assert_eq!(scene.starts(), 4);
    assert!(begun.elapsed() >= Duration::from_millis(100 + 200 + 400), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_may_take_its_leave_after_an_answer_and_costs_no_event_a_try() {
    let scene = Scene::new(ANSWERS);
    for id in 0..10 {
        scene.ask(&id.to_string(), "last").await.unwrap();
    }
    assert_eq!(scene.starts(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_takes_too_long_ends_the_whole_group_and_is_a_timeout() {
    let scene = Scene::new(ANSWERS);
    let limited = |request: CommandRequest| request.timeout(Duration::from_millis(700));
    // It has begun before the time begins.
    scene.ask("first", "x").await.unwrap();
    let error = scene.ask_in("a", "hang", &context(Cancellation::never()), limited).await.unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (EffectClass::Timeout, "`sh` was ended, since it did not answer within 700 ms, its own time limit"));
    let begun = Instant::now();
    while is_there(&scene.read("hangs")) {
        assert!(begun.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(scene.ask("b", "x").await.is_ok());
    assert_eq!(scene.starts(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_event_and_one_whose_handling_is_cut_off_end_the_process() {
    let scene = Scene::new(ANSWERS);
    let (canceller, cancellation) = Canceller::new();
    let cx = context(cancellation);
    let (result, ()) = tokio::join!(scene.ask_in("a", "hang", &cx, |request| request), async {
        scene.wait_for("hangs", "").await;
        canceller.cancel();
    });
    assert_eq!(result.unwrap_err().class, EffectClass::Cancelled);

    fs::remove_file(scene.dir.path().join("hangs")).unwrap();
    tokio::select! {
        _ = scene.ask("b", "hang") => panic!("it hangs"),
        _ = scene.wait_for("hangs", "") => {}
    }
    let hanging = scene.read("hangs");
    let begun = Instant::now();
    while is_there(&hanging) {
        assert!(begun.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_answers_nothing_is_passed_over_and_ten_in_a_row_are_a_failure() {
    let scene = Scene::new(ANSWERS);
    let first = scene.ask("a", "chatter").await.unwrap();
    assert_eq!(scene.ask("b", "chatter").await.unwrap(), first);
    let error = scene.ask("c", "garbage").await.unwrap_err();
    assert_eq!(error.class, EffectClass::Failed);
    assert!(error.message.contains("printed 10 lines in a row that answer no event, the last one `line 9 of no meaning`"), "{error}");
    assert_ne!(scene.ask("d", "x").await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_without_end_is_a_failure() {
    let scene = Scene::new(ANSWERS);
    let error = scene.ask("a", "long").await.unwrap_err();
    assert!(error.message.contains("printed a line of more than 1048576 bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_sees_the_end_of_its_input_and_the_next_event_starts_another() {
    let mut scene = Scene::patient(ANSWERS);
    scene.idle = Duration::from_millis(50);
    scene.ask("a", "x").await.unwrap();
    scene.wait_for("starts", "end").await;
    scene.ask("b", "x").await.unwrap();
    assert_eq!(scene.starts(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_lease_ends_the_process_orderly() {
    let mut scene = Scene::patient(ANSWERS);
    scene.ask("a", "x").await.unwrap();
    scene.lease = None;
    scene.wait_for("starts", "end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_for_the_processes_and_starts_no_more() {
    let scene = Scene::patient(ANSWERS);
    let pid = scene.ask("a", "x").await.unwrap();
    scene.performer.close().await;
    assert!(scene.read("starts").contains("end") && !is_there(&pid));
    assert_eq!(scene.ask("b", "x").await.unwrap_err().class, EffectClass::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ignores_the_end_of_its_input_is_killed() {
    let scene = Scene::new(
        "trap '' TERM; read -r line; id=${line#*\\\"id\\\":\\\"}; id=${id%%\\\"*}; echo \"{\\\"id\\\":\\\"$id\\\",\\\"pid\\\":$$}\"; while :; do sleep 600; done",
    );
    let pid = scene.ask("a", "x").await.unwrap();
    scene.performer.close().await;
    assert!(!is_there(&pid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_outside_of_what_is_allowed_starts_nothing() {
    let scene = Scene::new(ANSWERS);
    let result = scene.ask_in("a", "x", &context(Cancellation::never()), |request| request.cwd("/").below([scene.dir.path().to_owned()])).await;
    assert_eq!(result.unwrap_err().class, EffectClass::Forbidden);
    assert_eq!(scene.starts(), 0);
}
