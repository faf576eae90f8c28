//! A real Buildbot, master and worker. What the router did is counted in its database, through its API.

use std::{net::SocketAddr, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    programs::{Running, free_port, get, installed, patiently},
    world::{TRANSPORTS, World, written},
};

struct Buildbot {
    _home: TempDir,
    port: u16,
    _master: Running,
}

impl Buildbot {
    fn start() -> Self {
        let home = TempDir::new().expect("a temporary directory");
        let port = free_port();
        let made = Command::new(installed("buildbot")).args(["create-master", "--quiet"]).arg(home.path()).output().expect("buildbot runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let config = include_str!("master.cfg").replace("@PORT@", &port.to_string());
        std::fs::write(home.path().join("master.cfg"), config).expect("written");
        std::fs::write(home.path().join("changehook.passwd"), "router:s3cret\n").expect("written");
        let mut command = Command::new(installed("buildbot"));
        command.args(["start", "--nodaemon"]).arg(home.path()).current_dir(home.path());
        let mut master = Running::start(&mut command, home.path().join("master.log"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let is_ready = || {
            get(address, "/api/v2/builders")
                .filter(|answer| answer.status == 200 && answer.json()["builders"].as_array().is_some_and(|builders| !builders.is_empty()))
        };
        master.until("the master answers", is_ready);
        Self { _home: home, port, _master: master }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn list(&self, what: &str) -> Vec<Value> {
        let path = format!("/api/v2/{what}");
        let answer = patiently("Buildbot answers", || get(self.address(), &path).filter(|answer| answer.status == 200)).json();
        let name = what.split(['?', '/']).next().unwrap_or_default();
        answer[name].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    }

    /// Builds that ended well.
    fn green(&self) -> usize {
        self.list("builds").iter().filter(|build| build["results"] == 0).count()
    }
}

fn routes(address: SocketAddr) -> String {
    let route = |name: &str, on: &str, with: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\non = [\"{on}\"]\ncoalesce = {{ by = \"working_directory\", quiet_ms = 6_000, max_wait_ms = 60_000 }}\nhandler = \"ci\"\n[route.with]\nprovider = \"buildbot\"\ntrigger = \"writes\"\n[route.with.buildbot]\nurl = \"http://{address}\"\n{with}\n"
        )
    };
    [
        route("force", "force.write", "scheduler = \"force\"\nbuilders = [\"pytest\"]"),
        route("change", "change.write", "change_hook = \"base\"\nproject = \"shop\"\nuser = \"router\"\npassword = \"s3cret\""),
        route("no-scheduler", "lost.write", "scheduler = \"nobody\""),
        route("no-builder", "lost.write", "scheduler = \"force\"\nbuilders = [\"nobody\"]"),
        route("no-password", "lost.write", "change_hook = \"base\"\nuser = \"router\"\npassword = \"wrong\""),
    ]
    .concat()
}

#[test]
#[ignore = "takes real programs: tests/run --real"]
fn a_burst_of_writes_is_one_build_of_a_real_buildbot() {
    let buildbot = Buildbot::start();
    let mut expected = 0;
    for transport in TRANSPORTS {
        let world = World::new(transport, &routes(buildbot.address()));
        let service = world.serve();
        for key in ["force.write", "change.write", "lost.write"] {
            for n in 0..6 {
                service.send(key, &written(&format!("{transport:?}-{key}-{n}"), "/srv/nowhere/app", &format!("/srv/nowhere/app/m{n}.py")));
            }
        }
        expected += 2;
        patiently("the builds", || (buildbot.green() == expected).then_some(()));
        for (route, reason) in [("no-scheduler", "has no force scheduler"), ("no-builder", "has no builder"), ("no-password", "answered 401")] {
            let letters = patiently(reason, || Some(world.letters(route)).filter(|letters| !letters.is_empty()));
            assert!(letters.len() == 6 && letters.iter().all(|letter| letter.contains(reason)), "{letters:?}");
        }
        service.stop();
        assert_eq!((buildbot.list("builds").len(), buildbot.list("changes").len()), (expected, expected / 2), "one for each burst");
    }
    let change = &buildbot.list("changes")[0];
    assert_eq!(change["files"].as_array().map(Vec::len), Some(6), "{change}");
    let forced = buildbot.list("buildsets").iter().filter(|set| set["reason"].as_str().is_some_and(|reason| reason.contains("6 written files"))).count();
    assert_eq!(forced, expected / 2);
}
