//! A real Dagster: webserver, code location and, where runs are to end, daemon. What the router did is counted in Dagster.

use std::{net::SocketAddr, process::Command, sync::mpsc::RecvTimeoutError, time::Duration};

use router_tests::{Service, post};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    programs::{Running, free_port, get, installed, patiently, said, times_said},
    relay::{Relay, Stop},
    world::{Held, TRANSPORTS, Transport, World, ended, event},
};

const PIPELINES: &str = include_str!("pipelines.py");

struct Dagster {
    home: TempDir,
    port: u16,
    webserver: Option<Running>,
}

impl Dagster {
    fn start() -> Self {
        let home = TempDir::new().expect("a temporary directory");
        std::fs::write(home.path().join("dagster.yaml"), "telemetry:\n  enabled: false\n").expect("written");
        std::fs::write(home.path().join("pipelines.py"), PIPELINES).expect("written");
        let mut dagster = Self { home, port: free_port(), webserver: None };
        dagster.serve();
        dagster
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let path = installed(program);
        let mut command = Command::new(&path);
        command.args(args).current_dir(self.home.path()).env("DAGSTER_HOME", self.home.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        let bin = path.parent().expect("a program lies in a directory").display().to_string();
        command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap_or_default()));
        command
    }

    fn serve(&mut self) {
        let port = self.port.to_string();
        let mut command = self.command("dagster-webserver", &["-h", "127.0.0.1", "-p", &port, "-f", "pipelines.py"]);
        let mut webserver = Running::start(&mut command, self.home.path().join("webserver.log"));
        let address = self.address();
        webserver.until("the webserver answers", || get(address, "/server_info").filter(|answer| answer.status == 200));
        self.webserver = Some(webserver);
    }

    fn daemon(&self) -> Running {
        Running::start(&mut self.command("dagster-daemon", &["run", "-f", "pipelines.py"]), self.home.path().join("daemon.log"))
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn ask(&self, query: &str, variables: &Value) -> Value {
        let body = json!({ "query": query, "variables": variables }).to_string();
        patiently("Dagster answers", || post(self.address(), "/graphql", &body).filter(|answer| answer.status == 200 && answer.is_whole())).json()
    }

    /// Statuses of the runs with this tag.
    fn runs(&self, tag: &str, value: &str) -> Vec<String> {
        let query = "query($f:RunsFilter!){ runsOrError(filter:$f, limit:50){ __typename ... on Runs { results { runId status } } } }";
        let answer = self.ask(query, &json!({ "f": { "tags": [{ "key": tag, "value": value }] } }));
        let runs = answer["data"]["runsOrError"]["results"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        runs.iter().map(|run| run["status"].as_str().expect("a status").to_owned()).collect()
    }

    fn runs_of(&self, session: &str) -> usize {
        self.runs("33god/session_id", session).len()
    }

    /// Writes the code location anew and has it loaded.
    fn reload(&self, code: &str) {
        std::fs::write(self.home.path().join("pipelines.py"), code).expect("written");
        let query = "mutation { reloadRepositoryLocation(repositoryLocationName: \"pipelines.py\") { __typename } }";
        self.ask(query, &json!({}));
    }
}

/// Routes to the Dagster behind `address`.
fn routes(address: SocketAddr) -> String {
    let route = |name: &str, on: &str, more: &str, with: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\non = [\"{on}\"]\nhandler = \"dagster\"\ntimeout_ms = 300_000\n{more}\n[route.with]\nurl = \"http://{address}/graphql\"\ntimeout_ms = 120_000\nlocation = \"pipelines.py\"\n{with}\n"
        )
    };
    let config = "run_config = { ops = { process_session = { config = { session_id = \"{{ session_id }}\", files = \"{{ payload.files_modified }}\" } } } }";
    [
        route("pipeline", "session.thread.end", "coalesce = { by = \"session_id\", quiet_ms = 500, max_wait_ms = 20_000 }", &format!("{config}\nfollow_ms = 3_600_000")),
        route("unknown-job", "unknown.job", "", "job = \"nothing_of_this_name\""),
        route("bad-config", "bad.config", "", "run_config = { ops = { process_session = { config = { session = 1 } } } }"),
        route("asset", "asset.wanted", "", "assets = [\"session_report\"]\nonly_if_changed = false"),
        "[[route]]\nname = \"told\"\non = [\"dagster.run.finished\"]\nconcurrency = 1\nhandler = \"exec\"\nwith = { command = [\"sh\", \"-c\", \"cat >> ../told; echo >> ../told\"] }\n".to_owned(),
    ]
    .concat()
}

fn name(transport: Transport, what: &str) -> String {
    format!("{what}-{}", if transport == Transport::Embedded { "embedded" } else { "rabbitmq" })
}

/// All of it in one test: a Dagster takes a quarter of a minute to begin.
#[test]
#[ignore = "takes real programs: tests/run --real"]
fn a_changed_session_is_one_run_of_a_real_dagster_whatever_happens_on_the_way() {
    let mut dagster = Dagster::start();
    let relay = Relay::new(dagster.address(), "mutation Launch");
    for transport in TRANSPORTS {
        let daemon = dagster.daemon();
        let world = World::new(transport, &routes(relay.address()));
        let mut service = world.serve();

        // A session that ends after each turn is one run, and ending again without a change none.
        let session = name(transport, "turns");
        for turn in 1..=3 {
            service.send("session.thread.end", &ended(&format!("{session}-{turn}"), &session, &["src/app.py"]));
        }
        patiently("the run is there", || (dagster.runs_of(&session) == 1).then_some(()));
        service.send("session.thread.end", &ended(&format!("{session}-4"), &session, &["src/app.py"]));

        // What is wrong for good goes to the dead letters, with the reason.
        let changed = |id: &str, key: &str| event(key, &name(transport, id), &json!({ "session_id": name(transport, id), "files_modified": ["a.py"] }));
        service.send("unknown.job", &changed("unknown", "unknown.job"));
        service.send("bad.config", &changed("bad", "bad.config"));
        service.send("asset.wanted", &changed("asset", "asset.wanted"));
        for (route, reason) in [("unknown-job", "has no job `nothing_of_this_name`"), ("bad-config", "refuses the `run_config`")] {
            let letters = patiently(reason, || Some(world.letters(route)).filter(|letters| !letters.is_empty()));
            assert!(letters.len() == 1 && letters[0].contains(reason), "{letters:?}");
        }
        patiently("the asset's run", || (dagster.runs_of(&name(transport, "asset")) == 1).then_some(()));

        // A run that was followed has ended. Then without the daemon: what is launched waits, and needs no time of this machine.
        let told = patiently("the end of a run", || world.told("told").into_iter().find(|run| run["session_id"] == session.as_str()));
        assert_eq!((&told["status"], &told["succeeded"], &told["job"]), (&json!("SUCCESS"), &json!(true), &json!("post_session_pipeline")), "{told}");
        daemon.kill();

        // A code location that does not load holds the event back until it does.
        dagster.reload("raise RuntimeError('broken by hand')\n");
        let broken = name(transport, "broken");
        service.send("session.thread.end", &ended(&broken, &broken, &["a.py"]));
        said(&mut service, "does not load", 0);
        assert_eq!(dagster.runs_of(&broken), 0);
        dagster.reload(PIPELINES);
        patiently("the run after the repair", || (dagster.runs_of(&broken) == 1).then_some(()));

        // The router is killed at each step of the launch; one run comes of it, for a burst of three.
        let burst = |service: &Service, session: &str| {
            for turn in 1..=3 {
                service.send("session.thread.end", &ended(&format!("{session}-{turn}"), session, &["a.py"]));
            }
        };
        let once = |service: &Service, killed: &str| {
            patiently(&format!("{killed}: the run"), || (dagster.runs_of(killed) >= 1).then_some(()));
            // Another one behind it shows that it is through.
            let behind = format!("{killed}-behind");
            service.send("session.thread.end", &ended(&behind, &behind, &["a.py"]));
            patiently(&format!("{behind}: its end"), || world.is_done("pipeline", &behind).then_some(()));
            assert_eq!(dagster.runs_of(killed), 1, "{killed}");
        };
        // On the way to Dagster and back: between intent and effect, between effect and result, about the result.
        for stop in [Stop::Before, Stop::After, Stop::Answered] {
            let killed = name(transport, &format!("killed-{stop:?}"));
            let stopped = relay.stop(stop);
            burst(&service, &killed);
            match stopped.recv_timeout(Duration::from_secs(900)) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("{killed}: no launch came by:\n{}", service.log().join("\n")),
            }
            drop(service.kill());
            service = world.serve();
            once(&service, &killed);
        }
        // In the store: before the intent, before the result is stored, between the result and the end.
        let steps: [(&[Held], _, _); 4] = [
            (&[Held::Intents], "was not begun", 0),
            (&[Held::Results, Held::States], "is not in the ledger", 1),
            (&[Held::States], "the test holds it", 1),
            (&[Held::Ends], "the test holds it", 1),
        ];
        for (held, sentence, runs) in steps.into_iter().filter(|(held, ..)| *held != [Held::Ends] || transport == Transport::Embedded) {
            let killed = name(transport, &format!("held-{:?}", held[0]));
            let before = times_said(&mut service, sentence);
            world.hold(held);
            burst(&service, &killed);
            said(&mut service, sentence, before);
            patiently(&format!("{killed}: the step"), || (dagster.runs_of(&killed) == runs).then_some(()));
            assert!(!world.is_done("pipeline", &format!("{killed}-3")), "{killed}: it is not at its end");
            drop(service.kill());
            world.free(held);
            service = world.serve();
            once(&service, &killed);
        }
        assert_eq!(world.letters("pipeline"), Vec::<String>::new());

        assert_eq!(dagster.runs_of(&session), 1, "the fourth end changed nothing");
        service.stop();
    }

    // The server is killed, and comes back: last, since it takes so long.
    let worlds: Vec<(World, _, String)> = TRANSPORTS
        .into_iter()
        .map(|transport| {
            let world = World::new(transport, &routes(dagster.address()));
            let service = world.serve();
            (world, service, name(transport, "down"))
        })
        .collect();
    dagster.webserver.take().expect("it runs").kill();
    for (_, service, down) in &worlds {
        service.send("session.thread.end", &ended(down, down, &["a.py"]));
    }
    let mut worlds = worlds;
    for (_, service, _) in &mut worlds {
        said(service, "could not be reached", 0);
    }
    dagster.serve();
    for (world, service, down) in worlds {
        patiently("the run after the server came back", || (dagster.runs_of(&down) == 1).then_some(()));
        service.stop();
        assert_eq!((dagster.runs_of(&down), world.letters("pipeline").len()), (1, 0));
    }
}
