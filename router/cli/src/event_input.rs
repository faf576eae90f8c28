//! An event that a command is given: a stored one by number or id, a file, or the standard input.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use router_api::{AdminError, ArchivedEvent, DecodeLimits, DeliveryState, Envelope, Fate, RouteName, RouteState, RoutingKey};
use router_core::config::Config;
use router_http::key_of;

use crate::{
    access::{Access, Purpose},
    args::EventArgs,
};

/// An event in hand, not decoded yet.
pub(crate) struct EventInput {
    /// Its routing key.
    pub(crate) key: RoutingKey,
    /// The exact bytes.
    pub(crate) body: Bytes,
    /// What the archive knows of it, if it came from there.
    pub(crate) archived: Option<ArchivedEvent>,
    /// If a route recognised it as a repetition by its id: the number of the first event of that id.
    pub(crate) original: Option<u64>,
    /// Routes that are paused in the running router, and why.
    pub(crate) paused: BTreeMap<RouteName, String>,
}

impl EventInput {
    /// The event.
    ///
    /// # Errors
    ///
    /// When the bytes are no event.
    pub(crate) fn decode(&self, limits: DecodeLimits) -> anyhow::Result<Envelope> {
        Envelope::decode(self.key.clone(), self.body.clone(), limits).map_err(|error| anyhow::anyhow!("no event: {error}"))
    }

    /// Finds the event: `-` is the standard input, what exists as a file is one, everything else is asked of the store.
    pub(crate) async fn find(config: &Config, args: &EventArgs) -> anyhow::Result<Self> {
        let path = Path::new(&args.event);
        if args.event == "-" || path.is_file() {
            let body = read(path, config.limits.decode.body_bytes_max)?;
            let key = keyed(args.key.as_ref(), &body, &args.event)?;
            return Ok(Self { key, body, archived: None, original: None, paused: BTreeMap::new() });
        }
        if args.key.is_some() {
            bail!("there is no file `{}`, and `--key` is only for events from a file", args.event);
        }
        if args.event.contains('/') || args.event.ends_with(".json") {
            bail!("there is no file `{}`", args.event);
        }
        let access = Access::open(config, Purpose::Read).await?;
        let found = access.admin().event(&args.event).await;
        let original = match found.as_deref() {
            Ok([event, ..]) => original(&access, event).await,
            _ => None,
        };
        let paused = paused(&access).await;
        access.close().await;
        let mut found = match found {
            Ok(found) if !found.is_empty() => found,
            Ok(_) | Err(AdminError::NotFound(_)) => {
                bail!("there is no stored event `{}` and no file of that name: see `event-router events`", args.event)
            }
            Err(error) => return Err(error.into()),
        };
        match found.len() {
            1 => {}
            _ => {
                let same = found.windows(2).all(|pair| pair[0].id == pair[1].id);
                if !same {
                    let ids: Vec<&str> = found.iter().take(5).filter_map(|event| event.id.as_deref()).collect();
                    bail!("`{}` fits several events: {}", args.event, ids.join(", "));
                }
                // The same id more than once: the newest is meant.
            }
        }
        let archived = found.swap_remove(0);
        Ok(Self { key: archived.key.clone(), body: archived.body.clone(), archived: Some(archived), original, paused })
    }
}

async fn original(access: &Access, event: &ArchivedEvent) -> Option<u64> {
    let key = event.deliveries.iter().find_map(|delivery| match &delivery.state {
        DeliveryState::Finished(Fate::Duplicate { key }) if event.id.as_ref() == Some(key) => Some(key),
        _ => None,
    })?;
    // An aside of the answer: without it the answer is still right.
    let same = access.admin().event(key).await.ok()?;
    same.iter().filter(|other| other.id.as_ref() == Some(key) && other.seq < event.seq).map(|other| other.seq).min()
}

/// An aside of the answer, too; without a running router nothing is paused more than the rest.
async fn paused(access: &Access) -> BTreeMap<RouteName, String> {
    if !access.is_running() {
        return BTreeMap::new();
    }
    let routes = access.admin().status().await.map(|status| status.routes).unwrap_or_default();
    let paused = routes.into_iter().filter(|route| route.state == RouteState::Paused);
    paused.map(|route| (route.name, route.note.map_or_else(|| "the route is paused".to_owned(), |note| format!("the route is paused: {note}")))).collect()
}

/// Reads a file or, for `-`, the standard input, within the limit.
pub(crate) fn read(path: &Path, bytes_max: usize) -> anyhow::Result<Bytes> {
    let mut body = Vec::new();
    let limit = bytes_max as u64 + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut body).context("cannot read the standard input")?;
    } else {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        file.take(limit).read_to_end(&mut body).with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    if body.len() > bytes_max {
        bail!("`{}` is longer than {bytes_max} bytes, the limit of `limits.body_bytes_max`", path.display());
    }
    Ok(body.into())
}

/// The given key, or the one that the body names.
pub(crate) fn keyed(given: Option<&RoutingKey>, body: &[u8], name: &str) -> anyhow::Result<RoutingKey> {
    match key_of(given.map(RoutingKey::as_str), body) {
        Ok(key) => Ok(key),
        Err(reason) => bail!("`{name}`: {reason}{}", if reason.starts_with("no routing key") { " (`--key`)" } else { "" }),
    }
}
