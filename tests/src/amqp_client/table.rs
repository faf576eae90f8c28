//! AMQP tables and JSON, so that tests write and read arguments and headers as they write everything else.

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value};

/// An AMQP table of a JSON object: texts become long strings, whole numbers 64 bits wide.
///
/// # Panics
///
/// When it is no object.
#[must_use]
pub fn table(object: &Value) -> FieldTable {
    let object = object.as_object().unwrap_or_else(|| panic!("an AMQP table is an object, not {object}"));
    let mut table = FieldTable::default();
    for (name, value) in object {
        table.insert(name.as_str().into(), amqp(value));
    }
    table
}

fn amqp(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => number.as_i64().map_or_else(|| AMQPValue::Double(number.as_f64().unwrap_or(f64::MAX)), AMQPValue::LongLongInt),
        Value::String(text) => AMQPValue::LongString(text.as_bytes().into()),
        Value::Array(values) => AMQPValue::FieldArray(values.iter().map(amqp).collect::<Vec<_>>().into()),
        Value::Object(_) => AMQPValue::FieldTable(table(value)),
    }
}

/// A JSON object of an AMQP table. Bytes that are no text become text with replacement characters.
#[must_use]
pub fn object(table: &FieldTable) -> Map<String, Value> {
    table.into_iter().map(|(name, value)| (name.as_str().to_owned(), json(value))).collect()
}

fn json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Timestamp(value) => (*value).into(),
        AMQPValue::Float(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::DecimalValue(value) => format!("{}e-{}", value.value, value.scale).into(),
        AMQPValue::ShortString(value) => value.as_str().into(),
        AMQPValue::LongString(value) => value.to_string().into(),
        AMQPValue::ByteArray(value) => String::from_utf8_lossy(value.as_slice()).into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json).collect(),
        AMQPValue::FieldTable(table) => Value::Object(object(table)),
        AMQPValue::Void => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_becomes_a_table_comes_back() {
        let value = json!({ "text": "é", "number": -5, "yes": true, "none": null, "list": [1, "a", [2.5]], "below": { "a": {} } });
        assert_eq!(Value::Object(object(&table(&value))), value);
    }
}
