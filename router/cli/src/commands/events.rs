//! `events`: the last events of the archive and what became of them.

use jiff::Timestamp;
use router_api::{ArchivedEvent, Clock as _, DecodeLimits, DeliveryRecord, DeliveryState, Envelope, EventQuery, Fate};
use router_http::EventsAnswer;

use crate::{
    Ended,
    access::{Access, Purpose},
    args::{EventsArgs, Global},
    commands::block_on,
    setup,
    system::SystemClock,
    terminal::{BAD, BOLD, DIM, GOOD, NAME, Output, WARN, counted, harmless, shortened, styled, time},
};

pub(crate) fn run(global: &Global, args: &EventsArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let config = setup::load_to_read(global)?.config;
    let query = EventQuery { last: Some(args.last), pattern: args.key.clone(), unmatched: args.unmatched, session: args.session.clone() };
    let mut events = block_on(async {
        let access = Access::open(&config, Purpose::Read).await?;
        let events = access.admin().events(&query).await;
        access.close().await;
        Ok(events?)
    })?;
    if args.json.json {
        out.json(&EventsAnswer { schema: EventsAnswer::SCHEMA.into(), events })?;
        return Ok(Ended::Well);
    }
    if events.is_empty() {
        out.line("no such events")?;
        return Ok(Ended::Well);
    }
    // The newest one is what people look for, so it stands last, beside the prompt.
    events.reverse();
    let now = SystemClock.now();
    for event in &events {
        show(out, event, config.limits.decode, now)?;
    }
    Ok(Ended::Well)
}

fn show(out: &mut Output, event: &ArchivedEvent, limits: DecodeLimits, now: Timestamp) -> anyhow::Result<()> {
    let id = event.id.as_deref().map(|id| shortened(id, 36)).unwrap_or_default();
    let redacted = if event.redactions > 0 { format!("  {}", counted(event.redactions.into(), "value redacted", "values redacted")) } else { String::new() };
    out.line(format_args!(
        "{:>6}  {}  {}  {}{}",
        event.seq,
        time(event.stored_at, now),
        styled(BOLD, harmless(event.key.as_str())),
        styled(DIM, id),
        styled(DIM, redacted)
    ))?;
    if let Some(summary) = summary(event, limits) {
        out.line(format_args!("        {}", styled(DIM, summary)))?;
    }
    if event.deliveries.is_empty() {
        out.line(format_args!("        {}", styled(WARN, "no route wanted it")))?;
    }
    let width = event.deliveries.iter().map(|delivery| delivery.route.as_str().len()).max().unwrap_or(0);
    for delivery in &event.deliveries {
        let name = styled(NAME, format_args!("{:width$}", delivery.route.as_str()));
        out.line(format_args!("        {} {name}  {}", sign(&delivery.state), state(delivery, now)))?;
    }
    Ok(())
}

/// What is told apart most easily: tool and file, or the session.
fn summary(event: &ArchivedEvent, limits: DecodeLimits) -> Option<String> {
    let envelope = Envelope::decode(event.key.clone(), event.body.clone(), limits).ok()?;
    let parts = [envelope.tool_name(), envelope.file_path(), envelope.session_id()];
    let parts: Vec<String> = parts.into_iter().flatten().map(|part| shortened(part, 60)).collect();
    (!parts.is_empty()).then(|| parts.join("  "))
}

fn sign(state: &DeliveryState) -> String {
    match state {
        DeliveryState::Queued | DeliveryState::InHand { .. } => styled(DIM, "…"),
        DeliveryState::Waiting { .. } => styled(WARN, "↻"),
        DeliveryState::Finished(Fate::Handled { .. } | Fate::Shadowed { .. }) => styled(GOOD, "✓"),
        DeliveryState::Finished(_) => styled(DIM, "·"),
        DeliveryState::Dead { .. } => styled(BAD, "✗"),
    }
}

/// What became of an event on one route, as a sentence fragment.
pub(crate) fn state(delivery: &DeliveryRecord, now: Timestamp) -> String {
    let attempts =
        if delivery.attempts > 0 { format!(" after {}", counted(delivery.attempts.into(), "failed attempt", "failed attempts")) } else { String::new() };
    match &delivery.state {
        DeliveryState::Queued | DeliveryState::InHand { .. } => "waits in its queue".to_owned(),
        DeliveryState::Waiting { error } => {
            let error = error.as_deref().map(|error| format!(": {}", shortened(error, 120))).unwrap_or_default();
            format!("tried again at {}{attempts}{error}", time(delivery.at, now))
        }
        DeliveryState::Finished(fate) => format!("{}{attempts}", fate_text(fate)),
        DeliveryState::Dead { id, reason } => format!("given up on ({reason}){attempts}: see `event-router dead-letters show {}`", harmless(id)),
    }
}

/// How an event was finished, as a sentence fragment.
pub(crate) fn fate_text(fate: &Fate) -> String {
    match fate {
        Fate::Handled { burst: None, .. } => "handled".to_owned(),
        Fate::Handled { burst: Some(burst), .. } => format!("handled in a burst of {}", counted(burst.events.into(), "event", "events")),
        Fate::Skipped { reason } => format!("nothing to do: {}", shortened(reason, 160)),
        Fate::Filtered => "not wanted any more".to_owned(),
        Fate::Duplicate { key } => format!("done before, as `{}`", shortened(key, 60)),
        Fate::Shadowed { effects } if effects.is_empty() => "shadow: nothing to do outside".to_owned(),
        Fate::Shadowed { effects } => {
            let effects: Vec<String> = effects.iter().map(|effect| shortened(effect, 160)).collect();
            format!("shadow: {}", effects.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use router_api::{BurstNote, DeadLetterReason, RoutingKey};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn delivery(route: &str, state: DeliveryState, attempts: u32) -> DeliveryRecord {
        DeliveryRecord { route: route.parse().unwrap(), state, attempts, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn an_event_is_shown_with_every_route_and_without_a_control_character() {
        let event = ArchivedEvent {
            seq: 17,
            id: Some("e-\u{1b}[2J1".into()),
            key: RoutingKey::new("session.thread.agent.action").unwrap(),
            body: Bytes::from_static(br#"{"event_id":"e-1","event_type":"x","payload":{"session_id":"s-1","tool_metadata":{"tool_name":"Write","tool_input":{"file_path":"/a/\u001b[31mb.py"}}}}"#),
            stored_at: Timestamp::UNIX_EPOCH,
            hops: 0,
            redactions: 2,
            deliveries: vec![
                delivery("ci", DeliveryState::Finished(Fate::Handled { burst: Some(BurstNote { id: "b".into(), events: 7 }), note: None }), 0),
                delivery("flume", DeliveryState::Dead { id: "d-1".into(), reason: DeadLetterReason::Exhausted }, 8),
                delivery("shadow", DeliveryState::Finished(Fate::Shadowed { effects: vec!["would run: pytest".into()] }), 0),
            ],
        };
        let written = Written::default();
        let mut out = Output::plain(written.clone());
        show(&mut out, &event, DecodeLimits::default(), Timestamp::UNIX_EPOCH).unwrap();
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        for part in [
            "17",
            "2 values redacted",
            "Write",
            "✓ ci      handled in a burst of 7 events",
            "✗ flume   given up on (exhausted) after 8 failed attempts",
            "shadow: would run: pytest",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
