//! What stands beside the settings: the scripts of the integration document as one line each, the lines of `.gitignore`, and the plugin form.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;

use super::{
    settings_file::replace,
    wiring::{self, HOOK, ORIGINAL},
};

/// Says whose a script is.
const MARK: &str = "# event-router";
/// Files of sessions are nobody's source.
const IGNORED: [&str; 2] = ["/session-tracking.json*", "/sessions/"];

/// A file to be written, as it will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) path: PathBuf,
    pub(super) old: Option<String>,
    pub(super) new: String,
    pub(super) mode: u32,
}

impl Planned {
    fn of(path: PathBuf, new: String, mode: u32) -> anyhow::Result<Self> {
        let old = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => None,
            Err(error) => return Err(error).with_context(|| format!("`{}` cannot be read", path.display())),
        };
        Ok(Self { path, old, new, mode })
    }

    pub(super) fn changes(&self) -> bool {
        self.old.as_deref() != Some(&self.new)
    }

    /// Writes it. A script of somebody else stays beside it.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("the directory `{}` cannot be made", directory.display()))?;
        }
        if let Some(old) = self.old.as_deref().filter(|old| !is_ours(old) && self.mode == 0o755) {
            let mut beside = self.path.clone().into_os_string();
            beside.push(".before-event-router");
            replace(Path::new(&beside), old, 0o644)?;
        }
        replace(&self.path, &self.new, self.mode)
    }
}

/// Is a script one of those that are written here?
pub(super) fn is_ours(text: &str) -> bool {
    text.contains(MARK)
}

/// For a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A program that may have gone away by then: a hook that is not there is no error in somebody's session.
fn launcher(program: &str) -> String {
    format!(
        "#!/bin/sh\n{MARK}: made by `event-router claude install`\np={}; command -v \"$p\" >/dev/null 2>&1 || p={HOOK}; command -v \"$p\" >/dev/null 2>&1 || exit 0; exec \"$p\" \"$@\"\n",
        quoted(program)
    )
}

/// The two scripts of the integration document.
pub(super) fn scripts(claude: &Path, hook: &str, router: &str) -> anyhow::Result<Vec<Planned>> {
    let doctor = format!("#!/bin/sh\n{MARK}: made by `event-router claude install`\nexec {} claude doctor \"$@\"\n", quoted(router));
    let hooks = claude.join("hooks");
    Ok(vec![Planned::of(hooks.join(ORIGINAL), launcher(hook), 0o755)?, Planned::of(hooks.join(TEST), doctor, 0o755)?])
}

/// The script that tests the integration.
pub(super) const TEST: &str = "test-integration.sh";

/// `.claude/.gitignore` with the files of sessions.
pub(super) fn ignored(claude: &Path) -> anyhow::Result<Planned> {
    let mut planned = Planned::of(claude.join(".gitignore"), String::new(), 0o644)?;
    let mut text = planned.old.clone().unwrap_or_default();
    for line in IGNORED {
        if !text.lines().any(|known| known.trim() == line) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(line);
            text.push('\n');
        }
    }
    planned.new = text;
    Ok(planned)
}

/// The plugin form: a marketplace with one plugin.
pub(super) fn plugin(directory: &Path, hook: &str) -> anyhow::Result<Vec<Planned>> {
    const NAME: &str = "event-router-hooks";
    let pretty = |value: serde_json::Value| serde_json::to_string_pretty(&value).map(|text| text + "\n");
    let description = "Publishes what happens in sessions of Claude Code to an event router";
    let version = env!("CARGO_PKG_VERSION");
    let marketplace = pretty(json!({
        "name": "event-router",
        "owner": { "name": "event-router" },
        "plugins": [{ "name": NAME, "source": format!("./plugins/{NAME}"), "description": description, "version": version }],
    }))?;
    let manifest = pretty(json!({ "name": NAME, "version": version, "description": description }))?;
    let hooks = pretty(json!({ "description": description, "hooks": wiring::all(&format!("${{CLAUDE_PLUGIN_ROOT}}/bin/{HOOK}")) }))?;
    let root = directory.join("plugins").join(NAME);
    let readme = format!(
        "# {NAME}\n\n{description}: `{HOOK}` is called at every hook and hands the event to the router of this machine.\n\n\
         Add the marketplace with `/plugin marketplace add {}` and install `{NAME}@event-router`. Settings go by the variables\n\
         `BLOODBANK_ENABLED`, `BLOODBANK_DEBUG`, `BLOODBANK_URL` and `BLOODBANK_TOKEN` in the `env` of a settings file.\n\n\
         Do not install both this plugin and the hooks in a settings file: every event would be told twice (under one id). A plugin cannot\n\
         raise the second and a half that hooks have at the end of a session; `event-router claude install` in a settings file can.\n",
        directory.display()
    );
    Ok(vec![
        Planned::of(directory.join(".claude-plugin/marketplace.json"), marketplace, 0o644)?,
        Planned::of(root.join(".claude-plugin/plugin.json"), manifest, 0o644)?,
        Planned::of(root.join("hooks/hooks.json"), hooks, 0o644)?,
        Planned::of(root.join("bin").join(HOOK), launcher(hook), 0o755)?,
        Planned::of(root.join("README.md"), readme, 0o644)?,
    ])
}
