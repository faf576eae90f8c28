//! `dead-letters list` and `dead-letters show`: what routes gave up on, and why.

use router_api::{Clock as _, DeadLetterQuery, DeadLetterReason, StoredDeadLetter};
use router_core::config::Config;
use router_http::{DeadLetterAnswer, DeadLettersAnswer};

use crate::{
    Ended,
    access::{Access, Purpose},
    args::{DeadLettersCommand, Global},
    commands::block_on,
    setup,
    system::SystemClock,
    terminal::{BAD, BOLD, DIM, NAME, Output, Table, counted, harmless, harmless_lines, shortened, styled, time},
};

/// Lines of an event's body that are shown.
const BODY_LINES_MAX: usize = 200;

pub(crate) fn run(global: &Global, command: DeadLettersCommand, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let config = setup::load_to_read(global)?.config;
    match command {
        DeadLettersCommand::List { route, reason, limit, json } => {
            if let Some(reason) = &reason {
                known_reason(reason)?;
            }
            let letters = list(&config, &DeadLetterQuery { route, reason, limit: Some(limit) })?;
            if json.json {
                out.json(&DeadLettersAnswer { schema: DeadLettersAnswer::SCHEMA.into(), dead_letters: letters })?;
            } else {
                show_list(out, &letters, limit)?;
            }
        }
        DeadLettersCommand::Show { id, json } => {
            let letter = block_on(async {
                let access = Access::open(&config, Purpose::Read).await?;
                let letter = access.admin().dead_letter(&id).await;
                access.close().await;
                Ok(letter?)
            })?;
            if json.json {
                out.json(&DeadLetterAnswer { schema: DeadLetterAnswer::SCHEMA.into(), dead_letter: letter })?;
            } else {
                show_one(out, &letter)?;
            }
        }
    }
    Ok(Ended::Well)
}

fn known_reason(text: &str) -> anyhow::Result<()> {
    let quoted = serde_json::Value::String(text.to_owned());
    match serde_json::from_value::<DeadLetterReason>(quoted) {
        Ok(_) => Ok(()),
        Err(_) => anyhow::bail!("`{text}` is no reason of a dead letter: see `event-router dead-letters list --help`"),
    }
}

fn list(config: &Config, query: &DeadLetterQuery) -> anyhow::Result<Vec<StoredDeadLetter>> {
    block_on(async {
        let access = Access::open(config, Purpose::Read).await?;
        let letters = access.admin().dead_letters(query).await;
        access.close().await;
        Ok(letters?)
    })
}

fn show_list(out: &mut Output, letters: &[StoredDeadLetter], limit: u32) -> anyhow::Result<()> {
    if letters.is_empty() {
        out.line("no dead letters")?;
        return Ok(());
    }
    let now = SystemClock.now();
    let mut table = Table::new(&["ID", "AT", "ROUTE", "REASON", "TRIES", "KEY", "ERROR"]);
    for stored in letters {
        let letter = &stored.letter;
        table.row(vec![
            (BOLD, stored.id.clone()),
            (DIM, time(letter.buried_at, now)),
            (NAME, letter.route.to_string()),
            (BAD, letter.reason.to_string()),
            (anstyle::Style::new(), letter.attempts.to_string()),
            (anstyle::Style::new(), stored.key.to_string()),
            (anstyle::Style::new(), shortened(&letter.error, 80)),
        ]);
    }
    out.line(table)?;
    if letters.len() as u64 >= u64::from(limit) {
        out.line(styled(DIM, format_args!("the newest {limit}; `--limit` shows more")))?;
    }
    Ok(())
}

fn show_one(out: &mut Output, stored: &StoredDeadLetter) -> anyhow::Result<()> {
    let (letter, now) = (&stored.letter, SystemClock.now());
    let mut line = |name: &str, value: String| out.line(format_args!("{}  {value}", styled(DIM, format_args!("{name:<9}"))));
    line("id", styled(BOLD, harmless(&stored.id)))?;
    line("route", format!("{} (plugin `{}`)", styled(NAME, &letter.route), harmless(&letter.plugin)))?;
    line("key", harmless(stored.key.as_str()).into_owned())?;
    line("stored", time(stored.stored_at, now))?;
    line("buried", time(letter.buried_at, now))?;
    line("reason", format!("{} after {}", styled(BAD, letter.reason), counted(letter.attempts.into(), "failed attempt", "failed attempts")))?;
    line("error", harmless(&letter.error).into_owned())?;
    if let Some(burst) = &letter.burst {
        line("burst", harmless(burst).into_owned())?;
    }
    line("config", harmless(&letter.config_hash).chars().take(12).collect())?;
    if let Some(detail) = letter.detail.as_ref().filter(|detail| !detail.trim().is_empty()) {
        out.gap()?;
        out.line(styled(BOLD, "What the target said"))?;
        out.line(indented(&harmless_lines(detail)))?;
    }
    if !letter.history.is_empty() {
        out.gap()?;
        out.line(styled(BOLD, "Attempts"))?;
        for attempt in &letter.history {
            let (number, at, class) = (attempt.number, time(attempt.at, now), attempt.class.name());
            out.line(format_args!("  {number:>3}  {}  {class:<11}  {}", styled(DIM, at), shortened(&attempt.error, 300)))?;
        }
    }
    out.gap()?;
    out.line(styled(BOLD, "Event"))?;
    let body = match serde_json::from_slice::<serde_json::Value>(&stored.body) {
        Ok(value) => serde_json::to_string_pretty(&value)?,
        Err(_) => String::from_utf8_lossy(&stored.body).into_owned(),
    };
    let lines = body.lines().count();
    let shown: Vec<String> = body.lines().take(BODY_LINES_MAX).map(|line| shortened(line, 400)).collect();
    out.line(indented(&shown.join("\n")))?;
    if lines > BODY_LINES_MAX {
        out.line(styled(DIM, format_args!("  … {} more lines; `--json` has all", lines - BODY_LINES_MAX)))?;
    }
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_does_not_exist_is_said_before_the_store_is_asked() {
        assert!(known_reason("exhausted").is_ok());
        assert!(known_reason("exausted").unwrap_err().to_string().contains("exausted"));
    }
}
