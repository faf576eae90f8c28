//! `dead-letters list` and `dead-letters show`: what routes gave up on, by route and failure or one by one, and why.

use anyhow::bail;
use router_api::{Clock as _, DeadLetterGroups, DeadLetterQuery, DeadLetterReason, DecodeLimits, Envelope, FailureClass, RouteName, StoredDeadLetter};
use router_http::{DeadLetterAnswer, DeadLettersAnswer};

use crate::{
    Ended, WrongUsage,
    access::Purpose,
    args::{DeadLettersCommand, Global, LettersArgs},
    body_text,
    commands::{block_on, redrive},
    reach::Reach,
    system::SystemClock,
    terminal::{BAD, BOLD, DIM, NAME, Output, Table, counted, harmless, harmless_lines, shortened, styled, time},
};

pub(crate) fn run(global: &Global, command: DeadLettersCommand, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let reach = Reach::find(global)?;
    match command {
        DeadLettersCommand::List(args) => list(&reach, args, out)?,
        DeadLettersCommand::Show { id, json } => {
            let letter = block_on(async {
                let access = reach.open(Purpose::Letters).await?;
                let letter = access.admin().dead_letter(&id).await;
                access.close().await;
                Ok(letter?)
            })?;
            if json.json {
                out.json(&DeadLetterAnswer { schema: DeadLetterAnswer::SCHEMA.into(), dead_letter: letter })?;
            } else {
                show_one(out, &letter, reach.decode())?;
            }
        }
        DeadLettersCommand::Redrive(args) => return redrive::redrive(&reach, args, out),
        DeadLettersCommand::Discard(args) => return redrive::discard(&reach, args, out),
    }
    Ok(Ended::Well)
}

pub(crate) fn known_reason(text: &str) -> anyhow::Result<()> {
    let quoted = serde_json::Value::String(text.to_owned());
    match serde_json::from_value::<DeadLetterReason>(quoted) {
        Ok(_) => Ok(()),
        Err(_) => Err(WrongUsage(format!("`{text}` is no reason of a dead letter: see `event-router dead-letters list --help`")).into()),
    }
}

pub(crate) fn known_class(text: &str) -> anyhow::Result<()> {
    match serde_json::from_value::<FailureClass>(text.into()) {
        Ok(_) => Ok(()),
        Err(_) => Err(WrongUsage(format!("`{text}` is no class of failures: there are error, timeout, panic, unreachable, busy, rejected, crash")).into()),
    }
}

/// Where no letter fits: a route that there is not is told from one that has none.
pub(crate) fn refuse_unknown(reach: &Reach, route: Option<&RouteName>) -> anyhow::Result<()> {
    let Some(route) = route else { return Ok(()) };
    let known = reach.routes()?;
    if known.contains(route) {
        return Ok(());
    }
    let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    bail!("there is no route `{route}`, and no dead letter of one; there are {}", names.join(", "));
}

fn list(reach: &Reach, args: LettersArgs, out: &mut Output) -> anyhow::Result<()> {
    let LettersArgs { route, reason, class, flat, limit, json } = args;
    if let Some(reason) = &reason {
        known_reason(reason)?;
    }
    if let Some(class) = &class {
        known_class(class)?;
    }
    let query = DeadLetterQuery { route, reason, class, limit: Some(limit) };
    let (letters, groups) = block_on(async {
        let access = reach.open(Purpose::Letters).await?;
        let letters = if flat || json.json { Some(access.admin().dead_letters(&query).await) } else { None };
        let groups = if flat && !json.json { None } else { Some(access.admin().dead_letter_groups(&query).await) };
        access.close().await;
        Ok((letters.transpose()?, groups.transpose()?))
    })?;
    if letters.as_ref().is_none_or(Vec::is_empty) && groups.as_ref().is_none_or(|groups| groups.groups.is_empty()) {
        refuse_unknown(reach, query.route.as_ref())?;
    }
    match (letters, groups) {
        (Some(dead_letters), Some(groups)) => {
            // One answer for programs: the letters as ever, and what `list` shows to people beside them.
            let mut answer = serde_json::to_value(DeadLettersAnswer { schema: DeadLettersAnswer::SCHEMA.into(), dead_letters })?;
            answer["letters"] = groups.letters.into();
            answer["groups"] = serde_json::to_value(groups.groups)?;
            out.json(&answer)?;
        }
        (Some(letters), None) => show_list(out, &letters, limit)?,
        (None, groups) => show_groups(out, &groups.unwrap_or_default())?,
    }
    Ok(())
}

fn show_groups(out: &mut Output, groups: &DeadLetterGroups) -> anyhow::Result<()> {
    if groups.groups.is_empty() {
        out.line("no dead letters")?;
        return Ok(());
    }
    let now = SystemClock.now();
    let mut table = Table::new(&["COUNT", "NEWEST", "ROUTE", "REASON", "CLASS", "SAMPLE", "ERROR OF THE SAMPLE"]);
    for group in &groups.groups {
        table.row(vec![
            (BOLD, group.count.to_string()),
            (DIM, time(group.newest, now)),
            (NAME, group.route.to_string()),
            (BAD, group.reason.to_string()),
            (anstyle::Style::new(), group.class.map_or_else(|| "·".to_owned(), |class| class.to_string())),
            (BOLD, group.sample.clone()),
            (anstyle::Style::new(), shortened(&group.error, 80)),
        ]);
    }
    out.line(table)?;
    let letters = counted(groups.letters, "letter", "letters");
    out.line(styled(DIM, format_args!("{letters}; `dead-letters show SAMPLE` has the whole history, `dead-letters list --flat` has each letter")))?;
    Ok(())
}

fn show_list(out: &mut Output, letters: &[StoredDeadLetter], limit: u32) -> anyhow::Result<()> {
    if letters.is_empty() {
        out.line("no dead letters")?;
        return Ok(());
    }
    let now = SystemClock.now();
    let mut table = Table::new(&["ID", "AT", "ROUTE", "REASON", "TRIES", "EVENT", "KEY", "ERROR"]);
    for stored in letters {
        let letter = &stored.letter;
        table.row(vec![
            (BOLD, stored.id.clone()),
            (DIM, time(letter.buried_at, now)),
            (NAME, letter.route.to_string()),
            (BAD, letter.reason.to_string()),
            (anstyle::Style::new(), letter.attempts.to_string()),
            (DIM, stored.seq.map(|seq| seq.to_string()).unwrap_or_default()),
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

fn show_one(out: &mut Output, stored: &StoredDeadLetter, limits: DecodeLimits) -> anyhow::Result<()> {
    let (letter, now) = (&stored.letter, SystemClock.now());
    let mut line = |name: &str, value: String| out.line(format_args!("{}  {value}", styled(DIM, format_args!("{name:<9}"))));
    line("id", styled(BOLD, harmless(&stored.id)))?;
    line("route", format!("{} (plugin `{}`)", styled(NAME, &letter.route), harmless(&letter.plugin)))?;
    line("event", event_text(stored, limits))?;
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
    let (lines, more) = body_text::lines(&stored.body);
    out.line(lines.join("\n"))?;
    if more > 0 {
        out.line(styled(DIM, format_args!("  … {more} more lines; `--json` has all")))?;
    }
    Ok(())
}

/// `number 22, id e-1 (event-router explain 22)`, as far as it is known.
fn event_text(stored: &StoredDeadLetter, limits: DecodeLimits) -> String {
    let envelope = Envelope::decode(stored.key.clone(), stored.body.clone(), limits).ok();
    let id = envelope.as_ref().and_then(Envelope::id).map(|id| format!("id {}", shortened(id.as_str(), 80)));
    let number = stored.seq.map(|seq| format!("number {seq}"));
    let named: Vec<String> = number.into_iter().chain(id).collect();
    let explain = stored.seq.map(|seq| styled(DIM, format_args!(" (event-router explain {seq})"))).unwrap_or_default();
    format!("{}{explain}", if named.is_empty() { "without a number or an id".to_owned() } else { named.join(", ") })
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
        assert!(known_reason("dropped").is_ok() && known_class("timeout").is_ok());
        assert!(known_class("slow").unwrap_err().to_string().contains("`slow` is no class"));
    }
}
