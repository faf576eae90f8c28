//! The router with a handler that nobody would want, for `tests/tests/hostility.rs`: it does what its event says, and events say bad things.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf, time::Duration};

// Links the plugins that routes can name.
use plugins as _;
use router_api::{BuildContext, BuildError, Context, Envelope, Handler, HandlerError, Outcome, Plugin, async_trait, register};

/// Does what `payload.do` says.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hostile {
    /// Where it notes what it did, and looks for what it waits for.
    directory: PathBuf,
}

register!(Hostile);

#[async_trait]
impl Plugin for Hostile {
    const NAME: &'static str = "hostile";

    async fn build(self, _cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        Ok(Box::new(self))
    }
}

impl Hostile {
    fn note(&self, file: &str, line: &str) -> std::io::Result<()> {
        let mut log = OpenOptions::new().create(true).append(true).open(self.directory.join(file))?;
        log.write_all(format!("{line}\n").as_bytes())
    }
}

#[async_trait]
impl Handler for Hostile {
    async fn handle(&self, event: &Envelope, _: &Context) -> Result<Outcome, HandlerError> {
        let said = |name: &str| event.body().pointer(&format!("/payload/{name}")).map(ToString::to_string).unwrap_or_default();
        match said("do").trim_matches('"') {
            "block" => {
                self.note("blocked.log", &said("seq"))?;
                while !self.directory.join("gate").exists() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                self.note("handled.log", &said("seq"))?;
            }
            "panic" => panic!("the event says so"),
            "hang" => std::future::pending::<()>().await,
            "leak" => loop {
                // Never touched, so that only the limit is used up, and not the machine.
                std::mem::forget(Vec::<u8>::with_capacity(64 << 20));
            },
            _ => self.note("handled.log", &said("seq"))?,
        }
        Ok(Outcome::Done)
    }
}

fn main() -> std::process::ExitCode {
    event_router::main()
}
