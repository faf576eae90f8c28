//! What a test may hold against a limit on a machine that does other things besides: the processor's time, not the wall's.

use std::{fs, time::Duration};

/// The kernel counts in hundredths of a second, whatever its own clock is.
const TICK: Duration = Duration::from_millis(10);

/// How long this thread has had a processor until now.
pub(crate) fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/stat").expect("a thread can read its own state");
    // The name of the thread, in parentheses, may have spaces in it.
    let (_, fields) = stat.rsplit_once(") ").expect("a name is in parentheses");
    // The 14th and 15th field of all: in the program, and in the kernel for it.
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u32>().expect("a number of ticks"));
    TICK * ticks.sum::<u32>()
}

#[test]
fn time_that_is_waited_is_not_counted_and_time_that_is_worked_is() {
    let before = processor_time();
    std::thread::park_timeout(Duration::from_millis(300));
    let waited = processor_time() - before;
    assert!(waited < Duration::from_millis(300), "{waited:?}");
    let mut number = 1_u64;
    while processor_time() == before + waited {
        number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005));
    }
}
