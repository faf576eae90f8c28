//! Puts single flipped bits right again. A checksum that does not fit says by how much, and one bit of a page explains that or none does.
//!
//! Nothing is guessed: where no bit explains it, or more than one does, the bytes are left as they are.

/// Of CRC-32 as everybody uses it, reflected.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// Which bit of a page of `bytes` bytes was flipped, if its CRC is `found` and was `wanted`: its byte, and a mask.
pub(crate) fn bit_of_crc(bytes: usize, found: u32, wanted: u32) -> Option<(usize, u8)> {
    // A CRC is linear: a flipped bit changes it by the same whatever the rest is, and by one more shift for each bit behind it.
    let difference = found ^ wanted;
    let mut change = POLYNOMIAL;
    let mut explained = None;
    for byte in (0..bytes).rev() {
        for bit in (0..8).rev() {
            if change == difference && explained.replace((byte, 1u8 << bit)).is_some() {
                return None;
            }
            change = if change & 1 == 1 { (change >> 1) ^ POLYNOMIAL } else { change >> 1 };
        }
    }
    explained
}

/// Which bit of the words that were summed up was flipped, if SQLite's checksum is `found` and should be `wanted`: the word and a mask of
/// its value.
pub(crate) fn bit_of_sum(words: &[u32], found: [u32; 2], wanted: [u32; 2]) -> Option<(usize, u32)> {
    let difference = [wanted[0].wrapping_sub(found[0]), wanted[1].wrapping_sub(found[1])];
    // How a change of the sums grows over the pairs of words that follow: both lines of a matrix.
    let (mut one, mut two) = ([1u32, 0u32], [0u32, 1u32]);
    let mut explained = None;
    for pair in (0..words.len() / 2).rev() {
        // The first word of a pair goes into both sums, the second into the latter.
        for (index, effect) in [(2 * pair, [one[0].wrapping_add(one[1]), two[0].wrapping_add(two[1])]), (2 * pair + 1, [one[1], two[1]])] {
            for bit in 0..32 {
                let mask = 1u32 << bit;
                let change = if words[index] & mask == 0 { mask } else { mask.wrapping_neg() };
                let is_it = effect.map(|effect| effect.wrapping_mul(change)) == difference;
                if is_it && explained.replace((index, mask)).is_some() {
                    return None;
                }
            }
        }
        one = [one[0].wrapping_add(one[1]), one[0].wrapping_add(one[1].wrapping_mul(2))];
        two = [two[0].wrapping_add(two[1]), two[0].wrapping_add(two[1].wrapping_mul(2))];
    }
    explained
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        (0..4_096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn every_flipped_bit_of_a_page_is_found_by_its_crc() {
        let page = page();
        let wanted = crc32fast::hash(&page);
        for at in (0..page.len()).step_by(61) {
            for mask in [1u8, 0x10, 0x80] {
                let mut flipped = page.clone();
                flipped[at] ^= mask;
                assert_eq!(bit_of_crc(page.len(), crc32fast::hash(&flipped), wanted), Some((at, mask)));
            }
        }
        let mut worse = page.clone();
        worse[7] ^= 0x11;
        assert_eq!(bit_of_crc(page.len(), crc32fast::hash(&worse), wanted), None, "two bits are not one");
        assert_eq!(bit_of_crc(page.len(), wanted, wanted), None);
    }

    fn sums(words: &[u32]) -> [u32; 2] {
        let (mut one, mut two) = (5u32, 9u32);
        for pair in words.chunks_exact(2) {
            one = one.wrapping_add(pair[0]).wrapping_add(two);
            two = two.wrapping_add(pair[1]).wrapping_add(one);
        }
        [one, two]
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_found_by_its_sums_or_left_alone() {
        let words: Vec<u32> = page().chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        let wanted = sums(&words);
        let mut found = 0;
        for at in (0..words.len()).step_by(7) {
            for bit in [0, 3, 17, 31] {
                let mut flipped = words.clone();
                flipped[at] ^= 1 << bit;
                let told = bit_of_sum(&flipped, sums(&flipped), wanted);
                assert!(told.is_none() || told == Some((at, 1 << bit)), "{at} {bit} {told:?}");
                found += usize::from(told.is_some());
            }
        }
        assert!(found > words.len() / 7 * 3, "{found}");
    }
}
