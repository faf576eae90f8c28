//! For who loads configurations: an effect port that finds every program, and performs nothing.

use std::path::Path;

use async_trait::async_trait;
use router_api::{BuildError, Effect, EffectContext, EffectError, EffectPort, EffectReply, OwnWork, Program};

/// Finds every program, and performs nothing.
#[derive(Debug)]
pub struct AnyProgram;

#[async_trait]
impl EffectPort for AnyProgram {
    async fn perform(&self, effect: Effect, _: Option<OwnWork<'_>>, _: &EffectContext) -> Result<EffectReply, EffectError> {
        panic!("loading a configuration performs nothing, and this was asked for: {}", effect.request)
    }

    fn resolve_program(&self, name: &str, _: &Path) -> Result<Program, BuildError> {
        Ok(Program::resolved(name, Path::new("/bin").join(name)))
    }
}
