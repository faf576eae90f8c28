//! How a record stands in a spool's file: a mark that no text contains, its length, a checksum, and the record.
//!
//! A record that was cut, or changed afterwards, is recognised and stepped over: the next one is found by its mark.

/// No byte of it appears in UTF-8.
const MARK: [u8; 4] = [0xff, 0xfe, 0xfd, 0xff];
const HEAD_BYTES: usize = 12;

/// Bytes of one record.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The routing key.
    pub key: String,
    /// The session, in which order counts.
    pub session: String,
    /// The event.
    pub body: Vec<u8>,
}

impl Record {
    /// Adds the record to what is to be written; false, with nothing added, when it is too long.
    pub fn frame(&self, out: &mut Vec<u8>) -> bool {
        let harmless = |text: &str| text.replace('\n', " ");
        let mut content = Vec::with_capacity(self.body.len() + 128);
        content.extend_from_slice(harmless(&self.key).as_bytes());
        content.push(b'\n');
        content.extend_from_slice(harmless(&self.session).as_bytes());
        content.push(b'\n');
        content.extend_from_slice(&self.body);
        let Some(length) = u32::try_from(content.len()).ok().filter(|_| content.len() <= RECORD_BYTES_MAX) else { return false };
        out.extend_from_slice(&MARK);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
        out.extend_from_slice(&content);
        true
    }

    fn of(content: &[u8]) -> Option<Self> {
        let mut parts = content.splitn(3, |byte| *byte == b'\n');
        let mut text = || std::str::from_utf8(parts.next()?).ok().map(str::to_owned);
        let (key, session) = (text()?, text()?);
        Some(Self { key, session, body: parts.next()?.to_vec() })
    }
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A record, and how many bytes it takes.
    Record(Record, usize),
    /// So many bytes that are none.
    Damage(usize),
    /// A record may begin here, and its rest has not been read.
    More,
}

/// Looks at `bytes`, which are not empty. `is_end` says that nothing follows them.
#[must_use]
pub fn next(bytes: &[u8], is_end: bool) -> Found {
    let damaged = || {
        // Behind this mark, where there was one: it is the record that is damaged.
        let from = usize::from(bytes.starts_with(&MARK));
        match bytes[from..].windows(MARK.len()).position(|window| window == MARK) {
            Some(at) => Found::Damage(from + at),
            None if is_end => Found::Damage(bytes.len()),
            // The beginning of a mark may be the end of what was read.
            None => Found::Damage((bytes.len() - (MARK.len() - 1).min(bytes.len() - 1)).max(1)),
        }
    };
    let short = bytes.len() < HEAD_BYTES;
    if !bytes.starts_with(&MARK[..bytes.len().min(MARK.len())]) {
        return damaged();
    }
    if short {
        return if is_end { damaged() } else { Found::More };
    }
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let length = number(4) as usize;
    if length > RECORD_BYTES_MAX {
        return damaged();
    }
    let Some(content) = bytes.get(HEAD_BYTES..HEAD_BYTES + length) else {
        return if is_end { damaged() } else { Found::More };
    };
    match (crc32fast::hash(content) == number(8)).then(|| Record::of(content)).flatten() {
        Some(record) => Found::Record(record, HEAD_BYTES + length),
        None => damaged(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> Record {
        Record { key: "k".into(), session: name.into(), body: format!("{{\"n\":\"{name}\"}}").into_bytes() }
    }

    fn all(bytes: &[u8]) -> (Vec<String>, usize) {
        let (mut at, mut names, mut damage) = (0, Vec::new(), 0);
        while at < bytes.len() {
            match next(&bytes[at..], true) {
                Found::Record(record, length) => {
                    names.push(record.session);
                    at += length;
                }
                Found::Damage(length) => {
                    assert!(length > 0);
                    damage += 1;
                    at += length;
                }
                Found::More => panic!("there is no more"),
            }
        }
        (names, damage)
    }

    #[test]
    fn whatever_byte_is_changed_and_wherever_it_is_cut_the_other_records_are_found() {
        let mut bytes = Vec::new();
        for name in ["a", "b", "c"] {
            assert!(record(name).frame(&mut bytes));
        }
        assert_eq!(all(&bytes), (vec!["a".into(), "b".into(), "c".into()], 0));
        let length = bytes.len() / 3;
        for at in 0..bytes.len() {
            for bit in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= bit;
                let (names, damage) = all(&damaged);
                assert_eq!(names.len(), 2, "byte {at}: {names:?}");
                assert!(damage > 0 && !names.contains(&["a", "b", "c"][at / length].to_owned()), "byte {at}");
            }
            let (names, damage) = all(&bytes[..at]);
            assert_eq!((names.len(), damage), (at / length, usize::from(!at.is_multiple_of(length))), "cut at {at}");
        }
    }

    #[test]
    fn a_record_whose_rest_is_not_read_is_waited_for() {
        let mut bytes = Vec::new();
        record("a").frame(&mut bytes);
        for at in 1..bytes.len() {
            assert_eq!(next(&bytes[..at], false), Found::More, "{at}");
        }
    }

    #[test]
    fn a_record_that_is_too_long_is_not_begun() {
        let mut out = Vec::new();
        assert!(!Record { body: vec![b' '; RECORD_BYTES_MAX + 1], ..record("a") }.frame(&mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn a_name_with_a_line_end_breaks_no_frame() {
        let mut out = Vec::new();
        Record { session: "a\nb".into(), ..record("x") }.frame(&mut out);
        let Found::Record(read, _) = next(&out, true) else { panic!() };
        assert_eq!((read.session.as_str(), read.body), ("a b", record("x").body));
    }
}
