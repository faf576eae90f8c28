//! The consumers of this process, so that what they have in hand can be counted, and given back at the end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use router_api::RouteName;

use crate::consumer::AmqpConsumer;

/// See the module.
#[derive(Default)]
pub(crate) struct Consumers {
    list: Mutex<Vec<Weak<AmqpConsumer>>>,
}

impl Consumers {
    fn list(&self) -> MutexGuard<'_, Vec<Weak<AmqpConsumer>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; those that are gone are forgotten.
    pub(crate) fn add(&self, consumer: &Arc<AmqpConsumer>) {
        let mut list = self.list();
        list.retain(|consumer| consumer.strong_count() > 0);
        list.push(Arc::downgrade(consumer));
    }

    /// Events of this route's queue that the route has in hand in this process.
    pub(crate) fn in_hand(&self, route: &RouteName) -> u64 {
        self.list().iter().filter_map(Weak::upgrade).filter(|consumer| consumer.route() == route).map(|consumer| consumer.in_hand()).sum()
    }

    /// All that are left, which are forgotten.
    pub(crate) fn take(&self) -> Vec<Arc<AmqpConsumer>> {
        std::mem::take(&mut *self.list()).iter().filter_map(Weak::upgrade).collect()
    }
}
