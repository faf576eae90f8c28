//! `event-router-hook`: publishes what a hook of Claude Code tells. Never in the way: it ends with 0 and prints nothing, whatever happens;
//! but for what CI said at the end of a turn, where that was asked for.

mod debug;
mod patient;
mod system;

use std::{
    io::{IsTerminal as _, Write as _, stdin, stdout},
    panic::{AssertUnwindSafe, catch_unwind, set_hook},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use router_claude::{Call, HandedOver, Interface, Process, Published, Settings, feedback};

use crate::{debug::say, patient::Patient, system::Started};

/// With `BLOODBANK_DEBUG`, how long is waited for the router to take the events.
const TAKING: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let started = Started::now();
    // A panic is a mistake of ours, and no reason to show an error in somebody's session.
    set_hook(Box::new(|_| {}));
    if catch_unwind(AssertUnwindSafe(|| call(&started))).is_err() && system::variable("BLOODBANK_DEBUG").is_some_and(|value| value != "false") {
        let _ = catch_unwind(|| say("a mistake in the program: nothing more is done"));
    }
    ExitCode::SUCCESS
}

fn call(started: &Started) {
    let settings = Settings::from_environment(system::variable);
    let debug = |line: &str| {
        if settings.debug {
            say(line);
        }
    };
    if !settings.enabled {
        return debug("switched off by `BLOODBANK_ENABLED`");
    }
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let words: Vec<String> = arguments.iter().filter(|argument| !argument.starts_with("--")).cloned().collect();
    let Some(interface) = Interface::of(&words) else {
        return debug("unknown arguments: call it without any, or with `tool-action`, `session-start` or `session-end [reason]`");
    };
    let call = Call {
        interface,
        settings: &settings,
        host: system::host_name(),
        directory: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        now: system::now(),
        elapsed: &|| started.elapsed(),
        process: &|| Process::behind(std::os::unix::process::parent_id()),
        random: &system::random,
    };
    // Nobody types JSON: at a terminal there is no input.
    let published = if stdin().is_terminal() {
        call.publish(b"{}".as_slice())
    } else {
        match Patient::of(stdin()) {
            Ok(patient) => call.publish(patient),
            Err(_) => call.publish(stdin().lock()),
        }
    };
    if settings.debug {
        tell(started, &published);
    }
    if settings.feedback || arguments.iter().any(|argument| argument == "--feedback") {
        feed_back(&published);
    }
}

/// The one thing that is ever printed: where it was asked for, what CI said, at the end of a turn.
fn feed_back(published: &Published) {
    let Some(hook) = published.hook.as_ref().filter(|hook| hook.event_name() == "Stop") else { return };
    let (Some(socket), Some(spool)) = (system::variable(feedback::SOCKET), &published.spool) else { return };
    let (Some(session_id), Some(working_directory)) = (&published.session_id, &published.working_directory) else { return };
    let memory = feedback::memory_beside(spool.directory());
    let stop = feedback::Stop {
        socket: Path::new(&socket),
        working_directory,
        session_id,
        stop_hook_active: hook.value()["stop_hook_active"] == true,
        memory: &memory,
        patience: feedback::PATIENCE,
    };
    if let Some(output) = feedback::at_stop(&stop) {
        // A reader that is gone wants nothing.
        let _ = writeln!(stdout(), "{output}");
    }
}

fn tell(started: &Started, published: &Published) {
    for trouble in &published.troubles {
        say(trouble);
    }
    let outcome = match &published.handed_over {
        Some(HandedOver::Told) if is_taken(published) => "published".to_owned(),
        Some(HandedOver::Told) => "spooled: the router has been told".to_owned(),
        Some(HandedOver::Sent(_)) if is_taken(published) => "published".to_owned(),
        Some(HandedOver::Sent(_) | HandedOver::Busy) => "spooled: others are sent before it".to_owned(),
        Some(HandedOver::Waits(why)) => format!("spooled: {why}"),
        None => "lost".to_owned(),
    };
    for (id, key) in &published.events {
        say(&format!("{key} {id} {outcome}"));
    }
    if published.events.is_empty() && published.troubles.is_empty() {
        say("this hook means no event");
    }
    let memory = system::memory_peak().map(|peak| format!(", with {peak} of memory at most")).unwrap_or_default();
    say(&format!("done after {} ms{memory}", started.elapsed().as_millis()));
}

fn is_taken(published: &Published) -> bool {
    let (Some(spool), Some(place)) = (&published.spool, published.place) else { return false };
    let waited = Started::now();
    loop {
        if spool.is_done(place) {
            return true;
        }
        if waited.elapsed() > TAKING {
            return false;
        }
        system::pause();
    }
}
