//! How many threads the service has for intake, store, sockets and the loops of the routes.

use std::thread::available_parallelism;

/// More than these have nothing to do: what computes for long has threads of its own (the store's writer, lapin's, the handlers').
const MOST: usize = 2;

/// Half of the processors, at least one. With more threads than that, a route's loop moves from one to the other whenever it is woken, and
/// finds its memory in the wrong cache: on two processors that costs a quarter of what the router does for an event (`tests/bench`).
#[must_use]
pub fn io_threads() -> usize {
    half_of(available_parallelism().map_or(1, Into::into))
}

fn half_of(processors: usize) -> usize {
    (processors / 2).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_processors_serve_and_never_none() {
        assert_eq!([0, 1, 2, 3, 4, 64].map(half_of), [1, 1, 1, 1, 2, 2]);
    }
}
