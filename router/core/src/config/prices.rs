//! `[sessions]`: the file with prices is read and checked as a part of the configuration, so that what is wrong in it is told with its place.

use std::path::PathBuf;

use router_transcripts::Prices;

use super::{
    diagnostic::Draft,
    model::SessionsConfig,
    raw::RawSessions,
    schema_walk::ticked,
    source::{Sources, Span, read_text},
    tree::{Filled, Node},
};

/// The table as it counts.
pub(super) fn sessions(raw: Option<&RawSessions>, globals: &Node, sources: &mut Sources, drafts: &mut Vec<Draft>) -> SessionsConfig {
    let prices = raw.and_then(|raw| raw.prices.as_deref()).and_then(|name| prices(name, globals, sources, drafts));
    SessionsConfig { prices }
}

fn prices(name: &str, globals: &Node, sources: &mut Sources, drafts: &mut Vec<Draft>) -> Option<PathBuf> {
    let steps = globals.steps("sessions.prices");
    let at = globals.span_at(&steps);
    let text = globals.at(&steps).and_then(Node::as_text).filter(|text| text.filled != Filled::Missing)?;
    let base_dir = sources.file(at.file).base_dir.clone();
    let path: PathBuf = base_dir.join(name).components().collect();
    let shown = if text.filled == Filled::Inside { path.display().to_string() } else { text.shown().to_owned() };
    // What is no file may never end, or begin.
    let is_other = std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file());
    let read = if is_other { Err("is no file".to_owned()) } else { read_text(&path, Prices::FILE_BYTES_MAX) };
    let contents = match read {
        Ok(contents) => contents,
        Err(reason) => {
            let help = "leave `prices` out for the built-in prices";
            drafts.push(Draft::error("missing-file", format!("the file {} {reason}", ticked(&shown))).at(at).help(help));
            return None;
        }
    };
    if let Err(wrong) = Prices::over_builtin(&contents) {
        let file = sources.add(&shown, &base_dir, contents);
        let span = Span::new(file, &wrong.span);
        drafts.push(Draft::error("bad-prices", wrong.why).at(span).related("these are the prices that are meant", at));
        return None;
    }
    Some(path)
}
