//! The rules by which Bloodbank takes in a request: which fields, of what kind, with which defaults, what is converted, and how a
//! refusal is worded. They are those of its framework's lenient mode, so that a producer that worked there works here: `"5"` and `5.0`
//! are the number 5, `"yes"` is true, and fields that nobody knows are dropped.
//!
//! The schemas themselves are in `bloodbank_fields`.

use jiff::{Timestamp, fmt::temporal::Pieces, tz::Offset};
use serde_json::{Map, Value, json};

use crate::v2::{self, Field, Members};

/// Refusals that are listed; a body can be wrong in more places than anybody reads.
const PROBLEMS_MAX: usize = 50;

/// A refusal repeats what was sent only up to here, in bytes; beyond it says `null`.
const INPUT_BYTES_MAX: usize = 2_048;

/// What a field may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Text,
    Integer,
    Number,
    Flag,
    Moment,
    Texts,
    /// Numbers by name.
    Counts,
    /// Any object.
    Object,
    /// An object of these fields.
    Of(Fields),
    /// Anything.
    Any,
}

/// What stands where nothing was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Absent {
    /// A refusal.
    Required,
    /// Null, which may be sent as well.
    Null,
    Zero,
    False,
    True,
    EmptyList,
    EmptyObject,
    /// The present time, without a zone.
    Now,
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) absent: Absent,
}

/// The fields of an object, in their order, in parts that several objects share.
pub(crate) type Fields = &'static [&'static [Rule]];

/// A field that must be there.
pub(crate) const fn required(name: &'static str, kind: Kind) -> Rule {
    Rule { name, kind, absent: Absent::Required }
}

/// A field that is null unless it is there.
pub(crate) const fn optional(name: &'static str, kind: Kind) -> Rule {
    Rule { name, kind, absent: Absent::Null }
}

/// A field with another default.
pub(crate) const fn default(name: &'static str, kind: Kind, absent: Absent) -> Rule {
    Rule { name, kind, absent }
}

/// A body as its schema wants it.
///
/// # Errors
///
/// The list of what is wrong, as it stands in the answer's `detail`.
pub(crate) fn check(fields: Fields, body: &Value, now: Timestamp) -> Result<Members, Vec<Value>> {
    let mut checker = Checker { place: vec![json!("body")], problems: Vec::new(), now };
    let members = checker.object(fields, body);
    if checker.problems.is_empty() { Ok(members) } else { Err(checker.problems) }
}

/// One entry of `detail`.
pub(crate) fn problem(kind: &str, place: &[Value], message: &str, input: &Value) -> Value {
    let short = serde_json::to_vec(input).is_ok_and(|bytes| bytes.len() <= INPUT_BYTES_MAX);
    json!({ "type": kind, "loc": place, "msg": message, "input": if short { input } else { &Value::Null } })
}

/// The JSON Schema of a body. Stricter than the check, which converts what means the same: it describes what is best sent.
pub(crate) fn described(fields: Fields) -> Value {
    let rules = || fields.iter().copied().flatten();
    let properties: Map<String, Value> = rules().map(|rule| (rule.name.to_owned(), described_rule(rule))).collect();
    let required: Vec<&str> = rules().filter(|rule| matches!(rule.absent, Absent::Required)).map(|rule| rule.name).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn described_rule(rule: &Rule) -> Value {
    // The numbers that every reader of JSON agrees on.
    let integer = || json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX });
    let mut schema = match rule.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Integer => integer(),
        Kind::Number => json!({ "type": "number" }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Moment => json!({ "type": "string", "format": "date-time" }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Counts => json!({ "type": "object", "additionalProperties": integer() }),
        Kind::Object => json!({ "type": "object" }),
        Kind::Of(fields) => described(fields),
        Kind::Any => json!({}),
    };
    let default = match rule.absent {
        Absent::Required | Absent::Now => return schema,
        Absent::Null => {
            let kind = schema["type"].take();
            schema["type"] = json!([kind, "null"]);
            Value::Null
        }
        Absent::Zero => json!(0),
        Absent::False => json!(false),
        Absent::True => json!(true),
        Absent::EmptyList => json!([]),
        Absent::EmptyObject => json!({}),
    };
    schema["default"] = default;
    schema
}

struct Checker {
    place: Vec<Value>,
    problems: Vec<Value>,
    now: Timestamp,
}

impl Checker {
    fn refuse(&mut self, kind: &str, message: &str, input: &Value) -> Value {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem(kind, &self.place, message, input));
        }
        Value::Null
    }

    fn at<T>(&mut self, step: Value, look: impl FnOnce(&mut Self) -> T) -> T {
        self.place.push(step);
        let found = look(self);
        self.place.pop();
        found
    }

    fn object(&mut self, fields: Fields, value: &Value) -> Members {
        let Some(object) = value.as_object() else {
            self.refuse("model_attributes_type", "Input should be a valid dictionary or object to extract fields from", value);
            return Members::default();
        };
        let fields = fields.iter().copied().flatten().map(|rule| (rule.name, self.at(json!(rule.name), |checker| checker.field(rule, object, value))));
        Members(fields.collect())
    }

    fn field(&mut self, rule: &Rule, object: &Map<String, Value>, whole: &Value) -> Field {
        match (object.get(rule.name), rule.absent) {
            (None, Absent::Required) => self.refuse("missing", "Field required", whole).into(),
            (None | Some(Value::Null), Absent::Null) => Value::Null.into(),
            (None, Absent::Zero) => 0.into(),
            (None, Absent::False) => false.into(),
            (None, Absent::True) => true.into(),
            (None, Absent::EmptyList) => json!([]).into(),
            (None, Absent::EmptyObject) => json!({}).into(),
            (None, Absent::Now) => v2::naive(self.now).into(),
            (Some(value), _) => match rule.kind {
                Kind::Of(fields) => Field::Nested(self.object(fields, value)),
                kind => self.plain(kind, value).into(),
            },
        }
    }

    fn plain(&mut self, kind: Kind, value: &Value) -> Value {
        match kind {
            Kind::Any => value.clone(),
            Kind::Text => match value {
                Value::String(_) => value.clone(),
                _ => self.refuse("string_type", "Input should be a valid string", value),
            },
            Kind::Integer => self.integer(value),
            Kind::Number => self.number(value),
            Kind::Flag => self.flag(value),
            Kind::Moment => self.moment(value),
            Kind::Texts => match value {
                Value::Array(items) => {
                    Value::Array(items.iter().enumerate().map(|(at, item)| self.at(json!(at), |checker| checker.plain(Kind::Text, item))).collect())
                }
                _ => self.refuse("list_type", "Input should be a valid list", value),
            },
            Kind::Object | Kind::Of(_) => match value {
                Value::Object(_) => value.clone(),
                _ => self.refuse("dict_type", "Input should be a valid dictionary", value),
            },
            Kind::Counts => match value {
                Value::Object(object) => {
                    Value::Object(object.iter().map(|(name, count)| (name.clone(), self.at(json!(name), |checker| checker.integer(count)))).collect())
                }
                _ => self.refuse("dict_type", "Input should be a valid dictionary", value),
            },
        }
    }

    fn integer(&mut self, value: &Value) -> Value {
        match value {
            Value::Bool(flag) => json!(u8::from(*flag)),
            Value::Number(number) if number.is_i64() || number.is_u64() => value.clone(),
            Value::Number(number) => match number.as_f64().and_then(whole) {
                Some(number) => json!(number),
                None => self.refuse("int_from_float", "Input should be a valid integer, got a number with a fractional part", value),
            },
            Value::String(text) => {
                let text = text.trim();
                // "5.00" is a whole number too.
                let digits = text.split_once('.').filter(|(_, rest)| rest.bytes().all(|byte| byte == b'0')).map_or(text, |(digits, _)| digits);
                match digits.parse::<i64>() {
                    Ok(number) => json!(number),
                    Err(_) => self.refuse("int_parsing", "Input should be a valid integer, unable to parse string as an integer", value),
                }
            }
            _ => self.refuse("int_type", "Input should be a valid integer", value),
        }
    }

    fn number(&mut self, value: &Value) -> Value {
        match value {
            Value::Bool(flag) => json!(f64::from(u8::from(*flag))),
            Value::Number(number) => number.as_f64().map_or(Value::Null, |number| json!(number)),
            // JSON has no words for the infinite and for what is no number, so they cannot be passed on.
            Value::String(text) => match text.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => json!(number),
                _ => self.refuse("float_parsing", "Input should be a valid number, unable to parse string as a number", value),
            },
            _ => self.refuse("float_type", "Input should be a valid number", value),
        }
    }

    fn flag(&mut self, value: &Value) -> Value {
        const UNCLEAR: &str = "Input should be a valid boolean, unable to interpret input";
        match value {
            Value::Bool(_) => value.clone(),
            Value::Number(number) => match number.as_f64() {
                Some(0.0) => json!(false),
                Some(1.0) => json!(true),
                _ => self.refuse("bool_parsing", UNCLEAR, value),
            },
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "1" | "on" | "t" | "true" | "y" | "yes" => json!(true),
                "0" | "off" | "f" | "false" | "n" | "no" => json!(false),
                _ => self.refuse("bool_parsing", UNCLEAR, value),
            },
            _ => self.refuse("bool_type", "Input should be a valid boolean", value),
        }
    }

    fn moment(&mut self, value: &Value) -> Value {
        let found = match value {
            Value::Number(number) => number.as_f64().and_then(since_epoch),
            Value::String(text) => match text.trim().parse::<f64>() {
                Ok(number) => since_epoch(number),
                Err(_) => written_moment(text),
            },
            _ => return self.refuse("datetime_type", "Input should be a valid datetime", value),
        };
        found.map_or_else(|| self.refuse("datetime_from_date_parsing", "Input should be a valid datetime or date", value), Value::String)
    }
}

fn whole(number: f64) -> Option<i64> {
    // Beyond 2^53 a float is no longer sure which whole number it means.
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
}

/// Seconds since 1970, or milliseconds where seconds would be after the year 2603.
fn since_epoch(number: f64) -> Option<String> {
    let seconds = if number.abs() > 2e10 { number / 1_000.0 } else { number };
    let micros = (seconds * 1e6).round();
    if !micros.is_finite() || micros.abs() > 9e17 {
        return None;
    }
    let time = Timestamp::from_microsecond(micros as i64).ok()?;
    Some(v2::isoformat(&Offset::UTC.to_datetime(time), Some(Offset::UTC)))
}

/// A date, or a date with a time, with or without an offset.
fn written_moment(text: &str) -> Option<String> {
    // `2026-01-30`, and with a time at least `2026-01-30T12:00`.
    let bytes = text.as_bytes();
    let has_time = bytes.len() > 10;
    if bytes.len() < 10 || bytes[4] != b'-' || bytes[7] != b'-' || bytes.contains(&b'[') || (has_time && (bytes.len() < 16 || bytes[13] != b':')) {
        return None;
    }
    let text = text.replacen('_', "T", 1);
    let pieces = Pieces::parse(&text).ok()?;
    let time = pieces.time();
    if has_time != time.is_some() {
        return None;
    }
    let offset = pieces.to_numeric_offset();
    Some(v2::isoformat(&pieces.date().to_datetime(time.unwrap_or_else(jiff::civil::Time::midnight)), offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Fields = &[&[
        required("text", Kind::Text),
        optional("whole", Kind::Integer),
        optional("number", Kind::Number),
        default("flag", Kind::Flag, Absent::False),
        default("moment", Kind::Moment, Absent::Now),
        default("texts", Kind::Texts, Absent::EmptyList),
        default("counts", Kind::Counts, Absent::EmptyObject),
        optional("inner", Kind::Of(&[&[required("object", Kind::Object)]])),
    ]];

    fn checked(body: Value) -> Result<Value, Vec<Value>> {
        check(ALL, &body, Timestamp::UNIX_EPOCH).map(|members| serde_json::to_value(members).unwrap())
    }

    fn field(name: &str, value: Value) -> Result<Value, String> {
        checked(json!({ "text": "t", name: value }))
            .map(|all| all[name].clone())
            .map_err(|problems| format!("{} at {}", problems[0]["type"].as_str().unwrap(), problems[0]["loc"]))
    }

    #[test]
    fn defaults_are_filled_and_unknown_fields_dropped() {
        let expected = json!({
            "text": "t", "whole": null, "number": null, "flag": false, "moment": "1970-01-01T00:00:00", "texts": [], "counts": {}, "inner": null
        });
        assert_eq!(checked(json!({ "text": "t", "unknown": 1 })).unwrap(), expected);
    }

    #[test]
    fn what_means_the_same_is_converted() {
        for (name, given, expected) in [
            ("whole", json!(5), json!(5)),
            ("whole", json!(5.0), json!(5)),
            ("whole", json!(" 5 "), json!(5)),
            ("whole", json!("5.00"), json!(5)),
            ("whole", json!(true), json!(1)),
            ("number", json!(1), json!(1.0)),
            ("number", json!("0.135"), json!(0.135)),
            ("flag", json!("Yes"), json!(true)),
            ("flag", json!(0), json!(false)),
            ("counts", json!({ "Read": "8" }), json!({ "Read": 8 })),
            ("moment", json!("2026-01-30T12:00:00Z"), json!("2026-01-30T12:00:00+00:00")),
            ("moment", json!("2026-01-30 12:00"), json!("2026-01-30T12:00:00")),
            ("moment", json!("2026-01-30T12:00:00.5+05:30"), json!("2026-01-30T12:00:00.500000+05:30")),
            ("moment", json!("2026-01-30"), json!("2026-01-30T00:00:00")),
            ("moment", json!(1_769_774_400), json!("2026-01-30T12:00:00+00:00")),
            ("moment", json!("1769774400000"), json!("2026-01-30T12:00:00+00:00")),
        ] {
            assert_eq!(field(name, given.clone()).unwrap(), expected, "{name} {given}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (name, given, expected) in [
            ("text", json!(5), "string_type at [\"body\",\"text\"]"),
            ("text", json!(null), "string_type at [\"body\",\"text\"]"),
            ("whole", json!(5.5), "int_from_float at [\"body\",\"whole\"]"),
            ("whole", json!("five"), "int_parsing at [\"body\",\"whole\"]"),
            ("whole", json!([]), "int_type at [\"body\",\"whole\"]"),
            ("number", json!("NaN"), "float_parsing at [\"body\",\"number\"]"),
            ("number", json!({}), "float_type at [\"body\",\"number\"]"),
            ("flag", json!(2), "bool_parsing at [\"body\",\"flag\"]"),
            ("flag", json!("maybe"), "bool_parsing at [\"body\",\"flag\"]"),
            ("flag", json!(null), "bool_type at [\"body\",\"flag\"]"),
            ("texts", json!("a"), "list_type at [\"body\",\"texts\"]"),
            ("texts", json!(["a", 1]), "string_type at [\"body\",\"texts\",1]"),
            ("counts", json!({ "Read": "x" }), "int_parsing at [\"body\",\"counts\",\"Read\"]"),
            ("inner", json!({}), "missing at [\"body\",\"inner\",\"object\"]"),
            ("inner", json!({ "object": [] }), "dict_type at [\"body\",\"inner\",\"object\"]"),
            ("inner", json!(1), "model_attributes_type at [\"body\",\"inner\"]"),
            ("moment", json!("yesterday"), "datetime_from_date_parsing at [\"body\",\"moment\"]"),
            ("moment", json!("2026-13-01"), "datetime_from_date_parsing at [\"body\",\"moment\"]"),
            ("moment", json!("2026-01-30T12"), "datetime_from_date_parsing at [\"body\",\"moment\"]"),
            ("moment", json!("2026-01-30T12:00:00Z[Europe/Berlin]"), "datetime_from_date_parsing at [\"body\",\"moment\"]"),
            ("moment", json!(1e300), "datetime_from_date_parsing at [\"body\",\"moment\"]"),
            ("moment", json!(true), "datetime_type at [\"body\",\"moment\"]"),
        ] {
            assert_eq!(field(name, given.clone()).unwrap_err(), expected, "{name} {given}");
        }
    }

    #[test]
    fn a_refusal_is_short_however_wrong_and_long_the_body_is() {
        let problems = checked(json!({ "text": "t", "texts": vec![0; 10_000] })).unwrap_err();
        assert_eq!(problems.len(), PROBLEMS_MAX);
        let problems = checked(json!({ "other": "x".repeat(10_000) })).unwrap_err();
        assert_eq!(problems[0]["input"], Value::Null);
    }
}
