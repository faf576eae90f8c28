//! CloudEvents 1.0 over HTTP: the structured form is looked over, the binary form (`ce-` headers and a body) is put together to the
//! structured one, which is what is stored.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, header};
use percent_encoding::percent_decode;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use serde_json::value::RawValue;

/// Attributes of one event; far more than any has.
const ATTRIBUTES_MAX: usize = 40;

/// Is this event's envelope in the headers?
pub(crate) fn is_binary(headers: &HeaderMap) -> bool {
    headers.contains_key("ce-specversion")
}

/// Checks what CloudEvents asks of every event: `specversion` 1.0, and an `id`, a `source` and a `type` that are texts.
///
/// # Errors
///
/// A sentence fragment that names the attribute.
pub(crate) fn check_structured(body: &[u8]) -> Result<(), String> {
    /// A text, or anything else.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Attribute<'a> {
        Text(#[serde(borrow)] Cow<'a, str>),
        Other(serde::de::IgnoredAny),
    }

    #[derive(Deserialize)]
    struct Required<'a> {
        #[serde(borrow)]
        specversion: Option<Attribute<'a>>,
        #[serde(borrow)]
        id: Option<Attribute<'a>>,
        #[serde(borrow)]
        source: Option<Attribute<'a>>,
        #[serde(borrow, rename = "type")]
        kind: Option<Attribute<'a>>,
    }

    let text = |attribute: Option<Attribute<'_>>, name: &str| match attribute {
        Some(Attribute::Text(text)) if !text.is_empty() => Ok(text.into_owned()),
        Some(Attribute::Text(_)) => Err(format!("`{name}` of the CloudEvent is empty")),
        Some(Attribute::Other(_)) => Err(format!("`{name}` of the CloudEvent is no text")),
        None => Err(format!("the CloudEvent has no `{name}`")),
    };
    let required: Required<'_> = serde_json::from_slice(body).map_err(|_| "no CloudEvent: a JSON object is needed".to_owned())?;
    check_version(&text(required.specversion, "specversion")?)?;
    for (attribute, name) in [(required.id, "id"), (required.source, "source"), (required.kind, "type")] {
        text(attribute, name)?;
    }
    Ok(())
}

fn check_version(version: &str) -> Result<(), String> {
    if version == "1.0" { Ok(()) } else { Err("`specversion` of the CloudEvent is not `1.0`, the only one that is known here".to_owned()) }
}

/// The structured form of an event whose attributes are headers and whose body is its data.
///
/// # Errors
///
/// A sentence fragment: an attribute that is missing, doubled, or written wrongly, or a body that is no JSON.
pub(crate) fn from_binary(headers: &HeaderMap, body: &[u8]) -> Result<Bytes, String> {
    let mut event = Structured { attributes: Vec::new(), data: None };
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else { continue };
        if attribute.is_empty() || !attribute.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            return Err(format!("`{}` names no attribute of CloudEvents: they have lowercase letters and digits only", name.as_str()));
        }
        if matches!(attribute, "data" | "datacontenttype") {
            return Err(format!("`{}` is no header of CloudEvents: the data is the body, its type is `Content-Type`", name.as_str()));
        }
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(format!("`{}` comes more than once", name.as_str())) };
        let value = percent_decode(value.as_bytes()).decode_utf8().map_err(|_| format!("`{}` is no UTF-8 once decoded", name.as_str()))?;
        if event.attributes.len() == ATTRIBUTES_MAX {
            return Err(format!("more than {ATTRIBUTES_MAX} attributes in one event"));
        }
        event.attributes.push((Cow::Owned(attribute.to_owned()), value));
    }
    let of = |name: &str| event.attributes.iter().find(|(attribute, _)| attribute == name).map(|(_, value)| value);
    check_version(of("specversion").map_or("", |version| version.as_ref()))?;
    for name in ["id", "source", "type"] {
        if of(name).is_none_or(|value| value.is_empty()) {
            return Err(format!("the CloudEvent has no `ce-{name}`"));
        }
    }
    if !body.trim_ascii().is_empty() {
        event.data = Some(serde_json::from_slice::<&RawValue>(body).map_err(|error| format!("the data of the CloudEvent is no JSON: {error}"))?);
        if let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
            event.attributes.push((Cow::Borrowed("datacontenttype"), Cow::Borrowed(kind)));
        }
    }
    serde_json::to_vec(&event).map(Bytes::from).map_err(|error| format!("the CloudEvent cannot be written: {error}"))
}

struct Structured<'a> {
    attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    data: Option<&'a RawValue>,
}

impl Serialize for Structured<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.attributes {
            map.serialize_entry(name, value)?;
        }
        if let Some(data) = self.data {
            map.serialize_entry("data", data)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const REQUIRED: [(&str, &str); 4] = [("ce-specversion", "1.0"), ("ce-id", "e-1"), ("ce-source", "urn:x"), ("ce-type", "a.b")];

    fn built(pairs: &[(&str, &str)], body: &str) -> Result<serde_json::Value, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        from_binary(&headers, body.as_bytes()).map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn headers_and_body_become_one_event() {
        let mut pairs = REQUIRED.to_vec();
        pairs.extend([("ce-subject", "K%C3%A4se%20%22x%22 100%25"), ("content-type", "application/json"), ("x-other", "y")]);
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "e-1", "source": "urn:x", "type": "a.b", "subject": "Käse \"x\" 100%", "datacontenttype": "application/json",
            "data": [1, null]
        });
        assert_eq!(built(&pairs, "[1, null]").unwrap(), expected);
        assert_eq!(built(&REQUIRED, "").unwrap().get("data"), None, "an event may have no data");
    }

    #[test]
    fn attributes_that_are_missing_doubled_or_odd_are_refused() {
        for (name, _) in &REQUIRED[1..] {
            let pairs: Vec<_> = REQUIRED.iter().filter(|(other, _)| other != name).copied().collect();
            assert!(built(&pairs, "{}").unwrap_err().contains(name));
        }
        for (extra, word) in [
            (("ce-id", "e-2"), "more than once"),
            (("ce-da_ta", "x"), "lowercase"),
            (("ce-data", "x"), "body"),
            (("ce-x", "%ff"), "UTF-8"),
            (("ce-", "x"), "lowercase"),
        ] {
            let mut pairs = REQUIRED.to_vec();
            pairs.push(extra);
            let error = built(&pairs, "{}").unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(built(&REQUIRED, "{hunter2").is_err_and(|error| !error.contains("hunter2")));
    }

    #[test]
    fn a_structured_event_needs_its_four_attributes() {
        assert_eq!(check_structured(br#"{"specversion":"1.0","id":"1","source":"s","type":"t","x":[1]}"#), Ok(()));
        for (body, word) in [
            (r#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#, "specversion"),
            (r#"{"id":"1","source":"s","type":"t"}"#, "specversion"),
            (r#"{"specversion":"1.0","id":7,"source":"s","type":"t"}"#, "`id`"),
            (r#"{"specversion":"1.0","id":"1","source":"","type":"t"}"#, "`source`"),
            (r#"{"specversion":"1.0","id":"1","source":"s"}"#, "`type`"),
            ("[]", "object"),
        ] {
            let error = check_structured(body.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
