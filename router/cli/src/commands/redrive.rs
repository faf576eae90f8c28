//! `dead-letters redrive` and `discard`: letters back into their queues, or away for good.

use router_api::{DeadLetterSelection, DoneBefore, RedriveRequest};
use router_http::{Named, schema};
use serde_json::{Map, Value};

use crate::{
    Ended, WrongUsage,
    access::Purpose,
    args::{DiscardArgs, RedriveArgs, SelectionArgs},
    commands::{
        block_on,
        dead_letters::{known_class, known_reason, refuse_unknown},
    },
    filter_text::field as field_of,
    reach::Reach,
    terminal::{BAD, GOOD, Output, counted, harmless, styled},
};

pub(crate) fn redrive(reach: &Reach, args: RedriveArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let request = RedriveRequest { selection: selection(args.selection)?, dry_run: args.dry_run, rate: args.rate, canary: args.canary, again: args.again };
    let (redriven, running) = block_on(async {
        let access = reach.open(Purpose::Letters).await?;
        let redriven = access.admin().redrive(&request).await;
        let running = access.is_running();
        access.close().await;
        Ok((redriven?, running))
    })?;
    let stopped = redriven.stopped.is_some();
    if redriven.selected == 0 {
        refuse_unknown(reach, request.selection.route.as_ref())?;
    }
    if args.json.json {
        out.json(&Named::new(schema::REDRIVEN, redriven))?;
    } else if redriven.selected == 0 {
        out.line("no dead letter fits")?;
    } else if request.dry_run {
        out.line(format_args!("{} would go back: {}", counted(redriven.selected, "letter", "letters"), redriven.ids.join(" ")))?;
        tell_done(&redriven.already_done, request.again, out)?;
    } else {
        let rest = if running { "" } else { "; no router is running, they wait for one" };
        let back = counted(redriven.redriven, "letter is back in its queue", "letters are back in their queues");
        out.line(format_args!("{} {back}, of {}{rest}", styled(if stopped { BAD } else { GOOD }, if stopped { "✗" } else { "✓" }), redriven.selected))?;
        if let Some(why) = &redriven.stopped {
            out.line(format_args!("  stopped: {}", harmless(why)))?;
        }
        tell_done(&redriven.already_done, request.again, out)?;
    }
    Ok(if stopped { Ended::Badly } else { Ended::Well })
}

/// What was done for the letters before they were given up on, and whether it will be done again.
fn tell_done(done: &[DoneBefore], again: bool, out: &mut Output) -> anyhow::Result<()> {
    for DoneBefore { letter, effect, at, result, is_kept, .. } in done {
        let what = if again || !is_kept { "; it is done again" } else { "" };
        out.line(format_args!("  letter {letter}: already done: {} at {at} ({}){what}", harmless(effect), harmless(result)))?;
    }
    if !again && done.iter().any(|done| done.is_kept) {
        out.line("  what is already done is not done again; `--again` does all of it")?;
    }
    Ok(())
}

pub(crate) fn discard(reach: &Reach, args: DiscardArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let selection = selection(args.selection)?;
    let discarded = block_on(async {
        let access = reach.open(Purpose::Letters).await?;
        let discarded = access.admin().discard(&selection).await;
        access.close().await;
        Ok(discarded?)
    })?;
    if discarded == 0 {
        refuse_unknown(reach, selection.route.as_ref())?;
    }
    if args.json.json {
        out.json(&Named::new(schema::DISCARDED, discarded))?;
    } else {
        out.line(format_args!("{} {}", styled(GOOD, "✓"), counted(discarded, "letter is deleted", "letters are deleted")))?;
    }
    Ok(Ended::Well)
}

fn selection(args: SelectionArgs) -> anyhow::Result<DeadLetterSelection> {
    let SelectionArgs { route, reason, class, fields, limit, all, ids } = args;
    if let Some(reason) = &reason {
        known_reason(reason)?;
    }
    if let Some(class) = &class {
        known_class(class)?;
    }
    let narrowed = route.is_some() || reason.is_some() || class.is_some() || !fields.is_empty() || limit.is_some() || !ids.is_empty();
    if !narrowed && !all {
        let how = "Name some, narrow the choice with --route, --reason, --class, --where or --limit, or say --all";
        return Err(WrongUsage(format!("which letters? {how}")).into());
    }
    let mut when = Map::new();
    for field in fields {
        when.extend(field_of(&field)?);
    }
    Ok(DeadLetterSelection { ids, route, reason, class, when: (!when.is_empty()).then_some(Value::Object(when)), limit })
}
