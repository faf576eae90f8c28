//! `plugins`: what is linked, and the reference of one.

use router_tests::Home;

use crate::golden::golden;

const SHIPPED: [&str; 7] = ["ci", "dagster", "exec", "flume", "imi", "log", "webhook"];

#[test]
fn every_shipped_plugin_is_listed_with_a_sentence() {
    let home = Home::new("");
    let ran = home.run(&["plugins"]).code(0);
    for name in SHIPPED {
        let line = ran.stdout.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("no `{name}` in\n{}", ran.stdout));
        assert!(line.trim_end().ends_with(['.', '`']) && line.len() > name.len() + 20, "{line}");
    }
    let answer = home.run(&["plugins", "--json"]).code(0).json();
    let names: Vec<&str> = answer["plugins"].as_array().expect("a list").iter().filter_map(|plugin| plugin["name"].as_str()).collect();
    assert_eq!(names, SHIPPED);
    golden(&home, "plugins", &answer);
}

#[test]
fn the_reference_of_each_plugin_names_every_option_of_its_schema() {
    let home = Home::new("");
    for name in SHIPPED {
        let text = home.run(&["plugins", name]).code(0).stdout;
        let answer = home.run(&["plugins", name, "--json"]).code(0).json();
        assert_eq!((&answer["schema"], &answer["name"]), (&"event-router.plugin.v1".into(), &name.into()));
        for option in answer["with"]["properties"].as_object().into_iter().flatten().map(|(option, _)| option) {
            assert!(text.lines().any(|line| line.trim_start().starts_with(&format!("{option}  "))), "`{name}` does not tell of `{option}`:\n{text}");
        }
    }
    // Its schema is compared elsewhere, and texts may change.
    let mut answer = home.run(&["plugins", "log", "--json"]).code(0).json();
    answer["with"] = "<schema>".into();
    golden(&home, "plugin", &answer);
}

#[test]
fn a_plugin_that_is_not_linked_is_an_error_with_the_nearest_name_and_the_list() {
    let home = Home::new("");
    let ran = home.run(&["plugins", "webhok"]).code(1);
    for part in ["no plugin `webhok`", "did you mean `webhook`?", "`ci`", "`log`"] {
        assert!(ran.stderr.contains(part), "no `{part}` in {}", ran.stderr);
    }
    assert!(!home.run(&["plugins", "kubernetes"]).code(1).stderr.contains("did you mean"), "nothing is near");
}
