//! `claude install|uninstall|status|doctor|feedback`: sessions of Claude Code on the bus.
//!
//! Everything that changes a file shows the difference first. A settings file belongs to somebody else: one value is changed in its text
//! (`json_text`), other people's hooks and the way it is written stay.

mod diff;
mod doctor;
mod feedback;
mod install;
mod json_text;
mod settings_file;
mod shims;
mod status;
mod wiring;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use router_api::EffectPort as _;
use router_core::config::Config;
use router_effects::{Performer, PerformerOptions};

use crate::{
    Ended,
    args::{ClaudeCommand, ClaudeWhere, Global},
    setup,
    terminal::Output,
};
use settings_file::{project_directory, user_directory};
use wiring::HOOK;

pub(crate) fn run(global: &Global, command: ClaudeCommand, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    match command {
        ClaudeCommand::Install(args) => install::install(global, &args, out),
        ClaudeCommand::Uninstall(args) => install::uninstall(&args, out),
        ClaudeCommand::Status(args) => status::run(global, &args, out),
        ClaudeCommand::Doctor(args) => doctor::run(global, &args, out),
        ClaudeCommand::Feedback(args) => feedback::run(global, &args, out),
    }
}

/// Where a settings file is, and what lies beside it.
struct Scope {
    /// Claude Code's directory: `.claude` of a project, or the user's.
    claude: PathBuf,
    settings: PathBuf,
    is_project: bool,
}

impl Scope {
    fn of(place: &ClaudeWhere) -> anyhow::Result<Self> {
        let (claude, is_project) = if place.user { (user_directory()?, false) } else { (project_directory(place.project.as_deref())?.join(".claude"), true) };
        Ok(Self { settings: claude.join("settings.json"), claude, is_project })
    }
}

/// The variables that `install` may write, and `uninstall` takes out again.
const VARIABLES: [&str; 5] = ["BLOODBANK_ENABLED", "BLOODBANK_DEBUG", "BLOODBANK_URL", FEEDBACK, SOCKET];
const FEEDBACK: &str = "EVENT_ROUTER_FEEDBACK";
const SOCKET: &str = router_claude::feedback::SOCKET;

/// Where the router listens unless its configuration says otherwise.
const URL: &str = "http://localhost:8682";

/// The configuration, where it can be used.
fn config(global: &Global) -> Option<Config> {
    setup::load_to_look(global).ok().map(|setup| setup.config)
}

/// Where the router takes events in.
fn url_of(config: Option<&Config>) -> String {
    match config.and_then(|config| config.http.listen) {
        Some(listen) if listen.port() != 0 => {
            let is_here = listen.ip().is_loopback() || listen.ip().is_unspecified();
            if is_here && (listen.is_ipv4() || listen.ip().is_unspecified()) {
                format!("http://localhost:{}", listen.port())
            } else {
                format!("http://{listen}")
            }
        }
        _ => URL.to_owned(),
    }
}

/// The publisher: what is named, else the one beside this program, else the one of that name on `PATH`. As a settings file names it: by
/// its name alone where that finds the same one.
fn publisher(named: Option<&Path>) -> anyhow::Result<String> {
    let cwd = std::env::current_dir().context("the working directory is gone")?;
    let text = |path: PathBuf| path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("the path `{}` is no text", path.display()));
    if let Some(named) = named {
        let path = cwd.join(named);
        anyhow::ensure!(is_executable(&path), "`{}` is no program that can be run", path.display());
        // Without `..`, and with the links that somebody may have a reason for.
        let directory = path.parent().and_then(|directory| std::fs::canonicalize(directory).ok());
        return text(directory.zip(path.file_name()).map_or_else(|| path.clone(), |(directory, name)| directory.join(name)));
    }
    let on_path = Performer::new(PerformerOptions::default())?.resolve_program(HOOK, &cwd).ok().and_then(|program| program.path().map(Path::to_owned));
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(HOOK)).filter(|path| is_executable(path));
    match (beside, on_path) {
        (Some(beside), Some(on_path)) if is_same(&beside, &on_path) => Ok(HOOK.to_owned()),
        (Some(beside), _) => text(beside),
        (None, Some(_)) => Ok(HOOK.to_owned()),
        (None, None) => bail!("there is no `{HOOK}` beside this program and none on `PATH`: install it, or name it with `--hook FILE`"),
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn is_same(one: &Path, other: &Path) -> bool {
    std::fs::canonicalize(one).ok().zip(std::fs::canonicalize(other).ok()).is_some_and(|(one, other)| one == other)
}

/// This program, for a script.
fn own_program() -> String {
    let own = std::env::current_exe().ok().and_then(|path| path.into_os_string().into_string().ok());
    own.unwrap_or_else(|| "event-router".to_owned())
}
