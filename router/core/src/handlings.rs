//! Handlings and small settlements under way of one route. The route's loop drives them itself, so that their ends cost no task
//! switch; meanwhile the handlers work on their own runtime (see [`Crew`]).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{Stream, stream::FuturesUnordered};
use router_api::{BoxFuture, Clock};
use tokio_util::sync::ReusableBoxFuture;

use crate::crew::Crew;

/// A look that comes so much too early is looked twice.
const EARLY: Duration = Duration::from_millis(5);

/// Of [`Handlings::spare`].
const SPARE_MAX: usize = 64;

/// See the module. `E` is what each of them ends with.
pub(crate) struct Handlings<E> {
    under_way: FuturesUnordered<Boxed<E>>,
    /// What handlings that are over stood in. One is some 2 KiB, and each event has one.
    spare: Vec<ReusableBoxFuture<'static, E>>,
    crew: Arc<Crew>,
    clock: Arc<dyn Clock>,
    /// Wakes for the crew's next look.
    timer: Option<(Duration, BoxFuture<'static, ()>)>,
}

impl<E> Handlings<E> {
    pub(crate) fn new(crew: Arc<Crew>, clock: Arc<dyn Clock>) -> Self {
        Self { under_way: FuturesUnordered::new(), spare: Vec::new(), crew, clock, timer: None }
    }

    pub(crate) fn crew(&self) -> &Arc<Crew> {
        &self.crew
    }

    /// Begins with the next [`Handlings::next`].
    pub(crate) fn push(&mut self, other: BoxFuture<'static, E>) {
        self.under_way.push(Boxed::Other(other));
    }

    /// The same, for what each event has.
    pub(crate) fn push_handling(&mut self, handling: impl Future<Output = E> + Send + 'static) {
        let boxed = match self.spare.pop() {
            Some(mut spare) => {
                spare.set(handling);
                spare
            }
            None => ReusableBoxFuture::new(handling),
        };
        self.under_way.push(Boxed::Handling(Some(boxed)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The next end; `None` when nothing is under way. Nothing is lost with the future.
    pub(crate) async fn next(&mut self) -> Option<E> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// An end that is there already. Wakes nobody: to be followed by [`Handlings::next`].
    pub(crate) fn try_next(&mut self) -> Option<E> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(end) => end,
            Poll::Pending => None,
        }
    }

    /// Goes on with what is under way until `work` is done. Returns what ended meanwhile, too.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> (T, Vec<E>) {
        let mut ended = Vec::new();
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return (done, ended),
                Some(end) = self.next(), if !self.is_empty() => ended.push(end),
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<E>> {
        loop {
            let polled = Pin::new(&mut self.under_way).poll_next(cx);
            self.crew.begin();
            if let Poll::Ready(ended) = polled {
                return Poll::Ready(ended.map(|(end, boxed)| {
                    self.spare.extend(boxed.filter(|_| self.spare.len() < SPARE_MAX));
                    end
                }));
            }
            self.set_timer();
            let Some((at, timer)) = &mut self.timer else { return Poll::Pending };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = self.clock.monotonic().max(*at);
            self.timer = None;
            self.crew.look(now);
        }
    }

    /// A timer that is a little early finds nothing to do and costs less than another one for each event.
    fn set_timer(&mut self) {
        let Some(at) = self.crew.next_look() else {
            self.timer = None;
            return;
        };
        let now = self.clock.monotonic();
        if !self.timer.as_ref().is_some_and(|(set, _)| *set <= at && (at - *set <= EARLY || *set <= now + EARLY)) {
            self.timer = Some((at, self.clock.sleep(at.saturating_sub(now))));
        }
    }
}

/// One of them.
enum Boxed<E> {
    /// `None` once it is over.
    Handling(Option<ReusableBoxFuture<'static, E>>),
    Other(BoxFuture<'static, E>),
}

impl<E> Future for Boxed<E> {
    /// The end, and the box that can be used again.
    type Output = (E, Option<ReusableBoxFuture<'static, E>>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Other(other) => other.as_mut().poll(cx).map(|end| (end, None)),
            Self::Handling(boxed) => {
                let Some(running) = boxed else { return Poll::Pending };
                running.poll(cx).map(|end| (end, boxed.take()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
