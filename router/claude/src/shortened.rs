//! A JSON text on its way to the parser, made small while it is read: long texts end early and say how long they were, what is nested too
//! deeply is null, and half of a surrogate pair, which a program that cuts texts by characters of UTF-16 leaves behind, is a replacement
//! character instead of an error. So memory does not grow with what a tool wrote, and an odd text costs itself, not the hook.
//!
//! This is no parser: what is no JSON comes out as something that is none either.

use std::io::{self, Read};

/// Bytes of a text, as it is written, that are kept. Even if each character is an escape there is more of it than anybody keeps.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Objects and lists within each other that are kept.
const DEPTH_MAX: usize = 64;

/// Bytes that are read at once.
const PART_BYTES: usize = 64 * 1024;

/// Between what is kept of a text and how many bytes it had. No text ends like this by itself.
const LENGTH_MARK: &str = "\u{0}\u{1}\u{0}";

/// What is kept of a text, and how many bytes it had.
pub(crate) fn kept_of(text: &str) -> (&str, usize) {
    let cut = || {
        let (kept, length) = text.rsplit_once(LENGTH_MARK)?;
        Some((kept, length.parse().ok()?))
    };
    // The search is for texts that can have been cut only.
    if text.len() < TEXT_BYTES_MAX / 8 { (text, text.len()) } else { cut().unwrap_or((text, text.len())) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    Text,
    /// Behind a backslash; `pending` has what came so far, perhaps behind the first half of a pair.
    Escape,
    /// Behind the first half of a pair.
    Half,
}

/// Reads `R`, made small.
pub(crate) struct Shortened<R> {
    inner: R,
    part: Vec<u8>,
    ready: Vec<u8>,
    given: usize,
    is_over: bool,
    state: State,
    pending: Vec<u8>,
    /// Bytes of this text that are kept, and those that it has.
    kept: usize,
    length: u64,
    is_cut: bool,
    depth: usize,
}

impl<R: Read> Shortened<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            part: vec![0; PART_BYTES],
            ready: Vec::with_capacity(PART_BYTES),
            given: 0,
            is_over: false,
            state: State::Outside,
            pending: Vec::with_capacity(12),
            kept: 0,
            length: 0,
            is_cut: false,
            depth: 0,
        }
    }

    fn next_part(&mut self) -> io::Result<()> {
        let mut part = std::mem::take(&mut self.part);
        let read = loop {
            match self.inner.read(&mut part) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        if let Ok(count) = read {
            self.take(&part[..count]);
            if count == 0 {
                self.is_over = true;
                let rest = std::mem::take(&mut self.pending);
                self.put(&rest);
            }
        }
        self.part = part;
        read.map(drop)
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.depth <= DEPTH_MAX {
            self.ready.extend_from_slice(bytes);
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first().copied() {
            match self.state {
                State::Outside => {
                    let end = bytes.iter().position(|byte| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}')).unwrap_or(bytes.len());
                    self.put(&bytes[..end]);
                    if let Some(sign) = bytes.get(end) {
                        self.sign(*sign);
                    }
                    bytes = &bytes[bytes.len().min(end + 1)..];
                }
                State::Text => {
                    let end = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(bytes.len());
                    self.plain(&bytes[..end]);
                    match bytes.get(end) {
                        Some(b'"') => self.end_text(),
                        Some(_) => {
                            self.pending.push(b'\\');
                            self.state = State::Escape;
                        }
                        None => {}
                    }
                    bytes = &bytes[bytes.len().min(end + 1)..];
                }
                State::Escape => {
                    self.pending.push(first);
                    bytes = &bytes[1..];
                    self.escape();
                }
                State::Half if first == b'\\' => {
                    self.pending.push(first);
                    bytes = &bytes[1..];
                    self.state = State::Escape;
                }
                State::Half => {
                    self.pending.clear();
                    self.replacement();
                    self.state = State::Text;
                }
            }
        }
    }

    fn sign(&mut self, sign: u8) {
        match sign {
            b'"' => {
                self.put(b"\"");
                (self.state, self.kept, self.length, self.is_cut) = (State::Text, 0, 0, false);
            }
            b'[' | b'{' => {
                self.depth = self.depth.saturating_add(1);
                if self.depth == DEPTH_MAX + 1 {
                    self.ready.extend_from_slice(b"null");
                }
                self.put(&[sign]);
            }
            _ => {
                self.put(&[sign]);
                self.depth = self.depth.saturating_sub(1);
            }
        }
    }

    /// A stretch of a text without escapes.
    fn plain(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if self.is_cut {
            return;
        }
        let mut end = bytes.len().min(TEXT_BYTES_MAX.saturating_sub(self.kept));
        // Not within a character, which has three bytes behind its first at most.
        while end < bytes.len() && self.kept + end < TEXT_BYTES_MAX + 3 && bytes[end] & 0b1100_0000 == 0b1000_0000 {
            end += 1;
        }
        self.is_cut = end < bytes.len();
        self.kept += end;
        self.put(&bytes[..end]);
    }

    fn escape(&mut self) {
        // Of a pair's second half, where there is a first one.
        let from = if self.pending.len() > 6 { 6 } else { 0 };
        let escape = &self.pending[from..];
        if escape.len() == 2 && escape[1] != b'u' {
            self.end_escape(from, 1);
        } else if escape.len() == 6 {
            let code = std::str::from_utf8(&escape[2..]).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok());
            match code {
                Some(0xDC00..=0xDFFF) if from > 0 => {
                    let pair = std::mem::take(&mut self.pending);
                    self.whole(&pair, 4);
                    self.state = State::Text;
                }
                Some(0xDC00..=0xDFFF) => {
                    self.pending.clear();
                    self.replacement();
                    self.state = State::Text;
                }
                Some(0xD800..=0xDBFF) => {
                    if from > 0 {
                        self.pending.drain(..from);
                        self.replacement();
                    }
                    self.state = State::Half;
                }
                Some(code) => self.end_escape(from, char::from_u32(code).map_or(3, char::len_utf8) as u64),
                None => self.end_escape(from, 6),
            }
        }
    }

    /// An escape that stands for itself, perhaps behind half of a pair.
    fn end_escape(&mut self, from: usize, length: u64) {
        let escape = std::mem::take(&mut self.pending);
        if from > 0 {
            self.replacement();
        }
        self.whole(&escape[from..], length);
        self.state = State::Text;
    }

    fn replacement(&mut self) {
        self.whole(b"\\ufffd", 3);
    }

    /// What is kept as a whole or not at all.
    fn whole(&mut self, bytes: &[u8], length: u64) {
        self.length += length;
        self.is_cut |= self.kept + bytes.len() > TEXT_BYTES_MAX;
        if !self.is_cut {
            self.kept += bytes.len();
            self.put(bytes);
        }
    }

    fn end_text(&mut self) {
        if self.is_cut {
            self.put(b"\\u0000\\u0001\\u0000");
            self.put(self.length.to_string().as_bytes());
        }
        self.put(b"\"");
        self.state = State::Outside;
    }
}

impl<R: Read> Read for Shortened<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.ready.len() && !self.is_over {
            self.ready.clear();
            self.given = 0;
            self.next_part()?;
        }
        let count = into.len().min(self.ready.len() - self.given);
        into[..count].copy_from_slice(&self.ready[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Gives so many bytes at once.
    struct Slow<'t>(&'t [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn shortened(text: &str, step: usize) -> String {
        let mut short = String::new();
        Shortened::new(Slow(text.as_bytes(), step)).read_to_string(&mut short).unwrap();
        short
    }

    #[test]
    fn what_is_small_comes_out_as_it_is() {
        for text in [
            r#"{"a":[1,-2.5e3,true,null,"\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00ä😀"],"b":{}}"#,
            "{\"TODO\"}",
            "",
            "\"",
            "{\"a\":\"\\",
            "{\"a\":\"\\ud83d\\ud",
            "}}]]\"x\\u12",
            "\"\\u12zz\"",
        ] {
            for step in [1, 2, 3, 7, 1_000] {
                assert_eq!(shortened(text, step), text, "{step}");
            }
        }
    }

    #[test]
    fn half_of_a_pair_is_a_replacement_character() {
        for (text, expected) in [
            (r#""a\ud83d""#, r#""a\ufffd""#),
            (r#""\ud83dx""#, r#""\ufffdx""#),
            (r#""\ude00x""#, r#""\ufffdx""#),
            (r#""\ud83d\n""#, r#""\ufffd\n""#),
            (r#""\ud83d\u00e4""#, r#""\ufffd\u00e4""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ud83d\\""#, r#""\ufffd\\""#),
        ] {
            for step in [1, 4, 1_000] {
                let short = shortened(text, step);
                assert_eq!(short, expected);
                assert!(serde_json::from_str::<Value>(&short).is_ok());
            }
        }
    }

    #[test]
    fn long_texts_end_early_between_characters_and_say_how_long_they_were() {
        for unit in ["x", "ä", "😀", "\\n", "\\u00e4", "\\ud83d\\ude00", "a\\\""] {
            for shift in 0..4 {
                let text = format!("\"{}{}\"", "y".repeat(shift), unit.repeat(100_000));
                let whole: String = serde_json::from_str(&text).unwrap();
                for step in [997, 100_000] {
                    let read: String = serde_json::from_str(&shortened(&text, step)).unwrap_or_else(|error| panic!("{unit}: {error}"));
                    let (kept, length) = kept_of(&read);
                    assert_eq!(length, whole.len(), "{unit}");
                    assert!(whole.starts_with(kept) && kept.len() >= 36_096.min(whole.len()), "{unit}: {}", kept.len());
                    assert!(read.len() <= TEXT_BYTES_MAX + 32);
                }
            }
        }
        assert_eq!(kept_of("a\u{0}\u{1}\u{0}7"), ("a\u{0}\u{1}\u{0}7", 5));
    }

    #[test]
    fn what_is_too_deep_is_null() {
        let deep = |depth: usize| format!("{{\"a\":{}1{},\"b\":\"]\"}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(shortened(&deep(DEPTH_MAX - 1), 5), deep(DEPTH_MAX - 1));
        let short: Value = serde_json::from_str(&shortened(&deep(1_000_000), 4_096)).unwrap();
        assert_eq!(short["b"], json!("]"));
    }
}
