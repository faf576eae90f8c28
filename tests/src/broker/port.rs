//! Ports that stay ours while a node is down.
//!
//! A node keeps its ports over restarts, so nobody else may take them in between. They lie below the range from which the kernel
//! hands out ports by itself, and each is held by the name of an abstract socket: it costs nothing on disk, counts for all processes
//! of the machine, and vanishes with the process however that ends.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::{linux::net::SocketAddrExt, unix::net::UnixListener},
    sync::atomic::{AtomicU16, Ordering},
};

use tokio::net::TcpSocket;

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of the loopback interface that no other test on this machine takes while this value lives.
pub(crate) struct Port {
    number: u16,
    _name: UnixListener,
}

impl Port {
    /// Takes one that nobody listens at.
    ///
    /// # Panics
    ///
    /// When all are taken.
    pub(crate) fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes start at different places, so that they seldom try the same port at the same time.
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
        for _ in 0..COUNT {
            let offset = (u32::from(start) * 31 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
            let number = FIRST + u16::try_from(offset).unwrap_or_default();
            if let Some(port) = Self::take(number) {
                return port;
            }
        }
        panic!("none of the ports {FIRST} to {} of the loopback interface is free", FIRST + COUNT - 1);
    }

    fn take(number: u16) -> Option<Self> {
        let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("event-router-test-port-{number}")).ok()?;
        let name = UnixListener::bind_addr(&name).ok()?;
        // On all interfaces: a listener there would be in the way too. It does not listen itself: a process that somebody starts just now
        // has a copy of it for a moment, which is in nobody's way.
        let probe = TcpSocket::new_v4().ok()?;
        probe.set_reuseaddr(true).ok()?;
        probe.bind((Ipv4Addr::UNSPECIFIED, number).into()).ok()?;
        Some(Self { number, _name: name })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
