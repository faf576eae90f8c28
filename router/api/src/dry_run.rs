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
    /// Writes that are kept until [`DryRun::take`]; a handling that does more of them ends there.
    pub const RECORDED_MAX: usize = 1_000;

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
        // What a live run would refuse, a dry run must not call a success.
        self.port.check(&effect)?;
        {
            let mut recorded = self.recorded.lock().expect("no code panics while it holds the records");
            if recorded.len() >= Self::RECORDED_MAX {
                return Err(EffectError::new(EffectClass::DryRun, format!("a dry run ends after {} writes", Self::RECORDED_MAX)));
            }
            recorded.push(RecordedEffect { name: effect.name, request: effect.request });
        }
        effect.dry_run_reply.ok_or_else(|| EffectError::new(EffectClass::DryRun, "a dry run ends at its first write"))
    }

    fn check(&self, effect: &Effect) -> Result<(), EffectError> {
        self.port.check(effect)
    }

    async fn end_leftovers(&self, handling: &str) {
        self.port.end_leftovers(handling).await;
    }

    async fn close(&self) {
        self.port.close().await;
    }

    fn resolve_program(&self, name: &str, base_dir: &std::path::Path) -> Result<Program, BuildError> {
        Ok(self.port.resolve_program(name, base_dir).unwrap_or_else(|_| Program::unresolved(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::*;
    use crate::{Cancellation, CommandReply, CommandRequest};

    /// Refuses commands with `bad` among their arguments, and performs the rest with exit code 7.
    struct Port;

    #[async_trait]
    impl EffectPort for Port {
        async fn perform(&self, _: Effect, _: Option<OwnWork<'_>>, _: &EffectContext) -> Result<EffectReply, EffectError> {
            Ok(EffectReply::Command(CommandReply::exit(7)))
        }

        fn check(&self, effect: &Effect) -> Result<(), EffectError> {
            match &effect.request {
                EffectRequest::Command(request) if request.args.iter().any(|arg| arg == "bad") => Err(EffectError::new(EffectClass::Forbidden, "bad")),
                _ => Ok(()),
            }
        }

        fn resolve_program(&self, name: &str, _: &std::path::Path) -> Result<Program, BuildError> {
            Err(BuildError::at("", format!("no {name}")))
        }
    }

    fn perform(dry: &DryRun, kind: EffectKind, arg: &str, reply: Option<EffectReply>) -> Result<EffectReply, EffectError> {
        let request = EffectRequest::Command(CommandRequest::new(Program::unresolved("pytest")).args([arg]));
        let effect = Effect { name: "run".to_owned(), kind, request, dry_run_reply: reply };
        let cx = EffectContext { route: "r".to_owned(), handling: "h".to_owned(), remaining: Duration::from_secs(1), cancellation: Cancellation::never() };
        match pin!(dry.perform(effect, None, &cx)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("nothing here waits"),
        }
    }

    #[test]
    fn reads_are_performed_and_writes_recorded() {
        let dry = DryRun::over(Arc::new(Port));
        assert_eq!(perform(&dry, EffectKind::Read, "list", None).unwrap(), EffectReply::Command(CommandReply::exit(7)));
        assert_eq!(perform(&dry, EffectKind::Write, "-q", None).unwrap_err().class, EffectClass::DryRun);
        let made_up = EffectReply::Command(CommandReply::exit(0));
        assert_eq!(perform(&dry, EffectKind::Write, "a b", Some(made_up.clone())).unwrap(), made_up);
        let sentences: Vec<String> = dry.take().iter().map(RecordedEffect::sentence).collect();
        assert_eq!(sentences, ["would run: pytest -q", "would run: pytest 'a b'"]);
        assert!(dry.take().is_empty());
    }

    #[test]
    fn what_a_live_run_would_refuse_is_refused() {
        let dry = DryRun::over(Arc::new(Port));
        assert_eq!(perform(&dry, EffectKind::Write, "bad", None).unwrap_err().class, EffectClass::Forbidden);
        assert!(dry.take().is_empty());
    }

    #[test]
    fn records_have_a_limit() {
        let dry = DryRun::over(Arc::new(Port));
        for _ in 0..DryRun::RECORDED_MAX {
            perform(&dry, EffectKind::Write, "x", Some(EffectReply::Command(CommandReply::exit(0)))).unwrap();
        }
        assert_eq!(perform(&dry, EffectKind::Write, "x", Some(EffectReply::Command(CommandReply::exit(0)))).unwrap_err().class, EffectClass::DryRun);
        assert_eq!(dry.take().len(), DryRun::RECORDED_MAX);
    }

    #[test]
    fn a_program_that_is_not_there_can_still_be_shown() {
        let dry = DryRun::over(Arc::new(Port));
        assert_eq!(dry.resolve_program("pytest", std::path::Path::new("/")).unwrap(), Program::unresolved("pytest"));
    }
}
