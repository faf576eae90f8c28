//! A disk that is full, and one that fails, under the built program: what is taken in stops, what was taken in goes on or waits, and both
//! go on by themselves when they can.
//!
//! The full disk is a small file system in memory, which takes the superuser to mount; where that may not be, the test says so aloud. The
//! failing disk is a limit on the size of files, which makes writes fail with an error that is not "no room", and a sync that is made to
//! fail by a failpoint: nothing that may be used here lets a real `fsync` fail.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use router_tests::{Home, Service, eventually, post, untested};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

/// One at a time, in order. A handling says that it runs, and waits until the gate is open.
const ROUTE: &str = r#"
[[route]]
name = "work"
on = ["work.#"]
order_by = "session_id"
concurrency = 1
handler = "exec"
retry = { attempts_max = 1000, first_delay_ms = 1, max_delay_ms = 50 }
with = { command = ["sh", "gate.sh", "{{ payload.seq }}"], cwd = "HOME" }
"#;

fn home() -> Home {
    let home = Home::new(ROUTE);
    let text = home.read("config/router.toml").replace("HOME", &home.path().display().to_string());
    home.write("config/router.toml", &text);
    home.write("gate.sh", "echo \"$1\" >> begun.log\nwhile [ ! -e gate ]; do sleep 0.02; done\necho \"$1\" >> handled.log\n");
    home
}

fn send(service: &Service, number: u32) -> u16 {
    send_with(service, number, 500)
}

/// With a text of so many bytes.
fn send_with(service: &Service, number: u32, bytes: usize) -> u16 {
    let event = json!({
        "event_id": format!("00000000-0000-4000-8000-{number:012}"),
        "event_type": "work.event",
        "payload": { "session_id": "s", "seq": number, "text": "x".repeat(bytes) },
    });
    post(service.address(), "/events?key=work.event", &event.to_string()).expect("the door answers").status
}

fn lines(home: &Home, log: &str) -> Vec<u32> {
    home.read(log).lines().filter_map(|line| line.parse().ok()).collect()
}

fn count(home: &Home, sql: &str) -> i64 {
    let store = rusqlite::Connection::open_with_flags(home.store(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
    store.busy_timeout(Duration::from_secs(60)).expect("it is a number");
    store.query_row(sql, [], |row| row.get(0)).expect("the query fits the schema")
}

/// A file system of its own for the store. Unmounted when dropped.
struct SmallDisk {
    at: PathBuf,
}

const DISK_MIB: usize = 72;

impl SmallDisk {
    /// `None`, loudly, where it may not be mounted.
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).expect("the directory can be made");
        let options = format!("size={DISK_MIB}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        if mounted.as_ref().is_ok_and(|ran| ran.status.success()) {
            return Some(Self { at: at.to_owned() });
        }
        untested("a full disk under the built program, since no file system may be mounted here (it takes the superuser)");
        None
    }

    /// Fills it until only `left` bytes are free.
    fn fill(&self, left: u64) {
        let mut ballast = fs::OpenOptions::new().create(true).append(true).open(self.at.join("ballast")).expect("a file can be made");
        let free = || {
            let answer = rustix::fs::statvfs(&self.at).expect("it says how full it is");
            answer.f_bavail * answer.f_frsize
        };
        while free() > left {
            let more = usize::try_from((free() - left).min(1 << 20)).expect("it is a mebibyte at most");
            if ballast.write_all(&vec![0; more]).is_err() {
                break;
            }
        }
    }

    fn free(&self) {
        fs::remove_file(self.at.join("ballast")).expect("the ballast is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn a_full_disk_stops_what_comes_in_then_what_begins_and_both_go_on_when_there_is_room() {
    let home = home();
    let Some(disk) = SmallDisk::mount(&home.path().join("state")) else { return };
    let gate = home.path().join("gate");
    let mut service = home.serve();
    for number in 1..=10 {
        assert_eq!(send(&service, number), 200);
    }
    eventually("the first one runs", || (lines(&home, "begun.log").len() == 1).then_some(()));

    // Less than the reserve of 64 MiB: nothing more is taken in, and what is there is handled from the reserve.
    disk.fill(32 << 20);
    eventually("what comes is refused", || (send(&service, 1_000) == 507).then_some(()));
    fs::write(&gate, "").expect("the gate can be opened");
    eventually("what was there is handled", || (lines(&home, "handled.log").len() >= 10).then_some(()));
    eventually("and recorded", || (count(&home, "SELECT count(*) FROM deliveries WHERE state < 2") == 0).then_some(()));

    disk.free();
    fs::remove_file(&gate).expect("it is open");
    // What was refused may have been taken in between two looks at the disk: it is number 1,000 again and again.
    let before = lines(&home, "begun.log").len();
    eventually("events come in again", || (send(&service, 11) == 200).then_some(()));
    for number in 12..=20 {
        assert_eq!(send(&service, number), 200);
    }
    eventually("the next one runs", || (lines(&home, "begun.log").len() > before).then_some(()));

    // The end of the reserve: the one that runs ends and is recorded, and no other one begins.
    disk.fill(2 << 20);
    let begun = lines(&home, "begun.log");
    fs::write(&gate, "").expect("the gate can be opened");
    service.wait_for("no attempt begins").expect("the router says why it waits");
    assert_eq!(lines(&home, "begun.log"), begun, "nothing began whose fate could not be recorded");
    // And then nothing at all is left.
    disk.fill(0);
    eventually("what comes is refused", || (send(&service, 1_000) == 507).then_some(()));
    disk.free();
    eventually("the rest is handled", || ((11..=20).all(|number| lines(&home, "handled.log").contains(&number))).then_some(()));
    eventually("and recorded", || (count(&home, "SELECT count(*) FROM deliveries WHERE state < 2") == 0).then_some(()));
    eventually("events come in again", || (send(&service, 21) == 200).then_some(()));
    eventually("and are handled", || lines(&home, "handled.log").contains(&21).then_some(()));
    service.stop();
    let mut handled = lines(&home, "handled.log");
    handled.retain(|number| *number != 1_000);
    assert_eq!(handled, (1..=21).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(count(&home, "SELECT count(*) FROM dead_letters"), 0);
}

#[test]
fn a_disk_that_fails_is_answered_with_503_and_taken_up_again_when_it_works() {
    let home = home();
    fs::write(home.path().join("gate"), "").expect("the gate can be opened");
    // The signal that comes with such a write is ignored, so the write itself fails. Files may have 2 MiB, in blocks of 512 bytes.
    let mut command = Command::new("sh");
    let program = home.command(&["run", "--log-format", "json"]);
    command.args(["-c", "trap '' XFSZ; ulimit -S -f 4096; exec \"$0\" run --log-format json"]).arg(program.get_program()).current_dir(home.path());
    command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut service = Service::start(command);
    let pid = i32::try_from(service.pid()).ok().and_then(Pid::from_raw).expect("a child has a pid");

    let mut accepted = Vec::new();
    let refused = (1..1_000).find(|number| match send_with(&service, *number, 30_000) {
        200 => {
            accepted.push(*number);
            false
        }
        status => {
            assert_eq!(status, 503, "it may be tried again");
            true
        }
    });
    let refused = refused.expect("the limit is reached");
    service.wait_for("is opened anew").expect("the router says what it does");
    assert_eq!(send(&service, refused), 503, "still");

    // To what this process may have, which is what the child began with.
    let maximum = getrlimit(Resource::Fsize).maximum;
    let old = prlimit(Some(pid), Resource::Fsize, Rlimit { current: maximum, maximum });
    assert!(old.is_ok(), "the limit of a child can be lifted: {old:?}");
    eventually("events come in again", || (send(&service, refused) == 200).then_some(()));
    accepted.push(refused);
    eventually("all that was accepted is handled", || accepted.iter().all(|number| lines(&home, "handled.log").contains(number)).then_some(()));
    eventually("and recorded", || (count(&home, "SELECT count(*) FROM deliveries WHERE state < 2") == 0).then_some(()));
    service.stop();
    assert_eq!(count(&home, "SELECT count(*) FROM dead_letters"), 0);
}

#[test]
fn a_sync_that_fails_costs_no_accepted_event() {
    let home = home();
    fs::write(home.path().join("gate"), "").expect("the gate can be opened");
    let mut command = home.command(&["run", "--log-format", "json"]);
    // Three commits in a row, wherever they come among intents, results and settlements.
    command.env("EVENT_ROUTER_FAILPOINT", "group.applied:30-32:error");
    let mut service = Service::start(command);
    for number in 1..=40 {
        eventually("it is accepted", || match send(&service, number) {
            200 => Some(()),
            status => {
                assert_eq!(status, 503);
                None
            }
        });
    }
    service.wait_for("works again").expect("the router says so");
    eventually("all is handled", || (1..=40).all(|number| lines(&home, "handled.log").contains(&number)).then_some(()));
    eventually("and recorded", || (count(&home, "SELECT count(*) FROM deliveries WHERE state < 2") == 0).then_some(()));
    service.stop();
    assert_eq!(lines(&home, "handled.log"), (1..=40).collect::<Vec<_>>(), "each once, in order: nothing died");
    assert_eq!(count(&home, "SELECT count(*) FROM dead_letters"), 0);
}
