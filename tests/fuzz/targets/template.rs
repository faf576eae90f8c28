//! A template, [`BETWEEN`](super::BETWEEN), and a body: what an event contains never becomes another argument, another host or a panic.

use router_api::{ArgvTemplate, DecodeLimits, Envelope, JsonTemplate, RoutingKey, Scope, Template, UrlTemplate};

use super::two_parts;

pub(super) const WORDS: &[&str] = &[
    "{{ payload.a }}",
    "{{ payload | tojson }}",
    "{{ payload.a | default('x') }}",
    "{% for x in payload %}",
    "{% endfor %}",
    "{% if payload.a %}",
    "{{ payload.a * 99999999 }}",
    "{{ 'a' * 99999999 }}",
    "range(100000000)",
    "http://h/",
    "https://h/{{ payload.a }}?q={{ payload.b }}",
    "\\u0000",
    "../",
    "--upload-pack=x",
    "@169.254.169.254/",
    "\n---\n",
];

pub(super) fn run(data: &[u8]) {
    let (text, body) = two_parts(data);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let key = RoutingKey::new("a.b").expect("a key");
    let Ok(event) = Envelope::decode(key, body.to_vec(), DecodeLimits::default()) else { return };
    let scope = Scope::of_event(&event);
    if let Ok(template) = Template::parse(text) {
        assert_eq!(template.as_str(), text);
        let rendered = template.render(&scope);
        assert!(!template.is_literal() || rendered.is_ok_and(|rendered| rendered == text), "a text without templates stays as it is");
    }
    if let Ok(template) = JsonTemplate::parse(serde_json::json!({ "a": [text], "b": 1 })) {
        let rendered = template.render(&scope);
        assert!(rendered.is_err() || rendered.is_ok_and(|rendered| rendered["a"].as_array().is_some_and(|items| items.len() == 1) && rendered["b"] == 1));
    }
    if let Ok(template) = ArgvTemplate::parse(vec!["program".to_owned(), text.to_owned()])
        && let Ok(arguments) = template.render(&scope)
    {
        // A list of files is the one thing that becomes several arguments.
        assert!(arguments.len() == 1 || text.contains("files"), "one argument stays one: {arguments:?}");
        assert!(arguments.iter().all(|argument| !argument.contains('\0')), "{arguments:?}");
        let is_option = arguments.first().is_some_and(|argument| argument.starts_with('-') && argument != "--");
        assert!(!is_option || text.starts_with('-') || !text.contains("payload"), "an event makes no option: {arguments:?}");
    }
    if let Ok(template) = UrlTemplate::parse(text) {
        let host = template.host().to_owned();
        if let Ok(target) = template.render(&scope) {
            let url = target.as_url();
            assert_eq!(url.host_str(), Some(host.as_str()), "an event never chooses the host: {url}");
            assert!(matches!(url.scheme(), "http" | "https"), "{url}");
        }
    }
}
