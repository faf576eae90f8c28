//! Makes what the broker sends legible to lapin.
//!
//! AMQP's short texts are bytes to the broker and text to lapin, which ends the connection at the first that is not UTF-8. Whoever may
//! publish may send such a routing key, message id or header name; the broker would hand it out again on the next connection, and no
//! route would ever get anything more. The same goes for headers that are nested so deeply that reading them needs more stack than
//! there is, and for headers that outgrew a frame on their way through dead-letter exchanges.
//!
//! So each such byte becomes a `?`, what is nested too deeply becomes bytes, and properties that cannot be read at all are left out.
//! The body is never touched, and neither is what can be read: header values are bytes to lapin as well.

/// Headers may nest so deeply. Nothing of ours nests more than twice.
const DEPTH_MAX: u8 = 16;

/// In place of a byte that is not text.
const SUBSTITUTE: u8 = b'?';

/// What became of a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It was legible.
    Plain,
    /// It is now; its length is the same.
    Mended,
    /// It cannot be made so.
    Hopeless,
}

/// Makes the payload of a method's frame legible, as far as it carries what others have said.
pub(crate) fn method(payload: &mut [u8]) -> Reading {
    let mut cursor = Cursor::new(payload);
    let Some(name) = cursor.name() else { return Reading::Hopeless };
    let read = match name {
        // connection.close and channel.close: the broker quotes names.
        (10, 50) | (20, 40) => cursor.skip(2).and_then(|()| cursor.short_text()),
        // connection.blocked
        (10, 60) => cursor.short_text(),
        // basic.return: its code, why, the exchange and the key.
        (60, 50) => cursor.skip(2).and_then(|()| cursor.short_texts(3)),
        // basic.deliver: the consumer, the delivery's tag, redelivered, the exchange and the key.
        (60, 60) => cursor.short_text().and_then(|()| cursor.skip(9)).and_then(|()| cursor.short_texts(2)),
        // basic.get-ok: the delivery's tag, redelivered, the exchange and the key.
        (60, 71) => cursor.skip(9).and_then(|()| cursor.short_texts(2)),
        _ => Some(()),
    };
    cursor.verdict(read)
}

/// The frames that connection.tune announces are at most so large; 0 is no limit.
pub(crate) fn tuned_frame_max(payload: &[u8]) -> Option<u32> {
    match payload {
        [0, 10, 0, 30, _, _, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// Makes the payload of a content's header frame legible.
pub(crate) fn header(payload: &mut [u8]) -> Reading {
    let mut cursor = Cursor::new(payload);
    let read = cursor.properties();
    cursor.verdict(read)
}

/// The same header with nothing but the size of the body. `None` for what is no header.
pub(crate) fn bare_header(payload: &[u8]) -> Option<[u8; 14]> {
    // Class, weight and the body's size stay; no flag stands for a property.
    let mut bare = [0; 14];
    bare[..12].copy_from_slice(payload.get(..12)?);
    Some(bare)
}

struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
    mended: bool,
}

/// Each step is `None` when the bytes end before it does.
impl<'a> Cursor<'a> {
    fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0, mended: false }
    }

    fn verdict(&self, read: Option<()>) -> Reading {
        match read {
            None => Reading::Hopeless,
            Some(()) if self.mended => Reading::Mended,
            Some(()) => Reading::Plain,
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(taken)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len())?;
        self.at = end;
        Some(())
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.take()?)).ok()
    }

    /// Class and method.
    fn name(&mut self) -> Option<(u16, u16)> {
        Some((u16::from_be_bytes(self.take()?), u16::from_be_bytes(self.take()?)))
    }

    fn short_text(&mut self) -> Option<()> {
        let [length] = self.take()?;
        let start = self.at;
        self.skip(length.into())?;
        self.mended |= mend(&mut self.bytes[start..self.at]);
        Some(())
    }

    fn short_texts(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.short_text())
    }

    fn properties(&mut self) -> Option<()> {
        self.skip(12)?;
        let flags = u16::from_be_bytes(self.take()?);
        for bit in (0..16).rev().filter(|bit| flags & (1 << bit) != 0) {
            match bit {
                // Content type and encoding; correlation id, reply to, expiration, message id; type, user id, app id, cluster id.
                15 | 14 | 10 | 9 | 8 | 7 | 5 | 4 | 3 | 2 => self.short_text()?,
                // The headers.
                13 => self.table(0)?,
                // Delivery mode and priority.
                12 | 11 => self.skip(1)?,
                // The time.
                6 => self.skip(8)?,
                // More flags, which nobody has defined.
                _ => return None,
            }
        }
        (self.at == self.bytes.len()).then_some(())
    }

    fn table(&mut self, depth: u8) -> Option<()> {
        let end = self.length()?.checked_add(self.at)?;
        while self.at < end {
            self.short_text()?;
            self.value(depth)?;
        }
        (self.at == end).then_some(())
    }

    fn array(&mut self, depth: u8) -> Option<()> {
        let end = self.length()?.checked_add(self.at)?;
        while self.at < end {
            self.value(depth)?;
        }
        (self.at == end).then_some(())
    }

    fn value(&mut self, depth: u8) -> Option<()> {
        let [kind] = self.take()?;
        match kind {
            b'V' => Some(()),
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'U' | b'u' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'l' | b'L' | b'd' | b'T' => self.skip(8),
            b'S' | b'x' => {
                let length = self.length()?;
                self.skip(length)
            }
            b'F' | b'A' if depth == DEPTH_MAX => {
                // Bytes are laid out in the same way: their length, and then they.
                self.bytes[self.at - 1] = b'x';
                self.mended = true;
                let length = self.length()?;
                self.skip(length)
            }
            b'F' => self.table(depth + 1),
            b'A' => self.array(depth + 1),
            _ => None,
        }
    }
}

/// Makes text of bytes, as many as they were. Says whether any was none.
fn mend(bytes: &mut [u8]) -> bool {
    let mut at = 0;
    while let Err(error) = std::str::from_utf8(&bytes[at..]) {
        let from = at + error.valid_up_to();
        let to = error.error_len().map_or(bytes.len(), |length| from + length);
        bytes[from..to].fill(SUBSTITUTE);
        at = to;
    }
    at > 0
}

#[cfg(test)]
mod tests {
    use lapin::{
        protocol::basic::parse_properties,
        types::{AMQPValue, FieldTable},
    };
    use proptest::prelude::*;

    use super::*;

    fn short(bytes: &[u8]) -> Vec<u8> {
        let mut text = vec![u8::try_from(bytes.len()).expect("it is short")];
        text.extend(bytes);
        text
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        let mut text = u32::try_from(bytes.len()).expect("it fits").to_be_bytes().to_vec();
        text.extend(bytes);
        text
    }

    fn with_headers(table: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0x20, 0];
        payload.extend(long(table));
        payload
    }

    fn headers(payload: &[u8]) -> FieldTable {
        let (rest, properties) = parse_properties(&payload[12..]).expect("lapin can read it");
        assert!(rest.is_empty());
        properties.headers().clone().unwrap_or_default()
    }

    #[test]
    fn bytes_that_are_no_text_become_as_many_question_marks() {
        for (bytes, text) in [
            (&b"plain"[..], "plain"),
            ("caf\u{e9}.\u{1f980}".as_bytes(), "caf\u{e9}.\u{1f980}"),
            (b"caf\xe9", "caf?"),
            (b"\xff.a.\xfe\xfe", "?.a.??"),
            (b"\xf0\x9f\xa6", "???"),
            (b"\xed\xa0\x80x", "???x"),
        ] {
            let mut mended = bytes.to_vec();
            let was_mended = mend(&mut mended);
            assert_eq!((std::str::from_utf8(&mended), was_mended), (Ok(text), bytes != text.as_bytes()));
        }
    }

    #[test]
    fn a_delivery_keeps_its_tag_and_loses_only_what_is_no_text() {
        let mut payload = [&[0, 60, 0, 60][..], &short(b"consumer"), &[0, 0, 0, 0, 0, 0, 0xff, 0xfe, 1], &short(b"ex\xff"), &short(b"a.\xe9.b")].concat();
        let expected = [&[0, 60, 0, 60][..], &short(b"consumer"), &[0, 0, 0, 0, 0, 0, 0xff, 0xfe, 1], &short(b"ex?"), &short(b"a.?.b")].concat();
        assert_eq!(method(&mut payload), Reading::Mended);
        assert_eq!(payload, expected);
        assert_eq!(method(&mut payload), Reading::Plain);
        assert_eq!(method(&mut payload[..10]), Reading::Hopeless);
        let mut other = [0, 60, 0, 80, 0xff, 0xff];
        assert_eq!((method(&mut other), other), (Reading::Plain, [0, 60, 0, 80, 0xff, 0xff]));
    }

    #[test]
    fn the_names_of_headers_are_mended_and_their_values_stay() {
        let mut nested = short(b"in\xfe");
        nested.extend([b'I', 0xff, 0xff, 0xff, 0xff]);
        let mut table = short(b"na\xffme");
        table.push(b'S');
        table.extend(long(b"va\xfflue"));
        table.extend(short(b"nested"));
        table.push(b'F');
        table.extend(long(&nested));
        let mut payload = with_headers(&table);
        assert_eq!(header(&mut payload), Reading::Mended);
        let headers = headers(&payload);
        assert_eq!(headers.inner().get("na?me"), Some(&AMQPValue::LongString(b"va\xfflue".to_vec().into())));
        assert!(matches!(headers.inner().get("nested"), Some(AMQPValue::FieldTable(nested)) if nested.inner().get("in?") == Some(&AMQPValue::LongInt(-1))));
    }

    #[test]
    fn what_is_nested_beyond_all_reason_is_cut_off() {
        let mut value = vec![b'V'];
        for _ in 0..20_000 {
            value = [&b"A"[..], &long(&value)].concat();
        }
        let mut payload = with_headers(&[short(b"deep"), value].concat());
        assert_eq!(header(&mut payload), Reading::Mended);
        let headers = headers(&payload);
        let mut depth = 0;
        let mut value = headers.inner().get("deep").expect("it is there");
        while let AMQPValue::FieldArray(array) = value {
            depth += 1;
            value = &array.as_slice()[0];
        }
        assert_eq!((depth, matches!(value, AMQPValue::ByteArray(_))), (usize::from(DEPTH_MAX), true));
    }

    #[test]
    fn what_cannot_be_read_at_all_leaves_the_size_of_the_body() {
        for table in [&b"\x01a?\x00"[..], b"\x05abc", b"\x01aS\x00\x00\x00\x09abc", b"\x01aF\x00\x00\x00\x01"] {
            let mut payload = with_headers(table);
            assert_eq!(header(&mut payload), Reading::Hopeless, "{table:?}");
            let bare = bare_header(&payload).expect("it is a header");
            assert_eq!(bare, [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0]);
        }
        assert_eq!(bare_header(&[0; 11]), None);
    }

    proptest! {
        #[test]
        fn whatever_is_called_legible_can_be_read_by_lapin(flags: u16, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut payload = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], &flags.to_be_bytes(), &bytes].concat();
            let before = payload.clone();
            let reading = header(&mut payload);
            prop_assert_eq!(payload.len(), before.len());
            if reading != Reading::Hopeless {
                prop_assert!(parse_properties(&payload[12..]).is_ok_and(|(rest, _)| rest.is_empty()));
            }
            if reading == Reading::Plain {
                prop_assert_eq!(payload, before);
            }
        }

        #[test]
        fn texts_of_any_bytes_can_be_read_by_lapin(texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..255), 10)) {
            let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0b1100_0111, 0b1011_1100];
            for text in &texts {
                payload.extend(short(text));
            }
            prop_assert_ne!(header(&mut payload), Reading::Hopeless);
            prop_assert!(parse_properties(&payload[12..]).is_ok_and(|(rest, _)| rest.is_empty()));
        }
    }
}
