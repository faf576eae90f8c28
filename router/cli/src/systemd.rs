//! What a service manager is told (`Type=notify` or `notify-reload` of systemd, or anything else that sets `NOTIFY_SOCKET`): that the
//! router is ready, that it loads its configuration anew, that it stops, and that it lives. Without such a variable nothing here does anything.
//!
//! Each message is one datagram. The socket may be full where the manager is stuck, so none is sent from a thread that has other work.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// A manager that sets a shorter limit is told no more often than this.
const PING_MIN: Duration = Duration::from_millis(10);

/// The stop has been told: nothing may call it off again.
static STOPS: AtomicBool = AtomicBool::new(false);

/// The start, or a reload, is over: units that wait for this one go on. `status` is shown by `systemctl status`.
pub(crate) async fn ready(status: String) {
    tell(move || unless_it_stops(&[NotifyState::Ready, NotifyState::Status(&status)])).await;
}

/// The configuration is loaded anew; [`ready`] ends it, whatever came of it. The time tells a manager that asked for the reload that
/// this is the answer: one of before is not taken for it.
pub(crate) async fn reloading() {
    tell(|| unless_it_stops(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?, NotifyState::Status("loading the configuration anew")])).await;
}

fn unless_it_stops(states: &[NotifyState<'_>]) -> std::io::Result<()> {
    if STOPS.load(Ordering::SeqCst) { Ok(()) } else { sd_notify::notify(states) }
}

/// The stop has begun and may take its time.
pub(crate) async fn stopping() {
    STOPS.store(true, Ordering::SeqCst);
    tell(|| sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("finishing what runs")])).await;
}

/// Tells the manager's watchdog that the router lives, twice in each of its intervals, for as long as the runtime that this is called on
/// turns: to its very end, since a drain takes longer than a watchdog waits.
pub(crate) fn keep_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    let every = (limit / 2).max(PING_MIN);
    debug!("the service manager's watchdog is told every {} ms", every.as_millis());
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // One at a time: a manager that reads nothing makes no pile of threads.
            tell(|| sd_notify::notify(&[NotifyState::Watchdog])).await;
        }
    });
}

async fn tell(notify: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    // A cancelled task means that the runtime ends; then there is nobody to tell.
    if let Ok(Err(error)) = tokio::task::spawn_blocking(notify).await {
        warn!(error = %error, "the service manager cannot be told, `NOTIFY_SOCKET` is set and nobody listens there");
    }
}
