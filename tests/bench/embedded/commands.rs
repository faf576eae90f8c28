//! What the `exec` handler adds to starting a program and waiting for its end.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use plugins::exec::Exec;
use router_api::{BuildContext, DecodeLimits, EffectPort, Envelope, Registration, RouteMode};
use router_effects::{Performer, PerformerOptions};
use router_testkit::TestContext;
use serde_json::json;

use crate::{Failed, events, samples::Samples, settings::Settings};

const PROGRAM: &str = "/bin/true";

/// So many at once.
pub const BESIDE: [usize; 2] = [1, 8];

/// Programs a second, by the handler and bare.
pub fn measure(settings: &Settings, samples: &mut Samples) -> Result<(), Failed> {
    let count = settings.events(400);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for beside in BESIDE {
        let rate = |time: Duration| count as f64 / time.as_secs_f64();
        samples.add(format!("exec, {beside} at once"), rate(runtime.block_on(by_handler(count, beside))?));
        samples.add(format!("spawn, {beside} at once"), rate(bare(count, beside)?));
        println!(
            "  {beside} at once: exec {}, bare {}",
            samples.cell(&format!("exec, {beside} at once"), 0),
            samples.cell(&format!("spawn, {beside} at once"), 0)
        );
    }
    Ok(())
}

async fn by_handler(count: usize, beside: usize) -> Result<Duration, Failed> {
    let effects: Arc<dyn EffectPort> = Performer::new(PerformerOptions::default())?;
    let cx = BuildContext { route: "bench".parse()?, base_dir: PathBuf::from("/"), mode: RouteMode::Live, effects: Arc::clone(&effects) };
    let handler = Arc::new(Registration::of::<Exec>().build(json!({ "command": [PROGRAM] }), &cx).await?);
    let (key, body, _) = events::event(1, 0);
    let event = Arc::new(Envelope::decode(key.parse()?, body, DecodeLimits::default())?);
    let begun = Instant::now();
    let mut handling = tokio::task::JoinSet::new();
    for _ in 0..beside {
        let (handler, event, effects) = (Arc::clone(&handler), Arc::clone(&event), Arc::clone(&effects));
        handling.spawn(async move {
            for _ in 0..count / beside {
                let cx = TestContext::new().context_over(Arc::clone(&effects), vec![Arc::clone(&event)]);
                handler.handle(&event, &cx).await?;
            }
            Ok::<(), router_api::HandlerError>(())
        });
    }
    while let Some(handled) = handling.join_next().await {
        handled?.map_err(|error| format!("{error:?}"))?;
    }
    Ok(begun.elapsed())
}

/// What Rust's own library does for it is `posix_spawn` and `waitpid`.
fn bare(count: usize, beside: usize) -> Result<Duration, Failed> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..beside)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..count / beside {
                        let status = Command::new(PROGRAM).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
                        if !status.success() {
                            return Err(std::io::Error::other("it failed"));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked"))))
    })?;
    Ok(begun.elapsed())
}
