//! The tables beside the routes, from what was written to the model.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use router_api::DecodeLimits;

use super::{
    broker,
    build::Built,
    diagnostic::Draft,
    environment::Environment,
    model::{Config, HttpConfig, Limits, LogConfig, RedactConfig, Retention, Secret, StoreConfig},
    prices,
    raw::{RawConfig, RawSynchronous},
    schema_walk::ticked,
    scrub::Scrubber,
    show,
    source::Sources,
    store_place,
    tree::{Filled, Node},
};
use crate::redact::Redactor;

/// A day.
const DAY: Duration = Duration::from_secs(86_400);

/// Everything but the routes. `state` is the directory of a store whose place nobody says.
pub(super) fn config(
    raw: &RawConfig,
    globals: &Node,
    sources: &mut Sources,
    state: &Path,
    environment: &dyn Environment,
    built: &[Built],
    drafts: &mut Vec<Draft>,
) -> Option<Config> {
    let at = |dotted: &str| globals.span_at(&globals.steps(dotted));
    let store = raw.store.clone().unwrap_or_default();
    let http = raw.http.clone().unwrap_or_default();
    let limits = raw.limits.clone().unwrap_or_default();
    let redact = raw.redact.clone().unwrap_or_default();
    let log = raw.log.clone().unwrap_or_default();

    let said = store.path.as_ref().map(|path| sources.file(at("store.path").file).base_dir.join(path));
    let path = store_place::resolved(said, state, environment);
    let transport = broker::transport(&raw.transport.clone().unwrap_or_default(), globals, sources, environment, drafts);
    if let Some(transport) = &transport {
        broker::routes(transport, built, drafts);
    }
    let (tokens, admin_tokens) = tokens([http.tokens.as_ref(), http.admin_tokens.as_ref()], globals, drafts);
    let listen = listen(http.listen.as_deref(), !tokens.is_empty() || !admin_tokens.is_empty(), globals, drafts);
    check_hosts(http.allowed_hosts.as_deref().unwrap_or_default(), globals, drafts);
    let redact =
        RedactConfig { paths: redact.paths.unwrap_or_default(), patterns: redact.patterns.unwrap_or_default(), builtin: redact.builtin.unwrap_or(true) };
    // Any key will do to find out whether the rules are right.
    if let Err(problems) = Redactor::new(&redact, [0; 32]) {
        let scrubber = Scrubber::below(globals);
        for problem in problems {
            let help = problem.help.map(|help| scrubber.scrub(&help));
            drafts.push(Draft::error("bad-redaction", scrubber.scrub(&problem.message)).at(at(&format!("redact.{}", problem.field))).maybe_help(help));
        }
    }
    let level = log.level.unwrap_or_else(|| "info".to_owned());
    let text = globals.at(&globals.steps("log.level")).and_then(Node::as_text);
    if let Some(problem) = level_problem(&level).filter(|_| text.is_none_or(|text| text.filled != Filled::Missing)) {
        let message = if text.is_some_and(|text| text.filled == Filled::Outside) { "the level is none".to_owned() } else { problem };
        drafts.push(
            Draft::error("bad-level", message)
                .at(at("log.level"))
                .help("levels are `off`, `error`, `warn`, `info`, `debug`, `trace`, and for one part `part=level`"),
        );
    }
    let decode = DecodeLimits::default();
    let decode = DecodeLimits {
        body_bytes_max: limits.body_bytes_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(decode.body_bytes_max),
        depth_max: limits.depth_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(decode.depth_max),
    };
    let mut config = Config {
        hash: String::new(),
        text: String::new(),
        transport: transport?,
        store: StoreConfig {
            path,
            sync: store.synchronous != Some(RawSynchronous::Normal),
            retention: Retention { age: DAY * store.retention_days.unwrap_or(30), bytes_max: store.retention_bytes_max.unwrap_or(1 << 30) },
            ledger_bytes_max: store.ledger_bytes_max.unwrap_or(64 << 20),
        },
        http: HttpConfig { listen: listen?, tokens, admin_tokens, allowed_hosts: http.allowed_hosts.unwrap_or_default() },
        limits: Limits { decode },
        redact,
        sessions: prices::sessions(raw.sessions.as_ref(), globals, sources, drafts),
        log: LogConfig { level, format: log.format.unwrap_or_default() },
        routes: built.iter().map(|built| built.route.clone()).collect(),
    };
    let tables = globals.as_table()?;
    config.text = show::globals(&config, tables);
    for built in built {
        config.text.push('\n');
        config.text.push_str(&built.shown);
    }
    // Of what is shown, so that a hash in a log tells nobody anything about a secret.
    config.hash = show::hash("config", &[&config.text]);
    Some(config)
}

/// `None` when the address is wrong, which was reported.
#[allow(clippy::option_option, reason = "off is an answer too")]
fn listen(text: Option<&str>, has_tokens: bool, globals: &Node, drafts: &mut Vec<Draft>) -> Option<Option<SocketAddr>> {
    let Some(text) = text else { return Some(Some(SocketAddr::from(([127, 0, 0, 1], 8_682)))) };
    if text == "off" {
        return Some(None);
    }
    let node = globals.at(&globals.steps("http.listen"))?;
    let text_node = node.as_text()?;
    if text_node.filled == Filled::Missing {
        return None;
    }
    let shown = text_node.shown();
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() || has_tokens => Some(Some(address)),
        Ok(address) => {
            let message = format!("{} is open to other machines, and there are no tokens to tell friend from foe", ticked(shown));
            let help = format!(
                "give each client one, `[http] tokens = {{ laptop = \"${{file:…}}\" }}`, or listen on this machine only, `127.0.0.1:{}`",
                address.port()
            );
            drafts.push(Draft::error("not-loopback", message).at(node.span).help(help));
            None
        }
        Err(_) => {
            let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).filter(|_| text_node.filled == Filled::Inside);
            let help = format!("write it as `127.0.0.1:{}`, or `off`", port.unwrap_or(8_682));
            drafts.push(Draft::error("bad-address", format!("{} is no address with a port", ticked(shown))).at(node.span).help(help));
            None
        }
    }
}

/// A token that can be guessed is none.
const TOKEN_BYTES_MIN: usize = 16;

/// The tables of tokens: of clients that send events, and of those that may command the router.
const TOKEN_TABLES: [&str; 2] = ["tokens", "admin_tokens"];

/// Names of clients, each with its token.
type Tokens = Vec<(String, Secret)>;

/// The tokens that can be used, of both tables; those that cannot are reported.
fn tokens(written: [Option<&BTreeMap<String, String>>; 2], globals: &Node, drafts: &mut Vec<Draft>) -> (Tokens, Tokens) {
    let mut all: [Tokens; 2] = Default::default();
    for (at, table) in TOKEN_TABLES.into_iter().enumerate() {
        let steps = globals.steps(&format!("http.{table}"));
        let nodes = globals.at(&steps).and_then(Node::as_table);
        for (name, token) in written[at].into_iter().flatten() {
            let node = nodes.and_then(|nodes| nodes.get(name));
            if node.and_then(Node::as_text).is_some_and(|text| text.filled == Filled::Missing) {
                continue;
            }
            let token = token.trim();
            let Some(problem) = token_problem(token, at, &all) else {
                all[at].push((name.clone(), Secret::new(token)));
                continue;
            };
            let place = node.map_or_else(|| globals.span_at(&steps), |node| node.span);
            let of = if at == 0 { "token" } else { "admin token" };
            drafts.push(
                Draft::error("bad-token", format!("the {of} of {} {problem}", ticked(name))).at(place).help("a good one comes from `openssl rand -hex 32`"),
            );
        }
    }
    let [tokens, admin_tokens] = all;
    (tokens, admin_tokens)
}

/// Why a token of the table `at` cannot be used beside those that are known.
fn token_problem(token: &str, at: usize, known: &[Vec<(String, Secret)>; 2]) -> Option<String> {
    if token.len() < TOKEN_BYTES_MIN {
        return Some(format!("has fewer than {TOKEN_BYTES_MIN} bytes, so it can be guessed"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("has characters that a header cannot carry".to_owned());
    }
    known.iter().zip(TOKEN_TABLES).enumerate().find_map(|(table, (clients, named))| {
        let (other, _) = clients.iter().find(|(_, secret)| secret.reveal() == token)?;
        Some(if table == at {
            format!("is that of {} too, so nobody could tell the two apart", ticked(other))
        } else {
            format!("is that of {} in `{named}` too, so whoever may send events could do all that the commands do", ticked(other))
        })
    })
}

fn check_hosts(hosts: &[String], globals: &Node, drafts: &mut Vec<Draft>) {
    let scrubber = Scrubber::below(globals);
    for (at, host) in hosts.iter().enumerate() {
        let (name, port) = host.rsplit_once(':').map_or((host.as_str(), None), |(name, port)| (name, Some(port)));
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if !is_name || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            let message = scrubber.scrub(&format!("{} is no host", ticked(host)));
            let place = globals.span_at(&globals.steps(&format!("http.allowed_hosts.{at}")));
            drafts.push(Draft::error("bad-host", message).at(place).help("write a name, with a port or without: `router.lan`, `router.lan:9000`"));
        }
    }
}

fn level_problem(text: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    text.split(',').map(str::trim).find_map(|directive| {
        let (part, level) = directive.rsplit_once('=').map_or(("", directive), |(part, level)| (part, level));
        let known = LEVELS.contains(&level.to_ascii_lowercase().as_str());
        let part_fits =
            part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-')) && (!part.is_empty() || !directive.contains('='));
        match (known, part_fits) {
            (true, true) => None,
            (false, _) => Some(format!("{} is no level", ticked(level))),
            (true, false) => Some(format!("{} is no part of the program", ticked(part))),
        }
    })
}
