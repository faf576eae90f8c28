//! `schema`: what editors and producers check against, and the files that are generated.

use std::fs;

use router_tests::{Home, workspace};

const GENERATED: [&str; 4] = ["config/router.schema.json", "config/PLUGINS.md", "config/REFERENCE.md", "docs/openapi.json"];

#[test]
fn the_schema_of_the_configuration_is_the_committed_one() {
    let home = Home::new("");
    let printed = home.run(&["schema"]).code(0).json();
    let committed = fs::read_to_string(workspace().join("config/router.schema.json")).expect("it is committed");
    assert_eq!(printed, serde_json::from_str::<serde_json::Value>(&committed).expect("it is JSON"));
}

#[test]
fn the_schemas_of_the_events_describe_every_dialect() {
    let home = Home::new("");
    let schemas = home.run(&["schema", "events"]).code(0).json();
    for name in ["cloudevent", "bloodbank-v2", "bloodbank-command", "bloodbank-v1", "hookd", "flume", "bloodbank-v2-lenient", "opaque"] {
        assert!(schemas["$defs"][name].is_object(), "`{name}` is not described");
    }
    let _ = home.run(&["schema", "events", "--write"]).code(2);
    let _ = home.run(&["schema", "nothing"]).code(2);
}

#[test]
fn generated_files_are_written_once_and_then_up_to_date() {
    let home = Home::new("");
    home.write("copy/config/router.schema.json", "{}");
    let written = home.run(&["schema", "--write", "--dir", "copy"]).code(0).stdout;
    assert_eq!(written.matches(" written").count(), GENERATED.len(), "{written}");
    for name in GENERATED {
        let committed = fs::read_to_string(workspace().join(name)).expect("it is committed");
        assert!(home.read(&format!("copy/{name}")) == committed, "`{name}` is not what the program writes: run `event-router schema --write`");
    }
    let again = home.run(&["schema", "--write", "--dir", "copy"]).code(0).stdout;
    assert_eq!(again.matches("is up to date").count(), GENERATED.len(), "{again}");
}

#[test]
fn a_directory_without_configuration_is_not_written_to() {
    let home = Home::new("");
    home.write("elsewhere/file", "");
    let ran = home.run(&["schema", "--write", "--dir", "elsewhere"]).code(1);
    assert!(ran.stderr.contains("has no `config` directory"), "{}", ran.stderr);
}
