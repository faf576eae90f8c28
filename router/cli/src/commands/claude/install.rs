//! `claude install` and `uninstall`: the difference first, then the files.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, bail};
use router_http::socket_path;

use super::{
    FEEDBACK, SOCKET, Scope, VARIABLES, config, diff, own_program, publisher,
    settings_file::SettingsFile,
    shims::{self, Planned},
    url_of,
    wiring::{self, Whose},
};
use crate::{
    Ended, WrongUsage,
    args::{ClaudeInstallArgs, ClaudeUninstallArgs, Global},
    terminal::{BOLD, DIM, GOOD, Output, WARN, harmless, styled},
};

pub(super) fn install(global: &Global, args: &ClaudeInstallArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let hook = publisher(args.hook.as_deref())?;
    if let Some(directory) = &args.plugin {
        let directory = std::env::current_dir().context("the working directory is gone")?.join(directory);
        return carry_out(
            None,
            shims::plugin(&directory, &hook)?,
            args.yes,
            "the plugin is written; `/plugin marketplace add` its directory in Claude Code",
            out,
        );
    }
    let scope = Scope::of(&args.place)?;
    let file = SettingsFile::read(scope.settings.clone())?;
    let settings = file.json()?;
    let found = wiring::found(&settings).map_err(|wrong| file.refuse(&wrong))?;
    let had_original = found.iter().any(|found| found.whose == Whose::Original);
    let config = config(global);
    let url = args.url.clone().unwrap_or_else(|| url_of(config.as_ref()));
    let mut env =
        vec![("BLOODBANK_ENABLED", "true".to_owned(), false), ("BLOODBANK_DEBUG", "false".to_owned(), false), ("BLOODBANK_URL", url, args.url.is_some())];
    if args.feedback {
        env.extend(feedback_variables(config.as_ref())?);
    }
    let wired = wiring::wired(&settings, &hook, &env).map_err(|wrong| file.refuse(&wrong))?;
    let mut beside = Vec::new();
    if scope.is_project {
        beside.push(shims::ignored(&scope.claude)?);
    }
    let scripts = shims::scripts(&scope.claude, &hook, &own_program())?;
    if args.shims || had_original || scripts.iter().any(|script| script.old.is_some()) {
        beside.extend(scripts);
    }
    if had_original {
        out.line(format_args!("{} the original shell publisher is wired here; it is replaced", styled(WARN, "note:")))?;
    }
    if settings.value()["disableAllHooks"] == true {
        out.line(format_args!("{} `disableAllHooks` is true in this file: no hook runs as long as that stays", styled(WARN, "note:")))?;
    }
    let text = wired.as_str().to_owned();
    carry_out(Some((file, text)), beside, args.yes, "installed; `event-router claude doctor` tries the whole chain", out)
}

/// What the publisher needs to ask the router how CI went.
pub(super) fn feedback_variables(config: Option<&router_core::config::Config>) -> anyhow::Result<Vec<(&'static str, String, bool)>> {
    let config = config.context("the configuration cannot be used (`event-router check`), so nobody knows where the router's socket is")?;
    let store = &config.store.path;
    let store = std::path::absolute(store).unwrap_or_else(|_| store.clone());
    let socket = socket_path(&store).into_os_string().into_string().map_err(|path| anyhow::anyhow!("the path `{}` is no text", path.display()))?;
    Ok(vec![(FEEDBACK, "1".to_owned(), true), (SOCKET, socket, true)])
}

pub(super) fn uninstall(args: &ClaudeUninstallArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let scope = Scope::of(&args.place)?;
    let file = SettingsFile::read(scope.settings.clone())?;
    let mut gone = Vec::new();
    for script in shims::scripts(&scope.claude, "", "")? {
        if script.old.as_deref().is_some_and(shims::is_ours) {
            gone.push(script.path);
        }
    }
    let change = match &file.text {
        None => None,
        Some(_) => {
            let text = wiring::unwired(&file.json()?, &VARIABLES).map_err(|wrong| file.refuse(&wrong))?.as_str().to_owned();
            Some((file, text))
        }
    };
    for path in &gone {
        out.line(format_args!("{} {}", styled(BOLD, "goes:"), harmless(&path.display().to_string())))?;
    }
    let is_change = change.as_ref().is_some_and(|(file, text)| file.text.as_ref() != Some(text));
    if !is_change && gone.is_empty() {
        out.line("nothing is installed here")?;
        return Ok(Ended::Well);
    }
    if is_change {
        carry_out(change, Vec::new(), args.yes, "uninstalled", out)?;
    } else {
        ask(args.yes, out)?;
    }
    for path in gone {
        std::fs::remove_file(&path).with_context(|| format!("`{}` cannot be removed", path.display()))?;
    }
    Ok(Ended::Well)
}

/// Shows what changes, asks, and does it.
pub(super) fn carry_out(settings: Option<(SettingsFile, String)>, beside: Vec<Planned>, yes: bool, done: &str, out: &mut Output) -> anyhow::Result<Ended> {
    let settings = settings.filter(|(file, text)| file.text.as_ref() != Some(text));
    let beside: Vec<Planned> = beside.into_iter().filter(Planned::changes).collect();
    if settings.is_none() && beside.is_empty() {
        out.line(format_args!("{} nothing to change: it is so already", styled(GOOD, "✓")))?;
        return Ok(Ended::Well);
    }
    if let Some((file, text)) = &settings {
        show(out, &file.path.display().to_string(), file.text.as_deref(), text)?;
    }
    for planned in &beside {
        show(out, &planned.path.display().to_string(), planned.old.as_deref(), &planned.new)?;
    }
    ask(yes, out)?;
    // The scripts first: settings that call what is not there would show errors.
    for planned in &beside {
        planned.write()?;
    }
    if let Some((file, text)) = settings
        && let Some(backup) = file.write(&text)?
    {
        out.line(styled(DIM, format_args!("the file as it was: {}", harmless(&backup.display().to_string()))))?;
    }
    out.line(format_args!("{} {done}", styled(GOOD, "✓")))?;
    Ok(Ended::Well)
}

fn show(out: &mut Output, path: &str, old: Option<&str>, new: &str) -> anyhow::Result<()> {
    let is_new = if old.is_none() { " (new)" } else { "" };
    out.line(format_args!("{}{is_new}", styled(BOLD, harmless(path))))?;
    for line in diff::lines(old.unwrap_or_default(), new) {
        out.line(line)?;
    }
    Ok(out.gap()?)
}

/// Goes on after a yes.
fn ask(yes: bool, out: &mut Output) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        out.flush()?;
        return Err(WrongUsage("nothing was changed: nobody is there to be asked; `--yes` does it".to_owned()).into());
    }
    out.text("Change this? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("the answer cannot be read")?;
    if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}
