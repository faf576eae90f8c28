//! A minimal HTTP/1.1 client over TCP: one request, one connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, as text.
    pub head: String,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Is the body as long as the head says? A server that is killed, or loses its patience, closes in the middle of it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let told = self.head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        told.is_none_or(|length| self.body.len() >= length)
    }
}

/// Longer than any answer should take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Posts a JSON body. `None` when the connection broke before an answer came.
#[must_use]
pub fn post(address: SocketAddr, path: &str, body: &str) -> Option<Answer> {
    let text = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    request(address, text.as_bytes())
}

/// Sends bytes as they are and reads the answer. `None` when the connection broke before an answer came.
#[must_use]
pub fn request(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // A server that refuses early closes before it has read everything; its answer counts all the same.
    let _ = stream.write_all(bytes);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let text = String::from_utf8_lossy(&all).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
