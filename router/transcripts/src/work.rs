//! What a session did, by its transcript: [`Work`]: turns, tools, files, commits, where and when.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::line::Line;

/// Files and commits, each.
const NAMES_MAX: usize = 500;
/// Tools.
const TOOLS_MAX: usize = 200;

/// What a session did.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Work {
    pub(crate) session_id: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) last_at: Option<Timestamp>,
    /// Where it began.
    pub(crate) directory: Option<String>,
    pub(crate) git_branch: Option<String>,
    pub(crate) version: Option<String>,
    /// Of the newest answer that is no subagent's.
    pub(crate) model: Option<String>,
    pub(crate) turns: u64,
    pub(crate) tools: BTreeMap<String, u64>,
    pub(crate) subagent_tools: BTreeMap<String, u64>,
    pub(crate) failures: u64,
    /// As the transcript names them.
    pub(crate) files: BTreeSet<String>,
    pub(crate) commits: BTreeSet<String>,
    pub(crate) is_cut: bool,
}

impl Work {
    /// Adds a line. `is_new` says of a number whether it was not met before; copies count once.
    pub(crate) fn add(&mut self, line: &Line, mut is_new: impl FnMut(u64) -> bool) {
        if line.is_forked {
            // Of the parent, word for word.
            if self.parent.is_none() && line.forked_from.as_deref() != self.session_id.as_deref() {
                self.parent.clone_from(&line.forked_from);
            }
            return;
        }
        if let Some(at) = line.at {
            self.started_at = Some(self.started_at.map_or(at, |known| known.min(at)));
            self.last_at = self.last_at.max(Some(at));
        }
        if self.session_id.is_none() {
            self.session_id.clone_from(&line.session_id);
        }
        if self.directory.is_none() {
            self.directory.clone_from(&line.cwd);
        }
        if !line.is_sidechain {
            self.git_branch = line.git_branch.clone().or(self.git_branch.take());
            self.version = line.version.clone().or(self.version.take());
            self.model = line.answer.as_ref().and_then(|answer| answer.model.clone()).or(self.model.take());
        }
        if line.asked.is_some_and(&mut is_new) {
            self.turns += 1;
        }
        for (number, name) in &line.tools {
            if is_new(*number) {
                let tools = if line.is_sidechain { &mut self.subagent_tools } else { &mut self.tools };
                *tools.entry(name.clone()).or_default() += 1;
                if tools.len() > TOOLS_MAX {
                    tools.pop_last();
                    self.is_cut = true;
                }
            }
        }
        self.failures += line.failures;
        for (names, name) in [(&mut self.files, &line.written), (&mut self.commits, &line.commit)] {
            if let Some(name) = name {
                names.insert(name.clone());
                if names.len() > NAMES_MAX {
                    names.pop_last();
                    self.is_cut = true;
                }
            }
        }
    }

    /// The written files, relative to where the session began as far as they lie below it.
    pub(crate) fn relative_files(&self) -> BTreeSet<String> {
        let below = self.directory.as_deref().map(|directory| directory.trim_end_matches('/')).filter(|directory| !directory.is_empty());
        let relative = |file: &String| below.and_then(|below| file.strip_prefix(below)?.strip_prefix('/')).unwrap_or(file).to_owned();
        self.files.iter().map(relative).collect()
    }
}
