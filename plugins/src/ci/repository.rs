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
        let reply = ask(cx, git, directory, roots, "top", &["rev-parse", "--show-toplevel", "--show-cdup"], None).await?;
        let tops = reply.filter(CommandReply::success).map_or_else(|| vec![directory.to_owned()], |reply| tops(&reply.stdout, directory));
        files.retain(|file| tops.iter().any(|top| is_inside(file, top)));
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

/// Where the repository of `directory` begins: by its real path, and by the way up from the name that the event has for the directory,
/// which may lead through a symbolic link.
fn tops(output: &[u8], directory: &Path) -> Vec<PathBuf> {
    let output = String::from_utf8_lossy(output);
    let (real, up) = output.split_once('\n').unwrap_or((&output, ""));
    let steps = up.trim_end().matches("../").count();
    let named = directory.ancestors().nth(steps).map(Path::to_path_buf);
    let real = Some(PathBuf::from(real.trim_end_matches('\r'))).filter(|top| top.is_absolute());
    if real.is_none() { vec![directory.to_owned()] } else { real.into_iter().chain(named).collect() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_begins_at_its_real_path_and_at_the_way_up_from_the_name_of_the_directory() {
        let directory = Path::new("/home/ada/link/src/deep");
        for (told, expected) in [
            ("/srv/shop\n../../\n", &["/srv/shop", "/home/ada/link"][..]),
            ("/srv/shop\n\n", &["/srv/shop", "/home/ada/link/src/deep"]),
            ("/srv/shop", &["/srv/shop", "/home/ada/link/src/deep"]),
            ("\n", &["/home/ada/link/src/deep"]),
            ("", &["/home/ada/link/src/deep"]),
        ] {
            assert_eq!(tops(told.as_bytes(), directory), expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{told:?}");
        }
        assert_eq!(tops(format!("/srv\n{}", "../".repeat(99)).as_bytes(), directory), [PathBuf::from("/srv")]);
    }
}
