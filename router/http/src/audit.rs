//! The verbs that change something: each is carried out to its end, whoever hangs up, and leaves a line in the log that says who asked
//! for what and what came of it.
//!
//! Events that come in are no verbs: they are counted, not told one by one.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::Method;
use tracing::{info, warn};

use crate::{
    guard::Client,
    ingest::read_body,
    local_user::LocalUser,
    wire::{ErrorAnswer, ErrorKind, Refused},
};

/// Bytes of what a verb is given.
pub(crate) const VERB_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a path in a line of the log.
const PATH_BYTES_MAX: usize = 200;

/// Who asks through the socket, which only the router's own user and root can open.
const SOCKET: &str = "socket";

/// Who asks.
struct Asking {
    /// The client of a token, else the socket.
    client: String,
    /// The user on this machine, through the socket.
    user: Option<String>,
}

/// Carries out a verb, within the limits for what comes in, and tells of it.
pub(crate) async fn carry_out(State(body_timeout): State<Duration>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let asking = Asking {
        client: request.extensions().get::<Client>().map_or(SOCKET, |client| &client.name).to_owned(),
        user: request.extensions().get::<LocalUser>().map(|user| user.name()),
    };
    let verb = shown(request.method(), request.uri().path());
    let (parts, body) = request.into_parts();
    let body = match read_body(&parts.headers, body, VERB_BYTES_MAX, body_timeout).await {
        Ok(body) => body,
        Err(answer) => {
            tell(&asking, &verb, Some(&answer));
            return answer.into_response();
        }
    };
    // In a task of its own: a client that hangs up leaves nothing half done, and none of it untold.
    let working = tokio::spawn(async move {
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        tell(&asking, &verb, response.extensions().get::<Refused>().map(|refused| &refused.0));
        response
    });
    match working.await {
        Ok(response) => response,
        Err(error) => ErrorAnswer::new(ErrorKind::Unavailable, format!("the router failed: {error}")).into_response(),
    }
}

/// A method and a path, as they may stand in a log. What is percent-encoded stays so.
fn shown(method: &Method, path: &str) -> String {
    let mut end = path.len().min(PATH_BYTES_MAX);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    format!("{method} {}", &path[..end])
}

fn tell(Asking { client, user }: &Asking, verb: &str, refused: Option<&ErrorAnswer>) {
    let user = user.as_deref();
    let who = user.map_or_else(|| format!("client `{client}`"), |user| format!("client `{client}` (user `{user}`)"));
    match refused {
        None => info!(client, user, verb, outcome = "done", "{who} asked for `{verb}`: done"),
        Some(answer) => warn!(client, user, verb, outcome = "refused", error = answer.error, "{who} asked for `{verb}`: refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_log_is_short_whatever_was_asked_for() {
        assert_eq!(shown(&Method::POST, "/api/v1/reload"), "POST /api/v1/reload");
        assert_eq!(shown(&Method::POST, &"ä".repeat(10_000)).len(), "POST ".len() + PATH_BYTES_MAX);
    }
}
