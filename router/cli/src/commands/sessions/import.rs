//! `sessions import`: Claude Code's transcripts, what they cost by day, and what is kept of them.
//!
//! The numbers come from the transcripts themselves, so they are shown whether or not there is a store that could keep them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::Context as _;
use jiff::{Timestamp, tz::TimeZone};
use router_api::{Clock as _, SESSION_SLOT_SECONDS, SessionEntry, SessionSlot, SessionStats, SessionsImported, StatsBy, StatsRow};
use router_http::schema;
use router_transcripts::{Prices, Survey, SurveyLimits, survey};
use serde::Serialize;

use super::{args::ImportArgs, entry, grouped, since_days, stats, zone_name};
use crate::{
    Ended,
    access::{self, Purpose},
    args::Global,
    commands::block_on,
    reach::Reach,
    setup,
    system::SystemClock,
    terminal::{DIM, GOOD, Output, WARN, counted, harmless, styled},
};

/// Bytes of sessions that are handed over at once; a verb takes a megabyte.
const BATCH_BYTES: usize = 400_000;

/// What an import shows: `event-router.sessions-imported.v1`.
#[derive(Serialize)]
struct Answer<'a> {
    schema: &'static str,
    /// What was kept; null where nothing was to be kept.
    result: Option<SessionsImported>,
    sessions: usize,
    files: u64,
    bytes: u64,
    lines_skipped: u64,
    older: u64,
    unreadable: Vec<String>,
    prices: PricesShown<'a>,
    models_without_price: &'a [String],
    cost_estimated: bool,
    stats: &'a SessionStats,
}

#[derive(Serialize)]
struct PricesShown<'a> {
    as_of: &'a str,
    source: &'a str,
}

pub(super) fn run(global: &Global, args: &ImportArgs, out: &mut Output) -> anyhow::Result<Ended> {
    // Where the sessions go is found out first: a wrong configuration is said before a long reading.
    let reach = if args.dry_run { None } else { Some(Reach::find_to_look(global)?) };
    let prices = match prices_of(global, args, reach.as_ref()) {
        Some(path) => Prices::with_overrides(&path)?,
        None => Prices::builtin(),
    };
    // The numbers are worth seeing all the same.
    let stray = match reach.as_ref().and_then(Reach::setup).filter(|_| !args.new_store) {
        Some(setup) => access::refuse_stray_store(&setup.located, &setup.config).err(),
        None => None,
    };
    let now = SystemClock.now();
    let since = since_days(args.days, now);
    let found = survey(&args.path, SurveyLimits { since: Some(since), ..SurveyLimits::default() })
        .with_context(|| format!("the transcripts `{}` cannot be read", args.path.display()))?;
    let entries: Vec<SessionEntry> = found.sessions.iter().filter_map(|session| entry::of(session, &prices)).collect();
    let unknown: BTreeSet<String> = found.sessions.iter().flat_map(|session| session.totals(&prices).unknown_models).collect();
    let unknown: Vec<String> = unknown.into_iter().collect();
    let stats = by_day(&entries, since, now);
    let sessions = entries.len();
    let kept = match &reach {
        Some(reach) if stray.is_none() => Some(block_on(keep(reach, entries))?),
        _ => None,
    };
    if args.json.json {
        let unreadable = found.unreadable.iter().map(|(path, error)| format!("{}: {error}", path.display())).collect();
        out.json(&Answer {
            schema: schema::SESSIONS_IMPORTED,
            result: kept,
            sessions,
            files: found.files,
            bytes: found.bytes,
            lines_skipped: found.lines_skipped,
            older: found.older,
            unreadable,
            prices: PricesShown { as_of: prices.as_of(), source: prices.source() },
            models_without_price: &unknown,
            cost_estimated: true,
            stats: &stats,
        })?;
    } else {
        show(out, &found, sessions, &stats, kept, &unknown, &prices)?;
    }
    match stray {
        Some(stray) => Err(stray.context("nothing was kept")),
        None => Ok(Ended::Well),
    }
}

/// The file with prices: the one that is asked for, else the configuration's.
fn prices_of(global: &Global, args: &ImportArgs, reach: Option<&Reach>) -> Option<PathBuf> {
    if args.prices.is_some() {
        return args.prices.clone();
    }
    match reach {
        Some(reach) => reach.setup()?.config.sessions.prices.clone(),
        // Nothing is kept, so that no configuration is needed either; one that is there counts.
        None => match setup::load_to_look(global) {
            Ok(setup) => setup.config.sessions.prices,
            Err(_) => {
                tracing::warn!("the configuration cannot be used (`event-router check`), so the prices are the built-in ones");
                None
            }
        },
    }
}

async fn keep(reach: &Reach, entries: Vec<SessionEntry>) -> anyhow::Result<SessionsImported> {
    let access = reach.open(Purpose::Keep).await?;
    let mut sum = SessionsImported::default();
    let mut result = Ok(());
    for batch in batches(entries)? {
        match access.admin().import_sessions(batch).await {
            Ok(done) => {
                sum.added += done.added;
                sum.updated += done.updated;
                sum.unchanged += done.unchanged;
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    access.close().await;
    result?;
    Ok(sum)
}

fn batches(entries: Vec<SessionEntry>) -> anyhow::Result<Vec<Vec<SessionEntry>>> {
    let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for entry in entries {
        let size = serde_json::to_vec(&entry)?.len();
        if bytes + size > BATCH_BYTES && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(entry);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    Ok(batches)
}

/// What was used on each day in this machine's zone.
fn by_day(entries: &[SessionEntry], since: Timestamp, until: Timestamp) -> SessionStats {
    let zone = TimeZone::system();
    let mut days: BTreeMap<String, Sum> = BTreeMap::new();
    let mut total = Sum::default();
    for entry in entries {
        let session = &entry.session;
        let began = session.started_at;
        for slot in &entry.slots {
            let Ok(at) = Timestamp::from_second(slot.slot.saturating_mul(SESSION_SLOT_SECONDS)) else { continue };
            // The slot in which the window begins is within it.
            if at.as_second() + SESSION_SLOT_SECONDS <= since.as_second() || at > until {
                continue;
            }
            for sum in [days.entry(at.to_zoned(zone.clone()).date().to_string()).or_default(), &mut total] {
                sum.add(session.session_id.as_str(), slot);
            }
        }
        if (since..=until).contains(&began) {
            let seconds = u64::try_from(session.last_event_at.duration_since(began).as_secs()).unwrap_or(0);
            for sum in [days.entry(began.to_zoned(zone.clone()).date().to_string()).or_default(), &mut total] {
                sum.row.files += session.files.len() as u64;
                sum.row.commits += session.commits.len() as u64;
                sum.row.duration_seconds += seconds;
            }
        }
    }
    let rows = days.into_iter().map(|(day, sum)| StatsRow { name: Some(day), ..sum.row() }).collect();
    SessionStats { by: StatsBy::Day, since, until, zone: zone_name(), rows, total: total.row(), events_behind: 0 }
}

#[derive(Default)]
struct Sum<'s> {
    sessions: BTreeSet<&'s str>,
    row: StatsRow,
    has_cost: bool,
    is_unknown: bool,
}

impl<'s> Sum<'s> {
    fn add(&mut self, session: &'s str, slot: &SessionSlot) {
        self.sessions.insert(session);
        self.row.turns += slot.turns;
        self.row.errors += slot.errors;
        self.row.tokens = self.row.tokens.saturating_add(slot.tokens);
        self.row.kinds = self.row.kinds.plus(slot.kinds);
        self.row.known_cost_usd += slot.cost_usd.unwrap_or(0.0);
        self.has_cost |= slot.cost_usd.is_some();
        self.is_unknown |= slot.cost_usd.is_none() && slot.tokens > 0;
    }

    fn row(self) -> StatsRow {
        let cost_usd = (self.has_cost && !self.is_unknown).then_some(self.row.known_cost_usd);
        StatsRow { sessions: self.sessions.len() as u64, cost_usd, ..self.row }
    }
}

fn show(
    out: &mut Output,
    found: &Survey,
    sessions: usize,
    stats: &SessionStats,
    kept: Option<SessionsImported>,
    unknown: &[String],
    prices: &Prices,
) -> anyhow::Result<()> {
    if sessions == 0 {
        out.line("no session was found there that was written to in these days")?;
        if found.older > 0 {
            out.line(format_args!("{}: `--days` takes more", counted(found.older, "transcript is older", "transcripts are older")))?;
        }
        return Ok(());
    }
    out.line(stats::table(stats))?;
    out.line(styled(DIM, format_args!("estimated by the prices of {}; days are those of {}", prices.as_of(), stats.zone)))?;
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| format!("`{}`", harmless(name))).collect();
        out.prose(
            2,
            format_args!(
                "{} no price is known of {}: `--prices FILE` or `[sessions] prices` adds them, and until then what they took has no cost",
                styled(WARN, "!"),
                names.join(", ")
            ),
        )?;
    }
    for (path, error) in found.unreadable.iter().take(5) {
        out.line(format_args!("{} `{}` cannot be read: {error}", styled(WARN, "!"), harmless(&path.display().to_string())))?;
    }
    if found.lines_skipped > 0 {
        out.line(styled(DIM, counted(found.lines_skipped, "line was not understood", "lines were not understood")))?;
    }
    let (files, megabytes) = (counted(found.files, "transcript", "transcripts"), grouped(found.bytes.div_ceil(1 << 20)));
    match kept {
        Some(SessionsImported { added, updated, unchanged }) => out.line(format_args!(
            "{} {} from {files} ({megabytes} MiB): {added} new, {updated} changed, {unchanged} as before; no route hears of them",
            styled(GOOD, "✓"),
            counted(sessions as u64, "session", "sessions"),
        ))?,
        None => {
            out.line(format_args!("{} from {files} ({megabytes} MiB); nothing was kept", counted(sessions as u64, "session", "sessions")))?;
        }
    }
    Ok(())
}
