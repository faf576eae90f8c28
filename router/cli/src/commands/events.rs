//! `events`: the last events of the archive and what became of them.

use router_api::{ArchivedEvent, Clock as _, DecodeLimits, Envelope, EventQuery};
use router_http::EventsAnswer;
use serde_json::Value;

use crate::{
    Ended,
    access::Purpose,
    args::{EventsArgs, Global},
    commands::block_on,
    event_line,
    fates::{Fates, emitter},
    reach::Reach,
    system::SystemClock,
    terminal::{BOLD, DIM, NAME, Output, WARN, counted, harmless, shortened, styled, time},
    unasked,
};

pub(crate) fn run(global: &Global, args: &EventsArgs, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    let reach = Reach::find_to_look(global)?;
    let query = EventQuery { last: Some(args.last), pattern: args.key.clone(), unmatched: args.unmatched, session: args.session.clone(), before: None };
    let (mut events, fates) = block_on(async {
        let access = reach.open(Purpose::Read).await?;
        let events = access.admin().events(&query).await;
        let fates = match (&events, reach.setup()) {
            (Ok(events), None) if !events.is_empty() => access.admin().status().await.map(|status| Fates::running(&status.routes, SystemClock.now())),
            (_, setup) => Ok(setup.map_or_else(|| Fates::running(&[], SystemClock.now()), |setup| Fates::configured(&setup.config, SystemClock.now()))),
        };
        access.close().await;
        Ok((events?, fates?))
    })?;
    if args.json.json {
        out.json(&with_parsed_events(&EventsAnswer { schema: EventsAnswer::SCHEMA.into(), events })?)?;
        return Ok(Ended::Well);
    }
    if let Some(sentence) = reach.setup().and_then(|setup| unasked::sentence(&setup.config)) {
        out.line(styled(DIM, sentence))?;
    }
    if events.is_empty() {
        out.line("no such events")?;
        return Ok(Ended::Well);
    }
    // The newest one is what people look for, so it stands last, beside the prompt.
    events.reverse();
    for event in &events {
        show(out, event, &fates)?;
    }
    Ok(Ended::Well)
}

/// Each event gets `event` beside `body`: what the exact bytes say, for programs that would parse them anyway.
fn with_parsed_events(answer: &EventsAnswer) -> anyhow::Result<Value> {
    let mut shown = serde_json::to_value(answer)?;
    for (shown, event) in shown["events"].as_array_mut().into_iter().flatten().zip(&answer.events) {
        shown["event"] = serde_json::from_slice(&event.body).unwrap_or_default();
    }
    Ok(shown)
}

fn show(out: &mut Output, event: &ArchivedEvent, fates: &Fates) -> anyhow::Result<()> {
    let mut head = format!("{:>6}  {}  {}", event.seq, time(event.stored_at, fates.now), styled(BOLD, harmless(event.key.as_str())));
    let redacted = (event.redactions > 0).then(|| counted(event.redactions.into(), "value redacted", "values redacted"));
    for part in event.id.as_deref().map(|id| shortened(id, 36)).into_iter().chain(redacted) {
        head.push_str(&format!("  {}", styled(DIM, part)));
    }
    out.line(head)?;
    let emitter = emitter(event, fates.decode);
    let parts = [emitter.clone(), summary(event, fates.decode)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if !parts.is_empty() {
        out.line(format_args!("        {}", styled(DIM, parts.join("  "))))?;
    }
    if event.deliveries.is_empty() {
        // What a route tells of its work may be for nobody, and that is nothing to look at.
        let style = if emitter.is_some() { DIM } else { WARN };
        out.line(format_args!("        {}", styled(style, if emitter.is_some() { "no route listens to it" } else { "no route wanted it" })))?;
    }
    let width = event.deliveries.iter().map(|delivery| delivery.route.as_str().len()).max().unwrap_or(0);
    for (delivery, told) in fates.of(event) {
        let name = styled(NAME, format_args!("{:width$}", delivery.route.as_str()));
        out.line(format_args!("        {} {name}  {}", told.sign, told.text))?;
    }
    Ok(())
}

/// What is told apart most easily: tool and file, or the session.
fn summary(event: &ArchivedEvent, limits: DecodeLimits) -> Option<String> {
    event_line::summary(&Envelope::decode(event.key.clone(), event.body.clone(), limits).ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use jiff::Timestamp;
    use router_api::{BurstNote, DeadLetterReason, DeliveryRecord, DeliveryState, Fate, RoutingKey};

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
        let routes = ["ci", "flume", "shadow"].map(|name| format!("[[route]]\nname = \"{name}\"\non = [\"#\"]\nhandler = \"log\"\n")).concat();
        let config = crate::setup::tests::config(&routes);
        show(&mut out, &event, &Fates::configured(&config, Timestamp::UNIX_EPOCH)).unwrap();
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text:?}");
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

    #[test]
    fn an_event_of_the_router_itself_is_told_with_its_route_and_is_no_miss() {
        let event = ArchivedEvent {
            seq: 18,
            id: None,
            key: RoutingKey::new("ci.run.finished").unwrap(),
            body: Bytes::from_static(br#"{"event_id":"e-1","source":{"app":"event-router","meta":{"route":"ci"}},"payload":{}}"#),
            stored_at: Timestamp::UNIX_EPOCH,
            hops: 1,
            redactions: 0,
            deliveries: Vec::new(),
        };
        let written = Written::default();
        let config = crate::setup::tests::config("");
        show(&mut Output::plain(written.clone()), &event, &Fates::configured(&config, Timestamp::UNIX_EPOCH)).unwrap();
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("emitted by route `ci`") && text.contains("no route listens to it") && !text.contains("wanted"), "{text}");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text:?}");
    }
}
