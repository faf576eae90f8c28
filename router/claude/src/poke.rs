//! Telling the router that owns a spool that there is something new: one datagram to a socket in the spool's directory.
//!
//! The router reads the spool itself, so that nothing has to be answered: the hook is done within microseconds, and the datagram's
//! arrival says that a router lives.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{OpenOptionsExt as _, PermissionsExt as _},
            net::UnixDatagram,
        },
    },
    path::PathBuf,
};

use crate::spool::Spool;

/// The path of the socket by way of its directory: the address of a socket has 107 bytes at most.
fn address(spool: &Spool) -> io::Result<(fs::File, PathBuf)> {
    let directory = OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::DIRECTORY.bits().cast_signed()).open(spool.directory())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/poke", directory.as_raw_fd()));
    Ok((directory, path))
}

/// Tells the router. False when there is none.
///
/// # Errors
///
/// When the spool is not there, or the socket cannot be reached for another reason than that nobody listens.
pub fn poke(spool: &Spool) -> io::Result<bool> {
    let (_directory, path) = address(spool)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match socket.send_to(b"new", path) {
        Ok(_) => Ok(true),
        // It has been told often enough.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Listens for pokes; the socket does not block. The caller owns the spool, so that a socket that is there is what a dead one left.
///
/// # Errors
///
/// When the socket cannot be made.
pub fn listen(spool: &Spool) -> io::Result<UnixDatagram> {
    let (_directory, path) = address(spool)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poke_arrives_where_somebody_listens_and_a_dead_listener_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(&directory.path().join("d".repeat(120)), 1_000).unwrap();
        assert!(!poke(&spool).unwrap());
        let socket = listen(&spool).unwrap();
        assert!(poke(&spool).unwrap());
        let mut bytes = [0; 8];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 3);
        for _ in 0..10_000 {
            assert!(poke(&spool).unwrap(), "one who was told often is not told more");
        }
        drop(socket);
        assert!(!poke(&spool).unwrap());
        let _socket = listen(&spool).unwrap();
        assert!(poke(&spool).unwrap());
    }
}
