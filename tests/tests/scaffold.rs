//! What `new route` makes passes `check`; what `new plugin` makes compiles, passes its own tests, and overwrites nothing.

use std::{fs, process::Command};

use router_tests::{Home, target_dir, workspace};

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
    refused(&["new", "plugin", "Capital"], "no name of a plugin");
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

#[test]
fn a_new_plugin_compiles_and_passes_its_own_tests() {
    let home = Home::new("");
    let router = workspace().to_str().expect("the path is text");
    let _ = home.run(&["new", "plugin", "say-hello", "--path", "say-hello", "--router-path", router]).code(0);
    // The workspace's profile, which saves compiling every dependency again; nothing else of the crate is touched.
    let manifest = home.read("say-hello/Cargo.toml");
    let root = fs::read_to_string(workspace().join("Cargo.toml")).expect("the workspace has a manifest");
    let profile = root.split("[profile.dev]").nth(1).and_then(|rest| rest.split("[profile.release]").next()).expect("the workspace has a profile");
    let path = home.write("say-hello/Cargo.toml", &format!("{manifest}\n[profile.dev]{profile}"));
    let tested = Command::new(env!("CARGO"))
        .args(["test", "--offline"])
        .current_dir(path.parent().expect("a file lies in a directory"))
        .env("CARGO_TARGET_DIR", target_dir().parent().expect("target/<profile>"))
        .output()
        .expect("cargo runs");
    let printed = String::from_utf8_lossy(&tested.stdout).into_owned() + &String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{printed}");
    assert!(printed.contains("test it_works_on_a_route ... ok"), "{printed}");
}
