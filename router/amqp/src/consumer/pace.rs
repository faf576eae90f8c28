//! How a consumer waits for what comes next.
//!
//! To be woken for each event costs more than the event: while many come, each wakes a thread that finds a handful and sleeps again. So
//! while many come, they are looked for once in a while instead, and lapin has nobody to wake. A network card does the same with its
//! interrupts. Who waits for few is woken at once.

use std::time::Duration;

/// Between two looks while many events come. Also the finest that the timer does.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// What a pause may become on a machine that is not idle.
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// How many come is counted for so long at least: a few that come together are not many.
const COUNTED: Duration = Duration::from_millis(4);

/// So many in a [`PAUSE`] are many.
const MANY: u32 = 4;

/// Decides between a pause and being woken.
#[derive(Debug)]
pub(super) struct Pace {
    prefetch: u32,
    since: Duration,
    came: u32,
    many: bool,
}

impl Pace {
    /// Nothing has come. `prefetch` is what the broker sends at most before something is acknowledged.
    pub(super) fn new(prefetch: u16) -> Self {
        Self { prefetch: prefetch.into(), since: Duration::ZERO, came: 0, many: false }
    }

    /// An event came.
    pub(super) fn came(&mut self) {
        self.came = self.came.saturating_add(1);
    }

    /// Nothing more is there: is the next look after a [`PAUSE`], instead of when something comes?
    pub(super) fn pauses(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.since);
        if passed >= COUNTED {
            let in_a = |pause: Duration| f64::from(self.came) * pause.as_secs_f64() / passed.as_secs_f64();
            // Where a pause could use up the window, the broker would have to wait for us.
            self.many = in_a(PAUSE) >= f64::from(MANY) && in_a(PAUSE_MAX) <= f64::from(self.prefetch) / 2.0;
            (self.since, self.came) = (now, 0);
        }
        self.many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many events in each millisecond, looked at in each: does it pause in the end?
    fn pauses(prefetch: u16, in_each: u32) -> bool {
        let mut pace = Pace::new(prefetch);
        let mut pauses = false;
        for millisecond in 1..=10 {
            (0..in_each).for_each(|_| pace.came());
            pauses = pace.pauses(Duration::from_millis(millisecond));
        }
        pauses
    }

    #[test]
    fn many_are_looked_for_once_in_a_while_and_few_are_waited_for() {
        assert_eq!([0, 1, 3, 4, 125, 126].map(|in_each| pauses(500, in_each)), [false, false, false, true, true, false]);
        assert_eq!([1, 4, 8].map(|in_each| pauses(8, in_each)), [false; 3], "a small window would run dry meanwhile");
    }

    #[test]
    fn some_that_come_together_are_not_many() {
        let mut pace = Pace::new(500);
        (0..30).for_each(|_| pace.came());
        assert!(!pace.pauses(Duration::from_secs(1)), "after a silence");
        (0..5).for_each(|_| pace.came());
        assert!(!pace.pauses(Duration::from_micros(1_000_100)));
        assert!(!pace.pauses(Duration::from_millis(1_010)));
    }

    #[test]
    fn a_stream_that_dries_up_is_waited_for_again() {
        let mut pace = Pace::new(500);
        (0..40).for_each(|_| pace.came());
        assert!(pace.pauses(Duration::from_millis(4)));
        assert!(pace.pauses(Duration::from_millis(5)), "it may go on");
        assert!(!pace.pauses(Duration::from_millis(8)));
    }
}
