//! What the demo prints: one block for each event, one for each burst, and at the end what every handler would have done.

use std::{collections::BTreeMap, time::Duration};

use router_api::Envelope;
use router_core::{
    config::Config,
    explain::{Explanation, RouteVerdict, Verdict},
};

use super::{
    Collecting,
    watching::{EndedAs, Outcome},
};
use crate::{
    session::Recorded,
    terminal::{BAD, BOLD, DIM, GOOD, NAME, Output, WARN, counted, duration, harmless, shortened, styled},
};

/// Near misses that are told for each event.
const MISSES_MAX: usize = 2;

/// One event and what is known of it by now.
pub(crate) struct Told<'a> {
    pub(crate) number: usize,
    pub(crate) recorded: &'a Recorded,
    pub(crate) routed: bool,
    /// Secrets that were taken out of it.
    pub(crate) redactions: u64,
    pub(crate) explanation: &'a Explanation,
    /// Of routes that are done with it.
    pub(crate) outcomes: &'a BTreeMap<String, Outcome>,
    /// Of routes that collect: their open bursts.
    pub(crate) collecting: &'a BTreeMap<String, Collecting>,
}

pub(crate) struct Telling {
    width: usize,
    /// For the end, in the order of the configuration: what was told of each route.
    sums: BTreeMap<String, Sum>,
    events: usize,
    unmatched: usize,
}

#[derive(Default)]
struct Sum {
    handled: usize,
    handlings: usize,
    /// The last thing that it would have done.
    last: Option<String>,
    effects: usize,
    failures: usize,
}

impl Telling {
    pub(crate) fn new(config: &Config) -> Self {
        let names = config.routes.iter().map(|route| route.name.as_str().len());
        Self { width: names.max().unwrap_or(0), sums: BTreeMap::new(), events: 0, unmatched: 0 }
    }

    fn name(&self, route: &str) -> String {
        styled(NAME, format_args!("{route:width$}", width = self.width))
    }

    pub(crate) fn opening(&self, out: &mut Output, config: &Config) -> anyhow::Result<()> {
        out.line(styled(BOLD, "A recorded coding session flows through the routes, in dry run: nothing is sent or run."))?;
        let off: Vec<&str> = config.routes.iter().filter(|route| !route.enabled).map(|route| route.name.as_str()).collect();
        if !off.is_empty() {
            out.line(styled(DIM, format_args!("Switched off in this configuration: {}", off.join(", "))))?;
        }
        out.line(styled(DIM, "✓ fires   … collects a burst   ✗ not quite, with the reason   · nothing to do   ! fails   ∅ nobody wants it"))?;
        Ok(())
    }

    pub(crate) fn event(&mut self, out: &mut Output, told: &Told<'_>, config: &Config) -> anyhow::Result<()> {
        self.events += 1;
        out.gap()?;
        let key = styled(BOLD, format_args!("{:<38}", harmless(told.recorded.key.as_str())));
        out.line(format_args!("{:>2}  {key} {}", told.number, harmless(&told.recorded.note)))?;
        if told.redactions > 0 {
            out.line(format_args!("    {}", styled(WARN, format_args!("{} taken out before it was stored", counted(told.redactions, "secret", "secrets")))))?;
        }
        if !told.routed {
            self.unmatched += 1;
            out.line(format_args!("    {} no route wants it: stored and counted, and no failure", styled(WARN, "∅")))?;
        }
        let (mut misses, mut untold, mut elsewhere) = (0, 0, 0);
        for route in &told.explanation.routes {
            let name = self.name(route.route.as_str());
            match &route.verdict {
                Verdict::Fires { .. } => self.fired(out, route, told, config)?,
                Verdict::FilterMismatch { failure, .. } if misses < MISSES_MAX => {
                    misses += 1;
                    // Under the sign that nobody wants it no second one is needed.
                    let sign = if told.routed { styled(BAD, "✗") } else { " ".to_owned() };
                    out.line(format_args!("    {sign} {name}  {}", styled(DIM, shortened(&failure.to_string(), 160))))?;
                }
                Verdict::FilterMismatch { .. } | Verdict::Undecodable { .. } => untold += 1,
                Verdict::KeyMismatch { .. } => elsewhere += 1,
                // Named at the beginning, once.
                Verdict::Disabled { .. } => {}
            }
        }
        let mut rest = Vec::new();
        if untold > 0 {
            rest.push(format!("{} by the content", counted(untold, "more does not fit", "more do not fit")));
        }
        if elsewhere > 0 {
            rest.push(counted(elsewhere, "listens to other keys", "listen to other keys"));
        }
        if !rest.is_empty() {
            out.line(format_args!("    {}", styled(DIM, format_args!("· {}", rest.join(", ")))))?;
        }
        // One block after the other, as if it happened now.
        out.flush()?;
        Ok(())
    }

    fn fired(&mut self, out: &mut Output, route: &RouteVerdict, told: &Told<'_>, config: &Config) -> anyhow::Result<()> {
        let name = self.name(route.route.as_str());
        if let Some(outcome) = told.outcomes.get(route.route.as_str()) {
            self.add(outcome);
            let (sign, text) = in_words(&outcome.ended, "");
            out.line(format_args!("    {sign} {name}  {text}"))?;
        } else if let Some(burst) = told.collecting.get(route.route.as_str()) {
            let quiet = config.routes.iter().find(|config| config.name == route.route).and_then(|route| route.coalesce.as_ref());
            let quiet = quiet.map(|coalesce| duration(coalesce.quiet)).unwrap_or_default();
            let text = format!("collects a burst, {} so far; runs after {quiet} of quiet", burst.members.len());
            out.line(format_args!("    {} {name}  {}", styled(GOOD, "…"), styled(DIM, text)))?;
        } else {
            out.line(format_args!("    {} {name}  {}", styled(GOOD, "✓"), styled(DIM, "fires; its handler is still at it")))?;
        }
        Ok(())
    }

    /// Time is skipped, so that bursts close.
    pub(crate) fn skipping(&self, out: &mut Output, quiet: Duration) -> anyhow::Result<()> {
        out.gap()?;
        out.line(format_args!("    {}", styled(BOLD, format_args!("nothing happens for {}", duration(quiet)))))?;
        Ok(())
    }

    /// A burst was handled.
    pub(crate) fn burst(&mut self, out: &mut Output, outcome: &Outcome, members: &[Envelope]) -> anyhow::Result<()> {
        self.add(outcome);
        let note = if outcome.events == 1 { String::new() } else { format!("({}{})", members_text(members), effects_text(&outcome.ended)) };
        if let Some(sum) = self.sums.get_mut(&outcome.route)
            && let Some(last) = &mut sum.last
            && !note.is_empty()
        {
            last.push_str(&format!("  {note}"));
        }
        let (sign, text) = in_words(&outcome.ended, &note);
        out.gap()?;
        out.line(format_args!(
            "    {}",
            styled(
                BOLD,
                format_args!(
                    "quiet: {}",
                    if outcome.events == 1 { "the event is handled".to_owned() } else { format!("{} events are one handling", outcome.events) }
                )
            )
        ))?;
        out.line(format_args!("    {sign} {}  {text}", self.name(&outcome.route)))?;
        out.flush()?;
        Ok(())
    }

    fn add(&mut self, outcome: &Outcome) {
        let sum = self.sums.entry(outcome.route.clone()).or_default();
        sum.handled += outcome.events;
        sum.handlings += 1;
        match &outcome.ended {
            EndedAs::WouldDo(effects) => {
                sum.effects += effects.len();
                sum.last = effects.first().cloned();
            }
            EndedAs::Otherwise(text) | EndedAs::Nothing(text) => {
                sum.last.get_or_insert_with(|| text.clone());
            }
            EndedAs::Failed(error) => {
                sum.failures += 1;
                sum.last = Some(error.clone());
            }
        }
    }

    pub(crate) fn closing(&self, out: &mut Output, config: &Config, redactions: u64, program: &str) -> anyhow::Result<()> {
        out.gap()?;
        out.line(styled(BOLD, "What the handlers would have done"))?;
        for route in &config.routes {
            let Some(sum) = self.sums.get(route.name.as_str()) else { continue };
            let times = if sum.handlings == 1 { String::new() } else { format!(" (the last of {})", sum.handlings) };
            let last = with_short_ids(sum.last.as_deref().unwrap_or_default());
            let shown = if sum.failures > 0 { styled(BAD, last) } else { last };
            out.line(format_args!(
                "  {}  {:>2} {}  {shown}{}",
                self.name(route.name.as_str()),
                sum.handled,
                if sum.handled == 1 { "event " } else { "events" },
                styled(DIM, times)
            ))?;
        }
        out.gap()?;
        let mut facts = vec![counted(self.events as u64, "event", "events")];
        if self.unmatched > 0 {
            facts.push(format!("{} that no route wanted", self.unmatched));
        }
        if redactions > 0 {
            facts.push(format!("{} taken out before anything was stored", counted(redactions, "secret", "secrets")));
        }
        out.line(styled(DIM, facts.join(", ")))?;
        out.gap()?;
        out.line(styled(BOLD, "Next"))?;
        let steps = [
            ("run", "be the service: events come in over HTTP and are stored before anything runs"),
            ("publish --sample write", "send it one of these events, from another terminal"),
            ("events", "see what became of it"),
            ("explain 1", "see why each route fired or did not"),
            ("plugins", "what a route can do; five lines in config/router.toml make one"),
        ];
        let width = steps.iter().map(|(step, _)| step.len()).max().unwrap_or(0);
        for (step, what) in steps {
            out.line(format_args!("  {program} {step:width$}  {}", styled(DIM, what)))?;
        }
        Ok(())
    }
}

fn in_words(ended: &EndedAs, note: &str) -> (String, String) {
    let note = if note.is_empty() { String::new() } else { format!("  {}", styled(DIM, note)) };
    match ended {
        EndedAs::WouldDo(effects) => (styled(GOOD, "✓"), format!("{}{note}", with_short_ids(&effects.join("; ")))),
        EndedAs::Nothing(text) => (styled(DIM, "·"), format!("{}{note}", styled(DIM, text))),
        EndedAs::Otherwise(text) => (styled(GOOD, "✓"), format!("{}{note}", styled(DIM, text))),
        EndedAs::Failed(error) => (styled(BAD, "!"), format!("{}{note}", styled(BAD, error))),
    }
}

/// `7 writes`, or `7 events` where not all are.
fn members_text(members: &[Envelope]) -> String {
    let writes = !members.is_empty() && members.iter().all(|event| event.tool_name().is_some_and(|name| name.eq_ignore_ascii_case("write")));
    if writes { counted(members.len() as u64, "write", "writes") } else { counted(members.len() as u64, "event", "events") }
}

/// `, 1 run` or `, 2 calls`.
fn effects_text(ended: &EndedAs) -> String {
    let EndedAs::WouldDo(effects) = ended else { return String::new() };
    let runs = effects.iter().filter(|effect| effect.starts_with("would run")).count() as u64;
    let others = effects.len() as u64 - runs;
    let parts = [(runs, counted(runs, "run", "runs")), (others, counted(others, "call", "calls"))];
    parts.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| format!(", {text}")).collect()
}

/// Ids in addresses by their first letters: in full they hide what differs from line to line.
fn with_short_ids(text: &str) -> String {
    const LENGTH: usize = 36;
    let is_id = |text: &str| {
        let fits = |(at, byte): (usize, u8)| if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { byte.is_ascii_hexdigit() };
        text.len() >= LENGTH && text.bytes().take(LENGTH).enumerate().all(fits)
    };
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if is_id(rest) {
            shown.push_str(&rest[..4]);
            shown.push('…');
            rest = &rest[LENGTH..];
        } else {
            shown.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    shown
}

/// How this program was called: in a fresh clone through cargo, and with which configuration.
pub(crate) fn program(config: &[std::path::PathBuf]) -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let called = std::path::Path::new(&called);
    let is_in = |name: &str| called.components().any(|part| part.as_os_str() == name);
    let program = match (is_in("target"), is_in("release")) {
        (true, true) => "cargo run --release --".to_owned(),
        (true, false) => "cargo run --".to_owned(),
        (false, _) if called.components().count() > 1 => shell_word(&called.to_string_lossy()),
        (false, _) => "event-router".to_owned(),
    };
    config.iter().fold(program, |program, path| format!("{program} -c {}", shell_word(&path.to_string_lossy())))
}

fn shell_word(text: &str) -> String {
    harmless(&router_api::display_argv(&[text.to_owned()])).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shortened_and_the_rest_stays() {
        assert_eq!(with_short_ids("PUT http://h/sessions/5f0c2f0e-7d0b-4b52-9a63-2f1f6f3a9c11; ü"), "PUT http://h/sessions/5f0c…; ü");
        assert_eq!(with_short_ids("5f0c2f0e-7d0b-4b52"), "5f0c2f0e-7d0b-4b52");
    }
}
