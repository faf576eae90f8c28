//! Names of hosts become addresses, but never those where machines keep their credentials.
//!
//! The HTTP client connects to exactly what comes from here, so a name that changes its address between a check and the connection
//! gains nothing. A host that the configuration writes as an address is not looked up and so not refused.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use router_api::BoxFuture;

/// Looks up the addresses of a host.
pub trait HostResolver: Send + Sync + 'static {
    /// All of them, best first.
    ///
    /// # Errors
    ///
    /// When the host is not known or the lookup fails.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl HostResolver for SystemResolver {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), 0)).await?.map(|address| address.ip()).collect()) })
    }
}

/// A name stands for an address that requests must not reach.
#[derive(Debug, thiserror::Error)]
#[error("`{host}` stands for {address}, an address of this machine's own network segment where credentials are served")]
pub(crate) struct ForbiddenAddress {
    host: String,
    address: IpAddr,
}

/// What reqwest asks: another resolver's answers without the forbidden ones.
pub(crate) struct Filtered {
    pub(crate) inner: Arc<dyn HostResolver>,
}

impl reqwest::dns::Resolve for Filtered {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let host = name.as_str().to_owned();
        let lookup = self.inner.resolve(&host);
        Box::pin(async move {
            let all = lookup.await?;
            let allowed: Vec<SocketAddr> = all.iter().filter(|address| !is_forbidden(**address)).map(|address| SocketAddr::new(*address, 0)).collect();
            match all.first() {
                Some(&address) if allowed.is_empty() => Err(ForbiddenAddress { host, address }.into()),
                None => Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address").into()),
                Some(_) => Ok(Box::new(allowed.into_iter()) as reqwest::dns::Addrs),
            }
        })
    }
}

/// Link-local addresses and the other ones at which clouds serve credentials, in every way that IPv6 can write them.
fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let low = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
            let embeds_low = octets[..12] == [0; 12] // the old compatible form
                || octets[..10] == [0; 10] && octets[10..12] == [0xff, 0xff] // mapped
                || octets[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0] // NAT64
                || octets[..2] == [0xfe, 0x80];
            let six_to_four = octets[..2] == [0x20, 0x02] && is_forbidden_v4(Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5]));
            let is_link_local = octets[0] == 0xfe && octets[1] & 0xc0 == 0x80;
            is_link_local || six_to_four || (embeds_low && is_forbidden_v4(low)) || v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
        }
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    address.is_link_local() || address == Ipv4Addr::new(100, 100, 100, 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_credentials_are_forbidden_in_every_form() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "fe80::1",
            "febf::1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
        ] {
            assert!(is_forbidden(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn other_addresses_are_not() {
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "169.253.255.255",
            "8.8.8.8",
            "::1",
            "fec0::1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "2002:0808:0808::1",
        ] {
            assert!(!is_forbidden(address.parse().unwrap()), "{address}");
        }
    }
}
