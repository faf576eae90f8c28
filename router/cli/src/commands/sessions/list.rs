//! `sessions list`.

use anstyle::Style;
use router_api::{Clock as _, Session, SessionList, SessionOrigin, SessionQuery, SessionState};
use router_http::{Named, schema};

use super::{
    args::{ListArgs, Which},
    caught_up, cost, grouped, since_days,
};
use crate::{
    Ended,
    access::Purpose,
    args::Global,
    commands::block_on,
    reach::Reach,
    system::SystemClock,
    terminal::{DIM, GOOD, NAME, Output, Table, WARN, shortened, styled, time},
};

pub(super) fn run(global: &Global, args: &ListArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let query = SessionQuery { last: Some(args.last), since: args.days.map(|days| since_days(days, SystemClock.now())), ..query(&args.which) };
    let list = ask(global, &query)?;
    if args.json.json {
        out.json(&Named::new(schema::SESSIONS, list))?;
        return Ok(Ended::Well);
    }
    if list.sessions.is_empty() {
        out.line("no such sessions; `event-router sessions import ~/.claude/projects` reads those of Claude Code's transcripts")?;
        return Ok(Ended::Well);
    }
    // The newest one is what people look for, so it stands last, beside the prompt.
    out.line(table(list.sessions.iter().rev()))?;
    Ok(Ended::Well)
}

/// Which sessions, as the store is asked.
pub(super) fn query(which: &Which) -> SessionQuery {
    let Which { project, branch, feature, ticket, model, state } = which;
    SessionQuery {
        project: project.clone(),
        branch: branch.clone(),
        feature: feature.clone(),
        ticket: ticket.clone(),
        model: model.clone(),
        state: state.map(Into::into),
        ..SessionQuery::default()
    }
}

/// Asks, until all events are looked at.
pub(super) fn ask(global: &Global, query: &SessionQuery) -> anyhow::Result<SessionList> {
    let reach = Reach::find_to_look(global)?;
    block_on(async {
        let access = reach.open(Purpose::Read).await?;
        let list = caught_up(async || access.admin().sessions(query).await, |list| list.events_behind).await;
        access.close().await;
        Ok(list?)
    })
}

/// Sessions in rows.
pub(super) fn table<'s>(sessions: impl Iterator<Item = &'s Session>) -> Table {
    let now = SystemClock.now();
    let mut table = Table::new(&["SESSION", "LAST EVENT", "STATE", "PROJECT", "BRANCH", "TURNS", "TOKENS", "COST", "FILES", "COMMITS"]);
    for session in sessions {
        let (style, state) = state(session);
        let text = |text: Option<&str>, most: usize| text.map_or_else(|| "–".to_owned(), |text| shortened(text, most));
        table.row(vec![
            (NAME, shortened(&session.session_id, 36)),
            (Style::new(), time(session.last_event_at, now)),
            (style, state),
            (Style::new(), text(session.project.as_deref(), 24)),
            (Style::new(), text(session.git_branch.as_deref(), 32)),
            (Style::new(), session.turns.to_string()),
            (Style::new(), session.tokens.map_or_else(|| "–".to_owned(), grouped)),
            (Style::new(), cost(session.cost_usd, 0.0)),
            (Style::new(), session.files.len().to_string()),
            (Style::new(), session.commits.len().to_string()),
        ]);
    }
    table
}

/// Where a session stands, for people.
pub(super) fn state(session: &Session) -> (Style, String) {
    let style = match session.state {
        SessionState::Active | SessionState::Reopened => GOOD,
        SessionState::Ended if session.end.as_ref().and_then(|end| end.status.as_deref()).is_some_and(|status| status != "success") => WARN,
        SessionState::Ended => Style::new(),
    };
    let imported = if session.origin == SessionOrigin::Import { styled(DIM, " (imported)") } else { String::new() };
    // A table takes plain text only.
    (style, format!("{}{}", session.state.name(), anstream::adapter::strip_str(&imported)))
}
