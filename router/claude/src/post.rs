//! Just enough HTTP/1.1 to hand events to a Bloodbank, or to a router, that does not read the spool: `POST /events/custom`, which takes an
//! envelope as it is, so that a repetition has the same id. Without TLS.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use crate::spool::Record;

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Lines of an answer's head.
const HEAD_LINES_MAX: usize = 100;

/// What the real Bloodbank says when it has published an event and cannot write its own answer.
const PUBLISHED_THEN_FAILED: &str = "is not JSON serializable";

/// What came of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is there.
    Accepted,
    /// It will never be taken.
    Refused(String),
    /// Not now: it stays, and so does what is behind it.
    NotNow(String),
}

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    /// In front of the path, without a slash at its end.
    prefix: String,
    token: Option<String>,
}

impl Target {
    /// From `http://HOST[:PORT][/PREFIX]`.
    ///
    /// # Errors
    ///
    /// A sentence fragment when it is something else. It never shows the token.
    pub fn parse(url: &str, token: Option<&str>) -> Result<Self, String> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err("`BLOODBANK_URL` is no `http://` address: for TLS, run a router on this machine and let it forward".to_owned());
        };
        let (authority, prefix) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let odd = || "`BLOODBANK_URL` names no host and port".to_owned();
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => inner.split_once(']').ok_or_else(odd)?,
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| odd())?,
            None if port.is_empty() => 80,
            None => return Err(odd()),
        };
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@');
        if host.is_empty() || !plain(host) || !plain(prefix) {
            return Err(odd());
        }
        Ok(Self { host: host.to_owned(), port, prefix: prefix.trim_end_matches('/').to_owned(), token: token.map(str::to_owned) })
    }

    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// When nobody answers in time.
    pub fn connect(&self, connecting: Duration, answering: Duration) -> io::Result<Connection<'_>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        // `localhost` has two, of which one may be deaf.
        for address in (self.host.as_str(), self.port).to_socket_addrs()?.take(4) {
            match TcpStream::connect_timeout(&address, connecting) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(answering))?;
                    stream.set_write_timeout(Some(answering))?;
                    return Ok(Connection { target: self, stream: BufReader::new(stream), is_open: true });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A connection over which events go one after the other.
pub struct Connection<'t> {
    target: &'t Target,
    stream: BufReader<TcpStream>,
    is_open: bool,
}

impl Connection<'_> {
    /// Whether another event can go over it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Sends one event and waits for the answer.
    pub fn send(&mut self, record: &Record) -> Verdict {
        match self.exchange(record) {
            Ok((status, body)) => verdict(status, &body),
            Err(error) => {
                self.is_open = false;
                Verdict::NotNow(error.to_string())
            }
        }
    }

    fn exchange(&mut self, record: &Record) -> io::Result<(u16, String)> {
        let Target { host, port, prefix, token } = self.target;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let mut request = format!(
            "POST {prefix}/events/custom HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nUser-Agent: event-router-hook\r\n",
            record.body.len()
        );
        if let Some(token) = token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(&record.body);
        self.stream.get_mut().write_all(&bytes)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<(u16, String)> {
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP/1.1");
        let status = self.line()?;
        let status: u16 = status.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok()).ok_or_else(odd)?;
        let mut length = None;
        for _ in 0..HEAD_LINES_MAX {
            let line = self.line()?;
            if line.is_empty() {
                let mut body = Vec::new();
                match length {
                    Some(length) if length <= ANSWER_BYTES_MAX => {
                        (&mut self.stream).take(length).read_to_end(&mut body)?;
                        self.is_open &= body.len() as u64 == length;
                    }
                    // How it ends is not worth knowing: the status says what counts.
                    _ => {
                        self.is_open = false;
                        let mut part = [0; 4_096];
                        let count = if status >= 400 { self.stream.read(&mut part).unwrap_or(0) } else { 0 };
                        body.extend_from_slice(&part[..count]);
                    }
                }
                return Ok((status, String::from_utf8_lossy(&body).into_owned()));
            }
            let Some((name, value)) = line.split_once(':') else { return Err(odd()) };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse().map_err(|_| odd())?);
            } else if name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close") {
                self.is_open = false;
            }
        }
        Err(odd())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

fn verdict(status: u16, body: &str) -> Verdict {
    match status {
        200..=299 => Verdict::Accepted,
        500 if body.contains(PUBLISHED_THEN_FAILED) => Verdict::Accepted,
        // What the event is, and not who sends it or when.
        400 | 413 | 422 => Verdict::Refused(format!("the answer is {status}: {}", body.chars().take(300).collect::<String>())),
        status => Verdict::NotNow(format!("the answer is {status}")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn record() -> Record {
        Record { key: "k".into(), session: "s".into(), body: br#"{"event_type":"k"}"#.to_vec() }
    }

    /// Answers each connection with one of `answers` for each request.
    fn server(answers: Vec<&'static str>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut heads = Vec::new();
            for answer in answers {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap() == 0 {
                        return heads;
                    }
                }
                reader.read_exact(&mut vec![0; record().body.len()]).unwrap();
                heads.push(head);
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            heads
        });
        (url, serving)
    }

    #[test]
    fn several_events_go_over_one_connection_with_the_token() {
        let (url, serving) = server(vec!["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"]);
        let target = Target::parse(&url, Some("secret-token")).unwrap();
        let mut connection = target.connect(LONG, LONG).unwrap();
        assert_eq!(connection.send(&record()), Verdict::Accepted);
        assert!(connection.is_open());
        assert_eq!(connection.send(&record()), Verdict::NotNow("the answer is 503".into()));
        drop(connection);
        let heads = serving.join().unwrap();
        assert!(heads[0].starts_with("POST /base/events/custom HTTP/1.1\r\n") && heads[0].contains("Authorization: Bearer secret-token\r\n"), "{}", heads[0]);
    }

    #[test]
    fn the_known_failure_of_a_real_bloodbank_is_a_success() {
        let known = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 60\r\n\r\n{\"detail\":\"Object of type UUID is not JSON serializable\"}    ";
        for (answer, expected) in [
            (known, Verdict::Accepted),
            ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops", Verdict::NotNow("the answer is 500".into())),
            ("HTTP/1.1 422 No\r\ncontent-length: 3\r\n\r\nbad", Verdict::Refused("the answer is 422: bad".into())),
            ("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", Verdict::NotNow("the answer is 401".into())),
            ("nonsense\r\n\r\n", Verdict::NotNow("the answer is no HTTP/1.1".into())),
        ] {
            let (url, serving) = server(vec![answer]);
            let target = Target::parse(&url, None).unwrap();
            assert_eq!(target.connect(LONG, LONG).unwrap().send(&record()), expected, "{answer}");
            serving.join().unwrap();
        }
    }

    #[test]
    fn addresses_are_understood_or_refused_with_a_sentence() {
        for (url, host, port) in [("http://h", "h", 80), ("http://127.0.0.1:8682", "127.0.0.1", 8682), ("http://[::1]:9/x", "::1", 9)] {
            let target = Target::parse(url, None).unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port), "{url}");
        }
        for url in ["https://h", "h:1", "http://", "http://h:x", "http://u:p@h", "http://h/\r\nx: y", "http://[::1"] {
            assert!(Target::parse(url, Some("secret")).is_err_and(|error| !error.contains("secret")), "{url}");
        }
    }
}
