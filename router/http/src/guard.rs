//! Who may knock at the TCP door: requests for this very address, from this machine, that no web page of elsewhere sent.
//!
//! The port has no token, so a browser is the way in for strangers: a page can send forms and plain text anywhere (answered by
//! the rule on content types in `ingest`), and can make its own name resolve to 127.0.0.1 (answered by the rule on `Host`).

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderValue, Uri, header, uri::Authority};

use crate::wire::{ErrorAnswer, ErrorKind};

/// Lets a request pass, or says why not. `port` is the one that the door listens on.
pub(crate) fn check(uri: &Uri, headers: &HeaderMap, port: u16) -> Result<(), ErrorAnswer> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        return Err(ErrorAnswer::new(ErrorKind::BadRequest, "no `Host` header"));
    };
    if hosts.next().is_some() {
        return Err(ErrorAnswer::new(ErrorKind::BadRequest, "more than one `Host` header"));
    }
    let host = text(host).and_then(|text| text.parse::<Authority>().ok());
    if !host.is_some_and(|host| is_this_door(&host, port)) || !uri.authority().is_none_or(|authority| is_this_door(authority, port)) {
        let message = format!("the `Host` of the request is not this door: use `localhost:{port}` or `127.0.0.1:{port}`");
        return Err(ErrorAnswer::new(ErrorKind::Forbidden, message));
    }
    for origin in headers.get_all(header::ORIGIN) {
        if !text(origin).is_some_and(is_loopback_origin) {
            return Err(ErrorAnswer::new(ErrorKind::Forbidden, "the request comes from a web page of another origin"));
        }
    }
    Ok(())
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

fn is_this_door(authority: &Authority, port: u16) -> bool {
    // A user name in front of the host is nobody's honest request.
    !authority.as_str().contains('@') && is_loopback_host(authority.host()) && authority.port_u16().unwrap_or(80) == port
}

fn is_loopback_origin(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@') && is_loopback_host(authority.host()))
}

fn is_loopback_host(host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok_and(|address| is_loopback(address.into())),
        None => host.parse::<IpAddr>().is_ok_and(is_loopback),
    }
}

/// Loopback, in IPv4, in IPv6, and as IPv4 within IPv6.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(pairs: &[(&str, &str)]) -> Result<(), ErrorKind> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(http::HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        check(&"/events".parse().unwrap(), &headers, 8682).map_err(|answer| answer.kind)
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
}
