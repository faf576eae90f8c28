//! The dry-run twin of any [`EffectPort`]: reads are performed, writes are recorded.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde::Serialize;

use crate::{BuildError, Effect, EffectClass, EffectContext, EffectError, EffectKind, EffectPort, EffectReply, EffectRequest, OwnWork, Program};

/// A write that a dry run did not perform.
#[derive(Debug, Clone)]
pub struct RecordedEffect {
    /// Its name within the handling.
    pub name: String,
    /// What would have been done.
    pub request: EffectRequest,
}

impl RecordedEffect {
    /// One line for people: `would run: pytest -q`, `would send: PUT http://…`.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.request {
            EffectRequest::Http(_) => format!("would send: {}", self.request),
            EffectRequest::Command(_) => format!("would run: {}", self.request),
            EffectRequest::Own { .. } => format!("would do: {} {}", self.name, self.request),
        }
    }
}

impl Serialize for RecordedEffect {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.sentence().serialize(serializer)
    }
}

/// Performs reads through another port and records writes.
pub struct DryRun {
    port: Arc<dyn EffectPort>,
    recorded: Mutex<Vec<RecordedEffect>>,
}

impl DryRun {
    /// A dry run over `port`, which performs the reads.
    #[must_use]
    pub fn over(port: Arc<dyn EffectPort>) -> Self {
        Self { port, recorded: Mutex::new(Vec::new()) }
    }

    /// The writes so far, and forgets them.
    pub fn take(&self) -> Vec<RecordedEffect> {
        std::mem::take(&mut *self.recorded.lock().expect("no code panics while it holds the records"))
    }
}

#[async_trait]
impl EffectPort for DryRun {
    async fn perform(&self, effect: Effect, work: Option<OwnWork<'_>>, cx: &EffectContext) -> Result<EffectReply, EffectError> {
        if effect.kind == EffectKind::Read {
            return self.port.perform(effect, work, cx).await;
        }
        self.recorded.lock().expect("no code panics while it holds the records").push(RecordedEffect { name: effect.name, request: effect.request });
        effect.dry_run_reply.ok_or_else(|| EffectError::new(EffectClass::DryRun, "a dry run ends at its first write"))
    }

    fn resolve_program(&self, name: &str, base_dir: &std::path::Path) -> Result<Program, BuildError> {
        Ok(self.port.resolve_program(name, base_dir).unwrap_or_else(|_| Program::unresolved(name)))
    }
}
