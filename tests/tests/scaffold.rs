//! What `new route` makes passes `check`, and `new plugin` overwrites nothing.

use router_tests::Home;

#[test]
fn nothing_is_overwritten_and_names_that_cannot_work_are_refused() {
    let home = Home::new("");
    home.write("taken/notes.txt", "mine");
    let refused = |args: &[&str], why: &str| {
        let ran = home.run(args);
        assert!(ran.code != Some(0) && ran.stderr.contains(why), "{args:?}: {ran:?}");
    };
    refused(&["new", "plugin", "taken"], "not empty");
    refused(&["new", "plugin", "webhook"], "there is a plugin `webhook` already");
    refused(&["new", "plugin", "event"], "choose another name");
    refused(&["new", "plugin", "ends-"], "ends with `-`");
    refused(&["new", "plugin", "Capital"], "no route name");
    refused(&["new", "plugin", "fine", "--router-path", "taken"], "does not hold the router's sources");
    refused(&["new", "route", "r", "--handler", "webhok"], "did you mean `webhook`");
    assert_eq!(home.read("taken/notes.txt"), "mine");
    assert!(!home.path().join("fine").exists(), "what is refused leaves nothing behind");
}

#[test]
fn without_the_routers_sources_a_crate_is_made_and_what_is_missing_is_said() {
    let home = Home::new("");
    let made = home.run(&["new", "plugin", "alone"]).code(0);
    assert!(made.stdout.contains("were not found"), "{}", made.stdout);
    assert!(home.read("alone/Cargo.toml").contains(r#"router-api = { path = "../event-router/router/api" }"#));
}

#[test]
fn a_new_route_for_any_plugin_passes_the_check() {
    let home = Home::new("");
    let listed = home.run(&["plugins", "--json"]).code(0).json();
    let names: Vec<&str> = listed["plugins"].as_array().expect("a list").iter().filter_map(|plugin| plugin["name"].as_str()).collect();
    assert!(names.len() >= 7, "{names:?}");
    for handler in names {
        let route = home.run(&["new", "route", "mine", "--handler", handler, "--on", "a.b.*", "--on", "c.#"]).code(0).stdout;
        assert!(route.contains("on = [\"a.b.*\", \"c.#\"]") && route.contains("mode = \"shadow\""), "{route}");
        home.configure(&route);
        let _ = home.run(&["check"]).code(0);
    }
}

#[test]
fn a_route_is_appended_once_and_leaves_the_file_as_it_was() {
    let home = Home::new("");
    let before = home.read("config/router.toml").trim_end().to_owned();
    home.write("config/router.toml", &before);
    let append = ["new", "route", "mine", "--append", "config/router.toml"];
    let _ = home.run(&append).code(0);
    let after = home.read("config/router.toml");
    assert!(after.starts_with(&format!("{before}\n\n#")), "{after}");
    assert!(home.run(&["check"]).code(0).stdout.contains("1 route on"));
    let again = home.run(&append);
    assert!(again.code == Some(1) && again.stderr.contains("already"), "{again:?}");
    assert_eq!(home.read("config/router.toml"), after);
    let _ = home.run(&["new", "route", "other", "--append", "config/routes.d/new.toml"]).code(0);
    assert!(home.run(&["check"]).code(0).stdout.contains("2 routes on"));
}
