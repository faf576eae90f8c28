//! Writing Bloodbank's envelope, version 2, with its fields in their order. How it is written stands in `router-claude`, which writes the
//! same for the hook.

use bytes::Bytes;
use jiff::Timestamp;
use router_api::{Chance, RoutingKey};
pub(crate) use router_claude::{
    event::Source,
    members::{Field, Members, isoformat, naive},
};
use uuid::Uuid;

/// The bytes of an envelope.
pub(crate) fn envelope(event_id: Uuid, key: &RoutingKey, now: Timestamp, source: &Source, payload: &Field) -> Bytes {
    Bytes::from(router_claude::event::envelope(event_id, key.as_str(), now, source, &[], payload))
}

/// A fresh id.
pub(crate) fn fresh_id(chance: &dyn Chance) -> Uuid {
    let bits = (u128::from(chance.next_u64()) << 64) | u128::from(chance.next_u64());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}
