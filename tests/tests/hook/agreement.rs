//! The hook's redaction, written by hand, finds what the router's own finds with its patterns.

use bytes::Bytes;
use proptest::prelude::*;
use router_claude::redact::Redaction;
use router_core::{config::RedactConfig, redact::Redactor};
use serde_json::{Value, json};

const KEY: [u8; 32] = [7; 32];

fn both(text: &str) -> (String, String) {
    let router = Redactor::new(&RedactConfig { paths: Vec::new(), patterns: Vec::new(), builtin: true }, KEY).expect("no rules are wrong");
    (router.redact_text(text).into_owned(), Redaction::new(&[], KEY).text(text).into_owned())
}

/// Texts that are secrets, nearly secrets, or stand around them. Put together at run time, so that no scanner takes this file for a leak.
fn pieces() -> Vec<String> {
    let alnum = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0";
    let begin = format!("-----BEGIN OPENSSH {} KEY-----", "PRIVATE");
    let mut pieces: Vec<String> = [
        "AKIA",
        "ASIA",
        "ABCDEFGH23456789",
        "ABCDEFGH2345678",
        "gh",
        "ghp_",
        "ghs_",
        "github_pat_",
        "xox",
        "xoxb-",
        "xapp-1-",
        "123456789012-",
        "hooks.slack.com/services/",
        "T0000/B0000/abcdefghijk",
        "sk-",
        "sk-ant-",
        "sk-proj-",
        "or-v1-",
        "AIza",
        "ya29.",
        "glpat-",
        "npm_",
        "sk_live_",
        "rk_test_",
        "eyJ",
        "eyJhbGciOiJIUzI1NiJ9",
        ".",
        "..",
        "bearer ",
        "Bearer  ",
        "bEaRer\u{a0}",
        "basic ",
        "ba\u{17f}ic ",
        "YWRtaW46aHVudGVyMi1odW50ZXIy",
        "YTpi",
        "=",
        "==",
        "://",
        "amqp://user:",
        "p@ss",
        "@host",
        "@",
        ":",
        "/",
        "password",
        "PASSWORD",
        "passwd",
        "passphrase",
        "secret",
        "\u{17f}ecret",
        "token",
        "to\u{212a}en",
        "api_key",
        "api-key",
        "apikey",
        "access_key",
        "private-key",
        "privatekey",
        "_",
        "-",
        "\"",
        "'",
        "\\",
        "\\\\\"",
        " ",
        "         ",
        "\n",
        "\t",
        "hunter22",
        "string",
        "******",
        "$VAR",
        "<x>",
        "(",
        ")",
        ",",
        "ä",
        "\u{2003}",
        "[redacted:aws-key:0123456789ab]",
        "[redacted:",
        "]",
        "-----END ",
        "-----",
    ]
    .map(str::to_owned)
    .to_vec();
    pieces.extend([alnum[..16].to_owned(), alnum[..20].to_owned(), alnum[..35].to_owned(), alnum[..36].to_owned(), alnum.to_owned(), begin]);
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn both_redactions_agree_on_what_looks_like_secrets(which in prop::collection::vec(0..96_usize, 1..8)) {
        let pieces = pieces();
        let text: String = which.iter().map(|at| pieces[at % pieces.len()].as_str()).collect();
        let (router, hook) = both(&text);
        prop_assert_eq!(router, hook, "{:?}", text);
    }

    #[test]
    fn both_redactions_agree_on_any_text(text in "\\PC{0,80}", around in "[a-zA-Z0-9_=:@/\"' .-]{0,60}") {
        let text = format!("{text}{around}");
        let (router, hook) = both(&text);
        prop_assert_eq!(router, hook, "{:?}", text);
    }
}

#[test]
fn each_secret_is_found_by_both_in_whatever_stands_around_it() {
    let pieces = pieces();
    let mut found = 0;
    for first in &pieces {
        for second in &pieces {
            for text in [format!("{first}{second}"), format!("x {first}{second}{} y", &"a1B2c3D4e5F6g7H8i9J0"), format!("{first}={second}")] {
                let (router, hook) = both(&text);
                assert_eq!(router, hook, "{text:?}");
                found += usize::from(router != text);
            }
        }
    }
    assert!(found > 500, "only {found} of the texts had a secret, so this would show little");
}

#[test]
fn members_are_judged_by_their_names_alike() {
    for (key, value) in [
        ("DB_PASSWORD", "hunter2"),
        ("auth-token", "0123456789abcdef"),
        ("token", "short"),
        ("tokens", "0123456789abcdef"),
        ("Set-Cookie", "a=b"),
        ("secret", ""),
    ] {
        let body = json!({ "env": { key: value }, "list": [{ "n": 1 }] });
        let router = Redactor::new(&RedactConfig { paths: vec!["list.0".into()], patterns: Vec::new(), builtin: true }, KEY).expect("no rules are wrong");
        let expected: Value = serde_json::from_slice(&router.redact(&Bytes::from(body.to_string())).body).expect("JSON stays JSON");
        let mut hook = body.clone();
        Redaction::new(&["list.0".into()], KEY).value(&mut hook);
        assert_eq!(hook, expected, "{key}");
    }
}
