//! Handing what waits in a spool to whoever is there, oldest first, and within milliseconds: a hook must not be felt.

use std::{io, sync::mpsc::sync_channel, time::Duration};

use crate::{
    poke::poke,
    post::{Target, Verdict},
    settings::{Settings, is_loopback},
    spool::{Drain, Record, Spool},
    unread::{self, Finished},
    whole_file,
};

/// Events that one call hands over: one call's own, and some of what was left.
const EVENTS_MAX: usize = 64;
const BYTES_MAX: usize = 1024 * 1024;

/// Limits for a target on this machine, and for one elsewhere.
struct Limits {
    connecting: Duration,
    answering: Duration,
    /// For everything together.
    whole: Duration,
}

const NEAR: Limits = Limits { connecting: Duration::from_millis(20), answering: Duration::from_millis(60), whole: Duration::from_millis(100) };
const FAR: Limits = Limits { connecting: Duration::from_millis(150), answering: Duration::from_millis(250), whole: Duration::from_millis(400) };

/// How many calls do without a target that was away, in seconds: each try of one far away costs its whole limit.
const AWAY_S: i64 = 5;

/// What became of what waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandedOver {
    /// A router that reads the spool has been told.
    Told,
    /// So many events were sent.
    Sent(usize),
    /// Somebody else sends them now.
    Busy,
    /// They stay, for this reason.
    Waits(String),
}

/// How often one call reads on in the transcript of a session whose end waits (`unread.rs`), so many bytes each time, and how long that may
/// take: what was read is kept each time, so that every call comes on.
const UNREAD_PARTS: usize = 4;
const UNREAD_BYTES: u64 = 1024 * 1024;
const UNREAD: Duration = Duration::from_secs(1);

/// Hands over what waits. Never takes longer than its limits, nor than `at_most`.
#[must_use]
pub fn hand_over(spool: &Spool, settings: &Settings, now_s: i64, at_most: Duration) -> HandedOver {
    match poke(spool) {
        Ok(true) => return HandedOver::Told,
        Ok(false) => {}
        Err(error) => return HandedOver::Waits(format!("the router cannot be told: {error}")),
    }
    let is_near = is_loopback(&settings.url);
    let limits = if is_near { NEAR } else { FAR };
    let target = match Target::parse(&settings.url, settings.token.as_deref()) {
        Ok(target) => target,
        Err(why) => return HandedOver::Waits(why),
    };
    let away = spool.directory().join("away");
    if !is_near && is_away(&away, now_s) {
        return HandedOver::Waits("it was away a moment ago".to_owned());
    }
    let (sender, receiver) = sync_channel(4);
    let spool = spool.clone();
    let mut limit = limits.whole.min(at_most);
    // Names are looked up without a limit of ours, so that somebody else has to do the waiting. What it holds goes with the process.
    let sending = move || {
        let _ = sender.send(Step::Done(send(&spool, &target, &limits, &|| drop(sender.try_send(Step::Reads)))));
    };
    if std::thread::Builder::new().stack_size(128 * 1024).spawn(sending).is_err() {
        return HandedOver::Waits("no thread can be started".to_owned());
    }
    let result = loop {
        match receiver.recv_timeout(limit) {
            Ok(Step::Reads) => limit = UNREAD.min(at_most),
            Ok(Step::Done(Ok(result))) => break result,
            Ok(Step::Done(Err(error))) => break HandedOver::Waits(error.to_string()),
            Err(_) => break HandedOver::Waits("no answer came in time".to_owned()),
        }
    };
    if !is_near && matches!(result, HandedOver::Waits(_)) {
        let _ = whole_file::replace(&away, now_s.to_string().as_bytes());
    }
    result
}

fn is_away(path: &std::path::Path, now_s: i64) -> bool {
    let since = whole_file::read(path, 32).ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| text.parse::<i64>().ok());
    since.is_some_and(|since| (0..AWAY_S).contains(&now_s.saturating_sub(since)))
}

/// What the one who sends tells the one who waits for it.
enum Step {
    /// A transcript is read, which may take longer than an answer.
    Reads,
    Done(io::Result<HandedOver>),
}

/// As [`unread::finish`], in parts.
fn finish(body: &[u8], reads: &dyn Fn()) -> Finished {
    let mut finished = Finished::NotYet;
    for _ in 0..UNREAD_PARTS {
        if finished == Finished::NotYet {
            reads();
            finished = unread::finish(body, UNREAD_BYTES);
        }
    }
    finished
}

fn send(spool: &Spool, target: &Target, limits: &Limits, reads: &dyn Fn()) -> io::Result<HandedOver> {
    let Some(drain) = spool.drain()? else { return Ok(HandedOver::Busy) };
    let mut connection = match target.connect(limits.connecting, limits.answering) {
        Ok(connection) => connection,
        Err(error) => return Ok(HandedOver::Waits(error.to_string())),
    };
    let mut sent = 0;
    while sent < EVENTS_MAX && connection.is_open() {
        let batch = drain.batch(EVENTS_MAX - sent, BYTES_MAX)?;
        if batch.is_empty() {
            break;
        }
        let mut done = 0;
        for record in &batch.records {
            let verdict = if !connection.is_open() {
                Verdict::NotNow("the connection was closed".to_owned())
            } else if record.key == unread::KEY {
                match finish(&record.body, reads) {
                    Finished::AsItWas => connection.send(record),
                    Finished::Whole(body) => connection.send(&Record { body, ..record.clone() }),
                    Finished::NotYet => Verdict::NotNow("its transcript is being read".to_owned()),
                }
            } else {
                connection.send(record)
            };
            if !settled(&drain, record, verdict.clone()) {
                drain.acknowledge(&batch, done)?;
                let Verdict::NotNow(why) = verdict else { return Ok(HandedOver::Sent(sent)) };
                return Ok(if sent > 0 { HandedOver::Sent(sent) } else { HandedOver::Waits(why) });
            }
            done += 1;
            sent += 1;
            // Each by itself: who is killed in between repeats one event, not all of them.
            drain.acknowledge(&batch, done)?;
        }
        drain.acknowledge(&batch, done)?;
    }
    Ok(HandedOver::Sent(sent))
}

fn settled(drain: &Drain, record: &Record, verdict: Verdict) -> bool {
    match verdict {
        Verdict::Accepted => true,
        Verdict::Refused(why) => {
            drain.refuse(record, &why);
            true
        }
        Verdict::NotNow(_) => false,
    }
}
