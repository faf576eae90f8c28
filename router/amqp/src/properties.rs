//! How large an event's properties are on the wire.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};

/// At most so many bytes: each field is reckoned with its length and its type.
pub(crate) fn bytes_of(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts: usize = texts.into_iter().flatten().map(|text| text.as_str().len() + 1).sum();
    // delivery mode, priority, timestamp, flags, class and body size
    texts + 32 + properties.headers().as_ref().map_or(0, table)
}

fn table(table: &FieldTable) -> usize {
    4 + table.inner().iter().map(|(name, field)| name.as_str().len() + 1 + value(field)).sum::<usize>()
}

fn value(field: &AMQPValue) -> usize {
    1 + match field {
        AMQPValue::LongString(text) => text.as_bytes().len() + 4,
        AMQPValue::ByteArray(bytes) => bytes.as_slice().len() + 4,
        AMQPValue::ShortString(text) => text.as_str().len() + 1,
        AMQPValue::FieldTable(inner) => table(inner),
        AMQPValue::FieldArray(inner) => 4 + inner.as_slice().iter().map(value).sum::<usize>(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{FieldArray, ShortString};

    use super::*;

    #[test]
    fn headers_are_reckoned_however_deep_they_lie() {
        let mut inner = FieldTable::default();
        inner.insert("k".into(), AMQPValue::LongString("v".repeat(1_000).into()));
        let mut array = FieldArray::default();
        array.push(AMQPValue::FieldTable(inner));
        let mut headers = FieldTable::default();
        headers.insert("a".into(), AMQPValue::FieldArray(array));
        let bytes = bytes_of(&BasicProperties::default().with_headers(headers).with_message_id(ShortString::from("id")));
        assert!((1_000..1_100).contains(&bytes), "{bytes}");
        assert!(bytes_of(&BasicProperties::default()) < 64);
    }
}
