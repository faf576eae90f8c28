//! What a handler emitted is published after its success and before its events are settled.

use bytes::Bytes;
use router_api::{
    Destination, Emit, Publication, TransportError,
    failpoint::{self, Failpoint},
};

use super::{
    Item, Worker,
    settling::{RECORD_AGAIN_FIRST, RECORD_AGAIN_MAX},
};
use crate::{hops::Hops, lanes::Batch, observe::RouterEvent};

impl Worker {
    /// Publishes what the handler emitted. `Ok(false)` when the session ended meanwhile; an error when the transport refuses
    /// for good.
    pub(super) async fn publish_emits(&self, batch: &Batch<Item>, emits: Vec<Emit>) -> Result<bool, String> {
        let handled = batch.items.iter().map(|item| (&item.delivery, &*item.event));
        let hops = Hops::of(&self.route.config.name, handled, &emits, self.route.parts.clock.now());
        let traceparent = batch.items.last().and_then(|item| item.delivery.traceparent.clone());
        for mut emit in emits {
            let hops = hops.mark(&mut emit);
            let to = match emit.after {
                Some(delay) => Destination::Route { route: self.name(), delay },
                None => Destination::Subscribers,
            };
            // What is emitted is stored like what comes in at the door, so it is redacted like that.
            let mut body = Bytes::from(emit.body.to_string());
            let mut redactions = 0;
            if let Some(redactor) = self.route.parts.redactor() {
                let redacted = redactor.redact(&body);
                (body, redactions) = (redacted.body, redacted.count);
            }
            let publication = Publication { to, hops, traceparent: traceparent.clone(), redactions, ..Publication::new(emit.key.clone(), body) };
            let mut wait = RECORD_AGAIN_FIRST;
            loop {
                failpoint::pass(Failpoint::EmitBefore);
                match self.route.parts.transport.publish(publication.clone()).await {
                    Ok(_) => break,
                    Err(error @ (TransportError::Refused(_) | TransportError::Unsupported(_))) => return Err(format!("emit of `{}`: {error}", emit.key)),
                    Err(error) => self.tell(RouterEvent::SettlementDelayed { route: self.name(), error: format!("emit of `{}`: {error}", emit.key) }),
                }
                if self.cancelled_within(wait).await {
                    return Ok(false);
                }
                wait = (wait * 2).min(RECORD_AGAIN_MAX);
            }
            failpoint::pass(Failpoint::EmitAfter);
            self.tell(RouterEvent::Emitted { route: self.name(), key: emit.key, id: emit.id.to_string() });
        }
        Ok(true)
    }
}
