//! JSON Schemas of texts with a meaning, for the shapes that are described to clients: see `JsonSchema` on the types themselves.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{RouteName, RoutingKey, RoutingPattern};

/// How a point in time is written: RFC 3339.
pub(crate) struct Moment;

/// How bytes are written: see [`crate::bytes_as_text`].
pub(crate) struct BytesAsText;

macro_rules! described {
    ($type:ty, $name:literal, $schema:expr) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

described!(Moment, "Moment", json_schema!({ "type": "string", "format": "date-time" }));
described!(
    BytesAsText,
    "BytesAsText",
    json_schema!({ "oneOf": [
        { "type": "string" },
        { "type": "object", "properties": { "hex": { "type": "string", "pattern": "^([0-9a-f]{2})*$" } }, "required": ["hex"], "description": "Where the bytes are no text" },
    ] })
);
described!(RouteName, "RouteName", json_schema!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$" }));
described!(RoutingKey, "RoutingKey", json_schema!({ "type": "string", "maxLength": RoutingKey::BYTES_MAX }));
described!(RoutingPattern, "RoutingPattern", json_schema!({ "type": "string", "maxLength": RoutingKey::BYTES_MAX }));
