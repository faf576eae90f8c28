//! What the environment asks of the publisher. The variables are those of the integration document, and a few beside them.

use std::path::PathBuf;

/// Where Bloodbank listens, and where the router does.
pub const URL_DEFAULT: &str = "http://127.0.0.1:8682";

/// Bytes that wait in a spool unless `EVENT_ROUTER_SPOOL_MAX_MB` says otherwise.
pub const SPOOL_BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024;

/// Hours of silence after which a session that never ended is called abandoned.
pub const ABANDONED_HOURS_DEFAULT: u64 = 24;

/// Bytes of one variable that are looked at.
const VARIABLE_BYTES_MAX: usize = 4_096;

/// Rules of `BLOODBANK_REDACT`.
const REDACT_PATHS_MAX: usize = 64;

/// What is set. Nothing here fails: a value that cannot be read counts as not set, since a hook has nobody to complain to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `BLOODBANK_ENABLED`: false for `false`, `0`, `no` and `off`.
    pub enabled: bool,
    /// `BLOODBANK_DEBUG`: tell on the standard error what is done.
    pub debug: bool,
    /// `BLOODBANK_URL`, without a slash at its end.
    pub url: String,
    /// `BLOODBANK_TOKEN`, sent as a bearer token.
    pub token: Option<String>,
    /// `BLOODBANK_MESSAGES`: also what the user and the assistant said.
    pub messages: bool,
    /// `BLOODBANK_THINKING`: also what the assistant thought, from the transcript.
    pub thinking: bool,
    /// `BLOODBANK_SNAPSHOT_TURNS`: a snapshot of the session's context after each so many turns.
    pub snapshot_turns: Option<u64>,
    /// `BLOODBANK_SNAPSHOTS`: a snapshot whenever the context is compacted.
    pub snapshots: bool,
    /// `BLOODBANK_REDACT`: paths of event values, such as `payload.user_prompt`, separated by commas.
    pub redact_paths: Vec<String>,
    /// `BLOODBANK_ABANDONED_HOURS`.
    pub abandoned_hours: u64,
    /// `CLAUDE_FEATURE`: what the work is for.
    pub feature: Option<String>,
    /// `EVENT_ROUTER_FEEDBACK`: give the agent the last result of CI when it stops.
    pub feedback: bool,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `CLAUDE_PROJECT_DIR`.
    pub project_dir: Option<PathBuf>,
    /// `CLAUDE_CODE_SESSION_ID`.
    pub session_id: Option<String>,
    /// `CLAUDECODE`: the hook was started by Claude Code.
    pub inside_claude: bool,
    /// `TRACEPARENT`.
    pub traceparent: Option<String>,
    /// Where events wait: `EVENT_ROUTER_SPOOL`, else `event-router/spool` in the user's directory for state.
    pub spool: Option<PathBuf>,
    /// `EVENT_ROUTER_SPOOL_MAX_MB`, in bytes.
    pub spool_bytes_max: u64,
    /// `EVENT_ROUTER_PRICES`: a file that replaces and adds to the built-in prices; else the one that the router of this machine laid into
    /// the spool.
    pub prices: Option<PathBuf>,
}

impl Settings {
    /// From the variables that `variable` knows; a variable that is empty is not set.
    #[must_use]
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty() && value.len() <= VARIABLE_BYTES_MAX);
        let is_on = |name: &str| get(name).is_some_and(|value| !is_no(&value));
        let url = get("BLOODBANK_URL").unwrap_or_else(|| URL_DEFAULT.to_owned()).trim_end_matches('/').to_owned();
        let megabytes = get("EVENT_ROUTER_SPOOL_MAX_MB").and_then(|value| value.parse::<u64>().ok()).filter(|megabytes| *megabytes > 0);
        let base = get("EVENT_ROUTER_SPOOL").map(PathBuf::from).or_else(|| default_spool(get));
        let prices = get("EVENT_ROUTER_PRICES").map(PathBuf::from).or_else(|| base.as_ref().map(|base| base.join(PRICES_FILE)));
        let spool = base.map(|base| spool_for(base, &url));
        let paths = get("BLOODBANK_REDACT").unwrap_or_default();
        Self {
            enabled: !get("BLOODBANK_ENABLED").is_some_and(|value| is_no(&value)),
            debug: is_on("BLOODBANK_DEBUG"),
            token: get("BLOODBANK_TOKEN").filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic())),
            messages: is_on("BLOODBANK_MESSAGES"),
            thinking: is_on("BLOODBANK_THINKING"),
            snapshot_turns: get("BLOODBANK_SNAPSHOT_TURNS").and_then(|value| value.parse().ok()).filter(|turns| *turns > 0),
            snapshots: is_on("BLOODBANK_SNAPSHOTS"),
            redact_paths: paths.split(',').map(str::trim).filter(|path| !path.is_empty()).take(REDACT_PATHS_MAX).map(str::to_owned).collect(),
            abandoned_hours: get("BLOODBANK_ABANDONED_HOURS")
                .and_then(|value| value.parse().ok())
                .filter(|hours| *hours > 0)
                .unwrap_or(ABANDONED_HOURS_DEFAULT),
            feature: get("CLAUDE_FEATURE").filter(|feature| feature.len() <= 200),
            feedback: is_on("EVENT_ROUTER_FEEDBACK"),
            home: get("HOME").map(PathBuf::from).filter(|path| path.is_absolute()),
            project_dir: get("CLAUDE_PROJECT_DIR").map(PathBuf::from).filter(|path| path.is_absolute()),
            session_id: get("CLAUDE_CODE_SESSION_ID"),
            inside_claude: is_on("CLAUDECODE"),
            traceparent: get("TRACEPARENT").filter(|value| is_traceparent(value)),
            spool,
            spool_bytes_max: megabytes.map_or(SPOOL_BYTES_MAX_DEFAULT, |megabytes| megabytes.saturating_mul(1024 * 1024)),
            prices,
            url,
        }
    }
}

/// In the spool: the prices of the router's configuration.
pub const PRICES_FILE: &str = "prices.toml";

/// Where hooks leave events for the router of this machine: what `run` drains.
#[must_use]
pub fn default_spool(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let get = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = get("XDG_STATE_HOME").or_else(|| get("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("event-router/spool"))
}

/// Events for another machine wait in a directory of their own: the router of this one must not take them.
fn spool_for(base: PathBuf, url: &str) -> PathBuf {
    if is_loopback(url) {
        return base;
    }
    let name: String = url.split("://").last().unwrap_or(url).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(80).collect();
    let mut path = base.into_os_string();
    path.push(format!("-for-{name}"));
    path.into()
}

/// Does the URL name this machine?
#[must_use]
pub fn is_loopback(url: &str) -> bool {
    let authority = url.split("://").last().unwrap_or(url).split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_no(value: &str) -> bool {
    ["false", "0", "no", "off"].iter().any(|no| value.eq_ignore_ascii_case(no))
}

fn is_traceparent(text: &str) -> bool {
    text.len() == 55 && text.bytes().enumerate().all(|(at, byte)| if matches!(at, 2 | 35 | 52) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::from_environment(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn without_variables_events_are_published_silently_and_without_messages() {
        let settings = settings(&[("HOME", "/home/u")]);
        assert!(settings.enabled && !settings.debug && !settings.messages && !settings.thinking && !settings.feedback);
        assert_eq!(settings.url, "http://127.0.0.1:8682");
        assert_eq!(settings.spool.unwrap(), PathBuf::from("/home/u/.local/state/event-router/spool"));
    }

    #[test]
    fn the_documented_values_switch_it_off() {
        for (value, enabled) in [("false", false), ("FALSE", false), ("0", false), ("off", false), ("true", true), ("", true), ("1", true)] {
            assert_eq!(settings(&[("BLOODBANK_ENABLED", value)]).enabled, enabled, "{value}");
        }
        assert!(settings(&[("BLOODBANK_DEBUG", "true")]).debug && !settings(&[("BLOODBANK_DEBUG", "false")]).debug);
    }

    #[test]
    fn events_for_another_machine_wait_elsewhere() {
        let of = |url| settings(&[("EVENT_ROUTER_SPOOL", "/s/spool"), ("BLOODBANK_URL", url)]).spool.unwrap();
        for url in ["http://localhost:8682", "http://127.0.0.1:1/", "http://[::1]:8682", "http://LOCALHOST"] {
            assert_eq!(of(url), PathBuf::from("/s/spool"), "{url}");
        }
        assert_eq!(of("http://bus.lan:8682/"), PathBuf::from("/s/spool-for-bus-lan-8682"));
        assert_eq!(of("http://localhost.evil:8682"), PathBuf::from("/s/spool-for-localhost-evil-8682"));
    }

    #[test]
    fn a_token_that_would_break_a_header_is_none() {
        assert_eq!(settings(&[("BLOODBANK_TOKEN", "a\r\nb")]).token, None);
        assert_eq!(settings(&[("BLOODBANK_TOKEN", "abc")]).token.as_deref(), Some("abc"));
    }
}
