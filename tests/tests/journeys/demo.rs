//! `demo`: a newcomer's first minute.

use std::fs;

use router_tests::Home;

#[test]
fn the_demo_runs_in_an_empty_directory_shows_one_run_for_seven_writes_and_leaves_nothing() {
    let home = Home::new("");
    home.write("empty/.keep", "");
    let empty = home.path().join("empty");
    fs::remove_file(empty.join(".keep")).expect("it was made");
    let ran = router_tests::Ran::of(home.command(&["demo", "--speed", "50"]).current_dir(&empty).output().expect("the program runs")).code(0);
    for part in [
        "would run: pytest -q  (7 writes, 1 run)",
        "`tool_name` is \"Read\", wanted is one of \"Write\", \"Edit\", \"MultiEdit\"",
        "`file_path` is \"/home/ada/shop/README.md\", wanted is suffix \".py\"",
        "no route wants it",
        "would send: POST http://127.0.0.1:3000/graphql",
        "17 events, 2 that no route wanted, 1 secret taken out",
    ] {
        assert!(ran.stdout.contains(part), "no `{part}` in\n{}", ran.stdout);
    }
    assert_eq!(ran.stdout.matches("would run: pytest").count(), 2, "once when it happens, once in the summary:\n{}", ran.stdout);
    assert!(!ran.stdout.contains("correct-horse"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
    assert_eq!(fs::read_dir(&empty).expect("it is there").count(), 0, "nothing is left behind");
}

#[test]
fn the_demo_does_not_care_for_a_configuration_that_lies_around_unless_it_is_named() {
    let home = Home::new("this is no TOML");
    let ran = home.run(&["demo", "--speed", "50"]).code(0);
    assert!(ran.stdout.contains("(7 writes, 1 run)"), "{}", ran.stdout);
    assert!(!home.path().join("state").exists());
}

#[test]
fn a_speed_that_makes_no_sense_is_wrong_usage() {
    let home = Home::new("");
    for speed in ["0", "51", "fast"] {
        let ran = home.run(&["demo", "--speed", speed]).code(2);
        assert!(ran.stderr.contains("--speed"), "{}", ran.stderr);
    }
}

#[test]
fn the_crash_demo_kills_a_router_twenty_times_shows_that_the_numbers_agree_and_leaves_nothing() {
    let home = Home::new("");
    home.write("tmp/.keep", "");
    let ran = router_tests::Ran::of(home.command(&["demo", "--crash"]).env("TMPDIR", home.path().join("tmp")).output().expect("the program runs")).code(0);
    let row = |name: &str| {
        let line = ran.stdout.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("no `{name}` in\n{}", ran.stdout));
        assert!(line.contains("holds") && !line.contains("does not"), "{line}");
        line.split(name).nth(1).unwrap_or_default().split_whitespace().filter_map(|word| word.parse::<u64>().ok()).collect::<Vec<_>>()
    };
    for row in [row("after 20 kills"), row("left alone for a moment")] {
        let [accepted, handled, dead, waiting] = row[..] else { panic!("{row:?}") };
        assert_eq!(accepted, handled + dead + waiting);
        assert!(accepted >= 200, "each life has its share: {row:?}");
    }
    assert!(ran.stdout.contains("none are missing"), "{}", ran.stdout);
    assert_eq!(row("left alone for a moment")[3], 0, "in the end nothing waits");
    let left: Vec<_> = fs::read_dir(home.path().join("tmp")).expect("it is there").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, [".keep"], "nothing is left behind");
}
