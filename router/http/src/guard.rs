//! Who may knock at the TCP door: requests for this very address that no web page of elsewhere sent, and, where there are tokens,
//! from clients that have one; at the admin API, from clients that have one for it.
//!
//! A browser is the way in for strangers: a page can send forms and plain text anywhere (answered by the rule on content types in
//! `ingest`), and can make its own name resolve to an address of this machine (answered by the rule on `Host`).

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, Method, Uri, header, uri::Authority};
use percent_encoding::percent_decode_str;

use crate::{
    tokens::{Grant, Tokens},
    wire::{ErrorAnswer, ErrorKind},
};

/// Whom a door lets in.
#[derive(Debug, Clone, Default)]
pub struct Access {
    tokens: Tokens,
    hosts: Vec<String>,
}

/// The client whose token came with a request; among the request's extensions where the door knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name in the configuration.
    pub name: String,
    /// What it may do.
    pub grant: Grant,
}

impl Access {
    /// With tokens, pairs of a client's name and its secret, every request but `GET /healthz` needs one of them. They are for sending
    /// events. `allowed_hosts` are names under which the door may be asked besides the names of loopback, each with a port or for every
    /// port.
    #[must_use]
    pub fn new(tokens: impl IntoIterator<Item = (String, String)>, allowed_hosts: impl IntoIterator<Item = String>) -> Self {
        let mut access = Self { tokens: Tokens::default(), hosts: allowed_hosts.into_iter().collect() };
        access.tokens.add(Grant::Send, tokens);
        access
    }

    /// Adds the tokens of clients that may use the admin API too. Without any it is closed. On loopback they alone do not make senders
    /// need one.
    #[must_use]
    pub fn admin(mut self, tokens: impl IntoIterator<Item = (String, String)>) -> Self {
        self.tokens.add(Grant::Admin, tokens);
        self
    }

    /// True if there are tokens, of either kind.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Lets a request to the door at `door` pass, with the client if its token is known, or says why not.
    pub(crate) fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap, door: SocketAddr) -> Result<Option<Client>, ErrorAnswer> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let Some(host) = hosts.next() else {
            return Err(ErrorAnswer::new(ErrorKind::BadRequest, "no `Host` header"));
        };
        if hosts.next().is_some() {
            return Err(ErrorAnswer::new(ErrorKind::BadRequest, "more than one `Host` header"));
        }
        let host = text(host).and_then(|text| text.parse::<Authority>().ok());
        if !host.is_some_and(|host| self.is_this_door(&host, door)) || !uri.authority().is_none_or(|authority| self.is_this_door(authority, door)) {
            let port = door.port();
            let message =
                format!("the `Host` of the request is not this door: use `localhost:{port}` or `127.0.0.1:{port}`, or name it in `[http] allowed_hosts`");
            return Err(ErrorAnswer::new(ErrorKind::Forbidden, message));
        }
        for origin in headers.get_all(header::ORIGIN) {
            if !text(origin).is_some_and(|origin| self.is_known_origin(origin)) {
                return Err(ErrorAnswer::new(ErrorKind::Forbidden, "the request comes from a web page of another origin"));
            }
        }
        if method == Method::GET && uri.path() == "/healthz" {
            return Ok(None);
        }
        match self.tokens.client(headers) {
            Some((name, grant)) => Ok(Some(Client { name: name.to_owned(), grant })),
            None if self.tokens.has(Grant::Send) || !is_loopback(door.ip()) => Err(unknown("tokens")),
            None => Ok(None),
        }
    }

    /// Lets a client use the admin API, or says why not.
    fn check_admin(&self, client: Option<&Client>) -> Result<(), ErrorAnswer> {
        let is_open = self.tokens.has(Grant::Admin);
        match client.map(|client| client.grant) {
            Some(Grant::Admin) => Ok(()),
            Some(Grant::Send) if is_open => {
                let message = "this token is for sending events: the admin API needs one of `[http] admin_tokens`";
                Err(ErrorAnswer::new(ErrorKind::Forbidden, message))
            }
            None if is_open => Err(unknown("admin_tokens")),
            _ => {
                let message = "over TCP the admin API needs a token of its own, on this machine too: give each client that may use it one, \
                               `[http] admin_tokens = { laptop = \"${file:…}\" }`, and send it as `Authorization: Bearer …`; the commands of \
                               `event-router` need none, they go through the socket beside the store";
                Err(ErrorAnswer::new(ErrorKind::Forbidden, message))
            }
        }
    }

    fn is_this_door(&self, authority: &Authority, door: SocketAddr) -> bool {
        // A user name in front of the host is nobody's honest request.
        if authority.as_str().contains('@') {
            return false;
        }
        let own = is_loopback_host(authority.host()) || address(authority.host()).is_some_and(|address| is_address_of(address, door.ip()));
        (own && authority.port_u16().unwrap_or(80) == door.port()) || self.is_allowed(authority)
    }

    fn is_allowed(&self, authority: &Authority) -> bool {
        self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(authority.host()) || allowed.eq_ignore_ascii_case(authority.as_str()))
    }

    fn is_known_origin(&self, origin: &str) -> bool {
        let Ok(uri) = origin.parse::<Uri>() else { return false };
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@') && (is_loopback_host(authority.host()) || self.is_allowed(authority)))
    }
}

/// Refuses a path or a query whose bytes are no text: read with gaps, it would name another key or route than the sender meant.
pub(crate) async fn only_text(request: Request, next: Next) -> Response {
    match check_text(request.uri()) {
        Ok(()) => next.run(request).await,
        Err(answer) => answer.into_response(),
    }
}

fn check_text(uri: &Uri) -> Result<(), ErrorAnswer> {
    let is_text = |part: &str| percent_decode_str(part).decode_utf8().is_ok();
    let wrong = |what: &str| Err(ErrorAnswer::new(ErrorKind::BadRequest, format!("the {what} is no UTF-8 after percent-decoding; `ä` is written `%C3%A4`")));
    if !is_text(uri.path()) {
        return wrong("path");
    }
    if !uri.query().is_none_or(is_text) {
        return wrong("query");
    }
    Ok(())
}

/// Lets only clients pass that may use the admin API. Where the door has no token for it, that is nobody.
pub(crate) async fn only_admins(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.check_admin(request.extensions().get::<Client>()) {
        Ok(()) => next.run(request).await,
        Err(answer) => answer.into_response(),
    }
}

fn unknown(table: &str) -> ErrorAnswer {
    ErrorAnswer::new(ErrorKind::Unauthorized, format!("no token that this router knows: send `Authorization: Bearer` and one of `[http] {table}`"))
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

fn is_loopback_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(is_loopback)
}

/// A host that is an address: it cannot be made to mean another machine than it says.
fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

/// Asked for by an address that the door listens on. One that listens on all of them cannot know which are this machine's; an address
/// is no name that a page could bend, and such a door has tokens.
fn is_address_of(asked: IpAddr, door: IpAddr) -> bool {
    let (asked, door) = (asked.to_canonical(), door.to_canonical());
    !asked.is_unspecified() && (asked == door || door.is_unspecified())
}

/// Loopback, in IPv4, in IPv6, and as IPv4 within IPv6.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(pairs: &[(&str, &str)]) -> Result<(), ErrorKind> {
        asked(&Access::default(), "127.0.0.1:8682", "/events", pairs).map(|_| ())
    }

    fn asked(access: &Access, door: &str, path: &str, pairs: &[(&str, &str)]) -> Result<Option<String>, ErrorKind> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(http::HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        let checked = access.check(&Method::GET, &path.parse().unwrap(), &headers, door.parse().unwrap());
        checked.map(|client| client.map(|client| client.name)).map_err(|answer| answer.kind)
    }

    #[test]
    fn paths_and_queries_are_text() {
        for (uri, expected) in [
            ("/a?key=%C3%A4+b", Ok(())),
            ("/%C3%A4", Ok(())),
            ("/?key=100%", Ok(())),
            ("/?key=%ff", Err("query")),
            ("/?a=1&key=x%C3", Err("query")),
            ("/%ff", Err("path")),
        ] {
            match (check_text(&uri.parse().unwrap()), expected) {
                (Ok(()), Ok(())) => {}
                (Err(answer), Err(word)) => assert!(answer.error.contains(word), "{}", answer.error),
                (found, _) => panic!("{uri}: {found:?}"),
            }
        }
    }

    #[test]
    fn every_spelling_of_loopback_with_the_right_port_passes() {
        for host in ["localhost:8682", "LocalHost:8682", "127.0.0.1:8682", "127.9.9.9:8682", "[::1]:8682", "[::ffff:127.0.0.1]:8682"] {
            assert_eq!(verdict(&[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_foreign_host_or_port_is_forbidden() {
        for host in [
            "evil.example:8682",
            "localhost.evil.example:8682",
            "127.0.0.1.evil.example:8682",
            "localhost",
            "localhost:80",
            "10.0.0.1:8682",
            "me@localhost:8682",
            "[::2]:8682",
            "0.0.0.0:8682",
        ] {
            assert_eq!(verdict(&[("host", host)]), Err(ErrorKind::Forbidden), "{host}");
        }
    }

    #[test]
    fn a_request_needs_exactly_one_host() {
        assert_eq!(verdict(&[]), Err(ErrorKind::BadRequest));
        assert_eq!(verdict(&[("host", "localhost:8682"), ("host", "evil.example")]), Err(ErrorKind::BadRequest));
    }

    #[test]
    fn only_pages_of_this_machine_may_send() {
        for (origin, expected) in [
            ("http://localhost:3000", Ok(())),
            ("http://127.0.0.1:8682", Ok(())),
            ("https://[::1]", Ok(())),
            ("https://evil.example", Err(ErrorKind::Forbidden)),
            ("http://localhost.evil.example", Err(ErrorKind::Forbidden)),
            ("null", Err(ErrorKind::Forbidden)),
            ("", Err(ErrorKind::Forbidden)),
            ("file://", Err(ErrorKind::Forbidden)),
        ] {
            assert_eq!(verdict(&[("host", "localhost:8682"), ("origin", origin)]), expected, "{origin}");
        }
    }

    #[test]
    fn allowed_hosts_are_names_of_this_door_and_of_pages_that_may_send() {
        let access = Access::new([], ["router.lan".to_owned(), "front:9000".to_owned()]);
        for (host, expected) in
            [("router.lan", true), ("ROUTER.lan:1234", true), ("front:9000", true), ("front:9001", false), ("front", false), ("a.router.lan", false)]
        {
            assert_eq!(asked(&access, "127.0.0.1:8682", "/events", &[("host", host)]).is_ok(), expected, "{host}");
        }
        for (origin, expected) in [("https://router.lan", true), ("http://front:9000", true), ("http://front", false), ("http://me@router.lan", false)] {
            let pairs = [("host", "localhost:8682"), ("origin", origin)];
            assert_eq!(asked(&access, "127.0.0.1:8682", "/events", &pairs).is_ok(), expected, "{origin}");
        }
    }

    #[test]
    fn a_door_beyond_loopback_is_asked_by_its_addresses() {
        let access = Access::new([("ci".to_owned(), "sesame".to_owned())], []);
        for (door, host, expected) in [
            ("192.0.2.7:8682", "192.0.2.7:8682", true),
            ("192.0.2.7:8682", "192.0.2.8:8682", false),
            ("192.0.2.7:8682", "192.0.2.7", false),
            ("0.0.0.0:8682", "192.0.2.7:8682", true),
            ("[::]:8682", "[2001:db8::1]:8682", true),
            ("0.0.0.0:8682", "0.0.0.0:8682", false),
            ("0.0.0.0:8682", "evil.example:8682", false),
        ] {
            assert_eq!(asked(&access, door, "/events", &[("host", host), ("authorization", "Bearer sesame")]).is_ok(), expected, "{door} {host}");
        }
    }

    #[test]
    fn with_tokens_everything_but_health_needs_one() {
        let access = Access::new([("ci".to_owned(), "sesame".to_owned())], []);
        let host = ("host", "localhost:8682");
        assert_eq!(asked(&access, "127.0.0.1:8682", "/events", &[host]), Err(ErrorKind::Unauthorized));
        assert_eq!(asked(&access, "127.0.0.1:8682", "/events", &[host, ("authorization", "Bearer wrong")]), Err(ErrorKind::Unauthorized));
        assert_eq!(asked(&access, "127.0.0.1:8682", "/events", &[host, ("authorization", "Bearer sesame")]), Ok(Some("ci".to_owned())));
        assert_eq!(asked(&access, "127.0.0.1:8682", "/healthz", &[host]), Ok(None));
        assert_eq!(asked(&access, "127.0.0.1:8682", "/healthz/", &[host]), Err(ErrorKind::Unauthorized));
    }

    #[test]
    fn an_admin_token_opens_all_and_makes_senders_of_other_machines_need_one() {
        let access = Access::new([], []).admin([("desk".to_owned(), "abracadabra".to_owned())]);
        let bearer = ("authorization", "Bearer abracadabra");
        let host = ("host", "localhost:8682");
        assert_eq!(asked(&access, "127.0.0.1:8682", "/events", &[host]), Ok(None), "whoever may send without a token goes on to");
        assert_eq!(asked(&access, "127.0.0.1:8682", "/events", &[host, bearer]), Ok(Some("desk".to_owned())));
        assert_eq!(asked(&access, "0.0.0.0:8682", "/events", &[host]), Err(ErrorKind::Unauthorized));
        assert_eq!(asked(&access, "0.0.0.0:8682", "/metrics", &[host]), Err(ErrorKind::Unauthorized));
        assert_eq!(asked(&access, "0.0.0.0:8682", "/healthz", &[host]), Ok(None));
        assert_eq!(asked(&access, "0.0.0.0:8682", "/events", &[host, bearer]), Ok(Some("desk".to_owned())));
        let both = Access::new([("ci".to_owned(), "sesame".to_owned())], []).admin([("desk".to_owned(), "abracadabra".to_owned())]);
        assert_eq!(asked(&both, "127.0.0.1:8682", "/events", &[host]), Err(ErrorKind::Unauthorized));
    }

    #[test]
    fn only_an_admin_token_opens_the_admin_api() {
        let of = |grant| Client { name: "x".to_owned(), grant };
        let with = Access::new([("ci".to_owned(), "sesame".to_owned())], []).admin([("desk".to_owned(), "abracadabra".to_owned())]);
        let without = Access::new([("ci".to_owned(), "sesame".to_owned())], []);
        for (access, client, expected) in [
            (&with, Some(Grant::Admin), Ok(())),
            (&with, Some(Grant::Send), Err(ErrorKind::Forbidden)),
            (&with, None, Err(ErrorKind::Unauthorized)),
            (&without, Some(Grant::Send), Err(ErrorKind::Forbidden)),
            (&without, None, Err(ErrorKind::Forbidden)),
            (&Access::default(), None, Err(ErrorKind::Forbidden)),
        ] {
            let checked = access.check_admin(client.map(of).as_ref());
            if let Err(answer) = &checked {
                assert!(answer.error.contains("[http] admin_tokens"), "{}", answer.error);
            }
            assert_eq!(checked.map_err(|answer| answer.kind), expected, "{access:?} {client:?}");
        }
    }
}
