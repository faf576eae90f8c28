//! The archive that is read, and the way to one route's queue.

use std::{path::Path, time::Duration};

use anyhow::bail;
use jiff::Timestamp;
use router_api::{Admin, Chance as _, Destination, Publication, RouteName};
use router_core::config::{Config, TransportConfig};
use uuid::Uuid;

use super::marked;
use crate::{
    access::{Access, Purpose},
    event_line::ShownEvent,
    store_file,
    system::OsChance,
};

/// See the module.
pub(super) struct Delivering {
    archive: Access,
    /// Where the archive is not the way: a broker, beside the store.
    beside: Option<Access>,
    /// Distinguishes the ids of one replay from those of another.
    run: Uuid,
}

impl Delivering {
    pub(super) async fn open(config: &Config, deliver: bool) -> anyhow::Result<Self> {
        let store: &Path = &config.store.path;
        let on_broker = matches!(config.transport, TransportConfig::Amqp(_));
        // To publish, a store would be made where there is none.
        if deliver && !on_broker && !store_file::is_there(store)? {
            bail!("there is no store `{}` yet: nothing was taken in with this configuration", store.display());
        }
        let archive = Access::open(config, if deliver && !on_broker { Purpose::Publish } else { Purpose::Read }).await?;
        let beside = if deliver && on_broker && !archive.is_running() { Some(Access::open(config, Purpose::Publish).await?) } else { None };
        Ok(Self { archive, beside, run: Uuid::from_u64_pair(OsChance.next_u64(), OsChance.next_u64()) })
    }

    pub(super) fn archive(&self) -> &dyn Admin {
        self.archive.admin()
    }

    pub(super) fn is_running(&self) -> bool {
        self.archive.is_running()
    }

    /// Hands an event to the route, past its patterns; returns its new id. It is safe when this returns.
    pub(super) async fn deliver(&mut self, route: &RouteName, event: &ShownEvent, now: Timestamp) -> anyhow::Result<Option<String>> {
        let seq = event.seq.unwrap_or(0);
        let (body, id) = marked::mark(&event.body, seq, self.run, now).map_err(anyhow::Error::msg)?;
        let to = Destination::Route { route: route.clone(), delay: Duration::ZERO };
        let publication = Publication { to, hops: event.hops, ..Publication::new(event.key.clone(), body) };
        let admin = self.beside.as_ref().unwrap_or(&self.archive).admin();
        admin.publish(publication).await.map_err(|error| {
            anyhow::anyhow!("event {seq} is not delivered, and what follows it neither (`--after {}` goes on with it): {error}", seq.saturating_sub(1))
        })?;
        Ok(id)
    }

    pub(super) async fn close(&mut self) {
        // What is left of them is closed with the process.
        if let Some(beside) = self.beside.take() {
            beside.close().await;
        }
    }
}
