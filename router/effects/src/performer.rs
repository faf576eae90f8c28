//! The port itself: which part performs what, and a plugin's own work under the same limits.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use router_api::{BuildError, Effect, EffectClass, EffectContext, EffectError, EffectPort, EffectReply, EffectRequest, OwnWork, Program};

use crate::{Environment, HostResolver, ProcessLimits, SystemResolver, command::Commands, end_stragglers, http::HttpClient, lookup, worker_pool::Workers};

/// How effects are performed. The defaults are fit for service.
#[derive(Clone)]
pub struct PerformerOptions {
    /// Variables that commands inherit beside the usual ones (`HOME`, `LANG`, `LC_*`, `LOGNAME`, `PATH`, `TMPDIR`, `TZ`, `USER`);
    /// `NAME_*` stands for a family.
    pub env_allow: Vec<String>,
    /// Stands for the service's own environment, which is read if this is absent.
    pub environment: Option<Environment>,
    /// What is kept of each output of a command. 64 KiB.
    pub output_bytes_max: usize,
    /// Where an HTTP answer is cut. 1 MiB.
    pub reply_bytes_max: usize,
    /// Of a request's body and of a command's standard input; longer ones are refused. 64 MiB.
    pub request_bytes_max: usize,
    /// For name, connection and TLS together. 10 s.
    pub connect_timeout: Duration,
    /// Between SIGTERM and SIGKILL. 2 s.
    pub grace: Duration,
    /// What a command's processes may use.
    pub limits: ProcessLimits,
    /// Through which HTTP calls go (`http://proxy:3128`). None by default, whatever the environment says. It resolves names itself,
    /// out of sight of the check on addresses.
    pub proxy: Option<String>,
    /// Looks up hosts.
    pub resolver: Arc<dyn HostResolver>,
}

impl Default for PerformerOptions {
    fn default() -> Self {
        Self {
            env_allow: Vec::new(),
            environment: None,
            output_bytes_max: 64 * 1024,
            reply_bytes_max: 1024 * 1024,
            request_bytes_max: 64 * 1024 * 1024,
            connect_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(2),
            limits: ProcessLimits::default(),
            proxy: None,
            resolver: Arc::new(SystemResolver),
        }
    }
}

/// Why effects cannot be performed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PerformerError {
    /// The HTTP client cannot be built: a proxy that is no address, or TLS that does not start.
    #[error("the HTTP client cannot be built")]
    Http(#[source] reqwest::Error),
}

/// Performs effects: HTTP calls, commands, and plugins' own work.
///
/// One for the whole router. Must be used on a tokio runtime with I/O and time.
pub struct Performer {
    http: HttpClient,
    commands: Arc<Commands>,
    workers: Workers,
}

impl Performer {
    /// Reads the environment once and builds the HTTP client.
    ///
    /// # Errors
    ///
    /// When the HTTP client cannot be built. A machine without CA certificates is no error; only its `https` calls fail.
    pub fn new(options: PerformerOptions) -> Result<Arc<Self>, PerformerError> {
        let environment = options.environment.clone().unwrap_or_else(|| Environment::capture(&options.env_allow));
        let http = HttpClient::new(&options).map_err(PerformerError::Http)?;
        let commands = Arc::new(Commands::new(&options, environment));
        Ok(Arc::new(Self { http, workers: Workers::new(Arc::clone(&commands)), commands }))
    }
}

#[async_trait]
impl EffectPort for Performer {
    async fn perform(&self, effect: Effect, work: Option<OwnWork<'_>>, cx: &EffectContext) -> Result<EffectReply, EffectError> {
        match (effect.request, work) {
            (EffectRequest::Http(request), _) => self.http.call(request, cx).await.map(EffectReply::Http),
            (EffectRequest::Command(mut request), _) if request.keep_alive.is_some() => match request.keep_alive.take() {
                Some(keep_alive) => self.workers.ask(request, keep_alive, cx).await.map(EffectReply::Command),
                None => unreachable!("the guard has seen it"),
            },
            (EffectRequest::Command(request), _) => self.commands.run(request, cx).await.map(EffectReply::Command),
            (EffectRequest::Own { .. }, Some(work)) => own(&effect.name, work, cx).await,
            (EffectRequest::Own { .. }, None) => Err(EffectError::new(EffectClass::Refused, format!("the effect `{}` came without its work", effect.name))),
        }
    }

    fn check(&self, effect: &Effect) -> Result<(), EffectError> {
        match &effect.request {
            EffectRequest::Http(request) => self.http.check(request).map(drop),
            EffectRequest::Command(request) => self.commands.check(request),
            EffectRequest::Own { .. } => Ok(()),
        }
    }

    async fn end_leftovers(&self, handling: &str) {
        let handling = handling.to_owned();
        // It looks through /proc and waits for what it ended, which takes some milliseconds.
        let _ = tokio::task::spawn_blocking(move || end_stragglers(&handling)).await;
    }

    async fn close(&self) {
        self.workers.close().await;
    }

    fn resolve_program(&self, name: &str, base_dir: &Path) -> Result<Program, BuildError> {
        lookup::find(name, base_dir, self.commands.environment())
    }
}

async fn own(name: &str, work: OwnWork<'_>, cx: &EffectContext) -> Result<EffectReply, EffectError> {
    let cancelled = || EffectError::new(EffectClass::Cancelled, format!("the effect `{name}` was cancelled"));
    if cx.cancellation.is_cancelled() {
        return Err(cancelled());
    }
    tokio::select! {
        biased;
        () = cx.cancellation.cancelled() => Err(cancelled()),
        result = tokio::time::timeout(cx.remaining, work()) => match result {
            Ok(Ok(value)) => Ok(EffectReply::Own(value)),
            // Work that is itself made of effects keeps their class.
            Ok(Err(error)) => Err(match error.downcast::<EffectError>() {
                Ok(effect) => *effect,
                Err(error) => EffectError::new(EffectClass::Failed, format!("the effect `{name}` failed: {error}")).caused_by(error),
            }),
            Err(_) => Err(EffectError::new(EffectClass::Timeout, format!("the effect `{name}` was not done within {:?}", cx.remaining))),
        },
    }
}
