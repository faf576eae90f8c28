//! Who asks through the socket: the user whose process connected, as the kernel tells it. The socket's mode lets in the router's own
//! user, and root whatever the mode, so the log says which of them it was.

use std::{fs::File, io::Read as _};

/// Where the names of this machine's users are; what is beyond the limit is not looked at.
const PASSWD: &str = "/etc/passwd";
const PASSWD_BYTES_MAX: u64 = 1024 * 1024;

/// The user at the other end; among the extensions of each request through the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalUser(pub(crate) u32);

impl LocalUser {
    /// Its name, or its number where this machine's own list has none: a user of a directory service, or one made for a service.
    pub(crate) fn name(self) -> String {
        let mut passwd = Vec::new();
        // Without the list the number still tells who it was.
        let _ = File::open(PASSWD).and_then(|file| file.take(PASSWD_BYTES_MAX).read_to_end(&mut passwd));
        name_in(&String::from_utf8_lossy(&passwd), self.0).map_or_else(|| format!("uid {}", self.0), str::to_owned)
    }
}

fn name_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid) && !name.is_empty() && !name.chars().any(char::is_control)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_by_its_name_or_else_by_its_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n# a remark\nada:x:1000:100::/home/ada:/bin/sh\nbroken\n:x:7:7\n\u{1b}[31m:x:8:8\n";
        assert_eq!(name_in(passwd, 0), Some("root"));
        assert_eq!(name_in(passwd, 1_000), Some("ada"));
        for uid in [100, 7, 8] {
            assert_eq!(name_in(passwd, uid), None, "{uid}");
        }
        assert_eq!(LocalUser(4_294_967_000).name(), "uid 4294967000");
    }
}
