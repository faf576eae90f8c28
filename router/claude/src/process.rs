//! Whether the program that called a hook still runs: a session that is silent is abandoned only when nobody is there to go on with it.

use serde::{Deserialize, Serialize};

/// Shells between Claude Code and a hook that are stepped over.
const SHELLS_MAX: usize = 4;
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "zsh", "fish", "ksh", "busybox"];

/// A process, told from a later one with the same number by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Ticks between the system's start and its own.
    pub began: u64,
}

impl Process {
    /// The one that calls hooks: `parent` of a hook, or what called it where that is a shell. `None` where the system does not tell.
    #[must_use]
    pub fn behind(parent: u32) -> Option<Self> {
        let mut pid = parent;
        for _ in 0..SHELLS_MAX {
            let stat = Stat::of(pid)?;
            if !SHELLS.contains(&stat.name.as_str()) {
                return Some(Self { pid, began: stat.began }).filter(|_| pid > 1);
            }
            pid = stat.parent;
        }
        None
    }

    /// It still runs, and is not another one with its number.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.began == self.began && !stat.is_dead)
    }
}

struct Stat {
    name: String,
    parent: u32,
    began: u64,
    is_dead: bool,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    /// `PID (NAME) STATE PARENT … BEGAN …`; the name may have anything in it.
    fn parse(text: &str) -> Option<Self> {
        let name = text.get(text.find('(')? + 1..text.rfind(')')?)?.to_owned();
        let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
        let is_dead = matches!(fields.next()?, "Z" | "X" | "x");
        let parent = fields.next()?.parse().ok()?;
        // The 22nd of all, of which four were taken.
        let began = fields.nth(17)?.parse().ok()?;
        Some(Self { name, parent, began, is_dead })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = Process { pid: child.id(), began: Stat::of(child.id()).unwrap().began };
        assert!(process.is_alive());
        assert!(!Process { began: process.began + 1, ..process }.is_alive());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_name_may_have_anything_in_it_and_what_is_odd_is_none() {
        let fields: Vec<String> = (5..=30).map(|number| number.to_string()).collect();
        let stat = Stat::parse(&format!("7 (a) b (c) S 4 {}", fields.join(" "))).unwrap();
        assert_eq!((stat.name.as_str(), stat.parent, stat.began, stat.is_dead), ("a) b (c", 4, 22, false));
        for odd in ["", ")(", "1 (x) Z 2", "1 (x", "x) y ("] {
            assert!(Stat::parse(odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn shells_between_are_stepped_over() {
        let own = Process::behind(std::process::id()).unwrap();
        assert_eq!(own.pid, std::process::id());
        let mut shell = std::process::Command::new("sh").args(["-c", "read line; exit 0"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        // Until it is a shell it has our own name, which leads to itself.
        let found = (0..100_000).find_map(|_| Process::behind(shell.id()).filter(|found| found.pid != shell.id()));
        assert_eq!(found, Some(own));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
}
