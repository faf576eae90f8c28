//! The Unix socket beside the store: where it lies, how it is made, how it is reached.
//!
//! A socket's path may have 107 bytes. Where the real path is longer, its directory is opened and the socket addressed as
//! `/proc/self/fd/<n>/<name>`.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};

/// Without the closing NUL.
const PATH_BYTES_MAX: usize = 107;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something else lies where the socket should be.
    #[error("`{0}` is in the way of the router's socket and is no socket: move it away")]
    InTheWay(PathBuf),
    /// The system refused.
    #[error("cannot make the socket `{path}`: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where the router that holds `store` listens: `<store>.sock`.
#[must_use]
pub fn socket_path(store: &Path) -> PathBuf {
    let mut path = OsString::from(store);
    path.push(".sock");
    path.into()
}

/// A listening socket whose file goes when it is dropped.
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file, so that a successor's socket is left alone.
    identity: (u64, u64),
}

/// Makes the socket, readable and writable by this user only. The caller holds the store's lock, so a socket that is still
/// there is what a dead process left.
pub(crate) fn listen_at(path: &Path) -> Result<(tokio::net::UnixListener, SocketFile), SocketError> {
    let io = |source: io::Error| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path).map_err(io)?,
        Ok(_) => return Err(SocketError::InTheWay(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let fd = new_socket().map_err(io)?;
    // Before `bind`: Linux gives the file the mode of the socket, so there is no moment in which others could connect.
    fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(|errno| io(errno.into()))?;
    let short = ShortPath::of(path).map_err(io)?;
    bind(&fd, &short.address).map_err(|errno| io(errno.into()))?;
    listen(&fd, BACKLOG).map_err(|errno| io(errno.into()))?;
    let metadata = fs::symlink_metadata(path).map_err(io)?;
    let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
    let listener = tokio::net::UnixListener::from_std(fd.into()).map_err(io)?;
    Ok((listener, file))
}

/// Connects to the socket at `path`.
pub(crate) fn connect_to(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let short = ShortPath::of(path)?;
    let fd = new_socket()?;
    // A Unix socket connects at once or not at all: EAGAIN means a full backlog, which counts as not at all.
    connect(&fd, &short.address)?;
    tokio::net::UnixStream::from_std(fd.into())
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An address that fits, and the directory that must stay open while it is used.
struct ShortPath {
    address: SocketAddrUnix,
    _directory: Option<File>,
}

impl ShortPath {
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Self { address: SocketAddrUnix::new(path)?, _directory: None });
        }
        let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = i32::try_from((OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC).bits()).expect("these flags fit into 31 bits");
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(parent)?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        if short.as_os_str().len() > PATH_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file name is too long for a socket, give the store a shorter one"));
        }
        Ok(Self { address: SocketAddrUnix::new(&short)?, _directory: Some(directory) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_socket_lies_beside_the_store() {
        assert_eq!(socket_path(Path::new("/var/lib/x/router.db")), Path::new("/var/lib/x/router.db.sock"));
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_works_and_only_its_user_may_connect() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join("router.db.sock");
        let (listener, file) = listen_at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = connect_to(&path).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        drop((client, server, file));
        assert!(!path.exists(), "the file goes with its listener");
    }

    #[tokio::test]
    async fn a_dead_routers_socket_is_replaced_and_a_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("router.db.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_listener, first) = listen_at(&path).unwrap();
        let (_successor, second) = listen_at(&path).unwrap();
        drop(first);
        assert!(path.exists(), "a successor's socket stays");
        drop(second);
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen_at(&path), Err(SocketError::InTheWay(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn connecting_to_nobody_fails_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("router.db.sock");
        assert_eq!(connect_to(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(connect_to(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
