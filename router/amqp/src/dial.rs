//! Opens one connection: the URL, the files for TLS, and what a broker's no at the door means.

use std::{fs, future::Future, io, path::Path, time::Duration};

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, ErrorKind,
    tcp::{AMQPUriTcpExt, OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri, SASLMechanism},
};
use url::{Host, Url};

use crate::{
    AmqpOptions,
    failure::{Failure, shown_url, within},
    sieve::{self, Sifted},
};

/// For reaching the broker's port, with the handshake of TLS.
const REACH_LIMIT: Duration = Duration::from_secs(5);
/// For all of it, up to the broker's word that the virtual host is open.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// What brokers have by themselves.
const FRAME_MAX: u32 = 128 * 1024;
/// What AMQP demands.
const FRAME_MIN: u32 = 4096;

/// Opens a connection that the broker's tools show as `name`.
pub(crate) async fn dial(options: &AmqpOptions, name: &str) -> Result<Connection, Failure> {
    let what = format!("cannot connect to `{}`", shown_url(&options.url));
    let uri = uri(options)?;
    let tls = tls_of(options, &uri)?;
    // What the process has installed already is used, whatever it is.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sockets = lapin::runtime::default_runtime().map_err(|error| Failure::of(&what, &error))?;
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let opening = Connection::connector(
        uri,
        sieve::runtime(),
        async move |uri, _| {
            let reaching = AMQPUriTcpExt::connect_with_config_async(&uri, tls.as_ref(), &sockets);
            let frame_max = uri.query.frame_max.unwrap_or_default();
            Ok(AsyncTcpStream::Plain(Sifted::new(reached(reaching).await?, frame_max)))
        },
        properties,
    );
    within(&what, OPEN_LIMIT, opening).await.map_err(explained)
}

/// Is the password sent in clear text over a network?
pub(crate) fn is_plain_beyond_this_machine(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let near = match host_of(&url) {
        None => true,
        Some(host) => host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
    };
    url.scheme() == "amqp" && !near
}

/// A thread of lapin's waits for this: without a limit, each try at a host that swallows packets would hold one for minutes.
async fn reached<T>(reaching: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(REACH_LIMIT, reaching)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("the port did not answer within {} s", REACH_LIMIT.as_secs()))))
}

/// lapin's own reading of a URL takes an IPv6 address for `localhost`, `/` for the virtual host without a name, and a URL without a
/// user for `guest`.
fn uri(options: &AmqpOptions) -> Result<AMQPUri, Failure> {
    let shown = shown_url(&options.url);
    let wrong = |why: &str| Failure::refused(format!("the broker's URL `{shown}` cannot be used: {why}"));
    let url = Url::parse(&options.url).map_err(|error| wrong(&error.to_string()))?;
    let mut uri: AMQPUri = options.url.parse().map_err(|error: String| wrong(&error))?;
    uri.authority.host = host_of(&url).ok_or_else(|| wrong("it names no host"))?;
    if matches!(url.path(), "" | "/") {
        "/".clone_into(&mut uri.vhost);
    }
    let asks_for_user = !matches!(uri.query.auth_mechanism, Some(SASLMechanism::External | SASLMechanism::Anonymous));
    if asks_for_user && url.username().is_empty() {
        return Err(wrong("it names no user; write `amqp://user:password@host/vhost`, or `?auth_mechanism=external` for a login by client certificate"));
    }
    if url.fragment().is_some() {
        return Err(wrong("what follows `#` is not read; a `#` in a password is written `%23`"));
    }
    uri.query.heartbeat = Some(heartbeat_s(options.heartbeat));
    uri.query.connection_timeout = None;
    // lapin keeps room for 64 frames of each connection, however large the broker's may be; one without a limit would take all memory.
    uri.query.frame_max = Some(uri.query.frame_max.unwrap_or(FRAME_MAX).clamp(FRAME_MIN, FRAME_MAX * 8));
    Ok(uri)
}

/// lapin looks at the clock each half interval and gives up after two: asked for four fifths, it has given up within two of what the
/// options say.
fn heartbeat_s(heartbeat: Duration) -> u16 {
    let seconds = heartbeat.as_millis() * 4 / 5 / 1000;
    u16::try_from(seconds).unwrap_or(u16::MAX).max(1)
}

fn host_of(url: &Url) -> Option<String> {
    match url.host()? {
        Host::Domain("") => None,
        Host::Domain(name) => Some(name.to_owned()),
        Host::Ipv4(address) => Some(address.to_string()),
        Host::Ipv6(address) => Some(address.to_string()),
    }
}

/// Read anew for each connection, so that renewed certificates are used.
fn tls_of(options: &AmqpOptions, uri: &AMQPUri) -> Result<OwnedTLSConfig, Failure> {
    if uri.scheme != AMQPScheme::AMQPS {
        return Ok(OwnedTLSConfig::default());
    }
    let read = |path: &Path| fs::read(path).map_err(|error| Failure::refused(format!("cannot read `{}` for TLS: {error}", path.display())));
    let cert_chain = match &options.tls.ca {
        None => None,
        Some(path) => {
            let text = String::from_utf8(read(path)?).map_err(|_| Failure::refused(format!("`{}` is not PEM", path.display())))?;
            if !text.contains("-----BEGIN CERTIFICATE-----") {
                return Err(Failure::refused(format!("`{}` holds no certificate in PEM", path.display())));
            }
            Some(text)
        }
    };
    let identity = match (&options.tls.certificate, &options.tls.key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(OwnedIdentity::PKCS8 { pem: read(certificate)?, key: read(key)? }),
        (Some(_), None) => return Err(Failure::refused("a client certificate for TLS needs its private key, and none is given")),
        (None, Some(_)) => return Err(Failure::refused("a private key for TLS needs its client certificate, and none is given")),
    };
    Ok(OwnedTLSConfig { identity, cert_chain })
}

/// Adds what a person can do.
fn explained(failure: Failure) -> Failure {
    let said = failure.sentence();
    let advice = match failure.code() {
        Some(403) => "check the user and the password",
        Some(530) if said.contains("not found") => "check the virtual host, or make it with `rabbitmqctl add_vhost`",
        Some(530) => "give the user permissions with `rabbitmqctl set_permissions`",
        None if failure.is_refused() && said.contains("CertificateRequired") => "the broker demands a client certificate: give one, and its key",
        None if failure.is_refused() && said.contains("UnknownIssuer") => "give the authority that signed the broker's certificate",
        None if failure.is_refused() && said.contains("received fatal alert") => "the broker does not accept our client certificate",
        None if failure.is_refused() && said.contains("InvalidContentType") => "is this the broker's port for TLS?",
        _ => return failure,
    };
    let sentence = format!("{said}; {advice}");
    failure.explained(sentence)
}

/// Is it the certificate, the broker's or ours, which no waiting mends?
pub(crate) fn is_about_certificates(error: &lapin::Error) -> bool {
    let ErrorKind::IOError(error) = error.kind() else {
        return false;
    };
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some_and(|error| {
        matches!(
            error,
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented | rustls::Error::AlertReceived(_) | rustls::Error::InvalidMessage(_)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<AMQPUri, String> {
        uri(&AmqpOptions::new(url)).map_err(|failure| {
            assert!(failure.is_refused());
            failure.sentence().to_owned()
        })
    }

    #[test]
    fn a_url_means_what_a_person_means_by_it() {
        for (url, host, port, vhost) in [
            ("amqp://u:p@broker", "broker", 5672, "/"),
            ("amqp://u:p@broker/", "broker", 5672, "/"),
            ("amqp://u:p@broker:1234/%2F", "broker", 1234, "/"),
            ("amqp://u:p@broker/events", "broker", 5672, "events"),
            ("amqp://u:p@broker/a%2Fb", "broker", 5672, "a/b"),
            ("amqps://u:p@broker", "broker", 5671, "/"),
            ("amqp://u:p@127.0.0.1:5672/", "127.0.0.1", 5672, "/"),
            ("amqp://u:p@[::1]:5672/", "::1", 5672, "/"),
            ("amqps://u:p@[2001:db8::7]/", "2001:db8::7", 5671, "/"),
        ] {
            let uri = read(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((uri.authority.host.as_str(), uri.authority.port, uri.vhost.as_str()), (host, port, vhost), "{url}");
        }
    }

    #[test]
    fn a_user_and_a_password_are_decoded_and_nobody_is_guest_by_default() {
        let uri = read("amqp://a%40b:p%40ss%2Fw%3Ard%23@broker/").expect("it is a URL");
        assert_eq!((uri.authority.userinfo.username.as_str(), uri.authority.userinfo.password.as_str()), ("a@b", "p@ss/w:rd#"));
        let sentence = read("amqp://broker/").expect_err("nobody is named");
        assert!(sentence.contains("names no user"), "{sentence}");
        assert!(read("amqps://broker/?auth_mechanism=external").is_ok(), "the certificate names somebody");
    }

    #[test]
    fn what_cannot_be_a_broker_is_refused_without_its_password() {
        for url in [
            "",
            "broker",
            "http://u:s3cret@broker/",
            "amqp://u:s3cret@/x",
            "amqp://u:s3cret#more@broker/",
            "amqp://u:s3cret@broker:99999/",
            "amqp://u:s3cret@broker/?heartbeat=x",
        ] {
            let sentence = read(url).expect_err(url);
            assert!(!sentence.contains("s3cret"), "{sentence}");
        }
    }

    #[test]
    fn heartbeats_are_asked_for_so_that_silence_is_noticed_within_two_of_the_wished_ones() {
        for (wished, asked) in [(10, 8), (60, 48), (1, 1), (0, 1), (1_000_000, u16::MAX)] {
            assert_eq!(heartbeat_s(Duration::from_secs(wished)), asked, "{wished}");
        }
        let uri = uri(&AmqpOptions { heartbeat: Duration::from_secs(20), ..AmqpOptions::new("amqp://u:p@b/?heartbeat=0") }).expect("it is a URL");
        assert_eq!(uri.query.heartbeat, Some(16));
    }

    #[test]
    fn clear_text_is_noticed_beyond_this_machine() {
        for (url, plain) in [
            ("amqp://u:p@broker/", true),
            ("amqp://u:p@10.0.0.1/", true),
            ("amqp://u:p@[2001:db8::7]/", true),
            ("amqps://u:p@broker/", false),
            ("amqp://u:p@localhost/", false),
            ("amqp://u:p@127.0.0.2/", false),
            ("amqp://u:p@[::1]/", false),
        ] {
            assert_eq!(is_plain_beyond_this_machine(url), plain, "{url}");
        }
    }
}
