//! What the machine gives: time, randomness, the environment.

use std::{
    fs::File,
    io::Read as _,
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// When something began.
pub(crate) struct Started(Instant);

impl Started {
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A moment for somebody else.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// A variable that is text.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Random bytes; without a source of them, what differs between two calls at least.
pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    if File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).is_err() {
        bytes[..16].copy_from_slice(&now().as_nanosecond().to_le_bytes());
        bytes[16..20].copy_from_slice(&std::process::id().to_le_bytes());
    }
    bytes
}

/// The most memory that the process had, as the system says it.
pub(crate) fn memory_peak() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(|peak| peak.trim().to_owned())
}

/// The machine's name.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname")).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() || name.len() > 253 || name.chars().any(char::is_control) { "localhost".to_owned() } else { name.to_owned() }
}
