//! `sessions`: coding sessions, what they did and what they cost; one by one, added up, and from transcripts.

pub(crate) mod args;
mod entry;
mod export;
mod import;
mod list;
mod show;
mod stats;

use jiff::{Timestamp, ToSpan as _, Zoned, tz::TimeZone};

use router_api::AdminError;

use self::args::SessionsCommand;
use crate::{Ended, args::Global, terminal::Output};

/// Questions that are asked again because the router has not looked at all of its events yet.
const ROUNDS_MAX: usize = 500;

pub(crate) fn run(global: &Global, command: &SessionsCommand, out: &mut Output) -> anyhow::Result<Ended> {
    let _log = global.begin_quiet_log()?;
    match command {
        SessionsCommand::List(args) => list::run(global, args, out),
        SessionsCommand::Show(args) => show::run(global, args, out),
        SessionsCommand::Stats(args) => stats::run(global, args, out),
        SessionsCommand::Export(args) => export::run(global, args, out),
        SessionsCommand::Import(args) => import::run(global, args, out),
    }
}

/// Asks again until the router has looked at all of its events.
async fn caught_up<T>(mut ask: impl AsyncFnMut() -> Result<T, AdminError>, behind: fn(&T) -> u64) -> Result<T, AdminError> {
    let mut answer = ask().await?;
    for _ in 0..ROUNDS_MAX {
        if behind(&answer) == 0 {
            break;
        }
        answer = ask().await?;
    }
    Ok(answer)
}

/// The beginning of the day, in this machine's zone, so that with today there are `days` days.
fn since_days(days: u32, now: Timestamp) -> Timestamp {
    let today = now.to_zoned(TimeZone::system());
    let first = today.checked_sub((i64::from(days) - 1).days()).and_then(|day: Zoned| day.start_of_day());
    first.map_or(Timestamp::MIN, |first| first.timestamp())
}

/// The name by which another process knows this machine's zone.
fn zone_name() -> String {
    TimeZone::system().iana_name().unwrap_or("UTC").to_owned()
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Dollars; small sums keep the digits that say something.
fn dollars(cost: f64) -> String {
    if cost > 0.0 && cost < 0.1 { format!("${cost:.4}") } else { format!("${cost:.2}") }
}

/// What is known of a cost, and whether that is all of it.
fn cost(cost: Option<f64>, known: f64) -> String {
    match cost {
        Some(cost) => dollars(cost),
        None if known > 0.0 => format!("> {}", dollars(known)),
        None => "–".to_owned(),
    }
}

/// Seconds as `3 h 05 min`.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_costs_read_as_people_write_them() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [cost(Some(0.0), 0.0), cost(Some(0.020_022), 0.0), cost(Some(12.345), 0.0), cost(None, 1.0), cost(None, 0.0)],
            ["$0.00", "$0.0200", "$12.35", "> $1.00", "–"]
        );
        assert_eq!([5, 65, 11_100].map(span), ["5 s", "1 min", "3 h 05 min"]);
    }

    #[test]
    fn so_many_days_begin_with_the_first_of_them() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let begun = |days| since_days(days, now).to_zoned(TimeZone::system());
        assert_eq!(begun(1).date(), now.to_zoned(TimeZone::system()).date());
        assert_eq!(begun(30).date(), begun(1).date().checked_sub(29.days()).unwrap());
    }
}
