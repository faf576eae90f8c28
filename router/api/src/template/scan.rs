//! Cuts a template's text into literal text, expressions and statements, without compiling anything.
//!
//! The engine's own parser decides what is valid; this one only finds where code begins and ends, and which filters and tests it
//! names, because those are otherwise looked up when a template runs.

/// A stretch of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    /// Text that stands as it is.
    Literal(&'t str),
    /// What stands between `{{` and `}}`, without the marks for white space.
    Expression(&'t str),
    /// What stands between `{%` and `%}`, likewise.
    Statement(&'t str),
}

/// Is there anything to fill in?
pub(super) fn has_code(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// The text before the first code; all of it if there is none.
pub(super) fn literal_prefix(text: &str) -> &str {
    let end = ["{{", "{%", "{#"].iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
    &text[..end]
}

/// The expression, if the text is one `{{ expression }}` and nothing else.
pub(super) fn sole_expression(text: &str) -> Option<&str> {
    match pieces(text).as_slice() {
        [Piece::Expression(expression)] => Some(expression),
        _ => None,
    }
}

/// The pieces in order. Code that does not end takes the rest of the text; the engine will refuse it.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let literal = literal_prefix(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
            rest = &rest[literal.len()..];
            continue;
        }
        let (code, after) = match &rest[..2] {
            "{#" => {
                rest = rest[2..].split_once("#}").map_or("", |(_, after)| after);
                continue;
            }
            "{{" => code_until(&rest[2..], "}}"),
            _ => code_until(&rest[2..], "%}"),
        };
        let inner = code.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        if rest.starts_with("{{") {
            // A sign belongs to the expression unless it is glued to the braces.
            pieces.push(Piece::Expression(inner));
        } else if inner == "raw" {
            let end = end_of_raw(after);
            pieces.push(Piece::Literal(&after[..end]));
            rest = after[end..].split_once("%}").map_or("", |(_, after)| after);
            continue;
        } else {
            pieces.push(Piece::Statement(inner));
        }
        rest = after;
    }
    pieces
}

/// Splits at the mark that ends the code, which is not one inside a text or inside braces.
fn code_until<'t>(text: &'t str, end: &str) -> (&'t str, &'t str) {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_u32);
    let mut quote = None;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, _) if depth == 0 && bytes[at..].starts_with(end.as_bytes()) => return (&text[..at], &text[at + end.len()..]),
            (None, b'{') => depth += 1,
            (None, b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    (text, "")
}

fn end_of_raw(text: &str) -> usize {
    let mut from = 0;
    while let Some(open) = text[from..].find("{%") {
        let inner = text[from + open + 2..].trim_start_matches(['-', '+']).trim_start();
        if inner.starts_with("endraw") {
            return from + open;
        }
        from += open + 2;
    }
    text.len()
}

/// What a stretch of code names beside variables.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'t> {
    /// `value | filter`
    Filter(&'t str),
    /// `value is test`
    Test(&'t str),
}

/// The filters and tests that code names.
pub(super) fn named(code: &str) -> Vec<Named<'_>> {
    let tokens = tokens(code);
    let mut named = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let next = |n: usize| tokens.get(index + n).copied().filter(|token| is_word(token));
        match *token {
            "|" => named.extend(next(1).map(Named::Filter)),
            // `x.is` and `is=` are names, not the operator.
            "is" if index > 0 && tokens[index - 1] != "." && tokens[index - 1] != "|" => match next(1) {
                Some("not") => named.extend(next(2).map(Named::Test)),
                other => named.extend(other.map(Named::Test)),
            },
            _ => {}
        }
    }
    named
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, single other characters, and texts as one token each; white space is left out.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut chars = code.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if c.is_whitespace() {
            continue;
        }
        let mut end = start + c.len_utf8();
        if c == '"' || c == '\'' {
            while let Some((at, next)) = chars.next() {
                end = at + next.len_utf8();
                if next == '\\' {
                    chars.next();
                } else if next == c {
                    break;
                }
            }
        } else if c.is_alphanumeric() || c == '_' {
            while let Some((at, next)) = chars.peek().copied() {
                if !(next.is_alphanumeric() || next == '_') {
                    break;
                }
                end = at + next.len_utf8();
                chars.next();
            }
        }
        tokens.push(&code[start..end.max(start)]);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_falls_into_literals_expressions_and_statements() {
        use Piece::{Expression, Literal, Statement};
        assert_eq!(
            pieces("a {{ x }} b{% if y %}c{% endif %}"),
            [Literal("a "), Expression("x"), Literal(" b"), Statement("if y"), Literal("c"), Statement("endif")]
        );
        assert_eq!(pieces("{{- x -}}{# {{ y }} #}z"), [Expression("x"), Literal("z")]);
        assert_eq!(pieces("{{ '}}' ~ x }}"), [Expression("'}}' ~ x")]);
        assert_eq!(pieces("{{ {'a': {'b': 1}} }}"), [Expression("{'a': {'b': 1}}")]);
        assert_eq!(pieces("{% raw %}{{ x }}{% endraw %}!"), [Literal("{{ x }}"), Literal("!")]);
        assert_eq!(pieces("{{ open"), [Expression("open")]);
        assert_eq!(pieces(""), []);
    }

    #[test]
    fn filters_and_tests_are_found_outside_of_texts_only() {
        use Named::{Filter, Test};
        assert_eq!(named("x | default('a | b') | join(y|lower)"), [Filter("default"), Filter("join"), Filter("lower")]);
        assert_eq!(named("if x is not defined and y is string"), [Test("defined"), Test("string")]);
        assert_eq!(named("payload.is"), []);
    }
}
