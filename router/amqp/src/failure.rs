//! What an error of lapin means for us: will waiting heal it, or must a person act?
//!
//! Every await on lapin goes through [`within`]: even with its recovery off, some of them were seen never to resolve.

use std::{fmt, future::Future, time::Duration};

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};
use router_api::TransportError;
use url::Url;

use crate::dial::is_about_certificates;

/// For one answer of the broker.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Why the broker did not do what we asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    refused: bool,
    locked: bool,
    out_of_reach: bool,
    unanswered: bool,
    ends_connection: bool,
    code: Option<u16>,
    sentence: String,
}

impl Failure {
    /// A person must act.
    pub(crate) fn refused(sentence: impl Into<String>) -> Self {
        Self { refused: true, ..Self::lost(sentence) }
    }

    /// May heal by itself.
    pub(crate) fn lost(sentence: impl Into<String>) -> Self {
        Self { refused: false, locked: false, out_of_reach: false, unanswered: false, ends_connection: false, code: None, sentence: sentence.into() }
    }

    /// What `error` means, which `what` ran into.
    pub(crate) fn of(what: &str, error: &lapin::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::ProtocolError(said) => Some(said.get_id()),
            _ => None,
        };
        let refused = is_for_a_person(error);
        // "not found", of a queue that is there and unreachable for now, must not lead to its being made anew.
        let locked = code == Some(AMQPSoftError::RESOURCELOCKED.get_id());
        // The answer of a broker that lives: what is missing is the machine of one queue, and others have theirs.
        let out_of_reach = code == Some(AMQPSoftError::NOTFOUND.get_id()) && !refused;
        let ends_connection = match error.kind() {
            // 320 is an operator who closes connections, or the broker's own stop.
            ErrorKind::ProtocolError(said) => matches!(said.kind(), AMQPErrorKind::Hard(hard) if !matches!(hard, AMQPHardError::CONNECTIONFORCED)),
            _ => false,
        };
        let sentence = format!("{what}: {}", sentence_of(error));
        Self { refused, locked, out_of_reach, unanswered: false, ends_connection, code: code.filter(|_| refused), sentence }
    }

    /// The broker lives, perhaps, and has not answered this.
    pub(crate) fn unanswered(sentence: impl Into<String>) -> Self {
        Self { unanswered: true, ..Self::lost(sentence) }
    }

    /// Will waiting not heal it?
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// Did the broker say that somebody else has the thing for now (405)?
    pub(crate) fn is_locked(&self) -> bool {
        self.locked
    }

    /// Did the broker say that the thing exists, and that its machine is down (404, in other words)?
    pub(crate) fn is_out_of_reach(&self) -> bool {
        self.out_of_reach
    }

    /// Did the broker say nothing at all, in the time that it had?
    pub(crate) fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Did the broker end the whole connection because of it, as some do with 541 for a queue that they cannot ask?
    pub(crate) fn ends_connection(&self) -> bool {
        self.ends_connection
    }

    /// Did the broker say that the thing does not exist (404)?
    pub(crate) fn is_missing(&self) -> bool {
        self.code == Some(AMQPSoftError::NOTFOUND.get_id())
    }

    /// Did the broker say that the thing is not what we declared (406)?
    pub(crate) fn is_inequivalent(&self) -> bool {
        self.code == Some(AMQPSoftError::PRECONDITIONFAILED.get_id())
    }

    /// The broker's reply code, if it was the broker who said no for good.
    pub(crate) fn code(&self) -> Option<u16> {
        self.code
    }

    /// What went wrong, with the broker's own words, without secrets.
    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    /// The same failure, explained in other words.
    pub(crate) fn explained(self, sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<Failure> for TransportError {
    fn from(failure: Failure) -> Self {
        if failure.refused { Self::Refused(failure.sentence) } else { Self::Unavailable(failure.sentence) }
    }
}

/// Waits for `call`, which does `what`, for no longer than `limit`.
pub(crate) async fn within<T>(what: &str, limit: Duration, call: impl Future<Output = lapin::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::of(what, &error)),
        Err(_) => Err(Failure::unanswered(format!("{what}: no answer within {} s", limit.as_secs_f64()))),
    }
}

/// `url` as it may be shown: without its password, its query and its fragment.
pub(crate) fn shown_url(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return "a URL that cannot be read".to_owned();
    };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "a URL that cannot be shown without its password".to_owned();
    }
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

fn is_for_a_person(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(said) => !heals(said.get_message().as_str()) && is_verdict(said.kind()),
        ErrorKind::InvalidProtocolVersion(_) | ErrorKind::AuthProviderError(_) => true,
        _ => is_about_certificates(error),
    }
}

/// The others are mishaps of a connection or of the broker: a forced close, frames that cross, an internal error.
fn is_verdict(kind: &AMQPErrorKind) -> bool {
    matches!(
        kind,
        AMQPErrorKind::Soft(AMQPSoftError::CONTENTTOOLARGE | AMQPSoftError::ACCESSREFUSED | AMQPSoftError::NOTFOUND | AMQPSoftError::PRECONDITIONFAILED)
            | AMQPErrorKind::Hard(AMQPHardError::INVALIDPATH | AMQPHardError::COMMANDINVALID | AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED)
    )
}

/// The broker uses the codes of verdicts also for states that pass: a queue whose machine is down is "not found", and so on.
fn heals(text: &str) -> bool {
    ["is down", "process is stopped", "inaccessible", "is reached", "timed out", "timeout", "is not running"].iter().any(|sign| text.contains(sign))
}

fn sentence_of(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(said) => format!("the broker answered {} {}", said.get_id(), said.get_message()),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn of(code: u16, text: &str) -> Failure {
        let kind = AMQPErrorKind::Soft(AMQPSoftError::from_id(code).unwrap_or(AMQPSoftError::NOCONSUMERS));
        let kind = AMQPHardError::from_id(code).map_or(kind, AMQPErrorKind::Hard);
        Failure::of("declaring", &ErrorKind::ProtocolError(AMQPError::new(kind, text.into())).into())
    }

    #[test]
    fn a_verdict_is_for_a_person_and_a_mishap_heals() {
        for (code, text, refused) in [
            (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", true),
            (404, "NOT_FOUND - no exchange 'x' in vhost '/'", true),
            (404, "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible", false),
            (404, "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor", false),
            (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'", false),
            (406, "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/'", true),
            (406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms", false),
            (530, "NOT_ALLOWED - vhost nope not found", true),
            (530, "NOT_ALLOWED - access to vhost '/' refused for user 'u': connection limit (1) is reached", false),
            (530, "NOT_ALLOWED - vhost '/' is down", false),
            (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", false),
            (541, "INTERNAL_ERROR", false),
            (505, "UNEXPECTED_FRAME - expected content header", false),
        ] {
            let failure = of(code, text);
            assert_eq!(failure.is_refused(), refused, "{text}");
            assert!(failure.sentence().contains(text) && failure.sentence().contains(&code.to_string()), "{failure}");
        }
    }

    #[test]
    fn a_queue_whose_machine_is_down_is_not_missing() {
        assert!(of(404, "NOT_FOUND - no queue 'q' in vhost '/'").is_missing());
        assert!(!of(404, "NOT_FOUND - no queue 'q' in vhost '/'").is_out_of_reach());
        let down = of(404, "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible");
        assert!(!down.is_missing() && down.is_out_of_reach());
        assert!(!of(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'").is_out_of_reach());
        assert!(of(406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q'").is_inequivalent());
        assert!(of(404, "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout").is_out_of_reach());
    }

    #[test]
    fn a_question_that_costs_the_connection_is_told_from_a_broker_that_stops() {
        assert!(of(541, "INTERNAL_ERROR").ends_connection());
        assert!(!of(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'").ends_connection());
        assert!(!of(404, "NOT_FOUND - no queue 'q' in vhost '/'").ends_connection());
        assert!(!Failure::lost("no answer").ends_connection());
    }

    #[test]
    fn a_lost_connection_heals() {
        for error in [ErrorKind::MissingHeartbeatError, ErrorKind::InvalidConnectionState(lapin::ConnectionState::Closed)] {
            assert!(!Failure::of("taking", &error.into()).is_refused());
        }
    }

    #[tokio::test]
    async fn no_call_takes_longer_than_its_limit() {
        let limit = Duration::from_millis(500);
        let failure = within("declaring queue `q`", limit, std::future::pending::<lapin::Result<()>>()).await.expect_err("it never answers");
        assert!(!failure.is_refused() && failure.is_unanswered());
        assert_eq!(failure.sentence(), "declaring queue `q`: no answer within 0.5 s");
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        for (url, shown) in [
            ("amqp://u:p%40ss@b:1/v", "amqp://u:***@b:1/v"),
            ("amqp://u@b/", "amqp://u@b/"),
            ("amqps://u:p@b/v?auth_mechanism=x&password=p#p", "amqps://u:***@b/v"),
            ("not a url: p", "a URL that cannot be read"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }
}
