//! The lines of `BLOODBANK_DEBUG`, each with the name that the integration document searches for.

use std::io::{Write as _, stderr};

/// Writes a line. Whoever reads may be gone, which is no reason to end.
pub(crate) fn say(line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(stderr(), "[bloodbank-publisher] {line}");
}
