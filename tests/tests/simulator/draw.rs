//! Chance that follows from a seed and a name, not from the order of the questions: what is left out of a schedule changes nothing else.

/// Numbers of one question.
#[derive(Debug, Clone)]
pub struct Dice(u64);

/// The dice of a question: `what`, about `numbers`.
pub fn dice(seed: u64, what: &str, numbers: &[u64]) -> Dice {
    let mut state = mixed(seed);
    for byte in what.bytes() {
        state = mixed(state ^ u64::from(byte));
    }
    for number in numbers {
        state = mixed(state ^ mixed(*number));
    }
    Dice(state)
}

fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = mixed(self.0);
        self.0
    }

    /// From 0 to `end`, without it.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True so many times out of a thousand.
    pub fn hits(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("an index of a slice")]
    }
}
