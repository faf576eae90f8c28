//! What monitors see of a running router: `/metrics` and `/readyz` on both doors, `docs/metrics.md` as the table of all names, and the
//! alert about dead letters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use router_tests::{Answer, Home, eventually, request, workspace};
use serde_json::{Value, json};

// ── a reader of the text format that forgives nothing ───────────────────────────────────────────────────────────────────────

/// One family of samples.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// Suffix of the name, labels, value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

type Families = BTreeMap<String, Family>;

fn is_name(text: &str, more: &[char]) -> bool {
    let rest = |character: char| character.is_ascii_alphanumeric() || character == '_' || more.contains(&character);
    text.chars().next().is_some_and(|first| rest(first) && !first.is_ascii_digit()) && text.chars().all(rest)
}

/// Reads the labels after `{`; returns them and what follows `}`.
fn labels(mut text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, rest) = text.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name, &[]) {
            return Err(format!("`{name}` is no name of a label"));
        }
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next().ok_or("an open label")? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, escaped @ ('\\' | '"'))) => escaped,
                    _ => return Err("an unknown escape".to_owned()),
                }),
                (_, other) => value.push(other),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("label `{name}` twice"));
        }
        match &rest[end + 1..] {
            after if after.starts_with('}') => return Ok((labels, &after[1..])),
            after => text = after.strip_prefix(',').ok_or("no comma between labels")?,
        }
    }
}

/// Reads an exposition, or says what is wrong with it and where.
fn read(text: &str) -> Result<Families, String> {
    let mut families = Families::new();
    let mut current = String::new();
    if !text.ends_with('\n') {
        return Err("the last line is not ended".to_owned());
    }
    for line in text.lines() {
        let wrong = |why: &str| format!("{why}: {line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
            if !is_name(name, &[':']) {
                return Err(wrong("no name"));
            }
            if families.insert(name.to_owned(), Family { help: help.to_owned(), ..Family::default() }).is_some() {
                return Err(wrong("a family twice"));
            }
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
            let family = families.get_mut(name).filter(|family| name == current && family.kind.is_empty()).ok_or_else(|| wrong("a type out of place"))?;
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return Err(wrong("an unknown type"));
            }
            if kind == "counter" && !name.ends_with("_total") {
                return Err(wrong("a counter whose name does not end in `_total`"));
            }
            family.kind = kind.to_owned();
        } else {
            let name_end = line.find(['{', ' ']).ok_or_else(|| wrong("no value"))?;
            let (name, rest) = line.split_at(name_end);
            let (labels, rest) = match rest.strip_prefix('{') {
                Some(rest) => labels(rest).map_err(|why| wrong(&why))?,
                None => (BTreeMap::new(), rest),
            };
            let value: f64 = rest.strip_prefix(' ').and_then(|value| value.parse().ok()).ok_or_else(|| wrong("no number"))?;
            let family = families.get_mut(&current).filter(|family| !family.kind.is_empty()).ok_or_else(|| wrong("a sample before its type"))?;
            let suffix = name.strip_prefix(current.as_str()).ok_or_else(|| wrong("a sample of another family"))?;
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if !suffixes.contains(&suffix) {
                return Err(wrong("a sample of another family"));
            }
            if labels.contains_key("le") != (suffix == "_bucket") {
                return Err(wrong("`le` out of place"));
            }
            if family.kind != "gauge" && value < 0.0 {
                return Err(wrong("a negative count"));
            }
            if family.samples.iter().any(|(other, others, _)| other == suffix && *others == labels) {
                return Err(wrong("a sample twice"));
            }
            family.samples.push((suffix.to_owned(), labels, value));
        }
    }
    for (name, family) in &families {
        if family.samples.is_empty() {
            return Err(format!("`{name}` has no sample"));
        }
        if family.kind == "histogram" {
            add_up(name, family)?;
        }
    }
    Ok(families)
}

/// Buckets grow, and the last one is the count.
fn add_up(name: &str, family: &Family) -> Result<(), String> {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for (_, labels, value) in family.samples.iter().filter(|(suffix, ..)| suffix == "_bucket") {
        let mut labels = labels.clone();
        let bound = labels.remove("le").unwrap_or_default().replace("+Inf", "inf");
        series.entry(labels).or_default().push((bound.parse().map_err(|_| format!("`{name}` has a bound that is no number"))?, *value));
    }
    for (labels, buckets) in series {
        let count = family.samples.iter().find(|(suffix, others, _)| suffix == "_count" && *others == labels).map(|(.., value)| *value);
        let rises = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        if !rises || buckets.last().is_none_or(|last| last.0 != f64::INFINITY || Some(last.1) != count) {
            return Err(format!("the buckets of `{name}` do not add up: {labels:?}"));
        }
    }
    Ok(())
}

#[test]
fn the_reader_of_the_text_format_refuses_what_is_wrong() {
    let head = "# HELP a_total A.\n# TYPE a_total counter\n";
    assert!(read(&format!("{head}a_total{{x=\"1\\\"\"}} 1\n")).is_ok());
    for wrong in [
        "",
        "a_total 1\n",
        "# TYPE a_total counter\n",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a_total A.\n# TYPE a_total other\na_total 1\n",
        "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
        "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
        "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    for wrong in ["", "a_total 1", "b_total 1\n", "a_total -1\n", "a_total one\n", "a_total{x=1} 1\n", "a_total{x=\"\\t\"} 1\n", "a_total{le=\"1\"} 1\n"] {
        assert!(read(&format!("{head}{wrong}")).is_err(), "{wrong}");
    }
    assert!(read(&format!("{head}a_total 1\na_total 2\n")).is_err(), "a sample twice");
    assert!(read(&format!("{head}a_total 1\n{head}a_total 1\n")).is_err(), "a family twice");
}

// ── the scripted session ────────────────────────────────────────────────────────────────────────────────────────────────────

const ROUTES: &str = r#"
[[route]]
name = "kept"
on = ["good.#"]
handler = "exec"
with = { command = ["true"] }

[[route]]
name = "poisoned"
on = ["poison.#"]
handler = "exec"
with = { command = ["sh", "-c", "exit 65"] }

[[route]]
name = "failing"
on = ["bad.#"]
handler = "exec"
retry = { attempts_max = 2, first_delay_ms = 1, max_delay_ms = 2 }
with = { command = ["sh", "-c", "exit 7"] }

[[route]]
name = "watched"
on = ["good.#"]
mode = "shadow"
handler = "exec"
with = { command = ["true"] }

[[route]]
name = "told"
on = ["system.dlq.alert"]
handler = "exec"
with = { command = ["sh", "-c", "printf '%s\\n' \"$(cat)\" >> ../alerts"] }

[[route]]
name = "deaf"
on = ["system.dlq.alert"]
handler = "exec"
with = { command = ["sh", "-c", "exit 65"] }

[[route]]
name = "off"
enabled = false
on = ["good.#"]
handler = "log"
"#;

fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).expect("the door answers")
}

fn get_from_socket(home: &Home, path: &str) -> String {
    let mut socket = home.store().into_os_string();
    socket.push(".sock");
    let mut stream = UnixStream::connect(socket).expect("the router has a socket");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).expect("the socket takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the socket answers");
    answer
}

fn scrape(address: SocketAddr) -> Families {
    let answer = get(address, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    // A long answer comes in chunks: their sizes stand on lines of their own.
    assert!(!answer.head.to_ascii_lowercase().contains("transfer-encoding"), "{}", answer.head);
    read(&answer.body).unwrap_or_else(|why| panic!("{why}\n{}", answer.body))
}

/// The value of the one sample with all of these labels.
fn value(families: &Families, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let has = |labels: &BTreeMap<String, String>| wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|other| other == value));
    let family = families.get(name).unwrap_or_else(|| panic!("no family `{name}`"));
    let found: Vec<f64> =
        family.samples.iter().filter(|(suffix, labels, _)| (suffix.is_empty() || suffix == "_count") && has(labels)).map(|(.., value)| *value).collect();
    assert_eq!(found.len(), 1, "`{name}` {wanted:?} has {} samples", found.len());
    found[0]
}

fn event(id: &str) -> Value {
    json!({ "event_id": id, "event_type": "a.b", "payload": {} })
}

fn alerts(home: &Home) -> Vec<Value> {
    home.read("alerts").lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect("an alert is JSON")).collect()
}

/// Name, type, labels and meaning of each row of the table.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let text = fs::read_to_string(workspace().join("docs/metrics.md")).expect("there is a page about metrics");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mut table = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("a row has four cells: {row}") };
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned()).filter(|label| !label.is_empty()).collect();
        assert!(table.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels, meaning.to_owned())).is_none(), "twice: {row}");
    }
    table
}

fn exposed(families: &Families) -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let described = |family: &Family| {
        let labels = family.samples.iter().flat_map(|(_, labels, _)| labels.keys()).filter(|label| *label != "le").cloned().collect();
        (family.kind.clone(), labels, family.help.clone())
    };
    families.iter().map(|(name, family)| (name.clone(), described(family))).collect()
}

#[test]
fn a_session_is_counted_and_the_table_in_the_docs_is_what_is_exposed() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    let address = service.address();
    let before = scrape(address);
    assert_eq!(value(&before, "event_router_dead_letters_total", &[("route", "poisoned"), ("reason", "rejected")]), 0.0, "a zero from the start");

    service.send("good.one", &event("g-1"));
    let handled = |families: &Families| value(families, "event_router_handled_events_total", &[("route", "kept"), ("outcome", "handled")]);
    eventually("the first event is handled", || (handled(&scrape(address)) == 1.0).then_some(()));
    service.send("good.one", &event("g-1"));
    service.send("poison.pill", &event("p-1"));
    service.send("bad.luck", &event("b-1"));
    service.send("nobody.cares", &event("n-1"));

    // The alerts about the two routes come to `told` and `deaf`; `deaf` gives up on both, which raises none.
    eventually("all is counted", || {
        let families = scrape(address);
        let of = |name, labels: &[(&str, &str)]| value(&families, name, labels);
        let done = of("event_router_handled_events_total", &[("route", "told"), ("outcome", "handled")]) == 2.0
            && of("event_router_dead_letters_total", &[("route", "deaf"), ("reason", "rejected")]) == 2.0
            && of("event_router_handled_events_total", &[("route", "kept"), ("outcome", "duplicate")]) == 1.0
            && of("event_router_handled_events_total", &[("route", "watched"), ("outcome", "shadowed")]) == 2.0;
        done.then_some(())
    });
    let counts = [
        ("event_router_accepted_events_total", &[][..], 7.0),
        ("event_router_unmatched_events_total", &[], 1.0),
        ("event_router_store_up", &[], 1.0),
        ("event_router_received_events_total", &[("route", "kept")], 2.0),
        ("event_router_matched_events_total", &[("route", "kept")], 1.0),
        ("event_router_attempts_total", &[("route", "failing")], 2.0),
        ("event_router_retries_total", &[("route", "failing"), ("class", "error")], 1.0),
        ("event_router_dead_letters_total", &[("route", "failing"), ("reason", "exhausted")], 1.0),
        ("event_router_dead_letters_total", &[("route", "poisoned"), ("reason", "rejected")], 1.0),
        ("event_router_dead_events", &[("route", "poisoned")], 1.0),
        ("event_router_running_events", &[("route", "kept")], 0.0),
        ("event_router_handler_duration_seconds", &[("route", "failing")], 2.0),
        ("event_router_end_to_end_duration_seconds", &[("route", "kept")], 1.0),
        ("event_router_end_to_end_duration_seconds", &[("route", "failing")], 0.0),
        ("event_router_burst_size_events", &[("route", "kept")], 1.0),
        ("event_router_route_state", &[("route", "off"), ("state", "disabled")], 1.0),
        ("event_router_route_info", &[("route", "watched"), ("handler", "exec"), ("mode", "shadow")], 1.0),
        ("event_router_reloads_total", &[("outcome", "applied")], 0.0),
        ("received_messages_total", &[("handler", "kept")], 2.0),
        ("received_processed_messages_total", &[("handler", "kept"), ("status", "acked")], 2.0),
        ("received_processed_messages_total", &[("handler", "failing"), ("status", "nacked")], 1.0),
        ("received_processed_messages_total", &[("handler", "failing"), ("status", "rejected")], 1.0),
    ];
    // What is counted last is not the same for each of them.
    let mut wrong = Vec::new();
    let begun = Instant::now();
    let families = loop {
        let families = scrape(address);
        wrong.clear();
        wrong
            .extend(counts.iter().map(|(name, labels, expected)| (name, labels, expected, value(&families, name, labels))).filter(|count| *count.2 != count.3));
        if wrong.is_empty() {
            break families;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "name, labels, expected, found: {wrong:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    };
    assert!(value(&families, "event_router_store_size_bytes", &[]) > 4_096.0);
    assert_eq!(documented(), exposed(&families), "the table of docs/metrics.md on the left, the running router on the right");

    let over_socket = get_from_socket(&home, "/metrics");
    assert!(over_socket.starts_with("HTTP/1.1 200") && over_socket.contains("\nevent_router_store_up 1\n"), "{over_socket}");
    service.stop();
}

#[test]
fn the_route_that_the_docs_show_for_alerts_loads() {
    let text = fs::read_to_string(workspace().join("docs/metrics.md")).expect("there is a page about metrics");
    let route = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a route");
    let shown = Home::new(route).run(&["config", "show"]).code(0).stdout;
    assert!(shown.contains("system.dlq.alert") && shown.contains("{{ payload.dead }}"), "{shown}");
}

#[test]
fn dead_letters_raise_an_alert_at_the_first_and_at_the_tenth() {
    let home = Home::new(ROUTES);
    let service = home.serve();
    for number in 1..=12 {
        service.send("poison.pill", &event(&format!("p-{number}")));
        let letters = |expected: f64| {
            let families = scrape(service.address());
            (value(&families, "event_router_dead_letters_total", &[("route", "poisoned"), ("reason", "rejected")]) == expected).then_some(())
        };
        eventually("the event is given up on", || letters(f64::from(number)));
        if number == 1 {
            // Alerts have no order of their own, so the first is handled before there can be another.
            eventually("the first alert", || (alerts(&home).len() == 1).then_some(()));
        }
    }
    let alerts = eventually("two alerts", || Some(alerts(&home)).filter(|alerts| alerts.len() >= 2));
    assert_eq!(alerts.len(), 2, "{alerts:?}");
    for (alert, expected) in alerts.iter().zip([1, 10]) {
        assert_eq!(alert["event_type"], "system.dlq.alert");
        let payload = &alert["payload"];
        assert_eq!((&payload["route"], &payload["new"], &payload["reason"]), (&json!("poisoned"), &json!(expected), &json!("rejected")), "{alert}");
        // Asked of the store a moment later, so it may be ahead.
        assert!(payload["dead"].as_u64().is_some_and(|dead| dead >= expected) && payload["since"].is_string(), "{alert}");
    }
    service.stop();
}

#[test]
fn nothing_that_an_event_says_becomes_a_label() {
    let home = Home::new("[[route]]\nname = \"all\"\non = [\"#\"]\norder_by = \"session_id\"\nhandler = \"log\"\n");
    let service = home.serve();
    for number in 1..=20 {
        let marker = format!("marker-{number}");
        service.send(
            &format!("{marker}.key"),
            &json!({
                "event_id": marker, "event_type": marker, "source": { "host": marker, "app": marker },
                "payload": { "session_id": marker, "tool_name": marker, "model": marker, "cwd": format!("/{marker}") },
            }),
        );
    }
    let families = eventually("all are handled", || {
        let families = scrape(service.address());
        (families["event_router_handled_events_total"].samples.iter().map(|(.., value)| *value).sum::<f64>() >= 20.0).then_some(families)
    });
    let labels = families.values().flat_map(|family| &family.samples).flat_map(|(_, labels, _)| labels);
    let said: Vec<_> = labels.filter(|(_, value)| value.contains("marker")).collect();
    assert!(said.is_empty(), "a producer could make as many series as it likes: {said:?}");
    service.stop();
}

#[test]
fn without_a_route_for_it_no_alert_is_published() {
    let home = Home::new("[[route]]\nname = \"poisoned\"\non = [\"poison.#\"]\nhandler = \"exec\"\nwith = { command = [\"sh\", \"-c\", \"exit 65\"] }\n");
    let service = home.serve();
    service.send("poison.pill", &event("p-1"));
    eventually("the event is given up on", || {
        let families = scrape(service.address());
        (value(&families, "event_router_dead_events", &[("route", "poisoned")]) == 1.0).then_some(())
    });
    service.stop();
    let events = home.run(&["events", "--json"]).code(0).json();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(1), "{events}");
}

#[test]
fn a_running_router_is_ready_until_it_drains() {
    let home = Home::new(
        "[[route]]\nname = \"slow\"\non = [\"a\"]\ntimeout_ms = 900_000\ndrain_ms = 900_000\nhandler = \"exec\"\nwith = { command = [\"sh\", \"-c\", \"touch ../begun; while [ ! -e ../go ]; do sleep 0.05; done\"] }\n",
    );
    let service = home.serve();
    let address = service.address();
    let answer = get(address, "/readyz");
    let ready = answer.json();
    assert_eq!((answer.status, &ready["schema"], &ready["ready"]), (200, &json!("event-router.ready.v1"), &json!(true)), "{ready}");
    assert_eq!((&ready["transport"]["name"], &ready["store"]["ready"]), (&json!("embedded"), &json!(true)), "{ready}");
    assert_eq!((&ready["routes"][0]["name"], &ready["routes"][0]["ready"]), (&json!("slow"), &json!(true)), "{ready}");
    assert_eq!(ready["config"]["last_outcome"]["outcome"], "applied", "{ready}");
    assert_eq!(ready["config"]["hash"].as_str().map(str::len), Some(64), "{ready}");
    assert!(get_from_socket(&home, "/readyz").starts_with("HTTP/1.1 200"));

    service.send("a", &event("e-1"));
    eventually("the handling has begun", || home.path().join("begun").exists().then_some(()));
    service.signal(rustix::process::Signal::TERM);
    let answer = eventually("the router says that it stops", || Some(get(address, "/readyz")).filter(|answer| answer.status == 503));
    assert_eq!(answer.json()["reasons"], json!(["the router is stopping"]));
    assert_eq!(get(address, "/healthz").status, 200, "it is alive all the same");
    home.write("go", "");
    let _ = service.stop_asked();
}
