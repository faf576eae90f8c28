//! One handler, between the route's loop, which wants its result, and the task that runs it.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use futures_util::FutureExt;
use router_api::{BoxFuture, HandlerError, Outcome};
use tokio::task::AbortHandle;

/// What a handler came back with, or what it said when it panicked.
pub(crate) type Returned = std::thread::Result<Result<Outcome, HandlerError>>;

/// A handler at work, its panics caught.
pub(crate) type Work = BoxFuture<'static, Returned>;

/// Catches the panics of a handler.
pub(crate) fn work(handling: impl Future<Output = Result<Outcome, HandlerError>> + Send + 'static) -> Work {
    Box::pin(AssertUnwindSafe(handling).catch_unwind())
}

/// How waiting for a handler ends.
pub(crate) enum Came {
    Back(Box<Returned>),
    /// Its time is over.
    Late,
    /// It was dropped: nobody wanted it any more, or the handlers' runtime shuts down.
    Gone,
    /// It was not begun, and will not be: there are too many for what they take.
    NotBegun,
}

/// See the module.
pub(super) struct Seat {
    stage: Mutex<Stage>,
}

#[derive(Default)]
struct Stage {
    /// Not begun.
    work: Option<Work>,
    /// It has a task of its own.
    task: Option<AbortHandle>,
    unwanted: bool,
    late: bool,
    end: Option<Came>,
    /// Of who waits for it.
    waker: Option<Waker>,
}

impl Seat {
    pub(super) fn of(work: Work) -> Self {
        Self { stage: Mutex::new(Stage { work: Some(work), ..Stage::default() }) }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("no code panics while it holds a stage")
    }

    /// Takes the work to begin it; nobody else will.
    pub(super) fn take(&self) -> Option<Work> {
        self.stage().work.take()
    }

    /// It runs in this task from now on.
    pub(super) fn has_task(&self, task: AbortHandle) {
        let mut stage = self.stage();
        if stage.unwanted {
            drop(stage);
            task.abort();
        } else {
            stage.task = Some(task);
        }
    }

    pub(super) fn is_unwanted(&self) -> bool {
        self.stage().unwanted
    }

    /// The first end counts. Returns whom to wake.
    #[must_use]
    pub(super) fn end(&self, came: Came) -> Option<Waker> {
        let mut stage = self.stage();
        stage.end.get_or_insert(came);
        stage.waker.take()
    }

    /// Its time is over. Returns whom to wake.
    #[must_use]
    pub(super) fn is_late(&self) -> Option<Waker> {
        let mut stage = self.stage();
        stage.late = true;
        stage.waker.take()
    }

    /// Drops the work as soon as that is possible.
    pub(super) fn abandon(&self) {
        let (work, task) = {
            let mut stage = self.stage();
            stage.unwanted = true;
            (stage.work.take(), stage.task.take())
        };
        if work.is_some()
            && let Some(waker) = self.end(Came::Gone)
        {
            waker.wake();
        }
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Its end. That its time is over counts as one unless it is waited for `however_late`.
    pub(super) fn poll_end(&self, cx: &Context<'_>, however_late: bool) -> Poll<Came> {
        let mut stage = self.stage();
        if let Some(came) = stage.end.take() {
            return Poll::Ready(came);
        }
        if stage.late && !however_late {
            return Poll::Ready(Came::Late);
        }
        if !stage.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            stage.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Whoever runs a handler holds one: whatever becomes of its task, who waits hears of it.
pub(super) struct Seated(pub(super) Arc<Seat>);

impl Drop for Seated {
    fn drop(&mut self) {
        if let Some(waker) = self.0.end(Came::Gone) {
            waker.wake();
        }
    }
}
