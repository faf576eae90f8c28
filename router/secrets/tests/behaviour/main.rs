//! What is found by hand is what patterns find; and what is done with findings.

mod patterns;

use proptest::prelude::*;
use router_secrets::{Finding, found, is_marker, key_names_secret, marker, settled};

fn by_hand(text: &str) -> Vec<(std::ops::Range<usize>, &'static str)> {
    let mut found: Vec<_> = found(text).into_iter().filter(|finding| finding.kind != "private-key").map(|finding| (finding.range, finding.kind)).collect();
    found.sort_by_key(|(range, kind)| (range.start, range.end, *kind));
    found
}

#[test]
fn a_secret_of_every_shape_is_found_where_it_stands_and_nothing_of_its_surroundings() {
    let many = "0123456789abcdefghijABCDEFGHIJ0123456789";
    let samples = [
        ("aws-key", "AKIAIOSFODNN7EXAMPLE".to_owned()),
        ("github-token", format!("ghs_{many}")),
        ("github-token", format!("github_pat_{many}")),
        ("slack-token", format!("xoxb-{many}")),
        ("slack-token", format!("xapp-1-{many}")),
        ("anthropic-key", format!("sk-ant-api03-{many}")),
        ("openai-key", format!("sk-proj-{many}")),
        ("openai-key", format!("sk-{many}")),
        ("google-key", format!("AIza{}", &many[..35])),
        ("google-key", format!("ya29.{many}")),
        ("gitlab-token", format!("glpat-{many}")),
        ("npm-token", format!("npm_{}", &many[..36])),
        ("stripe-key", format!("rk_live_{many}")),
        ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl".to_owned()),
    ];
    for (kind, secret) in samples {
        let text = format!("\u{e9}\u{4e2d} <{secret}> \u{1f980}");
        let at = text.find(&secret).unwrap();
        let finding = Finding { range: at..at + secret.len(), kind };
        assert_eq!(settled(&text, found(&text)), [finding], "{text}");
    }
    for (kind, before, secret, after) in [
        ("slack-webhook", "https://hooks.slack.com/services/", "T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX", ""),
        ("bearer-token", "Authorization: BEARER ", "abcdef0123456789abcdef", "\r\n"),
        ("basic-auth", "authorization: basic ", "YWRtaW46aHVudGVyMi1odW50ZXIy", " x"),
        ("url-password", "amqp://guest:", "hunter2-hunter2", "@host/x"),
        ("assignment", "DB_PASSWORD=", "hunter2-hunter2", "&x=1"),
        ("assignment", "{\\\"api-key\\\": \\\"", "hunter2", "\\\"}"),
        ("private-key", "", "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "\n"),
    ] {
        let text = format!("{before}{secret}{after}");
        let finding = Finding { range: before.len()..before.len() + secret.len(), kind };
        assert_eq!(settled(&text, found(&text)), [finding], "{text}");
    }
}

#[test]
fn what_an_earlier_redaction_left_is_not_found_again_and_what_overlaps_is_one() {
    let marker = marker("assignment", &[0xab; 32]);
    assert!(is_marker(&marker), "{marker}");
    for text in [format!("password={marker}"), format!("\"token\": \"{marker}\""), format!("amqp://guest:{marker}@host")] {
        assert_eq!(settled(&text, found(&text)), [], "{text}");
    }
    let text = "abcdefgh";
    let of = |range, kind| Finding { range, kind };
    assert_eq!(settled(text, vec![of(4..6, "b"), of(0..3, "a"), of(2..5, "c")]), [of(0..6, "a")]);
}

#[test]
fn a_key_says_that_its_value_is_a_secret_unless_that_is_a_placeholder() {
    assert!(key_names_secret("db_Password", "hunter2"));
    assert!(key_names_secret("X-Api-Key", "abc"));
    assert!(key_names_secret("refresh_token", "0123456789abcdef0"));
    assert!(!key_names_secret("max_token", "4096"));
    assert!(!key_names_secret("password", "${PASSWORD}"));
    assert!(!key_names_secret("passwords_seen", "hunter2"));
}

proptest! {
    #[test]
    fn what_is_found_by_hand_is_what_patterns_find(
        parts in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                "AKIA", "ASIA", "ghp_", "gh", "github_pat_", "xoxb-", "xapp-1-", "hooks.slack.com/services/", "sk-ant-", "sk-", "sk-proj-", "AIza", "ya29.", "glpat-",
                "npm_", "sk_live_", "rk_test_", "eyJ", ".", "Bearer ", "bearer\t", "basic ", "BASIC  ", "dXNlcjpodW50ZXIy", "://", "user:", "@", "password=", "api_key",
                "API-KEY=", "to\u{212a}en=", "\u{17f}ecret: '", "\": \"", "\\\"", "'", "=", "==", ":", " ", "\n", "${X}", "(", "_", "x",
            ]).prop_map(str::to_owned),
            "[A-Za-z0-9]{1,40}",
            "[A-Z0-9]{14,18}",
            "[a-z0-9_/+.-]{1,24}",
            "\\PC{0,3}",
        ], 0..14)
    ) {
        let text = parts.concat();
        prop_assert_eq!(by_hand(&text), patterns::found(&text), "{}", text);
    }
}
