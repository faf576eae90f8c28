//! What people see: colours only where they are wanted, and never a control character of an event.

use router_tests::{Home, Service};
use serde_json::json;

use crate::world::{finished, lived_in, posted};

const LOOKING: &[&[&str]] = &[
    &["events"],
    &["explain", "1"],
    &["dead-letters", "list"],
    &["dead-letters", "show", "1"],
    &["plugins"],
    &["plugins", "ci"],
    &["try", "kept", "1"],
    &["config", "show"],
    &["check"],
    &["publish", "--sample", "heartbeat"],
];

#[test]
fn colours_are_there_when_asked_for_and_nowhere_else() {
    let (home, service) = lived_in();
    for args in LOOKING {
        let with = |more: &[&str], variables: &[(&str, &str)]| home.run_with(variables, &[*args, more].concat()).code(0).stdout;
        assert!(!with(&[], &[]).contains('\u{1b}'), "{args:?} colours a pipe");
        assert!(with(&["--color", "always"], &[]).contains("\u{1b}["), "{args:?} has no colours");
        // What a terminal would do, and `NO_COLOR` against it.
        assert!(with(&[], &[("CLICOLOR_FORCE", "1")]).contains("\u{1b}["), "{args:?} has no colours where they are forced");
        assert!(!with(&[], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\u{1b}'), "{args:?} does not respect NO_COLOR");
        assert!(!with(&["--color", "never"], &[("CLICOLOR_FORCE", "1")]).contains('\u{1b}'), "{args:?} colours although it should never");
    }
    service.stop();
}

#[test]
fn errors_are_coloured_like_the_rest() {
    let home = Home::new("[[route]]\nname = \"one\"\non = [\"a\"]\nhandler = \"nope\"\n");
    for args in [&["events"][..], &["plugins", "nope"]] {
        let plain = home.run(args).stderr;
        assert!(!plain.is_empty() && !plain.contains('\u{1b}'), "{plain}");
        let coloured = home.run(&[args, &["--color", "always"]].concat()).stderr;
        assert!(coloured.contains("\u{1b}["), "{coloured}");
    }
    assert!(!home.run(&["check"]).stdout.contains('\u{1b}'));
}

#[test]
fn answers_for_programs_and_json_logs_have_no_colours_even_when_asked_for() {
    let (home, service) = lived_in();
    for args in [&["events", "--json"][..], &["explain", "1", "--json"], &["plugins", "--json"], &["check", "--json"], &["schema"]] {
        let ran = home.run(&[args, &["--color", "always"]].concat()).code(0);
        assert!(!ran.stdout.contains('\u{1b}'), "{args:?}");
    }
    service.stop();
    let service = Service::start(home.command(&["run", "--log-format", "json", "--color", "always"]));
    assert!(!service.stop().join("\n").contains('\u{1b}'));
    let service = Service::start(home.command(&["run", "--log-format", "text"]));
    assert!(!service.stop().join("\n").contains('\u{1b}'));
}

/// Clears the screen, colours, turns text around, ends a line, rings, and hides; the last two are C1 controls in their two bytes.
const HOSTILE: &str = "x\u{1b}[2J\u{1b}[31mred\n✓ kept  handled\r\u{7}\u{8}\u{202e}txet\u{200b}\u{9b}31m\u{9d}0;title\u{7}\u{7f}";

#[test]
fn control_characters_of_events_are_escaped_everywhere() {
    let home = Home::new(
        r##"
[[route]]
name = "kept"
on = ["#"]
when = { tool_name = ["Write"], file_path = [{ suffix = ".py" }] }
handler = "log"
with = { template = "{{ file_path }} of {{ session_id }}" }

[[route]]
name = "poisoned"
on = ["hostile.#"]
handler = "exec"
with = { command = ["sh", "-c", "cat >&2; exit 65"] }

[[route]]
name = "skips"
on = ["hostile.#"]
handler = "exec"
with = { command = ["printf", "%s", "{{ file_path }}"], exit_codes = { skip = [0] , done = [1] } }

[[route]]
name = "ordered"
on = ["hostile.#"]
order_by = "session_id"
handler = "exec"
retry = { attempts_max = 2, first_delay_ms = 1, max_delay_ms = 1 }
with = { command = ["sh", "-c", "exit 7"] }
"##,
    );
    let hostile = |id: &str, tool: &str| {
        json!({
            "event_id": format!("{id}{HOSTILE}"),
            "event_type": format!("hostile.type{HOSTILE}"),
            "timestamp": "2026-03-02T09:14:06.900Z",
            "source": { "host": HOSTILE, "type": "agent", "app": HOSTILE },
            "correlation_ids": [HOSTILE],
            "payload": {
                "session_id": HOSTILE,
                "tool_metadata": { "tool_name": tool, "tool_input": { "file_path": format!("/srv/{HOSTILE}.py") } },
                "working_directory": format!("/srv/{HOSTILE}"),
                "git_branch": HOSTILE,
                "note": HOSTILE,
            },
        })
        .to_string()
    };
    // A key with control characters is none.
    assert_eq!(posted_key(&home, "hostile.%1B%5B2J"), 400);

    let mut service = Service::start(home.command(&["run", "--log-format", "text", "-v"]));
    assert_eq!(posted(service.address(), "/events?key=hostile.\u{202e}key", &hostile("one", "Write")).status, 200);
    assert_eq!(posted(service.address(), "/events?key=hostile.two", &hostile("two", HOSTILE)).status, 200);
    home.write("hostile.json", &hostile("three", HOSTILE));
    finished(&home);
    let commands: &[&[&str]] = &[
        &["events"],
        &["events", "--json"],
        &["explain", "1"],
        &["explain", "2"],
        &["explain", "2", "--json"],
        &["explain", "hostile.json", "--key", "hostile.file"],
        &["dead-letters", "list"],
        &["dead-letters", "show", "1"],
        &["dead-letters", "show", "2"],
        &["try", "kept", "1"],
        &["try", "skips", "1"],
        &["try", "skips", "1", "--live"],
        &["try", "poisoned", "1", "--live"],
        // The names themselves come from whoever types them, perhaps by pasting.
        &["explain", HOSTILE],
        &["dead-letters", "show", HOSTILE],
        &["plugins", HOSTILE],
        &["publish", HOSTILE],
        &["publish", "--sample", HOSTILE],
        &["-c", "x\u{1b}[2J\n\r\u{7}\u{9b}31m", "check"],
    ];
    for args in commands {
        let ran = home.run(args);
        assert_harmless(&format!("{args:?}"), &ran.stdout, args.contains(&"--json"));
        assert_harmless(&format!("{args:?} (error)"), &ran.stderr, false);
        // With colours there are escapes, but not those of the event.
        let coloured = home.run(&[*args, &["--color", "always"]].concat());
        for escape in ["\u{1b}[2J", "\u{202e}", "\u{9b}", "\u{7}"] {
            let found = format!("{}{}", coloured.stdout, coloured.stderr).contains(escape) && !args.contains(&"--json");
            assert!(!found, "{args:?} lets {} through", escape.escape_debug());
        }
    }
    let explained = home.run(&["explain", "1"]).code(0).stdout;
    assert!(explained.contains("\\u{1b}[2J"), "it is shown, escaped:\n{explained}");
    for line in service.log() {
        assert_harmless("the log", &line, false);
        assert!(!line.starts_with("✓ kept"), "a line of the log was begun by an event: {line}");
    }
    service.stop();
}

fn posted_key(home: &Home, key: &str) -> u16 {
    let service = home.serve();
    let status = posted(service.address(), &format!("/events?key={key}"), "{}").status;
    service.stop();
    status
}

/// JSON may carry what is no control character of ASCII; programs read it.
fn assert_harmless(place: &str, text: &str, json: bool) {
    let harmful = |c: &char| (c.is_ascii_control() && *c != '\n') || (!json && (c.is_control() && *c != '\n' || matches!(*c, '\u{200b}' | '\u{202e}')));
    if let Some(c) = text.chars().find(harmful) {
        panic!("{} gets through in {place}:\n{}", c.escape_debug(), text.escape_debug().to_string().replace("\\n", "\n"));
    }
}
