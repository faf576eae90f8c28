//! Following the archive of a router that runs. It may be restarted meanwhile: its numbers go on, so nothing is missed.

use std::time::Duration;

use router_api::{Admin as _, AdminError, FollowRequest, Followed, TransportError};
use router_http::AdminClient;

use super::Watching;

/// Between two tries to reach a router that is away.
const AGAIN: Duration = Duration::from_millis(250);

pub(super) async fn follow(client: AdminClient, mut request: FollowRequest, mut watching: Watching<'_>) -> anyhow::Result<()> {
    let newest = client.follow(&FollowRequest::default()).await?.next;
    let last = watching.args.last.unwrap_or(0);
    request.after = Some(newest.saturating_sub(last.into()));
    // What was asked for is not missed.
    request.behind_max = request.behind_max.map(|behind| behind.max(last.into()));
    watching.note("watching; Ctrl-C ends");
    let mut is_away = false;
    loop {
        let Followed { events, next, missed, .. } = match client.follow(&request).await {
            Ok(followed) => followed,
            Err(AdminError::Transport(TransportError::Unavailable(why))) => {
                if !is_away {
                    watching.note(&format!("the router is away and is waited for: {why}"));
                    is_away = true;
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if is_away {
            watching.note("the router is back");
            is_away = false;
        }
        if missed > 0 {
            watching.missed(missed)?;
        }
        for event in events {
            if !watching.event(&event.into())? {
                return Ok(());
            }
        }
        request.after = Some(next);
    }
}
