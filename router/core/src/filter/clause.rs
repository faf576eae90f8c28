//! One clause against one value. Nothing is allocated, and the cost is linear in the value.

use std::net::IpAddr;

use router_api::Field;
use serde_json::{Map, Value, json};

use super::{
    number::{Num, Range},
    show,
};

/// What a value must be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Clause {
    Exact(Scalar),
    Prefix(String),
    Suffix(String),
    Wildcard(Wildcard),
    EqualsIgnoreCase(String),
    AnythingBut(Vec<Clause>),
    Exists(bool),
    Nonempty(bool),
    Numeric(Range),
    Cidr(Cidr),
}

/// A value that is compared whole.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Text(String),
    Number(Num),
    Bool(bool),
}

impl Scalar {
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Number(number) => number.to_value(),
            Self::Bool(bool) => Value::from(*bool),
        }
    }
}

/// A single value of an event; arrays are taken apart before.
#[derive(Clone, Copy)]
enum Item<'a> {
    Text(&'a str),
    Number(Num),
    Bool(bool),
    Null,
    Object,
}

impl Clause {
    /// Does the field's value fit? Of an array one item must. A missing field fits `exists = false` and `nonempty = false` alone.
    pub(super) fn fits(&self, value: Option<&Field<'_>>) -> bool {
        match (self, value) {
            (Self::Exists(wanted), value) => value.is_some() == *wanted,
            (Self::Nonempty(wanted), value) => value.is_some_and(is_nonempty) == *wanted,
            (_, None) => false,
            (_, Some(Field::Text(text))) => self.fits_item(Item::Text(text)),
            (_, Some(Field::Value(value))) => self.fits_value(value),
        }
    }

    fn fits_value(&self, value: &Value) -> bool {
        let item = match value {
            // As deep as an event may be, no deeper.
            Value::Array(items) => return items.iter().any(|item| self.fits_value(item)),
            Value::String(text) => Item::Text(text),
            Value::Number(number) => match Num::of(number) {
                Some(number) => Item::Number(number),
                None => Item::Null,
            },
            Value::Bool(bool) => Item::Bool(*bool),
            Value::Null => Item::Null,
            Value::Object(_) => Item::Object,
        };
        self.fits_item(item)
    }

    fn fits_item(&self, item: Item<'_>) -> bool {
        match (self, item) {
            (Self::Exact(Scalar::Text(wanted)), Item::Text(text)) => text == wanted,
            (Self::Exact(Scalar::Number(wanted)), Item::Number(number)) => number == *wanted,
            (Self::Exact(Scalar::Bool(wanted)), Item::Bool(bool)) => bool == *wanted,
            (Self::Prefix(prefix), Item::Text(text)) => text.starts_with(prefix.as_str()),
            (Self::Suffix(suffix), Item::Text(text)) => text.ends_with(suffix.as_str()),
            (Self::Wildcard(wildcard), Item::Text(text)) => wildcard.fits(text),
            (Self::EqualsIgnoreCase(wanted), Item::Text(text)) => text.chars().flat_map(char::to_lowercase).eq(wanted.chars().flat_map(char::to_lowercase)),
            (Self::Numeric(range), Item::Number(number)) => range.contains(number),
            (Self::Cidr(cidr), Item::Text(text)) => cidr.contains(text),
            // An object is nothing that one could write down in the list, so it is not "something else" either.
            (Self::AnythingBut(_), Item::Object) => false,
            (Self::AnythingBut(clauses), item) => !clauses.iter().any(|clause| clause.fits_item(item)),
            _ => false,
        }
    }

    /// Does it say what a text is, and not only that there is one or what it is not?
    pub(super) fn names_texts(&self) -> bool {
        match self {
            Self::Exact(Scalar::Text(text)) | Self::Prefix(text) | Self::Suffix(text) | Self::EqualsIgnoreCase(text) => !text.is_empty(),
            Self::Wildcard(wildcard) => wildcard.parts.iter().any(|part| !part.is_empty()),
            Self::Cidr(_) => true,
            Self::Exact(_) | Self::AnythingBut(_) | Self::Exists(_) | Self::Nonempty(_) | Self::Numeric(_) => false,
        }
    }

    /// Would `text` fit if letter case did not count?
    pub(super) fn fits_in_another_case(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        match self {
            Self::Exact(Scalar::Text(wanted)) => text == wanted.to_lowercase(),
            Self::Prefix(prefix) => text.starts_with(&prefix.to_lowercase()),
            Self::Suffix(suffix) => text.ends_with(&suffix.to_lowercase()),
            Self::Wildcard(wildcard) => {
                let parts = wildcard.parts.iter().map(|part| part.to_lowercase()).collect();
                Wildcard { text: String::new(), parts }.fits(&text)
            }
            _ => false,
        }
    }

    /// As the configuration has it.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Exact(scalar) => scalar.to_value(),
            Self::Prefix(text) => json!({ "prefix": text }),
            Self::Suffix(text) => json!({ "suffix": text }),
            Self::Wildcard(wildcard) => json!({ "wildcard": wildcard.text }),
            Self::EqualsIgnoreCase(text) => json!({ "equals-ignore-case": text }),
            Self::AnythingBut(clauses) => json!({ "anything-but": but_value(clauses) }),
            Self::Exists(wanted) => json!({ "exists": wanted }),
            Self::Nonempty(wanted) => json!({ "nonempty": wanted }),
            Self::Numeric(range) => json!({ "numeric": range.to_value() }),
            Self::Cidr(cidr) => json!({ "cidr": cidr.text }),
        }
    }

    fn expected(&self) -> String {
        match self {
            Self::Exact(scalar) => show::value(&scalar.to_value()),
            Self::Prefix(text) => format!("prefix {}", show::text(text)),
            Self::Suffix(text) => format!("suffix {}", show::text(text)),
            Self::Wildcard(wildcard) => format!("wildcard {}", show::text(&wildcard.text)),
            Self::EqualsIgnoreCase(text) => format!("{} in any case", show::text(text)),
            Self::AnythingBut(clauses) => format!("anything but {}", join(clauses)),
            Self::Exists(true) => "that it exists".to_owned(),
            Self::Exists(false) => "that it does not exist".to_owned(),
            Self::Nonempty(true) => "that it is not empty".to_owned(),
            Self::Nonempty(false) => "that it is empty or missing".to_owned(),
            Self::Numeric(range) => format!("numeric {}", range.to_value().as_array().into_iter().flatten().map(plain).collect::<Vec<_>>().join(" ")),
            Self::Cidr(cidr) => format!("an address in {}", cidr.text),
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What a list of clauses wants, in words.
pub(super) fn expected(clauses: &[Clause]) -> String {
    match clauses {
        [clause] => clause.expected(),
        clauses => format!("one of {}", join(clauses)),
    }
}

fn join(clauses: &[Clause]) -> String {
    /// Longer lists are cut.
    const SHOWN_MAX: usize = 12;
    let mut shown = clauses.iter().take(SHOWN_MAX).map(Clause::expected).collect::<Vec<_>>().join(", ");
    if clauses.len() > SHOWN_MAX {
        shown.push_str(&format!(" and {} more", clauses.len() - SHOWN_MAX));
    }
    shown
}

/// A list of plain values, or one operator with its value or values: what `anything-but` takes.
fn but_value(clauses: &[Clause]) -> Value {
    let mut operands = Vec::with_capacity(clauses.len());
    let mut name = None;
    for clause in clauses {
        match clause.to_value() {
            Value::Object(operator) => {
                for (operator, operand) in operator {
                    name = Some(operator);
                    operands.push(operand);
                }
            }
            scalar => operands.push(scalar),
        }
    }
    let operands = if operands.len() == 1 { operands.swap_remove(0) } else { Value::Array(operands) };
    match name {
        Some(name) => Value::Object(Map::from_iter([(name, operands)])),
        None => operands,
    }
}

fn is_nonempty(value: &Field<'_>) -> bool {
    match value {
        Field::Text(text) => !text.is_empty(),
        Field::Value(Value::Null) => false,
        Field::Value(Value::String(text)) => !text.is_empty(),
        Field::Value(Value::Array(items)) => !items.is_empty(),
        Field::Value(Value::Object(members)) => !members.is_empty(),
        Field::Value(Value::Bool(_) | Value::Number(_)) => true,
    }
}

/// A text with `*` for any run of characters, none included; `\*` is a star, `\\` a backslash.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wildcard {
    text: String,
    /// What stands between the stars; one more than there are stars.
    parts: Vec<String>,
}

impl Wildcard {
    /// # Errors
    ///
    /// The character behind a backslash that is neither, or nothing at the end.
    pub(super) fn new(text: &str) -> Result<Self, Option<char>> {
        let mut parts = vec![String::new()];
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let part = match letter {
                '*' => {
                    parts.push(String::new());
                    continue;
                }
                '\\' => match letters.next() {
                    Some(escaped @ ('*' | '\\')) => escaped,
                    other => return Err(other),
                },
                letter => letter,
            };
            if let Some(last) = parts.last_mut() {
                last.push(part);
            }
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The first part at the start, the last one at the end, and each other one as early as it comes: taking it later could
    /// never help those behind it.
    fn fits(&self, text: &str) -> bool {
        let Some(((first, last), middle)) = self.parts.split_first().and_then(|(first, rest)| rest.split_last().map(|(last, middle)| ((first, last), middle)))
        else {
            return self.parts.first().is_some_and(|whole| whole == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else { return false };
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

/// A block of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cidr {
    text: String,
    network: IpAddr,
    bits: u32,
}

impl Cidr {
    pub(super) fn new(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok().filter(|bits| *bits <= width)?,
            Some(_) => return None,
            None => width,
        };
        Some(Self { text: text.to_owned(), network: masked(address, bits), bits })
    }

    /// Whether the address of the block has bits set behind its length, with the block that is meant.
    pub(super) fn tidied(&self) -> Option<String> {
        let given = self.text.split('/').next().and_then(|address| address.parse().ok());
        (given != Some(self.network)).then(|| format!("{}/{}", self.network, self.bits))
    }

    fn contains(&self, text: &str) -> bool {
        let Ok(address) = text.parse::<IpAddr>() else { return false };
        // `::ffff:10.0.0.1` is how a socket for both families shows `10.0.0.1`.
        let address = if self.network.is_ipv4() { address.to_canonical() } else { address };
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.bits) == self.network
    }
}

fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) & u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0)).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wildcard(pattern: &str, text: &str) -> bool {
        Wildcard::new(pattern).unwrap().fits(text)
    }

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "x"),
            ("a*", "a"),
            ("*a", "ba"),
            ("a*b", "ab"),
            ("a*b", "axxb"),
            ("*a*b*", "xaxbx"),
            ("a**b", "ab"),
            ("/*/tests/*.py", "/x/y/tests/z.py"),
        ] {
            assert!(wildcard(pattern, text), "{pattern} takes {text}");
        }
        for (pattern, text) in [("", "x"), ("a*", "b"), ("a*a", "a"), ("ab*ba", "aba"), ("*a*b*", "ba"), ("a*b*c", "acb"), ("*x", "xy")] {
            assert!(!wildcard(pattern, text), "{pattern} does not take {text}");
        }
    }

    #[test]
    fn a_backslash_takes_the_meaning_from_a_star() {
        assert!(wildcard(r"a\*b", "a*b") && !wildcard(r"a\*b", "axb"));
        assert!(wildcard(r"c:\\*", r"c:\x"));
        assert_eq!(Wildcard::new(r"a\b"), Err(Some('b')));
        assert_eq!(Wildcard::new(r"a\"), Err(None));
        assert!(wildcard("ä*🦀", "ä🦀🦀"));
    }

    #[test]
    fn blocks_hold_their_addresses() {
        let holds = |block: &str, address: &str| Cidr::new(block).unwrap().contains(address);
        assert!(holds("10.0.0.0/8", "10.255.1.2") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1"));
        assert!(holds("::/0", "::1") && holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        assert!(!holds("10.0.0.0/8", "10.0.0") && !holds("10.0.0.0/8", ""));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/+8", "host", "10.0.0.0/8/8"] {
            assert_eq!(Cidr::new(bad), None, "{bad}");
        }
        assert_eq!(Cidr::new("10.0.0.1/8").unwrap().tidied().as_deref(), Some("10.0.0.0/8"));
        assert_eq!(Cidr::new("10.0.0.0/8").unwrap().tidied(), None);
    }
}
