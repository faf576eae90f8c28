//! What git says about written files: whether they lie in the repository of a directory, and whether it ignores them.
//!
//! Where git cannot say (no repository, no such directory, no git), every file counts: a run too many shows what is wrong, a run too
//! few does not.

use std::path::{Path, PathBuf};

use router_api::{CommandReply, CommandRequest, Context, EffectClass, EffectError, Program};

use super::writes::is_inside;
use crate::directory::{Roots, is_below};

/// Of one question to git. The index of a large repository takes a while on a cold disk.
const QUESTION: std::time::Duration = std::time::Duration::from_secs(30);

/// The files of `files` that count, in order.
///
/// # Errors
///
/// When the directory may not be entered, or the handling is over.
pub(super) async fn counted(cx: &Context, git: &Program, directory: &Path, roots: &Roots, mut files: Vec<String>) -> Result<Vec<String>, EffectError> {
    if files.iter().any(|file| !is_below(file, directory)) {
        let reply = ask(cx, git, directory, roots, "top", &["rev-parse", "--show-toplevel"], None).await?;
        let told = reply.filter(CommandReply::success).map(|reply| String::from_utf8_lossy(&reply.stdout).trim_end_matches(['\r', '\n']).to_owned());
        let top = told.filter(|top| top.starts_with('/')).map_or_else(|| directory.to_owned(), PathBuf::from);
        files.retain(|file| is_inside(file, &top));
    }
    if files.is_empty() {
        return Ok(files);
    }
    // By its input, so that no name of a file is read as an option, and none is too many.
    let mut input = files.join("\0");
    input.push('\0');
    let reply = ask(cx, git, directory, roots, "ignored", &["check-ignore", "-z", "--stdin"], Some(input)).await?;
    // Exit code 0: these are ignored. 1: none. Others: git cannot say.
    if let Some(reply) = reply.filter(|reply| reply.success() && reply.bytes_cut == 0) {
        let ignored: std::collections::HashSet<String> = reply.stdout.split(|byte| *byte == 0).map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        files.retain(|file| !ignored.contains(file));
    }
    Ok(files)
}

async fn ask(
    cx: &Context,
    git: &Program,
    directory: &Path,
    roots: &Roots,
    name: &str,
    args: &[&str],
    input: Option<String>,
) -> Result<Option<CommandReply>, EffectError> {
    // A repository's configuration can name a program that git runs to watch files; it has no business here.
    let mut request =
        CommandRequest::new(git.clone()).args(["-c", "core.fsmonitor=false"]).args(args.iter().copied()).cwd(directory).below(roots.paths()).timeout(QUESTION);
    if let Some(input) = input {
        request = request.stdin(input);
    }
    match cx.command(request).named(name).read().await {
        Ok(reply) => Ok(Some(reply)),
        Err(error) if matches!(error.class, EffectClass::Forbidden | EffectClass::Cancelled) => Err(error),
        Err(_) => Ok(None),
    }
}
