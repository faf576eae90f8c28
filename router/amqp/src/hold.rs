//! Publishing waits with each new session until the archive's stream takes events.
//!
//! RabbitMQ opens its ports before its streams are up again. What is published in that moment is confirmed, reaches the queues of its
//! routes, and is missing from the stream, without a word. So the follower of the archive says when the stream stands, or that it will
//! not for now, and until then there is nothing to publish to.

use tokio::sync::watch;

/// See the head of this file.
pub(crate) struct Hold {
    /// Sessions up to this one are free.
    free_up_to: watch::Sender<u64>,
}

impl Hold {
    /// Nobody follows the archive, so nothing is held.
    pub(crate) fn never() -> Self {
        Self { free_up_to: watch::Sender::new(u64::MAX) }
    }

    /// Every session is held until it is released.
    pub(crate) fn each() -> Self {
        Self { free_up_to: watch::Sender::new(0) }
    }

    /// The session `epoch`, and all before it, may publish.
    pub(crate) fn release(&self, epoch: u64) {
        self.free_up_to.send_if_modified(|free| {
            let is_news = *free < epoch;
            *free = epoch.max(*free);
            is_news
        });
    }

    pub(crate) fn is_held(&self, epoch: u64) -> bool {
        epoch > *self.free_up_to.borrow()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.free_up_to.subscribe()
    }
}
