//! Clients of the door that cost as little as they can: requests made beforehand, connections that stay, one thread.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::Failed;

/// A request with one event, or with several.
pub fn request(address: SocketAddr, key: &str, bodies: &[&[u8]]) -> Vec<u8> {
    let (path, body) = match bodies {
        [one] => (format!("/events?key={key}"), one.to_vec()),
        // Each event has its own key in it.
        several => ("/events".to_owned(), [b"[".as_slice(), &several.join(&b","[..]), b"]"].concat()),
    };
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(&body);
    request
}

/// Sends each client's requests one after the other, all clients beside each other, and returns when all are answered.
pub fn send(address: SocketAddr, clients: Vec<Vec<Vec<u8>>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut sending = tokio::task::JoinSet::new();
        for requests in clients {
            sending.spawn(async move { client(address, requests).await });
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        Ok(())
    })
}

/// What a path answers, without its head.
pub fn get(address: SocketAddr, path: &str) -> Result<String, Failed> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

async fn client(address: SocketAddr, requests: Vec<Vec<u8>>) -> Result<(), Failed> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::with_capacity(16 * 1024);
    for request in requests {
        stream.write_all(&request).await?;
        answer.clear();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| answer.len() < wanted) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err("the router closed the connection".into());
            }
            if wanted.is_none() {
                wanted = length(&answer)?;
            }
        }
    }
    Ok(())
}

/// The bytes of the whole answer, once its head is there. Anything but 200 is an error.
fn length(answer: &[u8]) -> Result<Option<usize>, Failed> {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..head])?;
    if !text.starts_with("HTTP/1.1 200") {
        return Err(format!("the router answered {}", String::from_utf8_lossy(answer)).into());
    }
    let length = text.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|value| value.trim().parse::<usize>()));
    Ok(Some(head + 4 + length.ok_or("an answer without a length")??))
}
