//! Frames of AMQP 0-9-1 in a stream of bytes, as far as a proxy must know them.

/// What the client of a connection begins with.
const GREETING: &[u8] = b"AMQP";
const GREETING_BYTES: usize = 8;
/// Type, channel, size.
const HEAD_BYTES: usize = 7;
/// A frame as long as this is none; what calls itself so is not AMQP.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// What a piece of the stream is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Bytes of something that is not AMQP, such as TLS.
    Opaque,
    /// The eight bytes before all frames.
    Greeting,
    /// `basic.ack` or `basic.nack`: towards a client, a confirm; towards the broker, what a consumer has finished with.
    Confirm,
    /// A heartbeat.
    Heartbeat,
    /// Any other frame.
    Other,
}

/// A whole frame, or bytes of a stream that has none.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
}

impl Piece {
    /// Is it this method, and has this name among its arguments?
    pub(super) fn asks(&self, (class, method): (u16, u16), name: &str) -> bool {
        let Some((head, arguments)) = self.bytes.get(HEAD_BYTES..).and_then(|payload| payload.split_at_checked(4)) else { return false };
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        // A short string is its length and its bytes.
        let name: Vec<u8> = u8::try_from(name.len()).into_iter().chain(name.bytes()).collect();
        self.bytes.first() == Some(&1) && head == wanted && arguments.windows(name.len()).any(|window| window == name)
    }
}

impl Piece {
    /// Is it this method?
    pub(super) fn is(&self, (class, method): (u16, u16)) -> bool {
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        self.bytes.first() == Some(&1) && self.bytes.get(HEAD_BYTES..HEAD_BYTES + 4) == Some(&wanted)
    }

    /// The channel that a frame is of.
    pub(super) fn channel(&self) -> Option<[u8; 2]> {
        self.bytes.get(1..3)?.try_into().ok()
    }

    /// Makes a refusal of a confirm: `basic.nack` has the same arguments, and one more bit beside the one of `basic.ack`.
    pub(super) fn refuse(&mut self) {
        if let Some(method) = self.bytes.get_mut(HEAD_BYTES + 3) {
            *method = 120;
        }
    }
}

/// The frame that closes a connection with this code.
pub(super) fn close(code: u16) -> Vec<u8> {
    const TEXT: &[u8] = b"INTERNAL_ERROR";
    let text_bytes = u8::try_from(TEXT.len()).unwrap_or(u8::MAX);
    // `connection` is class 10, and `close` its method 50; then code, text, and the method that was at fault.
    let payload = [&[0, 10, 0, 50][..], &code.to_be_bytes(), &[text_bytes], TEXT, &[0, 0, 0, 0]].concat();
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[1, 0, 0][..], &size, &payload, &[0xce]].concat()
}

/// Cuts one direction of a connection into pieces. What is incomplete is kept until the rest comes.
#[derive(Default)]
pub(super) struct Frames {
    waiting: Vec<u8>,
    opaque: bool,
    begun: bool,
}

impl Frames {
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.waiting.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        while let Some((kind, length)) = self.next() {
            pieces.push(Piece { kind, bytes: self.waiting.drain(..length).collect() });
            self.begun = true;
        }
        pieces
    }

    /// What is left when the stream ends.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.waiting)
    }

    /// Kind and length of the piece that is complete now.
    fn next(&mut self) -> Option<(Kind, usize)> {
        let bytes = &self.waiting;
        if bytes.is_empty() {
            return None;
        }
        if !self.opaque && !self.begun {
            let known = bytes.len().min(GREETING.len());
            if bytes[..known] == GREETING[..known] {
                return (bytes.len() >= GREETING_BYTES).then_some((Kind::Greeting, GREETING_BYTES));
            }
            // A broker answers with a frame; the first byte of a TLS record is none of the frame types.
            self.opaque = !matches!(bytes[0], 1..=3 | 8);
        }
        if self.opaque {
            return Some((Kind::Opaque, bytes.len()));
        }
        let (kind, size) = (*bytes.first()?, bytes.get(3..HEAD_BYTES)?);
        let size = usize::try_from(u32::from_be_bytes(size.try_into().ok()?)).ok()?;
        if size > FRAME_BYTES_MAX {
            self.opaque = true;
            return Some((Kind::Opaque, bytes.len()));
        }
        let length = HEAD_BYTES + size + 1;
        if bytes.len() < length {
            return None;
        }
        let method = bytes.get(HEAD_BYTES..HEAD_BYTES + 4);
        let kind = match (kind, method) {
            // `basic` is class 60; `ack` and `nack` are its methods 80 and 120.
            (1, Some([0, 60, 0, 80 | 120])) => Kind::Confirm,
            (8, _) => Kind::Heartbeat,
            _ => Kind::Other,
        };
        Some((kind, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        [&[kind, 0, 1], &size[..], payload, &[0xce]].concat()
    }

    #[test]
    fn frames_come_out_whole_however_they_came_in() {
        let ack = frame(1, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 7, 0]);
        let stream = [b"AMQP\0\0\x09\x01".to_vec(), frame(1, &[0, 10, 0, 11, 1]), frame(8, &[]), ack].concat();
        for step in 1..=stream.len() {
            let mut frames = Frames::default();
            let pieces: Vec<Piece> = stream.chunks(step).flat_map(|bytes| frames.take(bytes)).collect();
            let kinds: Vec<Kind> = pieces.iter().map(|piece| piece.kind).collect();
            assert_eq!(kinds, [Kind::Greeting, Kind::Other, Kind::Heartbeat, Kind::Confirm], "in steps of {step}");
            let together: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.bytes).collect();
            assert_eq!(together, stream, "in steps of {step}");
            assert_eq!(frames.rest(), Vec::<u8>::new());
        }
    }

    #[test]
    fn a_question_is_known_by_its_method_and_the_whole_name() {
        let payload = [&[0, 50, 0, 10, 0, 0][..], &[4], b"kept", &[1, 0, 0, 0, 0]].concat();
        let piece = Piece { kind: Kind::Other, bytes: frame(1, &payload) };
        assert!(piece.asks((50, 10), "kept"));
        assert!(!piece.asks((50, 20), "kept") && !piece.asks((50, 10), "kep") && !piece.asks((50, 10), "other"));
        assert!(!Piece { kind: Kind::Other, bytes: frame(1, &[0]) }.asks((50, 10), "kept"));
    }

    #[test]
    fn a_confirm_becomes_a_refusal_of_the_same() {
        let mut piece = Piece { kind: Kind::Confirm, bytes: frame(1, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 7, 1]) };
        assert_eq!(piece.channel(), Some([0, 1]));
        piece.refuse();
        assert_eq!(piece.bytes, frame(1, &[0, 60, 0, 120, 0, 0, 0, 0, 0, 0, 0, 7, 1]));
    }

    #[test]
    fn a_close_is_a_whole_frame() {
        assert_eq!(Frames::default().take(&close(541)), [Piece { kind: Kind::Other, bytes: close(541) }]);
    }

    #[test]
    fn what_is_not_amqp_goes_through_as_it_comes() {
        let mut frames = Frames::default();
        for bytes in [&[22, 3, 1][..], &[0, 60, 0, 80, 1, 2, 3]] {
            assert_eq!(frames.take(bytes), [Piece { kind: Kind::Opaque, bytes: bytes.to_vec() }]);
        }
        let absurd = [1, 0, 0, 0xff, 0xff, 0xff, 0xff, 9];
        assert_eq!(Frames::default().take(&absurd), [Piece { kind: Kind::Opaque, bytes: absurd.to_vec() }]);
    }
}
