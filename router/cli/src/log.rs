//! The log: set up once, written to the standard error, as text for people or one JSON object a line.
//!
//! What the router says about itself becomes log lines in [`crate::log_observer`]; how a line reaches the standard error
//! without waiting, in [`crate::log_pipe`].

use std::fmt::{self, Write as _};

use anyhow::Context as _;
use router_api::Clock as _;
use router_core::config::LogFormat;
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{
    log_pipe::LogPipe,
    system::SystemClock,
    terminal::{BAD, DIM, GOOD, WARN, harmless, styled},
};

/// Ends the log: when dropped, waits a moment for the last lines.
pub(crate) struct LogGuard {
    pipe: LogPipe,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.pipe.flush();
    }
}

/// What this library has to say is said by the router in its own words; its frames at `trace` hold passwords. Whoever names it in the level
/// hears it all the same.
const UNHEARD: &str = "lapin=off";

/// Begins the log of this process.
///
/// `level` is a filter of `tracing`: `info`, `info,router_core=debug`.
///
/// # Errors
///
/// When the filter is none, or the log was begun before.
pub(crate) fn begin(level: &str, format: LogFormat) -> anyhow::Result<LogGuard> {
    let filter = EnvFilter::try_new(format!("{UNHEARD},{level}")).with_context(|| format!("`{level}` is no log level"))?;
    let pipe = LogPipe::to_stderr().context("the thread of the log cannot be started")?;
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(pipe.clone()).event_format(Lines { format, colour });
    subscriber.try_init().map_err(|error| anyhow::anyhow!("the log was begun before: {error}"))?;
    Ok(LogGuard { pipe })
}

/// The level for a command: `base`, made more or less talkative by `-v` and `-q`.
pub(crate) fn level(base: &str, verbose: u8, quiet: u8) -> String {
    match (verbose, quiet) {
        (0, 0) => base.to_owned(),
        // What the libraries below say is seldom what somebody looks for.
        (1, 0) => {
            "info,router_core=debug,router_amqp=debug,router_embedded=debug,router_effects=debug,router_http=debug,event_router=debug,plugins=debug".to_owned()
        }
        (_, 0) => {
            "debug,router_core=trace,router_amqp=trace,router_embedded=trace,router_effects=trace,router_http=trace,event_router=trace,plugins=trace".to_owned()
        }
        (_, 1) => "warn".to_owned(),
        (_, 2) => "error".to_owned(),
        (..) => "off".to_owned(),
    }
}

struct Lines {
    format: LogFormat,
    colour: bool,
}

/// The fields of one line, in their order.
#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Collected {
    fn add(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::String(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _cx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut collected = Collected::default();
        event.record(&mut collected);
        let metadata = event.metadata();
        let now = SystemClock.now();
        let line = match self.format {
            LogFormat::Json => json_line(now, *metadata.level(), metadata.target(), &collected),
            LogFormat::Text => {
                let is_ours = metadata.target().starts_with("event_router");
                collected.fields.retain(|(name, value)| !is_said(&collected.message, name, value, is_ours));
                text_line(now, *metadata.level(), &collected, self.colour)
            }
        };
        writer.write_str(&line)
    }
}

fn json_line(now: jiff::Timestamp, level: Level, target: &str, collected: &Collected) -> String {
    // Written by hand for its order: what people look for first stands first.
    let text = |text: &str| Value::from(text).to_string();
    let mut line =
        format!("{{\"ts\":\"{now:.3}\",\"level\":\"{}\",\"msg\":{},\"target\":{}", level.as_str().to_ascii_lowercase(), text(&collected.message), text(target));
    for (name, value) in &collected.fields {
        let _ = write!(line, ",{}:{value}", text(name));
    }
    line.push_str("}\n");
    line
}

/// Fields of this program's own lines whose sentences say them in other words; programs read them in the JSON form.
const SAID: &[&str] = &["delay_ms", "handler", "kind", "reason", "retry_in_ms", "unwritten"];

/// Does the sentence say it already?
fn is_said(message: &str, name: &str, value: &Value, is_ours: bool) -> bool {
    (is_ours && SAID.contains(&name)) || value.as_str().is_some_and(|text| message.contains(&format!("`{text}`")))
}

fn text_line(now: jiff::Timestamp, level: Level, collected: &Collected, colour: bool) -> String {
    let (name, style) = match level {
        Level::ERROR => ("ERROR", BAD),
        Level::WARN => ("WARN ", WARN),
        Level::INFO => ("INFO ", GOOD),
        Level::DEBUG => ("DEBUG", DIM),
        Level::TRACE => ("TRACE", DIM),
    };
    let mut line = format!("{} {} {}", styled(DIM, format_args!("{now:.3}")), styled(style, name), harmless(&collected.message));
    for (name, value) in &collected.fields {
        let text = match value {
            Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => harmless(text).into_owned(),
            Value::String(text) => format!("\"{}\"", harmless(text).replace('"', "\\\"")),
            other => other.to_string(),
        };
        let _ = write!(line, " {}{text}", styled(DIM, format_args!("{name}=")));
    }
    line.push('\n');
    if colour { line } else { anstream::adapter::strip_str(&line).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected() -> Collected {
        Collected { message: "route `ci`\nstarted".into(), fields: vec![("route", "ci".into()), ("error", "a \"b\"\u{1b}[31m".into()), ("attempt", 3.into())] }
    }

    #[test]
    fn a_text_line_stays_one_line_whatever_is_in_it() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let line = text_line(now, Level::WARN, &collected(), false);
        assert_eq!(line, "1970-01-01T00:00:00.000Z WARN  route `ci`\\nstarted route=ci error=\"a \\\"b\\\"\\u{1b}[31m\" attempt=3\n");
    }

    #[test]
    fn a_text_line_repeats_nothing_that_its_sentence_says() {
        let said = |name, value: Value, is_ours| is_said("`a.b` failed on route `ci`, it is tried again in 3 s", name, &value, is_ours);
        assert!(said("route", "ci".into(), false) && said("key", "a.b".into(), true) && said("retry_in_ms", 3_000.into(), true));
        assert!(!said("route", "c".into(), true) && !said("attempt", 3.into(), true) && !said("reason", "x".into(), false));
    }

    #[test]
    fn a_json_line_is_one_object_with_the_names_that_collectors_expect() {
        let line = json_line(jiff::Timestamp::UNIX_EPOCH, Level::ERROR, "router_core", &collected());
        assert_eq!(line.matches('\n').count(), 1);
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["ts"], "1970-01-01T00:00:00.000Z");
        assert_eq!(object["level"], "error");
        assert_eq!(object["msg"], "route `ci`\nstarted");
        assert_eq!((&object["route"], &object["attempt"]), (&Value::from("ci"), &Value::from(3)));
    }

    #[test]
    fn verbosity_moves_the_level_both_ways() {
        assert_eq!(level("info", 0, 0), "info");
        assert!(level("info", 1, 0).contains("router_core=debug"));
        assert_eq!(level("info", 0, 1), "warn");
        assert_eq!(level("info", 0, 3), "off");
    }
}
