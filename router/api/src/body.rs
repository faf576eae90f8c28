//! Reading the bytes of a body: one walk that checks all of it and keeps its head, and the tree for those who ask for more.
//!
//! Both go through the same parser with the same limits, so bytes that passed the walk always make a tree. The tree is not
//! built by `serde_json`'s own `Value`: with `raw_value` on, that one gives the key `$serde_json::private::RawValue` a meaning
//! of its own, and a peer may write any key.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    fmt,
};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{
    DecodeError, DecodeLimits,
    places::{Kept, Place},
};

/// One less than what the parser itself takes, so that its own error never comes first.
pub(crate) const DEPTH_MAX: usize = 126;

/// So many correlation ids are kept; more stay in the raw bytes alone.
pub(crate) const IDS_MAX: usize = 64;

/// A value at the top of a body, as far as the head needs it.
#[derive(Debug, Default, PartialEq)]
pub(crate) enum Seen<'a> {
    /// The key is not there.
    #[default]
    Absent,
    Null,
    Text(Cow<'a, str>),
    /// The texts of an array, at most [`IDS_MAX`].
    Texts(Vec<Cow<'a, str>>),
    /// The members that a `source` may have.
    Source {
        host: Option<Cow<'a, str>>,
        kind: Option<Cow<'a, str>>,
        app: Option<Cow<'a, str>>,
    },
    /// An object of which nothing is kept here.
    Object,
    /// Anything else.
    Other,
}

impl<'a> Seen<'a> {
    /// The key is there, whatever its value.
    pub(crate) fn is_there(&self) -> bool {
        *self != Self::Absent
    }

    /// The key is there and its value is not null.
    pub(crate) fn is_set(&self) -> bool {
        self.is_there() && *self != Self::Null
    }

    pub(crate) fn text(&self) -> Option<&str> {
        self.cow().map(AsRef::as_ref)
    }

    pub(crate) fn cow(&self) -> Option<&Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

macro_rules! head {
    ($($field:ident = $name:literal keeps $keep:ident,)*) => {
        /// The top-level values that say what an event is. Of a key that comes twice the last one counts, as in the tree.
        #[derive(Debug, Default)]
        pub(crate) struct Head<'a> {
            $(pub(crate) $field: Seen<'a>,)*
        }

        impl<'a> Head<'a> {
            fn place(&mut self, name: &str) -> Option<(&mut Seen<'a>, Keep)> {
                match name {
                    $($name => Some((&mut self.$field, Keep::$keep)),)*
                    _ => None,
                }
            }
        }
    };
}

head! {
    specversion = "specversion" keeps Nothing,
    event_id = "event_id" keeps Text,
    id = "id" keeps Text,
    event_type = "event_type" keeps Text,
    cloud_type = "type" keeps Text,
    flume_type = "event" keeps Text,
    timestamp = "timestamp" keeps Text,
    time = "time" keeps Text,
    ts = "ts" keeps Text,
    source = "source" keeps Source,
    payload = "payload" keeps Nothing,
    data = "data" keeps Nothing,
    raw_payload = "raw_payload" keeps Nothing,
    hook_type = "hook_type" keeps Nothing,
    routing_key = "routingKey" keeps Nothing,
    correlation_ids = "correlation_ids" keeps Texts,
    correlation_id = "correlation_id" keeps Text,
    causation_id = "causation_id" keeps Text,
    cloud_correlation_id = "correlationid" keeps Text,
    cloud_causation_id = "causationid" keeps Text,
    flume_correlation_id = "correlationId" keeps Text,
    flume_causation_id = "causationId" keeps Text,
}

/// How much of a value the walk keeps; all of it is checked in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// That it is there, and whether it is null.
    Nothing,
    Text,
    Texts,
    Source,
}

/// Checks all of `raw` and keeps its head, and the texts that have names in the normalised view, in `found`.
pub(crate) fn walk<'a>(raw: &'a [u8], limits: DecodeLimits, found: &Found<'a>) -> Result<(), DecodeError> {
    if raw.len() > limits.body_bytes_max {
        return Err(DecodeError::TooLarge { bytes: raw.len(), max: limits.body_bytes_max });
    }
    let text = std::str::from_utf8(raw).map_err(|error| DecodeError::NotJson(format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    if text.starts_with('\u{feff}') {
        return Err(DecodeError::NotJson("begins with a byte order mark; send plain UTF-8".to_owned()));
    }
    if text.trim_ascii().is_empty() {
        return Err(DecodeError::NotJson("the body is empty".to_owned()));
    }
    let max = limits.depth_max.min(DEPTH_MAX);
    let mut parser = serde_json::Deserializer::from_str(text);
    let walked = Top { walk: Walk { keep: Keep::Nothing, place: Place::BODY, levels: max, found } }.deserialize(&mut parser).and_then(|top| {
        parser.end()?;
        Ok(top)
    });
    match walked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(kind)) => Err(DecodeError::NotObject(kind)),
        Err(_) if found.too_deep.get() => Err(DecodeError::TooDeep { max }),
        Err(error) => Err(DecodeError::NotJson(error.to_string())),
    }
}

/// The tree of a body that [`walk`] has passed.
pub(crate) fn tree(raw: &[u8]) -> Result<Value, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(raw);
    let value = Tree.deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

/// What one walk has found on its way. It is some KiB, and stays where it was made.
#[derive(Default)]
pub(crate) struct Found<'a> {
    /// Tells "too deep" from the parser's other errors.
    too_deep: Cell<bool>,
    pub(crate) head: RefCell<Head<'a>>,
    pub(crate) kept: RefCell<Kept<'a>>,
}

/// Walks one value.
#[derive(Clone, Copy)]
struct Walk<'c, 'a> {
    keep: Keep,
    /// Where the value stands.
    place: Place,
    /// Objects and arrays that may still open.
    levels: usize,
    found: &'c Found<'a>,
}

impl Walk<'_, '_> {
    /// For the values within an object or array.
    fn inside<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { keep: Keep::Nothing, place: Place::Nowhere, levels, ..self }),
            None => {
                self.found.too_deep.set(true);
                Err(E::custom("nested too deep"))
            }
        }
    }

    /// For the value of the member `name` of the object that stands at `place`.
    fn of(self, place: Place, name: &str) -> Self {
        match place {
            Place::Object(..) => Self { place: self.found.kept.borrow_mut().enter(place, name), ..self },
            Place::Text(_) | Place::Nowhere => self,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, 'de> {
    type Value = Seen<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Seen<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, 'de> {
    type Value = Seen<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Seen<'de>, E> {
        Ok(Seen::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Seen<'de>, E> {
        Ok(Seen::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen<'de>, E> {
        Ok(Seen::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Seen<'de>, E> {
        Ok(Seen::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Seen<'de>, E> {
        Ok(Seen::Other)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Seen<'de>, E> {
        if let Place::Text(_) = self.place {
            self.found.kept.borrow_mut().keep(self.place, || Cow::Borrowed(text));
        }
        Ok(if self.keep == Keep::Nothing { Seen::Other } else { Seen::Text(Cow::Borrowed(text)) })
    }

    fn visit_str<E>(self, text: &str) -> Result<Seen<'de>, E> {
        if let Place::Text(_) = self.place {
            self.found.kept.borrow_mut().keep(self.place, || Cow::Owned(text.to_owned()));
        }
        Ok(if self.keep == Keep::Nothing { Seen::Other } else { Seen::Text(Cow::Owned(text.to_owned())) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Seen<'de>, A::Error> {
        // Before the first item: an empty array is a level, too.
        let item = self.inside()?;
        if self.keep != Keep::Texts {
            while items.next_element_seed(item)?.is_some() {}
            return Ok(Seen::Other);
        }
        let mut texts = Vec::new();
        loop {
            let keep = if texts.len() < IDS_MAX { Keep::Text } else { Keep::Nothing };
            match items.next_element_seed(Walk { keep, ..item })? {
                Some(Seen::Text(text)) if !text.is_empty() => texts.push(text),
                Some(_) => {}
                None => return Ok(Seen::Texts(texts)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Seen<'de>, A::Error> {
        let member = self.inside()?;
        if self.keep != Keep::Source {
            if let Place::Object(..) = self.place {
                while let Some(name) = members.next_key_seed(Name)? {
                    members.next_value_seed(member.of(self.place, &name))?;
                }
            } else {
                while members.next_key_seed(Name)?.is_some() {
                    members.next_value_seed(member)?;
                }
            }
            return Ok(Seen::Object);
        }
        let (mut host, mut kind, mut app) = (None, None, None);
        while let Some(name) = members.next_key_seed(Name)? {
            let place = match name.as_ref() {
                "host" => &mut host,
                "type" => &mut kind,
                "app" => &mut app,
                _ => {
                    members.next_value_seed(member)?;
                    continue;
                }
            };
            *place = match members.next_value_seed(Walk { keep: Keep::Text, ..member })? {
                Seen::Text(text) => Some(text),
                _ => None,
            };
        }
        Ok(Seen::Source { host, kind, app })
    }
}

/// A member's name, with its escapes read, as the tree has it.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Walks the whole body: its head if it is an object, else what it is instead.
struct Top<'c, 'a> {
    walk: Walk<'c, 'a>,
}

impl<'de> DeserializeSeed<'de> for Top<'_, 'de> {
    type Value = Result<(), &'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top<'_, 'de> {
    type Value = Result<(), &'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Err("null"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Err("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Err("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Err("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Err("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Err("a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        self.walk.visit_seq(items)?;
        Ok(Err("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let member = self.walk.inside()?;
        let mut head = self.walk.found.head.borrow_mut();
        while let Some(name) = members.next_key_seed(Name)? {
            let member = member.of(self.walk.place, &name);
            match head.place(&name) {
                Some((place, keep)) => *place = members.next_value_seed(Walk { keep, ..member })?,
                None => {
                    members.next_value_seed(member)?;
                }
            }
        }
        Ok(Ok(()))
    }
}

/// Builds the tree, giving no key a meaning.
struct Tree;

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Tree)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key_seed(Name)? {
            object.insert(name.into_owned(), members.next_value_seed(Tree)?);
        }
        Ok(Value::Object(object))
    }
}
