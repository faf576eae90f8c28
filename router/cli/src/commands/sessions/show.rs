//! `sessions show`.

use router_api::{AdminError, Clock as _, ModelUsage, Relation, Session, SessionOrigin, SessionShown};
use router_http::{Named, schema};

use super::{args::ShowArgs, cost, grouped, list, span};
use crate::{
    Ended,
    access::Purpose,
    args::Global,
    commands::block_on,
    reach::Reach,
    system::SystemClock,
    terminal::{BOLD, DIM, NAME, Output, Table, counted, harmless, shortened, styled, time},
};

/// Names of one kind that are shown; all are in the JSON.
const NAMES_SHOWN: usize = 20;

pub(super) fn run(global: &Global, args: &ShowArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let reach = Reach::find_to_look(global)?;
    let shown = block_on(async {
        let access = reach.open(Purpose::Read).await?;
        let shown = access.admin().session(&args.id).await;
        access.close().await;
        Ok(shown)
    })?;
    let mut shown: SessionShown = match shown {
        Err(AdminError::NotFound(error)) => anyhow::bail!("{error}"),
        shown => shown?,
    };
    if !args.related {
        shown.related.clear();
    }
    if args.json.json {
        out.json(&Named::new(schema::SESSION, shown))?;
        return Ok(Ended::Well);
    }
    show(out, &shown.session)?;
    if args.related {
        out.gap()?;
        if shown.related.is_empty() {
            out.line("no session belongs to it")?;
        } else {
            related(out, &shown)?;
        }
    }
    Ok(Ended::Well)
}

fn show(out: &mut Output, session: &Session) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let (style, state) = list::state(session);
    out.line(format_args!("{}  {}", styled(BOLD, harmless(&session.session_id)), styled(style, state)))?;
    let mut facts: Vec<(&str, String)> = vec![("began", time(session.started_at, now)), ("last event", time(session.last_event_at, now))];
    let seconds = session.end.as_ref().and_then(|end| end.duration_seconds);
    let lasted = seconds.unwrap_or_else(|| u64::try_from(session.last_event_at.duration_since(session.started_at).as_secs()).unwrap_or(0));
    facts.push(("lasted", span(lasted)));
    if let Some(end) = &session.end {
        let words: Vec<&str> = [end.reason.as_deref(), end.status.as_deref()].into_iter().flatten().collect();
        facts.push(("ended", format!("{} {}", time(end.at, now), words.join(", "))));
    }
    for (name, value) in [
        ("project", &session.project),
        ("directory", &session.working_directory),
        ("branch", &session.git_branch),
        ("feature", &session.feature),
        ("ticket", &session.ticket),
        ("parent", &session.parent),
        ("model", &session.model),
    ] {
        if let Some(value) = value {
            facts.push((name, shortened(value, 200)));
        }
    }
    facts.push(("turns", session.turns.to_string()));
    facts.push(("tokens", session.tokens.map_or_else(|| "not known".to_owned(), grouped)));
    let said = cost(session.cost_usd, 0.0);
    facts.push(("cost", if session.cost_usd.is_some() { format!("{said} (estimated)") } else { "not known".to_owned() }));
    if session.errors > 0 {
        facts.push(("errors", session.errors.to_string()));
    }
    if session.origin != SessionOrigin::Events {
        facts.push(("known from", if session.origin == SessionOrigin::Import { "its transcript".to_owned() } else { "events and transcript".to_owned() }));
    }
    if let Some(summary) = session.end.as_ref().and_then(|end| end.summary.as_deref()) {
        facts.push(("summary", shortened(summary, 400)));
    }
    for (name, value) in facts {
        out.line(format_args!("  {} {}", styled(DIM, format_args!("{name:<10}")), harmless(&value)))?;
    }
    let mut tools: Vec<(&String, &u64)> = session.tools.iter().collect();
    tools.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    names(out, "tools", &tools.iter().map(|(tool, uses)| format!("{tool} {uses}")).collect::<Vec<_>>())?;
    let mut models: Vec<(&String, &ModelUsage)> = session.models.iter().collect();
    models.sort_by(|a, b| b.1.tokens().cmp(&a.1.tokens()).then_with(|| a.0.cmp(b.0)));
    for (model, usage) in models.into_iter().take(NAMES_SHOWN) {
        let cached = usage.cache_write_5m.saturating_add(usage.cache_write_1h);
        out.line(format_args!(
            "  {} {}  {} in, {} out, {} into the cache, {} from it, {}",
            styled(DIM, format_args!("{:<10}", "tokens of")),
            shortened(model, 60),
            grouped(usage.input),
            grouped(usage.output),
            grouped(cached),
            grouped(usage.cache_read),
            cost(usage.cost_usd, 0.0)
        ))?;
    }
    names(out, "files", &session.files.iter().cloned().collect::<Vec<_>>())?;
    names(out, "commits", &session.commits.iter().cloned().collect::<Vec<_>>())?;
    if !session.is_complete {
        out.line(styled(DIM, "  a limit was met: counts and lists are smaller than the truth"))?;
    }
    Ok(())
}

fn names(out: &mut Output, kind: &str, names: &[String]) -> anyhow::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| shortened(name, 200)).collect();
    if names.len() > NAMES_SHOWN {
        shown.push(format!("and {} more", names.len() - NAMES_SHOWN));
    }
    out.prose(13, format_args!("  {} {}", styled(DIM, format_args!("{kind:<10}")), shown.join(", ")))?;
    Ok(())
}

fn related(out: &mut Output, shown: &SessionShown) -> anyhow::Result<()> {
    let now = SystemClock.now();
    out.line(styled(BOLD, counted(shown.related.len() as u64, "session belongs to it", "sessions belong to it")))?;
    let mut table = Table::new(&["SESSION", "LAST EVENT", "BECAUSE OF", "PROJECT", "TURNS", "COST"]);
    for related in &shown.related {
        let session = &related.session;
        let why = |relation: &Relation| match relation {
            Relation::Parent => "its parent".to_owned(),
            Relation::Child => "forked from it".to_owned(),
            Relation::Feature => format!("feature {}", session.feature.as_deref().unwrap_or_default()),
            Relation::Ticket => format!("ticket {}", session.ticket.as_deref().unwrap_or_default()),
            Relation::Branch => format!("branch {}", session.git_branch.as_deref().unwrap_or_default()),
        };
        let because: Vec<String> = related.because.iter().map(why).collect();
        table.row(vec![
            (NAME, shortened(&session.session_id, 36)),
            (anstyle::Style::new(), time(session.last_event_at, now)),
            (anstyle::Style::new(), shortened(&because.join(", "), 60)),
            (anstyle::Style::new(), session.project.as_deref().map_or_else(|| "–".to_owned(), |project| shortened(project, 24))),
            (anstyle::Style::new(), session.turns.to_string()),
            (anstyle::Style::new(), cost(session.cost_usd, 0.0)),
        ]);
    }
    out.line(table)?;
    Ok(())
}
