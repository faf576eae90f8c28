//! Commands that look on give the same answer whether a router runs, which they ask through its socket, or not.

use crate::world::lived_in;

#[test]
fn every_command_that_looks_on_gives_the_same_answer_with_and_without_a_running_router() {
    let (home, mut service) = lived_in();
    let id = "0b8f1c52-5c1e-4a55-9e0a-000000000001";
    let commands: &[&[&str]] = &[
        &["events"],
        &["events", "--json"],
        &["events", "--unmatched", "--json"],
        &["events", "--key", "poison.#", "--json"],
        &["explain", "1"],
        &["explain", "2", "--json"],
        &["explain", id, "--json"],
        &["explain", "3"],
        &["dead-letters", "list"],
        &["dead-letters", "list", "--json"],
        &["dead-letters", "list", "--route", "kept", "--json"],
        &["dead-letters", "show", "1"],
        &["dead-letters", "show", "1", "--json"],
        &["config", "show", "--json"],
        &["check", "--json"],
        // What does not exist is missed in the same words.
        &["explain", "4711"],
        &["explain", "no-such-id"],
        &["dead-letters", "show", "4711"],
        &["dead-letters", "show", "no-number"],
    ];
    let all = || -> Vec<_> { commands.iter().map(|args| home.run(args)).collect() };
    // A time is shown with its day only once the day is over.
    let today = || jiff::Zoned::now().date();
    let (asked, alone) = loop {
        let begun = today();
        let asked = all();
        service.stop();
        let alone = all();
        if today() == begun {
            break (asked, alone);
        }
        service = home.serve();
    };
    for ((args, asked), alone) in commands.iter().zip(asked).zip(alone) {
        assert_eq!((asked.code, &asked.stdout, &asked.stderr), (alone.code, &alone.stdout, &alone.stderr), "{args:?}");
    }
}
