//! `check`: all problems at once, at their places, for people and for programs.

use std::fs;

use router_tests::{Home, workspace};

use crate::{golden::golden, world::ROUTES};

/// The planted errors, in a home of their own so that places are the same everywhere.
fn twelve() -> Home {
    let home = Home::new("");
    let from = workspace().join("tests/fixtures/config/twelve");
    for name in ["router.toml", "routes.d/10-routes.toml", "routes.d/20-broken.toml"] {
        home.write(&format!("config/{name}"), &fs::read_to_string(from.join(name)).expect("the fixture is there"));
    }
    home
}

#[test]
fn a_good_configuration_is_said_to_be_good_with_the_number_of_routes() {
    let home = Home::new(ROUTES);
    let ran = home.run(&["check"]).code(0);
    assert_eq!(ran.stdout, "✓ config/router.toml is valid: 2 routes on, 1 off\n");
    golden(&home, "check-valid", &home.run(&["check", "--json"]).code(0).json());
    assert!(!home.path().join("state").exists(), "checking makes no store");
}

#[test]
fn twelve_planted_errors_come_to_light_in_one_run() {
    let home = twelve();
    let ran = home.run(&["check"]).code(78);
    assert_eq!(ran.stdout.matches("\nerror[").count() + usize::from(ran.stdout.starts_with("error[")), 12, "{}", ran.stdout);
    assert!(ran.stdout.contains("12 errors"), "{}", ran.stdout);
    for part in
        ["--> config/routes.d/10-routes.toml:8:1", "comand = [\"sh\", \"-c\", \"true\"]", "^^^^^^", "did you mean `command`?", "move it above `[route.with]`"]
    {
        assert!(ran.stdout.contains(part), "no `{part}` in\n{}", ran.stdout);
    }
    let answer = home.run(&["check", "--json"]).code(78).json();
    assert_eq!((&answer["schema"], &answer["valid"], &answer["errors"]), (&"event-router.check.v1".into(), &false.into(), &12.into()));
    golden(&home, "check-twelve-errors", &answer);
}

#[test]
fn configurations_are_found_by_option_by_variable_and_in_directories() {
    let home = Home::new(ROUTES);
    home.write("other/router.toml", "[[route]]\nname = \"base\"\non = [\"a\"]\nhandler = \"log\"\n");
    home.write("other/routes.d/more.toml", "[[route]]\nname = \"more\"\non = [\"b\"]\nhandler = \"log\"\n");
    home.write("single.toml", "[[route]]\nname = \"single\"\non = [\"a\"]\nhandler = \"log\"\n");
    assert!(home.run(&["-c", "other", "check"]).code(0).stdout.contains("2 routes on, 0 off"));
    assert!(home.run(&["check", "--config", "single.toml"]).code(0).stdout.contains("1 route on, 0 off"));
    assert!(home.run_with(&[("EVENT_ROUTER_CONFIG", "other")], &["check"]).code(0).stdout.contains("2 routes on"));
    assert!(home.run_with(&[("EVENT_ROUTER_CONFIG", "other")], &["-c", "single.toml", "check"]).code(0).stdout.contains("1 route on"), "the option wins");
    let missing = home.run(&["-c", "nowhere.toml", "check"]).code(78);
    assert!((missing.stdout + &missing.stderr).contains("nowhere.toml"));
}

#[test]
fn a_missing_variable_is_an_error_only_where_the_route_is_enabled() {
    let home = Home::new(
        "[[route]]\nname = \"hook\"\nenabled = ENABLED\non = [\"a\"]\nhandler = \"webhook\"\nwith = { url = \"${HOOK_URL:?the address of the hook}\" }\n",
    );
    let text = home.read("config/router.toml");
    home.write("config/router.toml", &text.replace("ENABLED", "true"));
    let ran = home.run(&["check"]).code(78);
    assert!(ran.stdout.contains("`HOOK_URL` is not set: the address of the hook"), "{}", ran.stdout);
    let _ = home.run_with(&[("HOOK_URL", "https://hooks.example/x")], &["check"]).code(0);
    home.write("config/router.toml", &text.replace("ENABLED", "false"));
    let _ = home.run(&["check"]).code(0);
}

#[test]
fn a_thousand_routes_are_checked_in_well_under_the_time_that_a_person_notices() {
    let route = |n: usize| format!("[[route]]\nname = \"route-{n}\"\non = [\"a.{n}.#\"]\nwhen = {{ tool_name = [\"Write\"] }}\nhandler = \"log\"\n");
    let home = Home::new(&(0..1_000).map(route).collect::<String>());
    let ran = home.run(&["check"]).code(0);
    assert!(ran.stdout.contains("1000 routes on"), "{}", ran.stdout);
}

#[test]
fn the_shipped_configuration_is_valid_in_the_built_program() {
    let home = Home::new("");
    let config = workspace().join("config").display().to_string();
    let ran = home.run(&["-c", &config, "check"]).code(0);
    assert!(ran.stdout.contains("4 routes on, 1 off"), "{}", ran.stdout);
    // Without any configuration the built-in one is that one.
    fs::remove_dir_all(home.path().join("config")).expect("it was made");
    assert!(home.run(&["check"]).code(0).stdout.contains("4 routes on, 1 off"));
}
