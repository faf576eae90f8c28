//! What a command goes by that asks for events, routes or dead letters: the configuration; or, where its file cannot be used, the
//! router that runs all the same.
//!
//! A running router keeps its configuration while the file is being edited, and a shell may lack the variables that the service has:
//! neither is a reason to tell nothing of it. What needs the configuration itself (`check`, `run`, `try`, `explain`) loads it by
//! [`crate::setup`].

use std::{path::Path, time::Duration};

use router_api::{Clock as _, DecodeLimits, RouteName};
use router_core::config::Located;
use router_http::AdminClient;

use crate::{
    access::{Access, Purpose},
    args::Global,
    commands::block_on,
    setup::{self, InvalidConfig, Setup},
    system::SystemClock,
    terminal::{WARN, counted, harmless, styled, time},
};

/// For the question what the router goes on with; the answer to the command itself may take longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a command comes to its answer.
pub(crate) enum Reach {
    /// By a configuration that can be used.
    Configured(Box<Setup>),
    /// By the router that runs on the store of one that cannot.
    Running(AdminClient),
}

impl Reach {
    /// Loads the configuration. Where it cannot be used, finds the router that runs on its store, and says so on the standard error.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] with all problems at once, if no such router answers.
    pub(crate) fn find(global: &Global) -> anyhow::Result<Self> {
        Self::find_with(global, setup::load_to_read)
    }

    /// As [`Reach::find`], for a command that asks no broker.
    ///
    /// # Errors
    ///
    /// As [`Reach::find`].
    pub(crate) fn find_to_look(global: &Global) -> anyhow::Result<Self> {
        Self::find_with(global, setup::load_to_look)
    }

    fn find_with(global: &Global, load: fn(&Global) -> anyhow::Result<Setup>) -> anyhow::Result<Self> {
        let error = match load(global) {
            Ok(setup) => return Ok(Self::Configured(Box::new(setup))),
            Err(error) => error,
        };
        let Some((store, errors)) = error.downcast_ref::<InvalidConfig>().and_then(|invalid| Some((invalid.store.as_deref()?, invalid.errors()?))) else {
            return Err(error);
        };
        let Some((client, since)) = running(store) else { return Err(error) };
        warn(&setup::locate(global)?, errors, &since);
        Ok(Self::Running(client))
    }

    /// The store, one way or the other.
    ///
    /// # Errors
    ///
    /// As [`Access::open`].
    pub(crate) async fn open(&self, purpose: Purpose) -> anyhow::Result<Access> {
        match self {
            Self::Configured(setup) => Access::open(&setup.config, purpose).await,
            Self::Running(client) => Ok(Access::asking(client.clone())),
        }
    }

    /// The configuration, if it can be used.
    pub(crate) fn setup(&self) -> Option<&Setup> {
        match self {
            Self::Configured(setup) => Some(setup),
            Self::Running(_) => None,
        }
    }

    /// What an event may be at most. A running router has the last word anyway.
    pub(crate) fn decode(&self) -> DecodeLimits {
        self.setup().map(|setup| setup.config.limits.decode).unwrap_or_default()
    }

    /// The routes that there are.
    ///
    /// # Errors
    ///
    /// When the running router does not answer.
    pub(crate) fn routes(&self) -> anyhow::Result<Vec<RouteName>> {
        match self {
            Self::Configured(setup) => Ok(setup.config.routes.iter().map(|route| route.name.clone()).collect()),
            Self::Running(client) => {
                let status = block_on(async { Ok(router_api::Admin::status(client).await?) })?;
                Ok(status.routes.into_iter().map(|route| route.name).collect())
            }
        }
    }
}

/// The router that runs on `store`, and with which configuration, as a part of a sentence.
pub(crate) fn running(store: &Path) -> Option<(AdminClient, String)> {
    let found = block_on(async {
        let client = AdminClient::connect(store).await?;
        let ready = tokio::time::timeout(PATIENCE, client.ready()).await;
        Ok((client, ready.ok().and_then(Result::ok).and_then(|ready| ready.config.applied_at)))
    });
    let (client, applied_at) = found.ok()?;
    let since = applied_at.map_or_else(|| "its own configuration".to_owned(), |at| format!("the configuration of {}", time(at, SystemClock.now())));
    Some((client, since))
}

fn warn(located: &Located, errors: usize, since: &str) {
    let (problems, files) = (counted(errors as u64, "problem", "problems"), harmless(&located.name()).into_owned());
    let mut stderr = anstream::AutoStream::auto(std::io::stderr());
    let text = format!("the configuration {files} has {problems} (`event-router check`); asking the running router, which goes on with {since}");
    // A reader that is gone misses nothing that the answer depends on.
    let _ = std::io::Write::write_fmt(&mut stderr, format_args!("{} {text}\n", styled(WARN.bold(), "warning:")));
}
