//! The texts that `router-api` has types for: their schemas say `format`, and the types' own parsers say what is wrong, so that two
//! bad templates in one table come to light together.

use router_api::{ArgvTemplate, BuildError, BuildProblem, Endpoint, JsonTemplate, Template, UrlTemplate};

use super::tree::Node;

/// What the parser of `format` has against `node`; the fields are below it. Nothing for a format that is not ours.
pub(super) fn problems(format: &str, node: &Node) -> Vec<BuildProblem> {
    let text = || node.as_text().map(|text| text.value.as_str());
    let result: Option<Result<(), BuildError>> = match format {
        "template" => text().map(|text| Template::parse(text).map(drop)),
        "url-template" => text().map(|text| UrlTemplate::parse(text).map(drop)),
        "endpoint" => text().map(|text| Endpoint::parse(text).map(drop)),
        "json-template" => Some(JsonTemplate::parse(node.to_json()).map(drop)),
        "argv-template" => serde_json::from_value::<Vec<String>>(node.to_json()).ok().map(|elements| ArgvTemplate::parse(elements).map(drop)),
        _ => None,
    };
    result.and_then(Result::err).map(|error| error.problems).unwrap_or_default()
}
