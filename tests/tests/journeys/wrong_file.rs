//! A configuration file that is wrong while a router runs: the router goes on with the one before, and commands ask it.

use router_tests::{Answer, Home, Service, eventually, request};

use crate::world::{ROUTES, finished, lived_in, poison, write};

fn get(service: &Service, path: &str) -> Answer {
    let asked = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", service.address());
    request(service.address(), asked.as_bytes()).expect("the door answers")
}

/// Wrong in one place, and otherwise the same.
fn misspelt() -> String {
    ROUTES.replace("handler = \"log\"", "handlr = \"log\"")
}

/// No TOML at all.
fn cut_off() -> String {
    format!("{ROUTES}\n[[route]\nname = \"half\n")
}

#[test]
fn a_reload_is_refused_by_the_running_router_which_knows_of_it_then() {
    let home = Home::new(ROUTES);
    let mut service = home.serve();
    for (text, place, problem) in [(misspelt(), "config/router.toml:25:1", "handlr"), (cut_off(), "config/router.toml:2", "not valid TOML")] {
        home.configure(&text);
        let refused = home.run(&["config", "reload"]).code(78);
        for part in [place, problem, "the running router refuses it, and goes on with "] {
            assert!(refused.stderr.contains(part), "no `{part}` in\n{}", refused.stderr);
        }
        let line = service.wait_for("the old one stays in force").expect("the log says so");
        assert!(line.contains(place), "{line}");
    }
    let json = home.run(&["config", "reload", "--json"]).code(78).json();
    assert_eq!(json["schema"], "event-router.error.v1");
    let ready = get(&service, "/readyz");
    assert_eq!(ready.status, 200, "the router is as ready as before: {ready:?}");
    assert!(ready.body.contains("\"outcome\":\"refused\"") && ready.body.contains("not valid TOML"), "{}", ready.body);
    let metrics = get(&service, "/metrics").body;
    let refused = metrics.lines().find(|line| line.contains("reload") && line.contains("refused") && !line.starts_with('#')).expect("a line");
    assert!(refused.ends_with(" 3"), "{refused}");

    service.stop();
    let alone = home.run(&["config", "reload"]).code(78);
    assert!(alone.stderr.contains("not valid TOML") && alone.stderr.contains("no router runs on the store"), "{}", alone.stderr);
}

#[test]
fn a_variable_that_only_the_service_has_is_no_reason_to_refuse_a_reload() {
    let with_variable = ROUTES.replace("\"../seen\"", "\"${ONLY_OF_THE_SERVICE}\"");
    let home = Home::new(&with_variable);
    let mut command = home.command(&["run", "--log-format", "json"]);
    command.env("ONLY_OF_THE_SERVICE", "../seen");
    let service = Service::start(command);
    home.configure(&format!("{with_variable}\n[[route]]\nname = \"second\"\non = [\"other.#\"]\nhandler = \"log\"\n"));
    let told = home.run(&["config", "reload"]).code(0).stdout;
    assert!(told.contains("started: second"), "{told}");
    let routes = home.run(&["routes", "--json"]).code(0);
    assert!(routes.stderr.contains("has 1 problem (`event-router check`)"), "{}", routes.stderr);
    assert_eq!(routes.json()["status"]["routes"][3]["name"], "second");
    service.stop();
}

#[test]
fn commands_ask_the_running_router_and_say_once_that_the_file_is_wrong() {
    let (home, service) = lived_in();
    home.write("event.json", &write(7, "/home/ada/shop/rules.py").to_string());
    for (text, count) in [(misspelt(), "1 problem "), (cut_off(), " problem")] {
        home.configure(&text);
        for (args, expected) in [
            (&["routes"][..], "kept"),
            (&["routes", "list", "--json"], "\"event-router.status.v1\""),
            (&["events"], "✗ poisoned  given up on (rejected)"),
            (&["events", "--json"], "\"event-router.events.v1\""),
            (&["dead-letters", "list"], "poisoned"),
            (&["dead-letters", "list", "--route", "kept"], "no dead letters"),
            (&["dead-letters", "show", "1"], "this is bad data"),
            (&["dead-letters", "redrive", "--all", "--dry-run"], "1 letter would go back"),
            (&["routes", "pause", "kept"], "finishes what runs"),
            (&["routes", "resume", "kept"], "goes on"),
            (&["publish", "event.json", "--key", "other.key"], "is stored as number"),
        ] {
            let ran = home.run(args).code(0);
            assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {}", ran.stderr);
            let parts =
                ["warning: the configuration `config/router.toml` has ", count, "(`event-router check`); asking the running router, which goes on with"];
            assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{args:?}: {}", ran.stderr);
            assert!(ran.stdout.contains(expected), "{args:?}: {}", ran.stdout);
        }
        // It gives up soon, which a machine that is busy may well be too slow for.
        let healthy = eventually("the router says that it is well", || Some(home.run(&["health"])).filter(|ran| ran.code == Some(0)));
        assert!(healthy.stdout.starts_with("healthy: event-router ") && healthy.stderr.is_empty(), "{healthy:?}");
        let unknown = home.run(&["dead-letters", "list", "--route", "nobody"]).code(1);
        assert!(unknown.stderr.contains("there is no route `nobody`") && unknown.stderr.contains("`kept`, `poisoned`, `off`"), "{}", unknown.stderr);
        // What needs the configuration itself says what is wrong with it.
        for args in [&["check"][..], &["config", "show"], &["try", "kept", "event.json"], &["routes", "--format", "registry"]] {
            let ran = home.run(args).code(78);
            assert!((ran.stdout + &ran.stderr).contains("config/router.toml:2"), "{args:?}");
        }
    }
    // The router takes what it always took.
    service.send("poison.pill", &poison(2));
    eventually("it is given up on", || (home.run(&["dead-letters", "list", "--json"]).code(0).json()["letters"] == 2).then_some(()));
    home.configure(ROUTES);
    finished(&home);
    service.stop();
    home.configure(&misspelt());
    let alone = home.run(&["routes"]).code(78);
    assert!(alone.stderr.contains("handlr") && !alone.stderr.contains("asking the running router"), "{}", alone.stderr);
}

#[test]
fn another_routers_store_is_never_taken_for_the_one_that_a_broken_file_may_have_named() {
    let (home, service) = lived_in();
    // Where the file says no store it is `state/router.db`, which is where a router runs; but this file may have said another one.
    for store in
        ["[store]\npath = ../elsewhere/router.db\n", "[store]\npath = 7\n", "[stor]\npath = \"../elsewhere/router.db\"\n", "[store]\npath = \"${NOT_SET}\"\n"]
    {
        home.write("config/router.toml", &format!("{store}\n[http]\nlisten = \"off\"\n{ROUTES}"));
        let ran = home.run(&["routes", "pause", "kept"]).code(78);
        assert!(!ran.stderr.contains("asking the running router"), "{store}: {}", ran.stderr);
    }
    home.configure(ROUTES);
    assert_eq!(home.run(&["routes", "--json"]).code(0).json()["status"]["routes"][0]["state"], "running");
    service.stop();
}
