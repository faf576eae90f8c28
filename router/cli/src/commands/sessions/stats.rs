//! `sessions stats`.

use anstyle::Style;
use router_api::{Clock as _, SessionStats, StatsBy, StatsQuery, StatsRow, TokenKinds};
use router_http::{Named, schema};

use super::{
    args::{By, StatsArgs},
    caught_up, cost, grouped, since_days, span, zone_name,
};
use crate::{
    Ended,
    access::Purpose,
    args::Global,
    commands::block_on,
    reach::Reach,
    system::SystemClock,
    terminal::{BOLD, DIM, NAME, Output, Table, shortened, styled},
};

pub(super) fn run(global: &Global, args: &StatsArgs, out: &mut Output) -> anyhow::Result<Ended> {
    if args.tokens && args.by == By::Tool {
        anyhow::bail!("what tokens a tool took is not known: `--tokens` goes with `--by model`, `project`, `branch`, `day` or `feature`");
    }
    let reach = Reach::find_to_look(global)?;
    let query = StatsQuery { by: args.by.into(), since: Some(since_days(args.lately.days, SystemClock.now())), until: None, zone: Some(zone_name()) };
    let stats = block_on(async {
        let access = reach.open(Purpose::Read).await?;
        let stats = caught_up(async || access.admin().session_stats(&query).await, |stats| stats.events_behind).await;
        access.close().await;
        Ok(stats?)
    })?;
    if args.json.json {
        out.json(&Named::new(schema::SESSION_STATS, stats))?;
        return Ok(Ended::Well);
    }
    if stats.rows.is_empty() {
        out.line("no session did anything then; `event-router sessions import ~/.claude/projects` reads those of Claude Code's transcripts")?;
        return Ok(Ended::Well);
    }
    out.line(if args.tokens { by_kind(&stats) } else { table(&stats) })?;
    out.line(styled(DIM, format_args!("costs are estimates; days are those of {}", stats.zone)))?;
    Ok(Ended::Well)
}

/// Sums in rows, the sum of all last.
pub(super) fn table(stats: &SessionStats) -> Table {
    let plain = Style::new();
    if stats.by == StatsBy::Tool {
        let mut table = Table::new(&["TOOL", "USES", "SESSIONS"]);
        for row in &stats.rows {
            table.row(vec![(NAME, name(row)), (plain, grouped(row.uses)), (plain, grouped(row.sessions))]);
        }
        table.row(vec![(BOLD, "all".to_owned()), (BOLD, grouped(stats.total.uses)), (BOLD, grouped(stats.total.sessions))]);
        return table;
    }
    let heading = stats.by.name().to_uppercase();
    let mut table = Table::new(&[&heading, "SESSIONS", "TURNS", "TOKENS", "COST", "FILES", "COMMITS", "DURATION", "ERRORS"]);
    for (row, style) in stats.rows.iter().map(|row| (row, plain)).chain([(&stats.total, BOLD)]) {
        let is_total = std::ptr::eq(row, &stats.total);
        table.row(vec![
            if is_total { (BOLD, "all".to_owned()) } else { (NAME, name(row)) },
            (style, grouped(row.sessions)),
            (style, grouped(row.turns)),
            (style, grouped(row.tokens)),
            (style, cost(row.cost_usd, row.known_cost_usd)),
            (style, grouped(row.files)),
            (style, grouped(row.commits)),
            (style, span(row.duration_seconds)),
            (style, grouped(row.errors)),
        ]);
    }
    table
}

/// Tokens by kind in rows, the sum of all last.
fn by_kind(stats: &SessionStats) -> Table {
    let heading = stats.by.name().to_uppercase();
    let mut table = Table::new(&[&heading, "TOKENS", "INPUT", "OUTPUT", "CACHED 5 MIN", "CACHED 1 H", "FROM CACHE", "COST"]);
    for (row, style) in stats.rows.iter().map(|row| (row, Style::new())).chain([(&stats.total, BOLD)]) {
        let is_total = std::ptr::eq(row, &stats.total);
        let TokenKinds { input, output, cache_write_5m, cache_write_1h, cache_read } = row.kinds;
        let mut cells = vec![if is_total { (BOLD, "all".to_owned()) } else { (NAME, name(row)) }];
        cells.extend([row.tokens, input, output, cache_write_5m, cache_write_1h, cache_read].map(|tokens| (style, grouped(tokens))));
        cells.push((style, cost(row.cost_usd, row.known_cost_usd)));
        table.row(cells);
    }
    table
}

fn name(row: &StatsRow) -> String {
    row.name.as_deref().map_or_else(|| "(none)".to_owned(), |name| shortened(name, 60))
}
