//! `config show`: the configuration in force, without anything secret.

use router_tests::Home;

use crate::{golden::golden, world::ROUTES};

const HOOK: &str = r#"
[redact]
patterns = ["ACME-[0-9]{8}"]

[[route]]
name = "hook"
on = ["a.#"]
handler = "webhook"
[route.with]
url = "${HOOK_URL}"
secret_headers = { Authorization = "Bearer ${HOOK_TOKEN}", X-Plain = "plainly-written-token-1234567890" }
hmac = { style = "standard-webhooks", secret = "${HOOK_SECRET}" }
"#;

const VARIABLES: [(&str, &str); 3] = [
    ("HOOK_URL", "https://user-part.example/hooks/T0PSECRETPATH"),
    ("HOOK_TOKEN", "hook-token-of-this-test"),
    ("HOOK_SECRET", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
];

#[test]
fn values_from_outside_are_shown_as_where_they_come_from() {
    let home = Home::new(HOOK);
    let text = home.run_with(&VARIABLES, &["config", "show"]);
    let answer = home.run_with(&VARIABLES, &["config", "show", "--json"]);
    if text.code != Some(0) {
        panic!("{}{}", text.stdout, text.stderr);
    }
    for part in ["${HOOK_URL}", "${HOOK_TOKEN}", "${HOOK_SECRET}", "attempts_max = 8", "ACME-[0-9]{8}"] {
        assert!(text.stdout.contains(part), "no `{part}` in\n{}", text.stdout);
    }
    for secret in ["T0PSECRETPATH", "hook-token-of-this-test", "MDEyMzQ1", "plainly-written-token"] {
        assert!(!text.stdout.contains(secret) && !answer.stdout.contains(secret), "`{secret}` is shown:\n{}", text.stdout);
    }
}

#[test]
fn what_is_shown_is_all_that_is_in_force_and_can_be_loaded_again() {
    let home = Home::new(ROUTES);
    let answer = home.run(&["config", "show", "--json"]).code(0).json();
    golden(&home, "config", &answer);
    let shown = home.write("shown.toml", &home.run(&["config", "show"]).code(0).stdout);
    let again = home.run(&["-c", &shown.display().to_string(), "config", "show", "--json"]).code(0).json();
    // A plugin's paths begin at the file's directory, so only what is independent of it is compared.
    assert_eq!(again["routes"].as_array().map(Vec::len), answer["routes"].as_array().map(Vec::len));
    assert_eq!(again["text"], answer["text"]);
}

#[test]
fn the_hash_is_that_of_the_meaning_and_not_of_the_spelling() {
    let home = Home::new(ROUTES);
    let hash = || home.run(&["config", "show", "--json"]).code(0).json()["hash"].clone();
    let before = hash();
    home.configure(&format!("# a comment\n{ROUTES}"));
    assert_eq!(hash(), before);
    home.configure(&ROUTES.replace("\"Edit\"", "\"MultiEdit\""));
    assert_ne!(hash(), before);
}

#[test]
fn an_invalid_configuration_is_not_shown() {
    let home = Home::new("[[route]]\nname = \"one\"\non = [\"a\"]\nhandler = \"nope\"\n");
    for args in
        [&["config", "show"][..], &["config", "show", "--json"], &["events"], &["publish", "--sample", "write"], &["explain", "1"], &["try", "one", "1"]]
    {
        let ran = home.run(args).code(78);
        assert!(ran.stderr.contains("`nope`"), "{args:?}: {}", ran.stderr);
    }
}
