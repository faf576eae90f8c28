//! Handing what waits in a spool to whoever is there, oldest first, and within milliseconds: a hook must not be felt.

use std::{io, sync::mpsc::sync_channel, time::Duration};

use crate::{
    poke::poke,
    post::{Target, Verdict},
    settings::{Settings, is_loopback},
    spool::{Drain, Spool},
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

/// Hands over what waits. Never takes longer than its limits.
#[must_use]
pub fn hand_over(spool: &Spool, settings: &Settings, now_s: i64) -> HandedOver {
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
    let (sender, receiver) = sync_channel(1);
    let spool = spool.clone();
    let whole = limits.whole;
    // Names are looked up without a limit of ours, so that somebody else has to do the waiting. What it holds goes with the process.
    let sending = move || {
        let _ = sender.send(send(&spool, &target, &limits));
    };
    if std::thread::Builder::new().stack_size(128 * 1024).spawn(sending).is_err() {
        return HandedOver::Waits("no thread can be started".to_owned());
    }
    let result = match receiver.recv_timeout(whole) {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => HandedOver::Waits(error.to_string()),
        Err(_) => HandedOver::Waits("no answer came in time".to_owned()),
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

fn send(spool: &Spool, target: &Target, limits: &Limits) -> io::Result<HandedOver> {
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
            let verdict = if connection.is_open() { connection.send(record) } else { Verdict::NotNow("the connection was closed".to_owned()) };
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

fn settled(drain: &Drain, record: &crate::spool::Record, verdict: Verdict) -> bool {
    match verdict {
        Verdict::Accepted => true,
        Verdict::Refused(why) => {
            drain.refuse(record, &why);
            true
        }
        Verdict::NotNow(_) => false,
    }
}
