//! `sessions`: imported from transcripts and made of events, listed, shown and added up, with a router and without one.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use router_tests::{Home, Service, eventually};
use serde_json::{Value, json};

use crate::golden::golden;

/// One route that would hear of everything.
const ALL: &str = r##"
[[route]]
name = "all"
on = ["#"]
handler = "exec"
with = { command = ["tee", "-a", "../seen"] }
"##;

const SESSION: &str = "0e6f2c1a-9d0b-4b52-8a63-2f1f6f3a9c11";
const SUBAGENT_OF: &str = "0e6f2c1a-9d0b-4b52-8a63-2f1f6f3a9c11/subagents/agent-1";

/// The same moment for as long as the tests run, so that what is to have been on one day was.
fn ago(hours: i64) -> Timestamp {
    static NOW: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);
    *NOW - SignedDuration::from_hours(hours)
}

fn line(at: Timestamp, message: &str, model: &str, is_sidechain: bool, usage: Value) -> String {
    json!({
        "type": "assistant", "uuid": format!("u-{message}-{}", usage["output_tokens"]), "sessionId": SESSION, "timestamp": at.to_string(),
        "cwd": "/home/ada/shop", "gitBranch": "feature/GOD-25-coupons", "version": "2.1.330", "isSidechain": is_sidechain,
        "requestId": format!("req_{message}"),
        "message": { "id": message, "model": model, "role": "assistant", "content": [], "usage": usage },
    })
    .to_string()
        + "\n"
}

/// The worked example, put below `name` in the home: 6,907 tokens for 0.020022 dollars.
fn put_example(home: &Home, name: &str) {
    put_example_of(home, name, ago(2));
}

fn put_example_of(home: &Home, name: &str, at: Timestamp) {
    let first = |output: u64| {
        json!({ "input_tokens": 10, "output_tokens": output, "cache_creation_input_tokens": 2000, "cache_read_input_tokens": 1000,
            "cache_creation": { "ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1500 } })
    };
    let second = json!({ "input_tokens": 20, "output_tokens": 100, "cache_creation_input_tokens": 400, "cache_read_input_tokens": 3000 });
    let question =
        json!({ "type": "user", "uuid": "q1", "promptId": "p1", "timestamp": at.to_string(), "cwd": "/home/ada/shop", "message": { "content": "do it" } });
    let text = [
        format!("{question}\n"),
        line(at, "msg_01", "claude-sonnet-4-5-20250929", false, first(5)),
        line(at, "msg_01", "claude-sonnet-4-5-20250929", false, first(300)),
        line(at, "msg_02", "claude-sonnet-4-5-20250929", false, second),
        line(at, "msg_03", "<synthetic>", false, json!({ "output_tokens": 9 })),
    ];
    home.write(&format!("{name}/-home-ada-shop/{SESSION}.jsonl"), &text.concat());
    let subagent = line(at, "msg_04", "claude-haiku-4-5-20251001", true, json!({ "input_tokens": 7, "output_tokens": 70 }));
    home.write(&format!("{name}/-home-ada-shop/{SUBAGENT_OF}.jsonl"), &subagent);
}

/// Without what differs from run to run and no kind of value tells.
fn steady(mut answer: Value) -> Value {
    let pointers = ["/result/zone", "/stats/zone", "/stats/rows/0/name", "/bytes", "/result/session/version", "/result/sessions/0/version"];
    for pointer in pointers {
        if let Some(value) = answer.pointer_mut(pointer) {
            *value = "<of this run>".into();
        }
    }
    answer
}

fn send(service: &Service, key: &str, id: &str, session: &str, meta: &Value, payload: Value) {
    let mut payload = payload;
    payload["session_id"] = session.into();
    let event = json!({ "event_id": id, "event_type": key, "timestamp": ago(1).to_string(), "version": "1.0.0",
        "source": { "host": "ada", "type": "hook", "app": "claude-code", "meta": meta }, "correlation_ids": [], "agent_context": null, "payload": payload });
    service.send(key, &event);
}

#[test]
fn transcripts_are_imported_with_their_true_cost_and_once() {
    let home = Home::new(ALL);
    put_example(&home, "claude/projects");
    let import = |args: &[&str]| home.run(&[&["sessions", "import", "claude"], args].concat());
    let dry = import(&["--dry-run"]).code(0).stdout;
    assert!(dry.contains("$0.0200") && dry.contains("6,907") && dry.contains("nothing was kept"), "{dry}");
    assert!(!home.store().exists());

    let first = import(&["--json"]).code(0).json();
    let cost = first["stats"]["total"]["cost_usd"].as_f64().expect("a cost");
    assert!((cost - 0.020_022).abs() < 1e-9, "{cost}");
    assert_eq!(first["result"], json!({ "added": 1, "updated": 0, "unchanged": 0 }));
    golden(&home, "sessions-imported", &steady(first));
    assert!(import(&[]).code(0).stdout.contains("0 new, 0 changed, 1 as before"));

    let list = home.run(&["sessions", "list", "--json"]).code(0).json();
    assert_eq!(list["result"]["sessions"][0]["origin"], "import");
    golden(&home, "sessions", &steady(list));
    golden(&home, "session", &steady(home.run(&["sessions", "show", "0e6f2c1a", "--json"]).code(0).json()));
    golden(&home, "session-stats", &steady(home.run(&["sessions", "stats", "--by", "model", "--json"]).code(0).json()));
    let table = home.run(&["sessions", "stats", "--by", "project"]).code(0).stdout;
    assert!(table.contains("shop") && table.contains("$0.0200"), "{table}");
    let shown = home.run(&["sessions", "show", SESSION]).code(0).stdout;
    for part in ["ended (imported)", "GOD-25", "its transcript", "(estimated)"] {
        assert!(shown.contains(part), "no `{part}` in\n{shown}");
    }
    let csv = home.run(&["sessions", "export", "--format", "csv"]).code(0).stdout;
    assert!(csv.lines().nth(1).is_some_and(|line| line.starts_with(SESSION) && line.contains(",0.020022,")), "{csv}");
    assert_eq!(home.run(&["events"]).code(0).stdout, "no such events\n");
}

#[test]
fn sums_tell_tokens_by_kind_as_a_session_does() {
    let home = Home::new(ALL);
    put_example(&home, "projects");
    let _ = home.run(&["sessions", "import", "projects"]).code(0);
    let kinds = json!({ "input": 37, "output": 470, "cache_write_5m": 900, "cache_write_1h": 1_500, "cache_read": 4_000 });
    for by in ["day", "project", "branch"] {
        let answer = home.run(&["sessions", "stats", "--by", by, "--json"]).code(0).json();
        assert_eq!((&answer["result"]["total"]["kinds"], &answer["result"]["rows"][0]["kinds"]), (&kinds, &kinds), "{by}");
    }
    let models = home.run(&["sessions", "stats", "--by", "model", "--json"]).code(0).json();
    let session = home.run(&["sessions", "show", SESSION, "--json"]).code(0).json();
    for row in models["result"]["rows"].as_array().expect("rows") {
        let mut usage = session["result"]["session"]["models"][row["name"].as_str().expect("a model")].clone();
        usage.as_object_mut().expect("the session tells it").remove("cost_usd");
        assert_eq!(row["kinds"], usage, "{row}");
    }
    let table = home.run(&["sessions", "stats", "--by", "model", "--tokens"]).code(0).stdout;
    for part in ["INPUT", "FROM CACHE", "4,000", "1,500", "$0.0200"] {
        assert!(table.contains(part), "no `{part}` in\n{table}");
    }
    let refused = home.run(&["sessions", "stats", "--by", "tool", "--tokens"]).code(1).stderr;
    assert!(refused.contains("`--by model`"), "{refused}");

    // Of events the hook tells them at each end of a turn.
    let service = home.serve();
    let usage = |input: u64| json!({ "usage_by_model": { "claude-sonnet-5": { "input": input, "output": 5, "cache_read": 1, "cost_usd": 0.5 } } });
    for (id, input) in [("t1", 10), ("t2", 30)] {
        let payload =
            json!({ "turn_number": 1, "model": "claude-sonnet-5", "total_tokens": input + 6, "total_cost_usd": 0.5, "working_directory": "/home/ada/other" });
        send(&service, "session.thread.turn.completed", id, "live", &usage(input), payload);
    }
    let answer = home.run(&["sessions", "stats", "--by", "model", "--json"]).code(0).json();
    let row = answer["result"]["rows"].as_array().expect("rows").iter().find(|row| row["name"] == "claude-sonnet-5").expect("a row").clone();
    assert_eq!(row["kinds"], json!({ "input": 30, "output": 5, "cache_write_5m": 0, "cache_write_1h": 0, "cache_read": 1 }), "{answer}");
    service.stop();
}

#[test]
fn a_running_router_keeps_what_is_imported_and_no_route_hears_of_it() {
    let home = Home::new(ALL);
    put_example(&home, "projects");
    let service = home.serve();
    send(&service, "session.thread.start", "e1", SESSION, &json!({}), json!({ "working_directory": "/home/ada/shop", "model": "m" }));
    send(
        &service,
        "session.thread.end",
        "e2",
        SESSION,
        &json!({}),
        json!({ "end_reason": "other", "final_status": "success", "total_turns": 3, "total_tokens": 100, "total_cost_usd": 0.001 }),
    );
    let session = || home.run(&["sessions", "show", SESSION, "--json"]).code(0).json()["result"]["session"].clone();
    let before = session();
    assert_eq!((&before["origin"], &before["turns"], &before["tokens"]), (&json!("events"), &json!(3), &json!(100)));

    assert!(home.run(&["sessions", "import", "projects"]).code(0).stdout.contains("1 new"));
    let after = session();
    assert_eq!((&after["origin"], &after["turns"], &after["tokens"]), (&json!("both"), &json!(3), &json!(6_907)));
    assert_eq!(after["state"], "ended");
    let stats = home.run(&["sessions", "stats", "--by", "model", "--json"]).code(0).json();
    assert_eq!(stats["result"]["total"]["tokens"], 6_907, "nothing is counted twice: {stats}");
    // What was sent last comes last into the archive; what the route heard of, it heard of in any order.
    send(&service, "last", "e3", "another", &json!({}), json!({}));
    let seen = eventually("the route has heard of every event that was sent", || {
        let seen = std::fs::read_to_string(home.path().join("seen")).unwrap_or_default();
        ["\"e1\"", "\"e2\"", "\"e3\""].iter().all(|id| seen.contains(id)).then_some(seen)
    });
    assert_eq!(seen.matches("event_id").count(), 3, "{seen}");
    assert_eq!(home.run(&["events", "--json"]).code(0).json()["events"].as_array().map(Vec::len), Some(3));
    service.stop();
}

#[test]
fn sessions_of_one_feature_or_ticket_belong_together_across_projects() {
    let home = Home::new(ALL);
    let service = home.serve();
    let start = |id: &str, session: &str, meta: &Value, directory: &str, branch: &str| {
        send(&service, "session.thread.start", id, session, meta, json!({ "working_directory": directory, "git_branch": branch }));
    };
    start("e1", "one-session", &json!({ "feature": "coupons" }), "/home/ada/shop", "main");
    start("e2", "two-session", &json!({ "feature": "coupons" }), "/home/ada/api", "main");
    start("e3", "three-session", &json!({}), "/home/ada/web", "fix/GOD-25-x");
    start("e4", "four-session", &json!({}), "/home/ada/lib", "feature/GOD-25-y");
    start("e5", "five-session", &json!({}), "/home/ada/shop", "main");
    let related = |id: &str| -> Vec<(String, Value)> {
        let shown = home.run(&["sessions", "show", id, "--related", "--json"]).code(0).json();
        let related = shown["result"]["related"].as_array().expect("a list").clone();
        related.iter().map(|other| (other["session"]["session_id"].as_str().expect("an id").to_owned(), other["because"].clone())).collect()
    };
    assert_eq!(related("one-session"), [("two-session".to_owned(), json!(["feature"]))]);
    assert_eq!(related("three-session"), [("four-session".to_owned(), json!(["ticket"]))]);
    assert_eq!(related("five-session"), [], "everybody works on `main`");
    let by = home.run(&["sessions", "stats", "--by", "feature"]).code(0).stdout;
    assert!(by.contains("coupons") && by.contains("(none)"), "{by}");
    let listed = home.run(&["sessions", "list", "--feature", "coupons", "--json"]).code(0).json();
    assert_eq!(listed["result"]["sessions"].as_array().map(Vec::len), Some(2));
    service.stop();
    // What was kept is there without a router, too.
    assert_eq!(related("one-session").len(), 1);
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_to_do() {
    let home = Home::new(ALL);
    put_example(&home, "projects");
    let error = |args: &[&str], code: i32| home.run(args).code(code).stderr;
    let no_store = error(&["sessions", "list"], 1);
    assert!(no_store.contains("there is no store"), "{no_store}");
    home.write("prices.toml", "[[model]]\nnames = [\"m\"]\ninput = -1\n");
    let prices = error(&["sessions", "import", "projects", "--prices", "prices.toml"], 1);
    assert!(prices.contains("prices.toml") && prices.contains("line"), "{prices}");
    let nowhere = error(&["sessions", "import", "nowhere"], 1);
    assert!(nowhere.contains("`nowhere` cannot be read"), "{nowhere}");
    let _ = home.run(&["sessions", "import", "projects"]).code(0);
    let unknown = error(&["sessions", "show", "another"], 1);
    assert!(unknown.contains("no session `another`") && unknown.contains("sessions list"), "{unknown}");
    error(&["sessions", "stats", "--by", "weather"], 2);
}

#[test]
fn a_model_without_a_price_has_no_cost_until_a_file_says_it() {
    let home = Home::new(ALL);
    home.write(&format!("projects/p/{SESSION}.jsonl"), &line(ago(1), "m1", "own-model", false, json!({ "output_tokens": 1_000_000 })));
    let shown = home.run(&["sessions", "import", "projects"]).code(0).stdout;
    assert!(shown.contains("no price is known of `own-model`") && !shown.contains('$'), "{shown}");
    let session = home.run(&["sessions", "show", SESSION, "--json"]).code(0).json();
    assert_eq!(session["result"]["session"]["cost_usd"], Value::Null);
    home.write("prices.toml", "[[model]]\nnames = [\"own-model\"]\ninput = 1\noutput = 7\ncache_write_5m = 1\ncache_write_1h = 1\ncache_read = 1\n");
    let priced = home.run(&["sessions", "import", "projects", "--prices", "prices.toml", "--json"]).code(0).json();
    assert_eq!((&priced["stats"]["total"]["cost_usd"], &priced["result"]["updated"]), (&json!(7.0), &json!(1)));
}

#[test]
fn prices_of_the_configuration_count_for_imports_and_hooks_and_what_is_wrong_in_them_is_told_with_its_place() {
    let home = Home::new("[sessions]\nprices = \"../prices.toml\"\n");
    home.write(&format!("projects/p/{SESSION}.jsonl"), &line(ago(1), "m1", "own-model", false, json!({ "output_tokens": 1_000_000 })));
    let missing = home.run(&["check"]).code(78).stdout;
    assert!(missing.contains("prices.toml` does not exist") && missing.contains("router.toml:"), "{missing}");
    let rates = "cache_write_5m = 1\ncache_write_1h = 1\ncache_read = 1\n";
    home.write("prices.toml", &format!("[[model]]\nnames = [\"own-model\"]\ninput = 1\noutput = -7\n{rates}"));
    let wrong = home.run(&["check"]).code(78).stdout;
    for part in ["error[bad-prices]", "prices.toml:4:10", "output = -7", "a price is a number of dollars from 0"] {
        assert!(wrong.contains(part), "no `{part}` in\n{wrong}");
    }
    let _ = home.run(&["sessions", "import", "projects"]).code(78);

    home.write("prices.toml", &format!("as_of = \"2027-01-15\"\n[[model]]\nnames = [\"own-model\"]\ninput = 1\noutput = 7\n{rates}"));
    let _ = home.run(&["check"]).code(0);
    let imported = home.run(&["sessions", "import", "projects", "--json"]).code(0).json();
    assert_eq!((&imported["stats"]["total"]["cost_usd"], &imported["prices"]["as_of"]), (&json!(7.0), &json!("2027-01-15")));
    let dry = home.run(&["sessions", "import", "projects", "--dry-run"]).code(0).stdout;
    assert!(dry.contains("$7.00") && dry.contains("2027-01-15"), "{dry}");
    home.write("other.toml", &format!("[[model]]\nnames = [\"own-model\"]\ninput = 1\noutput = 8\n{rates}"));
    let asked = home.run(&["sessions", "import", "projects", "--dry-run", "--prices", "other.toml"]).code(0).stdout;
    assert!(asked.contains("$8.00"), "what is asked for goes before what is configured: {asked}");

    // Hooks read no configuration: they find the prices in the spool.
    let service = home.serve();
    assert!(home.read("spool/prices.toml").contains("2027-01-15"), "{}", home.read("spool/prices.toml"));
    home.configure("");
    let _ = home.run(&["config", "reload"]).code(0);
    assert!(!home.path().join("spool/prices.toml").exists(), "they go with the configuration's");
    service.stop();
}

#[test]
fn a_session_has_its_parent_and_its_models_whether_it_is_known_by_events_or_by_its_transcript() {
    let home = Home::new(ALL);
    // When the events say that it was, or else it is another day within the first hours of one.
    put_example_of(&home, "projects", ago(1));
    let service = home.serve();
    send(&service, "session.thread.start", "first", "before", &json!({}), json!({ "working_directory": "/home/ada/shop", "model": "m" }));
    let start = json!({ "event_id": "second", "event_type": "session.thread.start", "timestamp": ago(2), "version": "1.0.0", "agent_context": null,
        "source": { "host": "ada", "type": "hook", "app": "claude-code" }, "correlation_ids": ["first"],
        "payload": { "session_id": SESSION, "working_directory": "/home/ada/shop", "git_branch": "feature/GOD-25-coupons", "model": "claude-sonnet-4-5" } });
    service.send("session.thread.start", &start);
    let sonnet = json!({ "input": 30, "output": 400, "cache_write_5m": 900, "cache_write_1h": 1500, "cache_read": 4000, "cost_usd": 0.019_665 });
    let models = json!({ "claude-sonnet-4-5-20250929": sonnet, "claude-haiku-4-5-20251001": { "input": 7, "output": 70, "cost_usd": 0.000_357 } });
    let turn = json!({ "turn_number": 1, "model": "claude-sonnet-4-5", "total_tokens": 6_907, "total_cost_usd": 0.020_022 });
    send(&service, "session.thread.turn.completed", "turn", SESSION, &json!({ "usage_by_model": models }), turn);
    let session = || home.run(&["sessions", "show", SESSION, "--json"]).code(0).json()["result"]["session"].clone();
    let sums = |by: &str| {
        let stats = home.run(&["sessions", "stats", "--by", by, "--json"]).code(0).json();
        let rows = stats["result"]["rows"].as_array().expect("rows").clone();
        let of = |row: &Value| {
            let dollars = row["cost_usd"].as_f64().map_or_else(|| "?".to_owned(), |cost| format!("{cost:.6}"));
            format!("{} {} {} {dollars}", row["name"].as_str().unwrap_or("(none)"), row["turns"], row["tokens"])
        };
        rows.iter().filter(|row| row["name"] != "m").map(of).collect::<Vec<_>>()
    };
    let live = session();
    assert_eq!((&live["parent"], &live["origin"]), (&json!("before"), &json!("events")));
    let shown = home.run(&["sessions", "show", SESSION]).code(0).stdout;
    assert!(shown.contains("claude-haiku-4-5-20251001") && shown.contains("cache"), "{shown}");
    let kinds = ["model", "project", "branch", "day", "feature"];
    let by_events = kinds.map(sums);
    assert_eq!(by_events[0], ["claude-sonnet-4-5-20250929 1 6830 0.019665", "claude-haiku-4-5-20251001 0 77 0.000357"]);

    let _ = home.run(&["sessions", "import", "projects"]).code(0);
    let both = session();
    assert_eq!((&both["parent"], &both["origin"], &both["models"]), (&json!("before"), &json!("both"), &live["models"]));
    assert_eq!(kinds.map(sums), by_events, "counted once, and alike");
    service.stop();
}
