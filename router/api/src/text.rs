//! A text of a body, kept without a copy where it stands there as it is.

use std::borrow::Cow;

/// Where it stands, or itself where it is written with escapes.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    /// From, and how many bytes.
    At(u32, u32),
    Own(Box<str>),
}

impl Text {
    /// `text` is of a walk over `raw`: borrowed, it points into it.
    #[expect(clippy::ptr_arg, reason = "whether it is borrowed is the question")]
    pub(crate) fn of(text: &Cow<'_, str>, raw: &[u8]) -> Self {
        let place = |text: &str| {
            let from = text.as_ptr().addr().checked_sub(raw.as_ptr().addr())?;
            (from + text.len() <= raw.len()).then_some(())?;
            Some(Self::At(u32::try_from(from).ok()?, u32::try_from(text.len()).ok()?))
        };
        match text {
            Cow::Borrowed(text) => place(text).unwrap_or_else(|| Self::Own((*text).into())),
            Cow::Owned(text) => Self::Own(text.as_str().into()),
        }
    }

    /// The text; `raw` is the body that was walked.
    pub(crate) fn get<'a>(&'a self, raw: &'a [u8]) -> Option<&'a str> {
        match self {
            Self::At(from, bytes) => {
                let from = usize::try_from(*from).ok()?;
                std::str::from_utf8(raw.get(from..from.checked_add(usize::try_from(*bytes).ok()?)?)?).ok()
            }
            Self::Own(text) => Some(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_where_it_stands_and_one_with_escapes_is_kept() {
        let raw = br#"{"a":"bcd"}"#;
        let stands = std::str::from_utf8(&raw[6..9]).expect("it is ASCII");
        let kept = Text::of(&Cow::Borrowed(stands), raw);
        assert!(matches!(kept, Text::At(6, 3)));
        assert_eq!(kept.get(raw), Some("bcd"));
        for other in [Cow::Borrowed("from elsewhere"), Cow::Owned("e\n".to_owned())] {
            let kept = Text::of(&other, raw);
            assert!(matches!(kept, Text::Own(_)));
            assert_eq!(kept.get(raw), Some(other.as_ref()));
        }
    }
}
