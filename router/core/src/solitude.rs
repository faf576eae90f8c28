//! Keeps suspects of a crash apart: whoever was running when the process died runs alone, so that the next death convicts the
//! right one.
//!
//! After one death a suspect runs alone in its route; neighbours of other routes go on, since one route's trouble must not stop
//! the others. After a second death it runs alone in the whole process, so that an innocent neighbour is never charged for long.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// One for each route; all share the lock of the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Solitude {
    route: Arc<RwLock<()>>,
    process: Arc<RwLock<()>>,
}

/// Held while a handler runs.
#[derive(Debug)]
#[expect(dead_code, reason = "held for their Drop")]
pub(crate) struct Inside {
    route: Guard,
    process: Guard,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for their Drop")]
enum Guard {
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

impl Solitude {
    /// For another route of the same process.
    pub(crate) fn sibling(&self) -> Self {
        Self { route: Arc::default(), process: Arc::clone(&self.process) }
    }

    /// Waits until a handling with so many crashes behind it may run.
    pub(crate) async fn enter(&self, crashes: u32) -> Inside {
        // Always the route first: two suspects of different routes must not wait for each other.
        let route = acquire(&self.route, crashes >= 1).await;
        let process = acquire(&self.process, crashes >= 2).await;
        Inside { route, process }
    }
}

async fn acquire(lock: &Arc<RwLock<()>>, alone: bool) -> Guard {
    let lock = Arc::clone(lock);
    if alone { Guard::Alone(lock.write_owned().await) } else { Guard::Shared(lock.read_owned().await) }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_suspect_runs_alone_in_its_route_and_a_repeated_one_alone_in_the_process() {
        let first = Solitude::default();
        let second = first.sibling();
        let innocent = first.enter(0).now_or_never().expect("nobody is suspected");
        assert!(first.enter(1).now_or_never().is_none(), "a suspect waits for its neighbours");
        drop(innocent);
        let suspect = first.enter(1).now_or_never().expect("alone");
        assert!(first.enter(0).now_or_never().is_none(), "neighbours of the route wait for the suspect");
        let other_route = second.enter(0).now_or_never().expect("other routes go on");
        drop(suspect);
        assert!(first.enter(2).now_or_never().is_none(), "a repeated suspect waits for the whole process");
        drop(other_route);
        let repeated = first.enter(2).now_or_never().expect("alone in the process");
        assert!(second.enter(0).now_or_never().is_none());
        drop(repeated);
        assert!(second.enter(0).now_or_never().is_some());
    }
}
