//! What was measured, against what was to be reached, as a page.

use std::fmt::Write as _;

use crate::{
    commands, ingest,
    matching::{self, FAMILIES, ROUTES},
    samples::{Figure, Samples},
    settings::Settings,
};

/// Below this share of a goal the program fails.
const TOLERATED: f64 = 0.9;

/// What a route may allocate for an event that it does not want, after decoding it: what a settlement is made of.
const WHOLE_ROUTE: f64 = 12.0;

/// What was found out about the next limit, by hand.
const NEXT: &str = include_str!("next.md");

/// One goal and what came of it.
pub struct Goal {
    name: String,
    measured: Figure,
    wanted: f64,
    /// More is better.
    at_least: bool,
    unit: &'static str,
}

impl Goal {
    /// 1 is reached, 0.5 is half of it.
    fn share(&self) -> f64 {
        let value = self.measured.median;
        match (self.at_least, value > 0.0) {
            (true, _) => value / self.wanted,
            (false, true) => self.wanted / value,
            (false, false) => f64::INFINITY,
        }
    }

    /// Is it so far away that the program fails?
    pub fn is_failed(&self) -> bool {
        self.share() < TOLERATED
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let verdict = if self.share() >= 1.0 { "reached" } else { "missed" };
        let relation = if self.at_least { "at least" } else { "at most" };
        let Figure { median, min, max } = self.measured;
        let unit = self.unit;
        format!("| {} | {relation} {:.2}{unit} | {median:.2}{unit} ({min:.2}–{max:.2}) | {verdict} |", self.name, self.wanted)
    }
}

/// All are ratios within one round, but for the time of a match, the memory and what is counted.
pub fn goals(samples: &Samples) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut judge = |name: String, measured: Option<Figure>, wanted: f64, at_least: bool, unit| {
        goals.extend(measured.map(|measured| Goal { name, measured, wanted, at_least, unit }));
    };
    let mut groups = Vec::new();
    for case in ingest::CASES {
        if !groups.contains(&case.group) {
            groups.push(case.group);
            let name = format!("store path, {} in a commit, against SQLite alone", case.group);
            judge(name, samples.ratio(&case.of("store"), &case.of("sqlite")), 0.8, true, "×");
        }
    }
    for case in ingest::CASES {
        let name = format!("HTTP to handled, {}, against SQLite alone with {} in a commit", case.name, case.group);
        judge(name, samples.ratio(&case.of("http"), &case.of("sqlite")), 0.4, true, "×");
    }
    judge("store path, 10000 routes, against 1 route".to_owned(), samples.ratio("10000 routes", "1 route"), 0.98, true, "×");
    for (family, _) in FAMILIES {
        judge(format!("a match among 10000 patterns, {family}"), samples.figure(&matching::of(family, 10_000)), 300.0, false, " ns");
    }
    judge("allocations for an event that is decoded and fits a pattern, but no filter".to_owned(), samples.figure("pattern and filter"), 0.0, false, "");
    judge("allocations of a whole route for an event that it does not want".to_owned(), samples.figure("whole route"), WHOLE_ROUTE, false, "");
    for beside in commands::BESIDE {
        let ratio = samples.ratio(&format!("exec, {beside} at once"), &format!("spawn, {beside} at once"));
        judge(format!("`exec`, {beside} at once, against bare spawning"), ratio, 0.6, true, "×");
    }
    judge("memory under load".to_owned(), samples.figure("memory under load"), 40.0, false, " MiB");
    goals
}

/// The whole page.
pub fn page(settings: &Settings, commit: &str, begun: &str, samples: &Samples, goals: &[Goal]) -> String {
    let mut page = String::new();
    let length = if settings.quick { "a tenth of the events" } else { "all events" };
    let _ = writeln!(
        page,
        "# Results of the embedded transport's benchmark

Written by `tests/bench/embedded/run`. Figures in one table come from interleaved rounds on one machine that other work shared; only their ratios mean something.
A ratio is that of two neighbours in one round; shown is the median of the rounds (least–most).

* commit: {commit}
* settings: {} rounds, {length}; envelopes of 1 to 2 KiB, 512 sessions, six keys; every commit synced (`synchronous = FULL`), `fdatasync` for the file
* machine: {begun}
* the router: the whole program in a process of its own, one route `session.thread.#`, its defaults, a handler that does nothing; the clients are one thread on the same machine

## Goals

The program fails below {TOLERATED} of a goal.

| goal | wanted | measured | |
|---|---|---|---|",
        settings.rounds
    );
    for goal in goals {
        let _ = writeln!(page, "{}", goal.line());
    }
    ways_in(&mut page, samples);
    finding_out(&mut page, samples);
    let _ = writeln!(page, "\n## Commands\n\nPrograms a second, `/bin/true`.\n\n| at once | `exec` handler | bare | ratio |\n|--:|--:|--:|--:|");
    for beside in commands::BESIDE {
        let (exec, bare) = (format!("exec, {beside} at once"), format!("spawn, {beside} at once"));
        let _ = writeln!(page, "| {beside} | {} | {} | {} |", samples.cell(&exec, 0), samples.cell(&bare, 0), samples.ratio_cell(&exec, &bare));
    }
    let _ = writeln!(
        page,
        "\n## Memory\n\nMiB of the program as it is shipped, with one route and the `log` handler: idle {}, the most while 64 clients send {}.",
        samples.cell("idle memory", 1),
        samples.cell("memory under load", 1)
    );
    let _ = write!(page, "\n{NEXT}");
    page
}

/// Builds of the program beside each other.
pub fn compared(settings: &Settings, samples: &Samples) -> String {
    let mut table = "| clients | program | events/s | this build / it | CPU µs an event | this build / it |\n|---|---|--:|--:|--:|--:|\n".to_owned();
    let others = settings.against.iter().map(|program| program.display().to_string());
    let programs: Vec<String> = std::iter::once(ingest::SHIPPED.to_owned()).chain(others).collect();
    for case in ingest::CASES {
        for program in &programs {
            let of = |program: &str, what: &str| case.of(&format!("{program}{what}"));
            let _ = writeln!(
                table,
                "| {} | {program} | {} | {} | {} | {} |",
                case.name,
                samples.cell(&of(program, ""), 0),
                samples.ratio_cell(&of(ingest::SHIPPED, ""), &of(program, "")),
                samples.cell(&of(program, " cpu"), 1),
                samples.ratio_cell(&of(ingest::SHIPPED, " cpu"), &of(program, " cpu"))
            );
        }
    }
    table
}

fn ways_in(page: &mut String, samples: &Samples) {
    let _ = writeln!(
        page,
        "\n## The way in\n\nEvents a second: from the first request to the last handling; through the store's port alone, with twice as many publishers as events in a
commit (how many there were is shown in brackets); the same rows in SQLite alone, one thread, as many in a transaction; the same bodies appended to a file, as many in a sync.\n\n\
         | clients | in a commit | HTTP to handled | store path | SQLite alone | file | HTTP / SQLite | store / SQLite | HTTP / file |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    );
    for case in ingest::CASES {
        let cell = |what: &str| samples.cell(&case.of(what), 0);
        let ratio = |of: &str, to: &str| samples.ratio_cell(&case.of(of), &case.of(to));
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            case.name,
            case.group,
            cell("http"),
            format_args!("{} [{}]", cell("store"), samples.cell(&case.of("store at once"), 0)),
            cell("sqlite"),
            cell("file"),
            ratio("http", "sqlite"),
            ratio("store", "sqlite"),
            ratio("http", "file")
        );
    }
    let _ = writeln!(
        page,
        "\nProcessor time in microseconds an event, of the process that does it.\n\n| clients | HTTP to handled | store path | SQLite alone |\n|---|--:|--:|--:|"
    );
    for case in ingest::CASES {
        let cell = |what: &str| samples.cell(&case.of(what), 1);
        let _ = writeln!(page, "| {} | {} | {} | {} |", case.name, cell("http cpu"), cell("store cpu"), cell("sqlite cpu"));
    }
    let _ = writeln!(
        page,
        "\nThe store path without syncs, 64 publishers: {} events a second with one route, {} with 10000, of which one wants the event.",
        samples.cell("1 route", 0),
        samples.cell("10000 routes", 0)
    );
}

fn finding_out(page: &mut String, samples: &Samples) {
    let _ = writeln!(
        page,
        "\n## Finding out who wants an event\n\nNanoseconds; a filter asks for one of four tools and the end of a file's path, and is the only one that wants the event or one of the others.\n"
    );
    let heads: Vec<String> = ROUTES.iter().map(|routes| format!("{routes} routes")).collect();
    let _ = writeln!(page, "| | {} |\n|---|{}|", heads.join(" | "), vec!["--:"; ROUTES.len()].join("|"));
    for (family, _) in FAMILIES {
        let cells: Vec<String> = ROUTES.iter().map(|routes| samples.cell(&matching::of(family, *routes), 0)).collect();
        let _ = writeln!(page, "| a match of all patterns, {family} | {} |", cells.join(" | "));
    }
    let cells: Vec<String> = ROUTES.iter().map(|routes| samples.cell(&format!("filter {routes}"), 0)).collect();
    let _ = writeln!(page, "| one filter | {} |", cells.join(" | "));
    let _ = writeln!(
        page,
        "\nDecoding an envelope: {} ns a KiB; a tree by `serde_json`: {}. The ratio: {}.",
        samples.cell("decode", 0),
        samples.cell("serde_json", 0),
        samples.ratio_cell("decode", "serde_json")
    );
    let _ = writeln!(
        page,
        "\nAllocations, counted: decoding {}; after it, pattern and filter {}; a whole route that wants nothing, from delivery to settlement and without the decoding, {} an event.",
        samples.cell("decoding", 1),
        samples.cell("pattern and filter", 1),
        samples.cell("whole route", 1)
    );
}
