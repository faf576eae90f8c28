//! `sessions export`: sessions for other programs.

use router_api::{Clock as _, Session, SessionQuery};
use router_http::{Named, schema};

use super::{
    args::{ExportArgs, Format},
    list, since_days,
};
use crate::{Ended, args::Global, system::SystemClock, terminal::Output};

pub(super) fn run(global: &Global, args: &ExportArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let since = Some(since_days(args.lately.days, SystemClock.now()));
    let query = SessionQuery { last: Some(SessionQuery::LAST_MAX), since, ..list::query(&args.which) };
    let list = list::ask(global, &query)?;
    if list.sessions.len() >= SessionQuery::LAST_MAX as usize {
        // Said where no program reads it.
        tracing::warn!("only the newest {} sessions are exported: ask for fewer days", SessionQuery::LAST_MAX);
    }
    if args.json.json {
        out.json(&Named::new(schema::SESSIONS, list))?;
        return Ok(Ended::Well);
    }
    match args.format {
        Format::Jsonl => {
            for session in list.sessions.iter().rev() {
                out.line(serde_json::to_string(session)?)?;
            }
        }
        Format::Csv => {
            out.line(HEADINGS.join(","))?;
            for session in list.sessions.iter().rev() {
                out.line(cells(session).iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(","))?;
            }
        }
    }
    Ok(Ended::Well)
}

const HEADINGS: [&str; 18] = [
    "session_id",
    "origin",
    "state",
    "started_at",
    "last_event_at",
    "project",
    "git_branch",
    "feature",
    "ticket",
    "parent",
    "model",
    "turns",
    "tokens",
    "cost_usd",
    "files",
    "commits",
    "errors",
    "tool_uses",
];

fn cells(session: &Session) -> [String; 18] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        session.session_id.clone(),
        session.origin.name().to_owned(),
        session.state.name().to_owned(),
        session.started_at.to_string(),
        session.last_event_at.to_string(),
        text(&session.project),
        text(&session.git_branch),
        text(&session.feature),
        text(&session.ticket),
        text(&session.parent),
        text(&session.model),
        session.turns.to_string(),
        session.tokens.map(|tokens| tokens.to_string()).unwrap_or_default(),
        session.cost_usd.map(|cost| format!("{cost:.6}")).unwrap_or_default(),
        session.files.len().to_string(),
        session.commits.len().to_string(),
        session.errors.to_string(),
        session.tools.values().fold(0u64, |sum, uses| sum.saturating_add(*uses)).to_string(),
    ]
}

/// As RFC 4180 has it; a cell that a spreadsheet would take for a formula is made a text.
fn quoted(cell: &str) -> String {
    let formula = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if formula.is_empty() && !cell.contains([',', '"', '\n', '\r']) {
        return cell.to_owned();
    }
    format!("\"{formula}{}\"", cell.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn cells_are_quoted_where_they_must_be_and_no_formula_gets_through() {
        let cells = ["a b", "a,b", "say \"x\"", "=1+1", "-x", ""].map(quoted);
        assert_eq!(cells, ["a b", "\"a,b\"", "\"say \"\"x\"\"\"", "\"'=1+1\"", "\"'-x\"", ""]);
    }
}
