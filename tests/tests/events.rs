//! Bodies of every dialect, and bodies that are none: decoded, and compared with what is known about them.

use std::{fs, path::PathBuf};

use router_api::{DecodeError, DecodeLimits, Envelope, EventId, Field, FieldPath, RoutingKey, Source};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    event: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    file: String,
    key: RoutingKey,
    dialect: String,
    id: Option<String>,
    dedup_id: Option<String>,
    r#type: Option<String>,
    time: Option<String>,
    source: Option<String>,
    session_id: Option<String>,
    tool_name: Option<String>,
    file_path: Option<String>,
    working_directory: Option<String>,
    git_branch: Option<String>,
    #[serde(default)]
    correlation_ids: Vec<String>,
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/events")
}

fn index() -> Vec<Expected> {
    let text = fs::read_to_string(fixtures().join("index.toml")).expect("the index is there");
    toml::from_str::<Index>(&text).expect("the index is well formed").event
}

fn decode(body: impl Into<Vec<u8>>) -> Result<Envelope, DecodeError> {
    Envelope::decode(RoutingKey::new("a.b").unwrap(), body.into(), DecodeLimits::default())
}

#[test]
fn each_body_has_the_dialect_the_id_and_the_fields_that_the_index_says() {
    for expected in index() {
        let file = &expected.file;
        let bytes = fs::read(fixtures().join(file)).expect("the index names files that are there");
        let event = Envelope::decode(expected.key.clone(), bytes.clone(), DecodeLimits::default()).unwrap_or_else(|error| panic!("{file}: {error}"));

        assert_eq!(event.raw().as_ref(), bytes, "{file}: the bytes");
        assert_eq!(event.key(), &expected.key, "{file}: key");
        assert_eq!(event.dialect().name(), expected.dialect, "{file}: dialect");
        assert_eq!(event.id().map(EventId::as_str), expected.id.as_deref(), "{file}: id");
        assert_eq!(event.dedup_id(), expected.dedup_id.clone().or(expected.id.clone()), "{file}: dedup id");
        assert_eq!(event.event_type(), expected.r#type.as_deref(), "{file}: type");
        assert_eq!(event.time().map(|time| time.to_string()), expected.time, "{file}: time");
        let source = event.source().and_then(|source| match source {
            Source::Text(text) => Some(text.as_str()),
            Source::Object { app, .. } => app.as_deref(),
        });
        assert_eq!(source, expected.source.as_deref(), "{file}: source");
        assert_eq!(event.correlation_ids(), expected.correlation_ids, "{file}: correlation ids");

        let view = event.view();
        let fields = [
            ("session_id", event.session_id(), &expected.session_id),
            ("tool_name", event.tool_name(), &expected.tool_name),
            ("file_path", event.file_path(), &expected.file_path),
            ("working_directory", event.working_directory(), &expected.working_directory),
            ("git_branch", event.git_branch(), &expected.git_branch),
            ("id", event.id().map(EventId::as_str), &expected.id),
            ("type", event.event_type(), &expected.r#type),
        ];
        for (name, accessor, expected) in fields {
            assert_eq!(accessor, expected.as_deref(), "{file}: {name}");
            let path: FieldPath = name.parse().expect("a field of the view");
            assert_eq!(event.field(&path).as_ref().and_then(Field::as_str), accessor, "{file}: {name} as a field");
            assert_eq!(view.get(name).and_then(|value| value.as_str()), accessor, "{file}: {name} in the view");
        }
    }
}

#[test]
fn the_index_names_every_fixture() {
    let mut named: Vec<String> = index().into_iter().map(|expected| expected.file).collect();
    let entries = fs::read_dir(fixtures()).expect("the directory is there").map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"));
    let mut there: Vec<String> = entries.filter(|name| name.ends_with(".json")).collect();
    named.sort();
    there.sort();
    assert_eq!(named, there);
}

/// Bodies that are refused, and a part of what is said about them.
fn hostile() -> Vec<(Vec<u8>, &'static str)> {
    let mut bodies: Vec<(Vec<u8>, &str)> = [
        ("", "empty"),
        (" \r\n\t", "empty"),
        ("null", "null, where a JSON object is needed"),
        ("true", "a boolean, where"),
        ("0", "a number, where"),
        ("-1", "a number, where"),
        ("1.5", "a number, where"),
        ("\"text\"", "a string, where"),
        ("[]", "an array, where"),
        ("[{\"event_id\":\"a\"}]", "an array, where"),
        ("{", "no JSON: EOF"),
        ("}", "no JSON"),
        ("{}}", "trailing characters"),
        ("{}{}", "trailing characters"),
        ("{} x", "trailing characters"),
        ("{}\0", "trailing characters"),
        ("\0{}", "no JSON"),
        ("nul", "no JSON"),
        ("{\"a\"}", "no JSON"),
        ("{\"a\":}", "no JSON"),
        ("{\"a\":1,}", "trailing comma"),
        ("{,}", "no JSON"),
        ("{a:1}", "no JSON"),
        ("{'a':1}", "no JSON"),
        ("{1:1}", "no JSON"),
        ("{\"a\":[1,]}", "trailing comma"),
        ("{\"a\":NaN}", "no JSON"),
        ("{\"a\":Infinity}", "no JSON"),
        ("{\"a\":-Infinity}", "no JSON"),
        ("{\"a\":undefined}", "no JSON"),
        ("{\"a\":01}", "invalid number"),
        ("{\"a\":+1}", "no JSON"),
        ("{\"a\":.5}", "no JSON"),
        ("{\"a\":5.}", "invalid number"),
        ("{\"a\":1e}", "invalid number"),
        ("{\"a\":0x10}", "no JSON"),
        ("{\"a\":1e400}", "out of range"),
        ("{\"a\":-1e400}", "out of range"),
        ("{\"payload\":{\"deep\":[1e309]}}", "out of range"),
        ("{\"event_id\":1e400,\"payload\":{}}", "out of range"),
        ("{\"source\":{\"meta\":1e400}}", "out of range"),
        ("{\"correlation_ids\":[\"a\",1e400]}", "out of range"),
        ("{\"a\":\"\\ud800\"}", "no JSON"),
        ("{\"a\":\"\\ud800x\"}", "no JSON"),
        ("{\"a\":\"\\udc00\"}", "no JSON"),
        ("{\"a\":\"\\ud800\\ud800\"}", "no JSON"),
        ("{\"\\ud800\":1}", "no JSON"),
        ("{\"event_id\":\"\\ud800\",\"payload\":{}}", "no JSON"),
        ("{\"payload\":{\"\\udfff\":1}}", "no JSON"),
        ("{\"a\":\"\\x41\"}", "invalid escape"),
        ("{\"a\":\"\\u12\"}", "no JSON"),
        ("{\"a\":\"line\nbreak\"}", "control character"),
        ("{\"a\":\"nul\0\"}", "control character"),
        ("{\"a\":\"open", "EOF"),
        ("/* c */{}", "no JSON"),
        ("{\"a\":1 // c\n}", "no JSON"),
        ("<event/>", "no JSON"),
        ("event_type=a", "no JSON"),
        ("\u{feff}{}", "byte order mark"),
    ]
    .into_iter()
    .map(|(body, part)| (body.as_bytes().to_vec(), part))
    .collect();
    bodies.extend([
        (b"{\"a\":\"\xff\"}".to_vec(), "invalid UTF-8 at byte 6"),
        (b"{\"a\":\"\xc3(\"}".to_vec(), "invalid UTF-8"),
        (b"{\"a\":\"\xed\xa0\x80\"}".to_vec(), "invalid UTF-8"),
        (b"{\"a\":\"\xc0\xaf\"}".to_vec(), "invalid UTF-8"),
        (b"\xfe\xff\0{\0}".to_vec(), "invalid UTF-8 at byte 0"),
        (b"{\0}\0".to_vec(), "no JSON"),
        (b"\x1f\x8b\x08\0".to_vec(), "invalid UTF-8"),
        ("[".repeat(100_000).into_bytes(), "nested deeper than 64 levels"),
        ("{\"a\":".repeat(100_000).into_bytes(), "nested deeper than 64 levels"),
        (format!("{{\"payload\":{}{}}}", "[".repeat(64), "]".repeat(64)).into_bytes(), "nested deeper than 64 levels"),
        (format!("{{\"source\":{}1{}}}", "{\"host\":".repeat(64), "}".repeat(64)).into_bytes(), "nested deeper than 64 levels"),
        (format!("{{\"correlation_ids\":{}{}}}", "[".repeat(70), "]".repeat(70)).into_bytes(), "nested deeper than 64 levels"),
    ]);
    bodies
}

#[test]
fn what_is_no_event_is_refused_with_the_reason() {
    let bodies = hostile();
    assert!(bodies.len() >= 60);
    for (body, part) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let error = decode(body).expect_err(&shown).to_string();
        assert!(error.contains(part), "{shown}: {error}");
    }
}

#[test]
fn odd_objects_are_events_all_the_same() {
    let deep = format!("{{\"payload\":{}{}}}", "[".repeat(63), "]".repeat(63));
    let long_key = format!("{{\"{}\":1}}", "k".repeat(1 << 20));
    let bodies = [
        "{}",
        " \n{\"a\":1}\r\n",
        "{\"\":{\"\":1}}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":-0.0,\"b\":1e-400,\"c\":123456789012345678901234567890}",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\\ud83e\\udd80\"}",
        "{\"__proto__\":{},\"constructor\":1}",
        "{\"$serde_json::private::RawValue\":\"{\\\"event_type\\\":1}\"}",
        "{\"$serde_json::private::RawValue\":5}",
        "{\"payload\":{\"$serde_json::private::Number\":\"1e400\"}}",
        &deep,
        &long_key,
    ];
    for body in bodies {
        let event = decode(body).unwrap_or_else(|error| panic!("{body:.60}: {error}"));
        assert!(event.body().is_object(), "{body:.60}");
        assert!(event.view().is_object());
    }
}

#[test]
fn a_key_of_the_parsers_own_is_a_key_like_any_other() {
    let event = decode("{\"$serde_json::private::RawValue\":\"{\\\"session_id\\\":\\\"smuggled\\\"}\"}").unwrap();
    assert_eq!(event.session_id(), None);
    assert_eq!(event.body()["$serde_json::private::RawValue"], "{\"session_id\":\"smuggled\"}");
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let limits = DecodeLimits { body_bytes_max: 10, depth_max: 64 };
    let key = RoutingKey::new("a").unwrap();
    assert!(Envelope::decode(key.clone(), "{\"a\":1234}", limits).is_ok());
    let error = Envelope::decode(key, "no json at all", limits).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { bytes: 14, max: 10 });
}

#[test]
fn nesting_counts_the_body_itself_and_ends_at_the_parsers_limit() {
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let decode = |levels, depth_max| Envelope::decode(RoutingKey::new("a").unwrap(), nested(levels), DecodeLimits { body_bytes_max: 2000, depth_max });
    assert!(decode(3, 3).is_ok());
    assert_eq!(decode(4, 3).unwrap_err(), DecodeError::TooDeep { max: 3 });
    assert!(decode(126, usize::MAX).is_ok_and(|event| event.body().is_object()));
    assert_eq!(decode(127, usize::MAX).unwrap_err(), DecodeError::TooDeep { max: 126 });
    assert_eq!(decode(500, usize::MAX).unwrap_err(), DecodeError::TooDeep { max: 126 });
}

#[test]
fn a_long_id_is_told_apart_by_its_digest() {
    let body = |last: char| format!("{{\"event_id\":\"{}{last}\",\"payload\":1}}", "i".repeat(1 << 20));
    let dedup_id = |last| decode(body(last)).unwrap().dedup_id().unwrap();
    assert!(dedup_id('a').starts_with("sha256:") && dedup_id('a').len() == 71);
    assert_ne!(dedup_id('a'), dedup_id('b'));
}

#[test]
fn cloud_events_of_two_sources_with_one_id_are_two_events() {
    let dedup_id = |source: &str, id: &str| decode(format!("{{\"specversion\":\"1.0\",\"source\":\"{source}\",\"id\":\"{id}\"}}")).unwrap().dedup_id().unwrap();
    assert_ne!(dedup_id("/a", "1"), dedup_id("/b", "1"));
    assert_ne!(dedup_id("/a/", "b"), dedup_id("/a", "/b"));
}

#[test]
fn at_most_64_correlation_ids_are_kept() {
    let ids: Vec<String> = (0..1000).map(|n| format!("\"{n}\"")).collect();
    let event = decode(format!("{{\"correlation_ids\":[null,3,\"\",{}]}}", ids.join(","))).unwrap();
    assert_eq!(event.correlation_ids().len(), 64);
    assert_eq!(event.correlation_ids()[0], "0");
}

#[test]
fn fields_reach_into_payload_raw_and_source() {
    let body =
        "{\"event_id\":\"i\",\"payload\":{\"a.b\":{\"list\":[{\"n\":1},null]},\"7\":\"seven\"},\"source\":{\"host\":\"h\",\"type\":\"agent\"},\"extra\":true}";
    let event = decode(body).unwrap();
    let field = |path: &str| event.field(&path.parse().unwrap()).map(|field| serde_json::to_string(&*field.to_value()).unwrap());
    assert_eq!(field("payload.\"a.b\".list.0.n").as_deref(), Some("1"));
    assert_eq!(field("payload.\"a.b\".list.1").as_deref(), Some("null"));
    assert_eq!(field("payload.\"a.b\".list.2"), None);
    assert_eq!(field("payload.\"a.b\".list.n"), None);
    assert_eq!(field("payload.7").as_deref(), Some("\"seven\""));
    assert_eq!(field("payload.a.b"), None);
    assert_eq!(field("raw.extra").as_deref(), Some("true"));
    assert_eq!(field("source.host").as_deref(), Some("\"h\""));
    assert_eq!(field("source.app"), None);
    assert_eq!(field("source").as_deref(), Some("{\"host\":\"h\",\"type\":\"agent\"}"));
    assert_eq!(field("key").as_deref(), Some("\"a.b\""));
    assert_eq!(field("dialect").as_deref(), Some("\"v2\""));
}

#[test]
fn showing_an_event_for_debugging_shows_no_content() {
    let event = decode("{\"event_id\":\"i\",\"payload\":{\"password\":\"hunter2\"}}").unwrap();
    assert!(event.body().is_object());
    assert!(!format!("{event:?}").contains("hunter2"));
}
