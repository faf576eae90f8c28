//! The publications on the way, and their confirmations in the order in which lapin learns of them.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A future that was polled once, at least.
type Begun<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Futures that are begun in the order in which they are added, and whose ends are told in passes.
///
/// A pass holds everything that had ended when it began, which is what [`crate::returns`] builds on, and what a
/// `FuturesUnordered` does not promise: it may stop in the middle.
pub(crate) struct Confirms<T> {
    next: u64,
    waiting: HashMap<u64, (Begun<T>, Waker)>,
    ended: Vec<(u64, T)>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken {
    ids: Mutex<Vec<u64>>,
    task: AtomicWaker,
}

struct One {
    id: u64,
    woken: Arc<Woken>,
}

impl Wake for One {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.ids.lock().expect("no code panics while it holds the ids").push(self.id);
        self.woken.task.wake();
    }
}

impl<T> Default for Confirms<T> {
    fn default() -> Self {
        Self { next: 0, waiting: HashMap::new(), ended: Vec::new(), woken: Arc::default() }
    }
}

impl<T> Confirms<T> {
    /// Begins `sending` at once, and so after all that were added before. Returns its number, higher for each later one.
    pub(crate) fn add(&mut self, sending: impl Future<Output = T> + Send + 'static) -> u64 {
        let id = self.next;
        self.next += 1;
        let waker = Waker::from(Arc::new(One { id, woken: Arc::clone(&self.woken) }));
        self.waiting.insert(id, (Box::pin(sending), waker));
        self.look_at(id);
        id
    }

    /// Not ended yet.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.ended.len()
    }

    /// All that has ended, in the order in which it did; waits until something has.
    pub(crate) async fn pass(&mut self) -> Vec<(u64, T)> {
        std::future::poll_fn(|cx| self.poll_pass(cx)).await
    }

    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Vec<(u64, T)>> {
        self.woken.task.register(cx.waker());
        loop {
            let ids = std::mem::take(&mut *self.woken.ids.lock().expect("no code panics while it holds the ids"));
            if ids.is_empty() {
                break;
            }
            for id in ids {
                self.look_at(id);
            }
        }
        if self.ended.is_empty() { Poll::Pending } else { Poll::Ready(std::mem::take(&mut self.ended)) }
    }

    fn look_at(&mut self, id: u64) {
        let Some((sending, waker)) = self.waiting.get_mut(&id) else {
            return;
        };
        if let Poll::Ready(value) = sending.as_mut().poll(&mut Context::from_waker(waker)) {
            self.waiting.remove(&id);
            self.ended.push((id, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, future::pending};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn they_begin_in_their_order_and_at_once() {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let mut confirms = Confirms::<()>::default();
        for at in 0..5 {
            let begun = Arc::clone(&begun);
            confirms.add(async move {
                begun.lock().expect("nobody panics").push(at);
                pending().await
            });
        }
        assert_eq!(*begun.lock().expect("nobody panics"), [0, 1, 2, 3, 4]);
        assert_eq!(confirms.len(), 5);
        assert!(confirms.pass().now_or_never().is_none(), "none has ended");
    }

    #[tokio::test]
    async fn a_pass_holds_all_that_has_ended_in_that_order_and_nothing_else() {
        let mut confirms = Confirms::default();
        let (mut senders, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let (sender, receiver) = oneshot::channel::<u8>();
            senders.push(Some(sender));
            ids.push(confirms.add(receiver));
        }
        let mut end = |at: usize| senders[at].take().expect("it ends once").send(0).expect("it is waited for");
        for at in [4, 1, 3] {
            end(at);
        }
        // Added later and ended at once: in the same pass, as it has ended, too.
        let late = confirms.add(async { Ok(1) });
        let mut pass: Vec<u64> = confirms.pass().await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(pass.iter().filter(|id| **id != late).copied().collect::<Vec<_>>(), [ids[4], ids[1], ids[3]]);
        pass.sort_unstable();
        assert_eq!(pass, [ids[1], ids[3], ids[4], late]);
        assert_eq!(confirms.len(), 3);
        assert!(confirms.pass().now_or_never().is_none());
        end(0);
        assert_eq!(confirms.pass().await.first().map(|(id, _)| *id), Some(ids[0]));
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let mut confirms = Confirms::default();
        let (sender, receiver) = oneshot::channel::<u8>();
        confirms.add(receiver);
        let waiting = tokio::spawn(async move { confirms.pass().await.len() });
        tokio::task::yield_now().await;
        sender.send(0).expect("it is waited for");
        let woken = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it is woken");
        assert_eq!(woken.expect("it does not panic"), 1);
    }
}
