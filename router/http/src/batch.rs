//! Several events in one body: a JSON array, or JSON lines. Each keeps its own bytes.

use std::fmt;

use bytes::Bytes;
use serde::{
    Deserializer as _,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Events in one request.
pub(crate) const EVENTS_MAX: usize = 1_000;

fn too_many() -> String {
    format!("more than {EVENTS_MAX} events in one request, the limit: send them in several")
}

/// The elements of a JSON array.
///
/// # Errors
///
/// A sentence fragment that repeats nothing of the body: no array, or too many elements.
pub(crate) fn of_array(body: &Bytes) -> Result<Vec<Bytes>, String> {
    struct Elements<'a>(&'a Bytes);

    impl<'de> Visitor<'de> for Elements<'_> {
        type Value = Option<Vec<Bytes>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON array of events")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(element) = elements.next_element::<&'de RawValue>()? {
                if all.len() < EVENTS_MAX {
                    all.push(self.0.slice_ref(element.get().as_bytes()));
                } else {
                    // The rest is skipped without being kept.
                    while elements.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                    return Ok(None);
                }
            }
            Ok(Some(all))
        }
    }

    let mut parser = serde_json::Deserializer::from_slice(body);
    let elements = parser.deserialize_seq(Elements(body)).and_then(|elements| parser.end().map(|()| elements));
    match elements {
        Ok(Some(elements)) => Ok(elements),
        Ok(None) => Err(too_many()),
        Err(error) if error.is_data() => Err("the body is no JSON array".to_owned()),
        Err(error) => Err(format!("no JSON array: {error}")),
    }
}

/// The lines of a body, without empty ones.
///
/// # Errors
///
/// A sentence fragment when there are too many.
pub(crate) fn of_lines(body: &Bytes) -> Result<Vec<Bytes>, String> {
    let mut all = Vec::new();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if all.len() == EVENTS_MAX {
            return Err(too_many());
        }
        all.push(body.slice_ref(line));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn each_element_keeps_its_bytes() {
        let all = of_array(&body(" [ {\"a\" : 1.50} ,[2],\"x\"]\n")).unwrap();
        assert_eq!(all, ["{\"a\" : 1.50}", "[2]", "\"x\""].map(body));
        assert!(of_array(&body("[]")).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_array_is_said_without_repeating_it() {
        for text in ["", "[", "[1,]", "{}", "\"hunter2\"", "[hunter2]", "[1] hunter2", "[1][2]"] {
            assert!(!of_array(&body(text)).unwrap_err().contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_thousand_are_taken_and_one_more_is_not() {
        let array = |count: usize| body(&format!("[{}]", vec!["{}"; count].join(",")));
        assert_eq!(of_array(&array(EVENTS_MAX)).unwrap().len(), EVENTS_MAX);
        assert!(of_array(&array(EVENTS_MAX + 1)).unwrap_err().contains("1000"));
        assert_eq!(of_lines(&body(&"{}\n".repeat(EVENTS_MAX))).unwrap().len(), EVENTS_MAX);
        assert!(of_lines(&body(&"{}\n".repeat(EVENTS_MAX + 1))).is_err());
    }

    #[test]
    fn lines_may_end_as_on_any_system_and_empty_ones_do_not_count() {
        assert_eq!(of_lines(&body("{\"a\":1}\r\n\n  \n{\"b\":2}")).unwrap(), ["{\"a\":1}", "{\"b\":2}"].map(body));
        assert!(of_lines(&body("\n\n")).unwrap().is_empty());
    }
}
