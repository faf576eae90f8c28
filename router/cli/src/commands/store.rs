//! `store`: what an operator does with the store's files: check, repair, back up, give space back.

pub(crate) mod args;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use router_api::Clock as _;
use router_embedded::{BackedUp, Damage, EmbeddedOptions, Loss, OpenError, Repaired, StoreCheck, UpkeepError, Vacuumed, back_up, check, repair, vacuum};
use serde::Serialize;

use self::args::{BackupArgs, RepairArgs, StoreCommand, VacuumArgs};
use crate::{
    Ended,
    access::store_options,
    args::{Global, Json},
    setup::{self, InvalidConfig},
    store_file,
    system::SystemClock,
    terminal::{BAD, DIM, GOOD, Output, WARN, counted, harmless, styled},
};

pub(crate) fn run(global: &Global, command: StoreCommand, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let options = options(global)?;
    // What may not be read is no damage.
    store_file::is_there(&options.path)?;
    match command {
        StoreCommand::Check(json) => show_check(&options.path, json, out),
        StoreCommand::Repair(args) => show_repair(&options.path, &args, out),
        StoreCommand::Backup(args) => show_backup(&options.path, &args, out),
        StoreCommand::Vacuum(args) => show_vacuum(options, &args, out),
    }
}

/// The store of the configuration. Where the rest of it is wrong, the store may need care all the same.
fn options(global: &Global) -> anyhow::Result<EmbeddedOptions> {
    match setup::load_to_look(global) {
        Ok(setup) => Ok(store_options(&setup.config)),
        Err(error) => match error.downcast_ref::<InvalidConfig>().and_then(|invalid| invalid.store.clone()) {
            Some(path) => Ok(EmbeddedOptions::new(path)),
            None => Err(error),
        },
    }
}

/// Something that is wrong, for programs. What is not known of it is null.
#[derive(Serialize)]
struct DamageShown {
    kind: &'static str,
    /// For people.
    said: String,
    count: Option<u64>,
    first: Option<u64>,
    last: Option<u64>,
    after: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl DamageShown {
    fn all(damages: &[Damage]) -> Vec<Self> {
        damages.iter().map(Self::of).collect()
    }

    fn of(damage: &Damage) -> Self {
        let shown = Self { kind: damage.name(), said: damage.to_string(), count: None, first: None, last: None, after: None, until: None };
        match damage {
            Damage::EventsMissing { first, last, after, until } => {
                Self { count: Some(last.saturating_sub(*first) + 1), first: Some(*first), last: Some(*last), after: *after, until: *until, ..shown }
            }
            Damage::Events { count, first, last, from, until } => {
                Self { count: Some(*count), first: Some(*first), last: Some(*last), after: *from, until: *until, ..shown }
            }
            Damage::Pages { count, .. } | Damage::Orphans { count } => Self { count: Some(*count), ..shown },
            Damage::LogCut { commits, .. } | Damage::LogHeader { commits, .. } => Self { count: Some(u64::from(*commits)), ..shown },
            _ => shown,
        }
    }
}

#[derive(Serialize)]
struct CheckAnswer<'a> {
    schema: &'static str,
    store: &'a Path,
    well: bool,
    /// A router has it; its files were not looked at.
    held: bool,
    damages: Vec<DamageShown>,
    findings: Vec<String>,
    events: u64,
    deliveries: u64,
    dead_letters: u64,
    last_seq: u64,
    store_schema: i64,
    bytes: u64,
    pages: u64,
    log_frames: u64,
    closed: bool,
}

fn show_check(path: &Path, json: Json, out: &mut Output) -> anyhow::Result<Ended> {
    let checked = check(path)?;
    let is_well = checked.damages.is_empty();
    if json.json {
        let StoreCheck { is_held, damages, findings, events, deliveries, dead_letters, last_seq, schema, bytes, pages, log_frames, is_closed, .. } = checked;
        out.json(&CheckAnswer {
            schema: "event-router.store-check.v1",
            store: path,
            well: is_well,
            held: is_held,
            damages: DamageShown::all(&damages),
            findings: findings.iter().map(ToString::to_string).collect(),
            events,
            deliveries,
            dead_letters,
            last_seq,
            store_schema: schema,
            bytes,
            pages,
            log_frames,
            closed: is_closed,
        })?;
    } else {
        let name = harmless(&path.display().to_string()).into_owned();
        if is_well {
            let (events, letters) = (counted(checked.events, "event", "events"), counted(checked.dead_letters, "dead letter", "dead letters"));
            out.line(format_args!("{} the store `{name}` is well: {events}, {letters}", styled(GOOD, "✓")))?;
        } else {
            out.line(format_args!("{} the store `{name}` is damaged", styled(BAD, "✗")))?;
            told(&checked.damages, out)?;
            out.prose(2, "  `event-router store repair` keeps a copy of all its files and brings back what can be; it says before what would be lost")?;
        }
        for finding in &checked.findings {
            out.prose(2, format_args!("{} {finding}", styled(WARN, "!")))?;
        }
        let looked = if checked.is_held {
            "a router has it: what SQLite reads was looked at; its files are looked at whenever it is opened".to_owned()
        } else {
            format!(
                "{} of the file and {} of the log are what was written",
                counted(checked.pages, "page", "pages"),
                counted(checked.log_frames, "frame", "frames")
            )
        };
        out.prose(2, styled(DIM, format_args!("  {looked}")))?;
    }
    Ok(if is_well { Ended::Well } else { Ended::Badly })
}

fn told(damages: &[Damage], out: &mut Output) -> anyhow::Result<()> {
    for damage in damages {
        out.prose(4, format_args!("  - {}", harmless(&damage.to_string())))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct RepairAnswer<'a> {
    schema: &'static str,
    store: &'a Path,
    /// The store can be opened now.
    done: bool,
    damages: Vec<DamageShown>,
    mended: &'a [String],
    loss: Option<LossShown<'a>>,
    kept: Option<&'a Path>,
    events: u64,
}

#[derive(Serialize)]
struct LossShown<'a> {
    events_max: u64,
    numbers: &'a [(u64, u64)],
    after: Option<Timestamp>,
    before: Option<Timestamp>,
    fates_unknown: u64,
    fates: Option<(u64, u64)>,
    queued_again: u64,
    tables: &'a [String],
    rows: &'a BTreeMap<String, u64>,
}

fn show_repair(path: &Path, args: &RepairArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let repaired = repair(path, args.accept_loss, SystemClock.now()).map_err(|error| held(path, error, "is repaired"))?;
    let Repaired { damages, mended, lost, kept, is_done, events, .. } = &repaired;
    let ended = if *is_done { Ended::Well } else { Ended::Badly };
    if args.json.json {
        let loss = lost.as_ref().map(|loss| LossShown {
            events_max: loss.events_max,
            numbers: &loss.numbers,
            after: loss.after,
            before: loss.before,
            fates_unknown: loss.fates_unknown,
            fates: loss.fates,
            queued_again: loss.queued_again,
            tables: &loss.tables,
            rows: &loss.rows,
        });
        let damages = DamageShown::all(damages);
        out.json(&RepairAnswer {
            schema: "event-router.store-repair.v1",
            store: path,
            done: *is_done,
            damages,
            mended,
            loss,
            kept: kept.as_deref(),
            events: *events,
        })?;
        return Ok(ended);
    }
    let name = harmless(&path.display().to_string()).into_owned();
    if damages.is_empty() {
        out.line(format_args!("{} the store `{name}` is well: there is nothing to repair", styled(DIM, "·")))?;
        return Ok(ended);
    }
    told(damages, out)?;
    for bit in mended {
        out.prose(4, format_args!("  {} put right: {bit}", styled(GOOD, "+")))?;
    }
    let there = counted(*events, "event", "events");
    match (lost, is_done) {
        (None, _) => out.line(format_args!("{} the store `{name}` is repaired: {there}, and nothing is lost", styled(GOOD, "✓")))?,
        (Some(loss), true) => {
            out.line(format_args!("{} the store `{name}` is repaired with a loss: {there} left", styled(WARN, "✓")))?;
            lines_of(loss).iter().try_for_each(|line| out.prose(4, format_args!("  - lost: {line}")))?;
        }
        (Some(loss), false) => {
            out.line(format_args!("{} the store `{name}` is not repaired, and nothing was changed: {there} would be left", styled(BAD, "✗")))?;
            lines_of(loss).iter().try_for_each(|line| out.prose(4, format_args!("  - would be lost: {line}")))?;
            out.prose(2, "  a backup may have more (docs/operations.md); else `event-router store repair --accept-loss`")?;
        }
    }
    if let Some(kept) = kept {
        out.prose(2, format_args!("  all files as they were: `{}`", harmless(&kept.display().to_string())))?;
    }
    Ok(ended)
}

fn lines_of(loss: &Loss) -> Vec<String> {
    let mut lines = Vec::new();
    if loss.events_max > 0 {
        let ranges: Vec<String> =
            loss.numbers.iter().take(8).map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") }).collect();
        let more = if loss.numbers.len() > ranges.len() { ", …" } else { "" };
        let after = loss.after.map(|at| format!(", stored after {at:.0}")).unwrap_or_default();
        let before = loss.before.map(|at| format!(", before {at:.0}")).unwrap_or_default();
        lines.push(format!("at most {}, numbers {}{more}{after}{before}", counted(loss.events_max, "event", "events"), ranges.join(", ")));
    }
    if let Some((first, last)) = loss.fates {
        lines.push(format!("what became of {} on some route, numbers {first} to {last}", counted(loss.fates_unknown, "event", "events")));
    }
    if loss.queued_again > 0 {
        lines.push(format!("{}; their events are queued again", counted(loss.queued_again, "dead letter", "dead letters")));
    }
    if !loss.tables.is_empty() {
        lines.push(format!("rows of {}", loss.tables.join(", ")));
    }
    if lines.is_empty() {
        lines.push("what the last commits said; what was settled in them is handled again".to_owned());
    }
    lines
}

#[derive(Serialize)]
struct BackupAnswer {
    schema: &'static str,
    file: PathBuf,
    key: Option<PathBuf>,
    bytes: u64,
    events: u64,
    deliveries: u64,
    last_seq: u64,
    held: bool,
}

fn show_backup(path: &Path, args: &BackupArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let BackedUp { file, bytes, events, deliveries, last_seq, is_held, key, .. } = back_up(path, &args.to)?;
    if args.json.json {
        out.json(&BackupAnswer { schema: "event-router.store-backup.v1", file, key, bytes, events, deliveries, last_seq, held: is_held })?;
        return Ok(Ended::Well);
    }
    let copied = counted(events, "event", "events");
    out.line(format_args!(
        "{} `{}`: {copied} up to number {last_seq}, each held against its checksum",
        styled(GOOD, "✓"),
        harmless(&file.display().to_string())
    ))?;
    if let Some(key) = key {
        out.line(styled(DIM, format_args!("  with the key of the fingerprints: `{}`", harmless(&key.display().to_string()))))?;
    }
    Ok(Ended::Well)
}

#[derive(Serialize)]
struct VacuumAnswer<'a> {
    schema: &'static str,
    store: &'a Path,
    bytes_before: u64,
    bytes_after: u64,
}

fn show_vacuum(options: EmbeddedOptions, args: &VacuumArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let path = options.path.clone();
    let vacuumed = vacuum(options, Arc::new(SystemClock), args.full).map_err(|error| held(&path, error, "gives space back"))?;
    let Vacuumed { bytes_before, bytes_after, .. } = vacuumed;
    if args.json.json {
        out.json(&VacuumAnswer { schema: "event-router.store-vacuum.v1", store: &path, bytes_before, bytes_after })?;
        return Ok(Ended::Well);
    }
    let kib = |bytes: u64| bytes.div_ceil(1_024);
    let name = harmless(&path.display().to_string()).into_owned();
    out.line(format_args!("{} the store `{name}` had {} KiB and has {} KiB", styled(GOOD, "✓"), kib(bytes_before), kib(bytes_after)))?;
    Ok(Ended::Well)
}

/// A router that has the store cannot do this for anybody: it would have to let go of it.
fn held(path: &Path, error: UpkeepError, doing: &str) -> anyhow::Error {
    match error {
        UpkeepError::Open(OpenError::HeldByAnother { pid, .. }) => {
            let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            anyhow::anyhow!("the store `{}` is held by {holder}: it {doing} only while no router has it; stop it first", path.display())
        }
        other => other.into(),
    }
}
