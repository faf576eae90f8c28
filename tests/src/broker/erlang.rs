//! Texts that become Erlang's: what a node is asked is an expression, and its answer comes back as JSON.

use std::fmt::Write;

/// A text as an Erlang binary.
pub(super) fn binary(text: &str) -> String {
    format!("<<{}/utf8>>", string(text))
}

/// A text as an Erlang string.
pub(super) fn string(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => literal.extend(['\\', character]),
            ' '..='~' => literal.push(character),
            other => write!(literal, "\\x{{{:x}}}", u32::from(other)).expect("a string takes what is written"),
        }
    }
    literal.push('"');
    literal
}

/// Defines `Plain`, which makes values of AMQP tables into what JSON can say.
pub(super) const PLAIN: &str = "\
    Plain = fun \
        P(table, T) -> maps:from_list([{K, P(Y, V)} || {K, Y, V} <- T]); \
        P(array, A) -> [P(Y, V) || {Y, V} <- A]; \
        P(void, _) -> null; \
        P(_, V) -> V \
    end, ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_literals() {
        assert_eq!(binary("a.b"), "<<\"a.b\"/utf8>>");
        assert_eq!(string("a\"b\\\n\u{e9}"), "\"a\\\"b\\\\\\x{a}\\x{e9}\"");
    }
}
