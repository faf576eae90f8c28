//! Ids as numbers: [`fingerprint`], and a bounded memory of those that were met, [`Fingerprints`].

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The same for the same parts, in every process and version of this program (it is stored): FNV-1a with a final mix.
pub(crate) fn fingerprint(parts: &[&str]) -> u64 {
    bytes_fingerprint(parts.iter().flat_map(|part| part.bytes().chain([0xff])))
}

/// See [`fingerprint`].
pub(crate) fn bytes_fingerprint(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// Fingerprints that were met; the oldest is forgotten for the one that is too many.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fingerprints {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Fingerprints {
    /// How many are remembered.
    pub(crate) const MAX: usize = 65_536;

    /// False where it was there already.
    pub(crate) fn add(&mut self, fingerprint: u64) -> bool {
        if !self.known.insert(fingerprint) {
            return false;
        }
        self.order.push_back(fingerprint);
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    pub(crate) fn contains(&self, fingerprint: u64) -> bool {
        self.known.contains(&fingerprint)
    }
}

/// Sixteen digits for each, in one text: a list of numbers would be a third longer, and slower to read.
impl Serialize for Fingerprints {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.order.len() * 16);
        for fingerprint in &self.order {
            use std::fmt::Write as _;
            let _ = write!(text, "{fingerprint:016x}");
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Fingerprints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut fingerprints = Self::default();
        for digits in text.as_bytes().chunks(16) {
            let digits = std::str::from_utf8(digits).map_err(D::Error::custom)?;
            fingerprints.add(u64::from_str_radix(digits, 16).map_err(D::Error::custom)?);
        }
        Ok(fingerprints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other_and_a_stored_memory_knows_what_it_knew() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        // Stored by earlier versions of this program: it must never change.
        assert_eq!(fingerprint(&["msg_01", "req_01"]), 0xebc2_dfde_0fb8_aa23);
        let mut met = Fingerprints::default();
        assert!(met.add(7) && met.add(u64::MAX) && !met.add(7));
        let mut back: Fingerprints = serde_json::from_str(&serde_json::to_string(&met).unwrap()).unwrap();
        assert!(!back.add(7) && !back.add(u64::MAX) && back.add(8));
    }

    #[test]
    fn the_oldest_is_forgotten_for_the_one_that_is_too_many() {
        let mut met = Fingerprints::default();
        for number in 0..=Fingerprints::MAX as u64 {
            assert!(met.add(number));
        }
        assert!(!met.contains(0) && met.contains(1));
    }
}
