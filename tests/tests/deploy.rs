//! What `deploy/` and `docs/operations.md` say holds: the units verify, a service manager is told, containers can ask for health, and the
//! documented commands run.
#![expect(clippy::print_stdout, reason = "a test that is left out is said aloud")]

use std::{fs, io::ErrorKind, os::unix::net::UnixDatagram, path::PathBuf, process::Command, time::Duration};

use router_tests::{Home, Ran, Service, binary, eventually, workspace};

/// Longer than anything should take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

const ROUTE: &str = "[[route]]\nname = \"all\"\non = [\"#\"]\nhandler = \"log\"\n";

fn deploy(name: &str) -> String {
    fs::read_to_string(workspace().join("deploy").join(name)).expect("the file is there")
}

/// The unit with the built program in place of the installed one, since the verifier looks for it.
fn unit(home: &Home, name: &str) -> PathBuf {
    let program = binary().to_str().expect("the path is text");
    let text = deploy(name).replace("/usr/bin/event-router", program).replace("%h/.local/bin/event-router", program);
    home.write(name, &text)
}

/// `None`, loudly, where this machine has no such command.
fn systemd_analyze(home: &Home, args: &[&str]) -> Option<Ran> {
    // The verifier of user units wants a directory of a session, which a machine of tests need not have.
    match Command::new("systemd-analyze").args(args).env("XDG_RUNTIME_DIR", home.path()).output() {
        Ok(output) => Some(Ran::of(output)),
        Err(error) => {
            println!("SKIPPED: `systemd-analyze` is not there ({error})");
            None
        }
    }
}

#[test]
fn both_units_verify_without_a_word() {
    let home = Home::new("");
    for (name, scope) in [("event-router.service", "--system"), ("event-router-user.service", "--user")] {
        let path = unit(&home, name);
        let Some(ran) = systemd_analyze(&home, &["verify", "--man=no", scope, path.to_str().expect("the path is text")]) else { return };
        // Units of the machine that the verifier looks at on the way are none of ours.
        let about_ours: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("event-router")).collect();
        assert!(about_ours.is_empty(), "{name}: {about_ours:?}");
        if ran.code != Some(0) {
            println!("SKIPPED: `systemd-analyze verify {scope}` cannot run here: {}", ran.stderr);
        }
    }
    // The check above can fail.
    let broken = home.write("event-router-broken.service", &deploy("event-router.service").replace("WatchdogSec=30s", "WatchdogSec=often"));
    let Some(ran) = systemd_analyze(&home, &["verify", "--man=no", "--system", broken.to_str().expect("the path is text")]) else { return };
    assert!(ran.stderr.lines().any(|line| line.contains("event-router")), "{ran:?}");
}

#[test]
fn the_system_unit_is_hardened() {
    let home = Home::new("");
    let path = unit(&home, "event-router.service");
    let Some(ran) = systemd_analyze(&home, &["security", "--offline=yes", "--no-pager", path.to_str().expect("the path is text")]) else { return };
    let Some(line) = ran.stdout.lines().find(|line| line.contains("Overall exposure level")) else {
        println!("SKIPPED: `systemd-analyze security --offline` cannot run here: {}", ran.stderr);
        return;
    };
    let exposure: f64 = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|number| number.parse().ok()).expect("the line has a number");
    assert!(exposure < 2.0, "{line}");
}

/// The other end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    told: Vec<String>,
}

impl Manager {
    fn new(home: &Home) -> Self {
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the socket can be bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        Self { socket, path, told: Vec::new() }
    }

    /// Waits for a message with this line, and returns the whole message.
    fn wait_for(&mut self, line: &str) -> String {
        loop {
            let mut bytes = [0; 4096];
            let length = match self.socket.recv(&mut bytes) {
                Ok(length) => length,
                // A wait that has a limit is not taken up again by itself when this process was stopped for a moment.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("`{line}` was not told ({error}), only {:?}", self.told),
            };
            let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
            self.told.push(message.clone());
            if message.lines().any(|told| told == line) {
                return message;
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_when_the_router_is_ready_lives_and_stops() {
    let home = Home::new(ROUTE);
    let mut manager = Manager::new(&home);
    let mut command = home.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    let mut service = Service::begin(command);

    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=1 route on"), "{ready}");
    // Ready means that the doors answer.
    let _ = healthy(&home, &[]);
    let before = manager.told.len();
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    assert!(manager.told.len() >= before + 3);

    service.signal(rustix::process::Signal::TERM);
    let stopping = manager.wait_for("STOPPING=1");
    assert!(stopping.contains("STATUS="), "{stopping}");
    assert_eq!(service.wait().code(), Some(0));
    assert!(manager.told.iter().filter(|message| message.contains("READY=1")).count() == 1, "{:?}", manager.told);
}

#[test]
fn a_service_manager_is_told_when_a_reload_begins_and_ends_whatever_comes_of_it() {
    let home = Home::new(ROUTE);
    let mut manager = Manager::new(&home);
    let mut command = home.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    let mut service = Service::begin(command);
    manager.wait_for("READY=1");

    // What `Type=notify-reload` does: a signal, and then an answer that is not older than the signal.
    let mut before = 0;
    let mut reload = |manager: &mut Manager, ask: &dyn Fn()| {
        ask();
        let begun = manager.wait_for("RELOADING=1");
        let at: u64 = begun.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse().ok()).expect("the message has its time");
        // A manager takes an answer for its own only if it is younger than the signal.
        assert!(at > before, "{begun}");
        before = at;
        manager.wait_for("READY=1")
    };
    let hangup = || service.signal(rustix::process::Signal::HUP);
    home.configure(&format!("{ROUTE}[[route]]\nname = \"second\"\non = [\"a.b\"]\nhandler = \"log\"\n"));
    let done = reload(&mut manager, &hangup);
    assert!(done.contains("STATUS=2 routes on") && !done.contains("refused"), "{done}");
    home.configure("nonsense");
    let refused = reload(&mut manager, &hangup);
    assert!(refused.contains("STATUS=2 routes on") && refused.contains("the last reload was refused"), "{refused}");
    home.configure(ROUTE);
    let by_command = reload(&mut manager, &|| drop(home.run(&["config", "reload"]).code(0)));
    assert!(by_command.contains("STATUS=1 route on"), "{by_command}");

    service.signal(rustix::process::Signal::TERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(service.wait().code(), Some(0));
}

#[test]
fn a_watchdog_of_another_process_is_left_alone_and_a_dead_manager_stops_nobody() {
    let home = Home::new(ROUTE);
    let mut manager = Manager::new(&home);
    let mut command = home.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "10000").env("WATCHDOG_PID", "1");
    let service = Service::start(command);
    manager.wait_for("READY=1");
    service.signal(rustix::process::Signal::TERM);
    manager.wait_for("STOPPING=1");
    let _ = service.stop_asked();
    assert!(!manager.told.iter().any(|message| message.contains("WATCHDOG=1")), "{:?}", manager.told);

    let mut command = home.command(&["run", "--log-format", "json"]);
    command.env("NOTIFY_SOCKET", home.path().join("nobody"));
    let mut service = Service::start(command);
    service.wait_for("the service manager cannot be told").expect("the log says so");
    service.stop();
}

/// What `health` says of a router that is well. It gives up after two seconds, which a machine that is busy may well be too slow for.
fn healthy(home: &Home, args: &[&str]) -> Ran {
    eventually("the router answers in time", || Some(home.run(&[&["health"], args].concat())).filter(|ran| ran.code == Some(0)))
}

#[test]
fn health_is_one_line_and_an_exit_code() {
    let home = Home::new(ROUTE);
    let ill = home.run(&["health"]).code(1);
    assert!(ill.stdout.starts_with("unhealthy: ") && ill.stdout.lines().count() == 1, "{ill:?}");

    let service = home.serve();
    let well = healthy(&home, &[]);
    assert!(well.stdout.starts_with("healthy: ") && well.stdout.contains("1 route on") && well.stdout.lines().count() == 1, "{well:?}");
    let url = format!("http://{}/healthz", service.address());
    let well = healthy(&home, &["--url", &url]);
    assert!(well.stdout.contains("answers 200"), "{well:?}");
    let json = healthy(&home, &["--json", "--url", &url]).json();
    assert_eq!((&json["healthy"], &json["version"]), (&true.into(), &serde_json::Value::Null), "a door tells nothing more: {json}");
    let json = healthy(&home, &["--json"]).json();
    assert_eq!(
        (&json["schema"], &json["healthy"], &json["routes_on"]),
        (&"event-router.health.v1".into(), &true.into(), &serde_json::json!(["all"])),
        "{json}"
    );
    assert_eq!((&json["version"], &json["routes_paused"]), (&env!("CARGO_PKG_VERSION").into(), &serde_json::json!([])), "{json}");
    let nothing = format!("http://{}/nothing", service.address());
    eventually("the wrong path is said to be one", || home.run(&["health", "--url", &nothing]).code(1).stdout.contains("answers 404").then_some(()));
    service.stop();
    let _ = home.run(&["health", "--url", &url]).code(1);
    let nobody = home.run(&["health", "--json"]).code(1).json();
    assert_eq!((&nobody["healthy"], &nobody["version"]), (&false.into(), &serde_json::Value::Null), "{nobody}");
    let _ = home.run(&["health", "--url", "localhost"]).code(2);
}

#[test]
fn the_image_runs_unprivileged_and_asks_the_program_for_its_health() {
    let file = deploy("Dockerfile");
    let lines: Vec<&str> = file.lines().collect();
    for wanted in ["USER 65532:65532", "STOPSIGNAL SIGTERM", "ENTRYPOINT [\"/usr/bin/event-router\"]", "VOLUME /var/lib/event-router"] {
        assert!(lines.contains(&wanted), "{wanted}");
    }
    let health = lines.iter().find(|line| line.starts_with("HEALTHCHECK")).expect("a health check");
    assert!(health.ends_with("CMD [\"/usr/bin/event-router\", \"health\"]"), "no shell is in the image: {health}");
    let compose = deploy("compose.yaml");
    for wanted in ["read_only: true", "user: \"65532:65532\"", "cap_drop: [ALL]", "stop_grace_period: 45s"] {
        assert!(compose.contains(wanted), "{wanted}");
    }
    // The broker is on loopback only and has no password of ours, and the configuration that is laid over it is there.
    let broker = deploy("compose.rabbitmq.yaml");
    for wanted in ["RABBITMQ_DEFAULT_PASS: \"${RABBIT_PASSWORD:?", "ports: [\"127.0.0.1:5672:5672\"]", "../config/examples/rabbitmq.toml:/etc/event-router/"] {
        assert!(broker.contains(wanted), "{wanted}");
    }
    assert!(workspace().join("config/examples/rabbitmq.toml").exists());
    // What is built from is let through, or the build would not find it.
    let ignored = deploy("Dockerfile.dockerignore");
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).expect("the manifest is there");
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("the workspace has members");
    for member in members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty()) {
        let top = member.split('/').next().unwrap_or_default();
        assert!(ignored.lines().any(|line| line == format!("!{top}")), "`{top}` is kept out of the image's build");
    }
    // The configuration of the image names no store, so that it goes where the volume is.
    assert!(lines.contains(&"ENV STATE_DIRECTORY=/var/lib/event-router"));
    let shipped = fs::read_to_string(workspace().join("config/router.toml")).expect("it is there");
    assert!(!shipped.lines().any(|line| line.starts_with("path = ")), "the shipped configuration names a store");
}

#[test]
fn the_image_can_be_built_where_a_docker_daemon_runs() {
    let daemon = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output().is_ok_and(|output| output.status.success());
    if !daemon || std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_none() {
        println!("SKIPPED: no docker daemon, or not asked for the long tests");
        return;
    }
    let built = Command::new("docker").args(["build", "-q", "-f", "deploy/Dockerfile", "."]).current_dir(workspace()).output().expect("docker runs");
    let _ = Ran::of(built).code(0);
}

#[test]
fn every_documented_command_runs_or_is_marked() {
    let text = fs::read_to_string(workspace().join("docs/operations.md")).expect("the page is there");
    let home = Home::new(ROUTE);
    let service = home.serve();
    let (mut ran, mut marked, mut kind) = (0, 0, None);
    let bin = binary().parent().expect("the program lies in a directory").to_str().expect("the path is text");
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    for line in text.lines() {
        if let Some(begun) = line.strip_prefix("```") {
            kind = if kind.is_none() && begun.starts_with("console") { Some(begun.to_owned()) } else { None };
            continue;
        }
        let (Some(kind), Some(command)) = (&kind, line.strip_prefix("$ ")) else { continue };
        if kind != "console" {
            assert!(["console root", "console docker", "console user manager", "console build"].contains(&kind.as_str()), "{kind}");
            marked += 1;
            continue;
        }
        if command.starts_with("sqlite3 ") && Command::new("sqlite3").arg("--version").output().is_err() {
            println!("SKIPPED: `sqlite3` is not there: {command}");
            continue;
        }
        let command = command.replace("http://127.0.0.1:8682", &format!("http://{}", service.address()));
        let typed = || Ran::of(Command::new("sh").args(["-c", &command]).current_dir(home.path()).env("PATH", &path).output().expect("a shell runs"));
        let done = if command.starts_with("event-router health") {
            eventually("the router answers in time", || Some(typed()).filter(|ran| ran.code == Some(0)))
        } else {
            typed()
        };
        assert_eq!(done.code, Some(0), "{command}: {done:?}");
        ran += 1;
    }
    assert!(ran >= 5 && marked >= 5, "{ran} commands ran, {marked} are marked");
    service.stop();
    // The backup is a store: another router can go on with it.
    let copy = home.path().join("backup.db");
    assert!(copy.exists(), "the page shows a backup to `backup.db`");
    home.write("copy/router.toml", "[store]\npath = \"../backup.db\"\n[http]\nlisten = \"off\"\n");
    let _ = home.run(&["-c", "copy/router.toml", "events", "--json"]).code(0);
}
