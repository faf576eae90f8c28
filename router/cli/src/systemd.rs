//! What a service manager is told (`Type=notify` of systemd, or anything else that sets `NOTIFY_SOCKET`): that the router is ready, that
//! it stops, and that it lives. Without such a variable nothing here does anything.
//!
//! Each message is one datagram. The socket may be full where the manager is stuck, so none is sent from a thread that has other work.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// A manager that sets a shorter limit is told no more often than this.
const PING_MIN: Duration = Duration::from_millis(10);

/// The start is over: units that wait for this one go on. `status` is shown by `systemctl status`.
pub(crate) async fn ready(status: String) {
    tell(move || sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)])).await;
}

/// The stop has begun and may take its time.
pub(crate) async fn stopping() {
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
