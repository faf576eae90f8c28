//! Takes values from outside out of messages that plugins and parsers write: they quote what they do not like, and that may be a
//! password.

use super::tree::Node;

/// A shorter part of a value may well stand in a message by chance.
const PART_CHARS_MIN: usize = 6;

/// The values from outside that one part of the configuration uses.
#[derive(Debug, Default)]
pub(super) struct Scrubber {
    /// Value and reference, the longest value first.
    values: Vec<(String, String)>,
}

impl Scrubber {
    pub(super) fn below(node: &Node) -> Self {
        let mut values = Vec::new();
        node.each_text("", &mut |_, _, text| {
            if text.sensitive {
                values.push((text.value.clone(), "[redacted]".to_owned()));
            }
            values.extend(text.pieces.iter().map(|piece| (piece.value.clone(), piece.reference.clone())));
        });
        values.retain(|(value, _)| !value.is_empty());
        values.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// `text` with every value, and every longer part of one, replaced by its reference.
    pub(super) fn scrub(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, (value, reference)| without(&text, value, reference))
    }
}

fn without(text: &str, value: &str, reference: &str) -> String {
    let escaped = value.escape_debug().to_string();
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut at) = (String::new(), 0);
    while at < chars.len() {
        let longest = [value, escaped.as_str()].iter().map(|value| longest_part(&chars[at..], value)).max().unwrap_or(0);
        let length = value.chars().count();
        let alone = || {
            let bounded = |c: Option<&char>| c.is_none_or(|c| !c.is_alphanumeric());
            longest == length && bounded(at.checked_sub(1).and_then(|before| chars.get(before))) && bounded(chars.get(at + longest))
        };
        if longest >= PART_CHARS_MIN || (longest > 0 && alone()) {
            // What touches a part that was replaced belongs to the same value.
            if !out.ends_with(reference) {
                out.push_str(reference);
            }
            at += longest;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// How many characters `text` begins with that stand somewhere in `value`, if they are enough of it to tell something.
fn longest_part(text: &[char], value: &str) -> usize {
    let value: Vec<char> = value.chars().collect();
    (0..value.len()).map(|from| text.iter().zip(&value[from..]).take_while(|(a, b)| a == b).count()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values_longer_parts_and_escaped_forms_are_replaced() {
        for (text, value, expected) in [
            ("`hunter22` is wrong", "hunter22", "`${P}` is wrong"),
            ("cannot read `unter22…`", "hunter22", "cannot read `${P}…`"),
            ("bad \"hun\\nter\"", "hun\nter", "bad \"${P}\""),
            ("a 5 is no 55", "5", "a ${P} is no 55"),
            ("nothing here", "hunter22", "nothing here"),
            ("hunter22hunter22", "hunter22", "${P}"),
        ] {
            assert_eq!(without(text, value, "${P}"), expected, "{text}");
        }
    }
}
