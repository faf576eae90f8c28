//! What redaction promises: secrets go, JSON stays JSON, and every other byte stays.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use router_secrets::is_marker;

use super::{Redacted, Redactor, json::unescaped, shapes::Shapes};
use crate::{config::RedactConfig, spent::processor_time};

fn redactor(paths: &[&str], patterns: &[&str]) -> Redactor {
    Redactor::new(&config(paths, patterns), [7; 32]).unwrap()
}

fn config(paths: &[&str], patterns: &[&str]) -> RedactConfig {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    RedactConfig { paths: owned(paths), patterns: owned(patterns), builtin: true }
}

fn redacted(redactor: &Redactor, body: &str) -> (String, u32) {
    let Redacted { body, count } = redactor.redact(&Bytes::copy_from_slice(body.as_bytes()));
    (String::from_utf8(body.to_vec()).unwrap(), count)
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Put together at run time, so that no scanner takes this file for a leak.
fn secrets() -> Vec<(&'static str, String)> {
    let alnum = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0";
    let private_key = format!("-----BEGIN OPENSSH {0} KEY-----\nb3BlbnNzaC1rZXk\nAAAA+/==\n-----END OPENSSH {0} KEY-----", "PRIVATE");
    vec![
        ("aws-key", format!("AKIA{}", "ABCDEFGH23456789")),
        ("github-token", format!("ghp_{}", &alnum[..36])),
        ("github-token", format!("github_pat_11ABCDE_{alnum}")),
        ("slack-token", format!("xoxb-{}-{}", "123456789012", &alnum[..24])),
        ("anthropic-key", format!("sk-ant-api03-{alnum}-_{alnum}")),
        ("openai-key", format!("sk-proj-{alnum}")),
        ("openai-key", format!("sk-{alnum}")),
        ("google-key", format!("AIza{}", &alnum[..35])),
        ("gitlab-token", format!("glpat-{}", &alnum[..20])),
        ("npm-token", format!("npm_{}", &alnum[..36])),
        ("stripe-key", format!("sk_live_{}", &alnum[..24])),
        ("jwt", format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{alnum}")),
        ("private-key", private_key),
    ]
}

#[test]
fn an_untouched_body_is_handed_back_without_a_copy() {
    let body =
        Bytes::from_static(br#"{ "event_id":"1", "payload" : {"tool_name":"Write","n":1.50e3, "text":"total_tokens=4096 \u00e9 basic authentication"} }"#);
    let Redacted { body: after, count } = redactor(&["payload.user_prompt"], &["never-[0-9]+"]).redact(&body);
    assert_eq!((after.as_ptr(), after.len(), count), (body.as_ptr(), body.len(), 0));
}

#[test]
fn a_value_at_a_path_is_replaced_and_all_other_bytes_stay() {
    let (after, count) =
        redacted(&redactor(&["payload.user_prompt"], &[]), "{\"payload\" :\t{\"user_prompt\": \"hello\",\n\"n\":1.0},\"user_prompt\":\"kept\"}");
    let marker = fingerprint("hello");
    assert_eq!(after, format!("{{\"payload\" :\t{{\"user_prompt\": \"[redacted:path:{marker}]\",\n\"n\":1.0}},\"user_prompt\":\"kept\"}}"));
    assert_eq!(count, 1);
}

fn fingerprint(secret: &str) -> String {
    let (after, _) = redacted(&redactor(&["x"], &[]), &json!({ "x": secret }).to_string());
    after[r#"{"x":"[redacted:path:"#.len()..after.len() - 3].to_owned()
}

#[test]
fn a_star_stands_for_any_key_and_any_index() {
    let rules = redactor(&["a.*.b", "list.1"], &[]);
    let (after, count) = redacted(&rules, r#"{"a":[{"b":"s1"},{"c":"kept"}],"list":["kept","s2"]}"#);
    let after: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(count, 2);
    assert!(is_marker(after["a"][0]["b"].as_str().unwrap()));
    assert!(is_marker(after["list"][1].as_str().unwrap()));
    assert_eq!((after["a"][1]["c"].as_str(), after["list"][0].as_str()), (Some("kept"), Some("kept")));
}

#[test]
fn a_key_written_with_escapes_is_the_same_key() {
    let (after, count) = redacted(&redactor(&["payload.user_prompt"], &[]), r#"{"payl\u006fad":{"user\u005fprompt":"hello"}}"#);
    assert_eq!(count, 1);
    assert!(!after.contains("hello"), "{after}");
}

#[test]
fn objects_arrays_and_scalars_at_a_path_become_one_marker() {
    let rules = redactor(&["o", "a", "n", "t"], &[]);
    let (after, count) = redacted(&rules, r#"{"o":{"k":["]}\"",{}]} ,"a":[ ],"n":-1.5e+3,"t":true,"rest":[1]}"#);
    let tree: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(count, 4);
    for key in ["o", "a", "n", "t"] {
        assert!(is_marker(tree[key].as_str().unwrap()), "{after}");
    }
    assert!(after.contains(r#"]" ,"a":"#) && after.ends_with(r#","rest":[1]}"#), "{after}");
}

#[test]
fn null_and_empty_values_tell_nothing_and_stay() {
    let body = r#"{"a":null,"b":""}"#;
    assert_eq!(redacted(&redactor(&["a", "b"], &[]), body), (body.to_owned(), 0));
}

#[test]
fn every_known_shape_is_found_inside_a_text() {
    let rules = redactor(&[], &[]);
    for (kind, secret) in secrets() {
        let body = json!({ "payload": { "output": format!("before {secret} after"), "n": 1 } }).to_string();
        let (after, count) = redacted(&rules, &body);
        let tree: Value = serde_json::from_str(&after).unwrap();
        let text = tree["payload"]["output"].as_str().unwrap();
        assert_eq!(count, 1, "{kind}: {after}");
        assert!(text.starts_with(&format!("before [redacted:{kind}:")) && text.ends_with("] after"), "{kind}: {text}");
    }
}

#[test]
fn credentials_in_headers_urls_and_assignments_are_found() {
    let rules = redactor(&[], &[]);
    let basic = base64_of("admin:hunter2-hunter2");
    for (text, secret) in [
        (format!("curl -H 'Authorization: Basic {basic}'"), basic.as_str()),
        ("Authorization: Bearer abcdef0123456789.xyz".into(), "abcdef0123456789.xyz"),
        ("amqp://user:p@ss-w0rd@rabbit:5672/%2f".into(), "p@ss-w0rd"),
        ("redis://:hunter22@host".into(), "hunter22"),
        ("export DB_PASSWORD=correct-horse-7 && run".into(), "correct-horse-7"),
        ("https://h.example/x?a=1&access_token=zzz999yyy&b=2".into(), "zzz999yyy"),
        (r#"api_key: "k-12345-abc""#.into(), "k-12345-abc"),
        (r#"inner {\"password\": \"s3cr3t-value\"}"#.into(), "s3cr3t-value"),
        ("hooks.slack.com/services/T0000/B0000/abcdefghijklmnop".into(), "T0000/B0000/abcdefghijklmnop"),
    ] {
        let (after, count) = redacted(&rules, &json!({ "x": text }).to_string());
        assert_eq!(count, 1, "{text} -> {after}");
        assert!(!after.contains(secret), "{text} -> {after}");
        let tree: Value = serde_json::from_str(&after).unwrap();
        let kept: Vec<&str> = text.split(secret).collect();
        let after = tree["x"].as_str().unwrap();
        assert!(after.starts_with(kept[0]) && after.ends_with(kept[1]), "{text} -> {after}");
    }
}

#[test]
fn prose_code_and_references_stay() {
    let rules = redactor(&[], &[]);
    for text in [
        "use basic authentication here",
        "bearer authentication is preferred",
        "token=get_token()",
        "password=$DB_PASSWORD",
        "password=${DB_PASSWORD}",
        "secret=<your-secret>",
        r#"{"type": "password", "token": "string"}"#,
        "https://host:8080/path@v1",
        "risk-management-and-compliance-report-for-everybody",
        "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "password=********",
    ] {
        assert_eq!(redacted(&rules, &json!({ "x": text }).to_string()).1, 0, "{text}");
    }
}

#[test]
fn a_letter_that_is_one_only_without_regard_to_case_is_no_credential() {
    let body = json!({ "x": "basic aaaaaaa\u{17f} and bearer aaaaaaaaaaaaaaa\u{212a}" }).to_string();
    assert_eq!(redacted(&redactor(&[], &[]), &body).1, 0);
}

#[test]
fn a_value_under_a_key_that_names_a_secret_goes() {
    let (after, count) = redacted(&redactor(&[], &[]), r#"{"env":{"DB_PASSWORD":"hunter2"},"auth-token":"0123456789abcdef","tokens":"12","token":"short"}"#);
    let tree: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(count, 2);
    assert!(tree["env"]["DB_PASSWORD"].as_str().unwrap().starts_with("[redacted:key:"));
    assert!(tree["auth-token"].as_str().unwrap().starts_with("[redacted:key:"));
    assert_eq!((tree["tokens"].as_str(), tree["token"].as_str()), (Some("12"), Some("short")));
}

#[test]
fn a_secret_hidden_by_escapes_is_found_and_only_its_string_is_written_anew() {
    let secret = format!("gh\\u0070_{}", "a1B2c3D4e5F6g7H8i9J0");
    let body = format!(r#"{{"a":"x\u0041","b":"say \u0022hi\u0022\n{secret}\ttail","c":"y\u0041"}}"#);
    let (after, count) = redacted(&redactor(&[], &[]), &body);
    assert_eq!(count, 1);
    assert!(after.starts_with(r#"{"a":"x\u0041","b":"say \"hi\"\n[redacted:github-token:"#), "{after}");
    assert!(after.ends_with(r#"]\ttail","c":"y\u0041"}"#), "{after}");
}

#[test]
fn a_private_key_without_an_end_goes_to_the_end_of_its_text() {
    let text = format!("key:\n-----BEGIN RSA {} KEY-----\nMIIEow", "PRIVATE");
    let (after, _) = redacted(&redactor(&[], &[]), &json!({ "x": text, "y": "kept" }).to_string());
    assert!(!after.contains("MIIE") && after.contains(r#""y":"kept""#), "{after}");
}

#[test]
fn a_public_key_is_no_secret() {
    let text = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----";
    assert_eq!(redacted(&redactor(&[], &[]), &json!({ "x": text }).to_string()).1, 0);
}

#[test]
fn an_own_pattern_replaces_its_group_or_all_of_it() {
    let rules = redactor(&[], &[r"ticket-(?<secret>[0-9]+)", r"customer [A-Z]\w+"]);
    let (after, count) = redacted(&rules, r#"{"x":"ticket-4711 of customer Meier"}"#);
    assert_eq!(count, 2);
    assert!(after.contains("ticket-[redacted:pattern:") && after.contains(" of [redacted:pattern:") && !after.contains("Meier"), "{after}");
}

#[test]
fn an_own_pattern_around_a_known_shape_takes_all_of_it() {
    let token = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0");
    let (after, count) = redacted(&redactor(&[], &["<<.+>>"]), &json!({ "x": format!("a <<{token} tail>> b") }).to_string());
    assert_eq!(count, 1);
    assert!(!after.contains("tail") && after.contains("a [redacted:") && after.contains("] b"), "{after}");
}

#[test]
fn without_builtin_shapes_only_the_own_rules_hold() {
    let rules = Redactor::new(&RedactConfig { builtin: false, ..config(&["p"], &[]) }, [7; 32]).unwrap();
    let body = json!({ "p": "x", "q": format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0"), "password": "hunter2" }).to_string();
    assert_eq!(redacted(&rules, &body).1, 1);
}

#[test]
fn the_same_secret_has_the_same_fingerprint_under_one_key_only() {
    let fingerprint_of = |key: u8, body: &str| {
        let rules = Redactor::new(&config(&["a", "b"], &[]), [key; 32]).unwrap();
        let (after, _) = redacted(&rules, body);
        serde_json::from_str::<Value>(&after).unwrap()
    };
    let one = fingerprint_of(1, r#"{"a":"secr\u0065t","b":"secret"}"#);
    assert_eq!(one["a"], one["b"]);
    assert_ne!(one["a"], fingerprint_of(2, r#"{"a":"secret"}"#)["a"]);
}

#[test]
fn redacting_again_changes_nothing() {
    let rules = redactor(&["p", "o"], &["[0-9a-f]{12}", "redacted"]);
    let body =
        json!({ "p": "prompt", "o": { "x": 1 }, "u": "amqp://u:pass-w0rd@h", "e": "password=hunter2-hunter2", "k": { "password": "abcdef" } }).to_string();
    let (once, count) = redacted(&rules, &body);
    assert_eq!(count, 5, "{once}");
    assert_eq!(redacted(&rules, &once), (once.clone(), 0));
}

#[test]
fn what_is_no_json_is_searched_as_text() {
    let rules = redactor(&["payload.user_prompt"], &[]);
    let token = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0");
    for body in
        [format!("hello {token}"), format!("{{\"a\":1}} trailing {token}"), format!("{{\"a\": {token}}}"), format!("{{\"a\":\"{token}"), format!("{{\"{token}")]
    {
        let (after, count) = redacted(&rules, &body);
        assert_eq!(count, 1, "{body}");
        assert!(!after.contains(&token), "{after}");
    }
}

#[test]
fn a_body_cut_inside_a_value_at_a_path_loses_all_of_the_rest() {
    let rules = redactor(&["payload.user_prompt", "o"], &[]);
    for body in [r#"{"payload":{"user_prompt":"top sec"#, r#"{"o":{"x":["top sec", 1"#, r#"{"o":{"x" "top sec"}}"#] {
        let (after, count) = redacted(&rules, body);
        assert_eq!(count, 1);
        assert!(!after.contains("top sec"), "{after}");
    }
}

#[test]
fn lines_of_json_are_each_a_body() {
    let (after, count) = redacted(&redactor(&["p"], &[]), "{\"p\":\"one\"}\n{\"p\":\"two\"}\n");
    assert_eq!(count, 2);
    assert!(!after.contains("one") && !after.contains("two"), "{after}");
}

#[test]
fn bytes_that_are_no_text_stay_and_hide_nothing() {
    let token = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0");
    let rules = redactor(&["p"], &[]);
    let mut body = b"\xff\xfe{\"x\":\"".to_vec();
    body.extend_from_slice(token.as_bytes());
    body.extend_from_slice(b"\x80\"}");
    let after = rules.redact(&body.clone().into());
    assert_eq!(after.count, 1);
    assert!(after.body.starts_with(b"\xff\xfe{\"x\":\"[redacted:") && after.body.ends_with(b"]\x80\"}"));

    let inside = rules.redact(&Bytes::from_static(b"{\"p\":\"\xff secret\",\"q\":1}"));
    assert!(inside.body.ends_with(b"]\",\"q\":1}") && inside.count == 1);
}

#[test]
fn the_deepest_nesting_neither_overflows_nor_hides_what_follows() {
    let rules = redactor(&["*.p", "z"], &[]);
    let deep = 200_000;
    let body = format!(r#"{{"a":{}"ghp_a1B2c3D4e5F6g7H8i9J0"{},"z":"prompt"}}"#, "[".repeat(deep), "]".repeat(deep));
    let (after, count) = redacted(&rules, &body);
    assert_eq!(count, 2);
    assert!(!after.contains("prompt") && !after.contains("ghp_"));
}

#[test]
fn hostile_repetitions_cost_no_more_than_their_length() {
    let rules = redactor(&[], &[]);
    for unit in [
        "-----BEGIN PRIVATE AKIAABCDEFGH23456789 ",
        "eyJaaaaaaaaa-AKIAABCDEFGH23456789-",
        "://a:b",
        "password=\"",
        "bearer bearer ",
        "[redacted:",
        "sk-proj-",
        "xoxb-1",
        "basic AA",
    ] {
        // A quadratic search of this many bytes takes minutes, a linear one some milliseconds.
        let text = unit.repeat(600_000 / unit.len());
        let began = processor_time();
        let _ = rules.redact(&Bytes::from(json!({ "x": text }).to_string()));
        let spent = processor_time() - began;
        assert!(spent < std::time::Duration::from_secs(20), "{unit}: {spent:?}");
    }
}

#[test]
fn all_wrong_rules_are_told_at_once() {
    let problems = Redactor::new(&config(&["ok", "a..b", "a*", ""], &["[", "x*", "fine"]), [0; 32]).unwrap_err();
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["paths.1", "paths.2", "paths.3", "patterns.0", "patterns.1"]);
    assert!(problems[3].message.contains("unclosed"), "{}", problems[3]);
}

#[test]
fn a_text_that_is_no_event_is_redacted_too() {
    let rules = redactor(&[], &[]);
    assert_eq!(rules.redact_text("nothing here"), "nothing here");
    assert!(rules.redact_text("refused for amqp://u:hunter2@h").starts_with("refused for amqp://u:[redacted:url-password:"));
}

#[test]
fn unescaping_agrees_with_the_json_parser() {
    for raw in [r"a\nb", r"\u00e9\ud83d\ude00", r#"\"\\\/\b\f\r\t"#, "plain é"] {
        assert_eq!(unescaped(raw), serde_json::from_str::<String>(&format!("\"{raw}\"")).unwrap());
    }
    assert_eq!(unescaped(r"\ud83dx\u12"), "\u{fffd}x\u{fffd}12");
}

#[test]
fn the_debug_form_shows_no_key() {
    assert!(!format!("{:?}", redactor(&["a"], &["b+"])).contains('7'));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-e]{1,2}|.{0,3}", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect()))
        ]
    })
}

proptest! {
    #[test]
    fn valid_json_stays_valid_and_a_planted_secret_never_survives(tree in any_json(), which in 0..13_usize, before in "[^a-zA-Z0-9\"':=@/-]{0,8}", at_rule in any::<bool>()) {
        let (_, secret) = secrets().swap_remove(which);
        let planted = json!({ "payload": { "user_prompt": { "deep": [tree.clone()] }, "rest": tree, "text": format!("{before} {secret} .") } });
        let rules = if at_rule { redactor(&["payload.user_prompt"], &[]) } else { redactor(&[], &[]) };
        for body in [planted.to_string(), serde_json::to_string_pretty(&planted).unwrap()] {
            let (after, count) = redacted(&rules, &body);
            let after_tree: Value = serde_json::from_str(&after).unwrap();
            prop_assert!(count > u32::from(at_rule));
            prop_assert!(!after_tree["payload"]["text"].as_str().unwrap().contains(&secret));
            prop_assert_eq!(redacted(&rules, &after).1, 0);
        }
    }

    #[test]
    fn every_byte_but_the_secret_is_the_same(tree in any_json(), which in 0..12_usize, pretty in any::<bool>()) {
        let rules = Redactor::new(&config(&[], &[]), [7; 32]).unwrap();
        prop_assume!(rules.redact(&tree.to_string().into()).count == 0);
        let (_, secret) = secrets().swap_remove(which);
        let planted = json!({ "a": tree.clone(), "b": format!("x {secret} y"), "c": tree });
        let body = if pretty { serde_json::to_string_pretty(&planted).unwrap() } else { planted.to_string() };
        let (after, _) = redacted(&rules, &body);
        let marker = rules.redact_text(&secret).into_owned();
        prop_assert_eq!(after, body.replace(&secret, &marker));
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300), jsonish in "[\\[\\]{}:,\"\\\\a-f0-9. ]{0,120}") {
        let rules = redactor(&["a", "*.b.*", "0"], &["[a-f]{3}"]);
        let _ = rules.redact(&body.into());
        let _ = rules.redact(&jsonish.into());
    }

    #[test]
    fn a_path_rule_finds_exactly_what_a_tree_walk_finds(tree in any_json(), path in prop::collection::vec(prop_oneof![Just("*".to_owned()), "[a-e]{1,2}", "[0-4]"], 1..4)) {
        fn expected(value: &Value, path: &[String]) -> u32 {
            let Some((word, rest)) = path.split_first() else {
                return u32::from(!value.is_null() && value.as_str() != Some(""));
            };
            match value {
                Value::Object(map) => map.iter().filter(|(key, _)| word == "*" || word == *key).map(|(_, child)| expected(child, rest)).sum(),
                Value::Array(items) => items.iter().enumerate().filter(|(index, _)| word == "*" || *word == index.to_string()).map(|(_, child)| expected(child, rest)).sum(),
                _ => 0,
            }
        }
        let rules = Redactor::new(&RedactConfig { builtin: false, ..config(&[&path.join(".")], &[]) }, [7; 32]).unwrap();
        prop_assert_eq!(rules.redact(&tree.to_string().into()).count, expected(&tree, &path));
    }
}

#[test]
fn shapes_without_rules_find_nothing() {
    assert!(Shapes::new(false, &[], &mut Vec::new()).find("password=hunter2-hunter2").is_empty());
}
