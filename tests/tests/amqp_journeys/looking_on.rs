//! `watch` on a bus: through the archive of the router that runs, and without one by a queue of one's own.

use std::process::Command;

use router_tests::Service;

use crate::world::*;

/// A `watch` whose output is read line by line.
pub fn watching(world: &World, args: &[&str]) -> Service {
    let watch = world.command(&[&["watch"], args].concat());
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 1>&2", "sh"]).arg(watch.get_program()).args(watch.get_args()).current_dir(watch.get_current_dir().expect("a home"));
    shell.envs(watch.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut watch = Service::begin(shell);
    watch.wait_for("Ctrl-C ends").expect("it begins to watch");
    watch
}

fn sent(service: &Service, key: &str, id: &str) {
    service.send(key, &serde_json::from_slice(&event(key, id)).expect("an event is JSON"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_is_watched_through_the_router_and_without_one_by_a_queue_that_goes_again() {
    let world = World::new(ROUTES);
    let service = world.serve();
    let mut watch = watching(&world, &["--json"]);
    sent(&service, "kept.one", "through-the-router");
    let line = watch.wait_for("through-the-router").expect("it is shown");
    assert!(line.contains("\"kept\"") && line.contains("\"seq\":"), "{line}");
    watch.signal(rustix::process::Signal::INT);
    assert_eq!(watch.wait().code(), Some(0));

    // Of another configuration, on whose store no router runs.
    let stranger = world.neighbour("[[route]]\nname = \"kept\"\non = [\"kept.#\"]\nhandler = \"log\"\n");
    let mut all = watching(&stranger, &["--json"]);
    let mut some = watching(&stranger, &["kept.*", "--when", "id=by-a-queue-2", "--json"]);
    sent(&service, "other.one", "by-a-queue-1");
    sent(&service, "kept.two", "by-a-queue-2");
    for id in ["by-a-queue-1", "by-a-queue-2"] {
        let line = all.wait_for(id).expect("it is shown");
        assert!(line.contains("\"seq\":null"), "{line}");
    }
    some.wait_for("by-a-queue-2").expect("it is shown");
    assert!(!some.log().iter().any(|line| line.contains("by-a-queue-1")), "{:#?}", some.log());
    for mut watch in [all, some] {
        watch.signal(rustix::process::Signal::TERM);
        assert_eq!(watch.wait().code(), Some(0));
    }
    let _ = service.stop();
}
