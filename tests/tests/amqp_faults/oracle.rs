//! The account of all events: what was confirmed was handled, is a dead letter, or still waits; in order; and not too often.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use router_tests::AmqpClient;

use crate::{
    load::id_in,
    world::{DEAD, QUEUE, World, until, wait},
};

/// What a handler wrote.
pub struct Log {
    path: PathBuf,
}

/// A line of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `begun`, or what it answered.
    pub what: String,
    pub id: u64,
    pub lane: u64,
    pub seq: u64,
    pub attempt: u32,
}

impl Log {
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its size: it grows when something is handled.
    pub fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }

    /// Waits until it has grown. How long that took.
    pub fn await_growth(&self, bytes: u64) -> Duration {
        let (begun, before) = (Instant::now(), self.bytes());
        until("something more is handled", || (self.bytes() >= before + bytes).then_some(()));
        begun.elapsed()
    }

    /// All whole lines.
    pub fn entries(&self) -> Vec<Entry> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(Entry::parse).collect()
    }

    /// Those of one kind.
    pub fn of(&self, what: &str) -> Vec<Entry> {
        self.entries().into_iter().filter(|entry| entry.what == what).collect()
    }
}

impl Entry {
    /// `WHAT ID LANE SEQ VERDICT ATTEMPT`.
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, id, lane, seq, _, attempt] = words[..] else { panic!("`{line}` is no line of a handler") };
        let number = |word: &str| word.parse::<u64>().unwrap_or_else(|error| panic!("`{line}`: {error}"));
        Self { what: what.to_owned(), id: number(id), lane: number(lane), seq: number(seq), attempt: u32::try_from(number(attempt)).expect("few attempts") }
    }
}

/// What the account says, for bounds that are the test's own.
#[derive(Debug)]
pub struct Account {
    /// Handlings that were repetitions.
    pub repeated: usize,
    /// Attempts that were charged beyond the first, summed over the events.
    pub charged: usize,
    /// Events on the dead queue.
    pub dead: BTreeSet<u64>,
}

/// Waits until the route's queue is empty and accounts for all that was confirmed, the order of each lane included.
pub fn settle(what: &str, world: &World, confirmed: &BTreeSet<u64>) -> Account {
    let account = settle_unordered(what, &[world], confirmed);
    let all = world.log("kept").entries();
    let entries: Vec<Entry> = all.iter().filter(|entry| entry.what == "done").cloned().collect();
    if let Some((before, after)) = out_of_order(&entries) {
        // What the handler was given of this lane around that moment.
        let near = |entry: &&Entry| entry.lane == after.lane && entry.seq.abs_diff(after.seq) <= 4 + after.seq.abs_diff(before.seq);
        let told: Vec<String> = all.iter().filter(near).map(|entry| format!("{} {} attempt {}", entry.what, entry.seq, entry.attempt)).collect();
        panic!("{what}: lane {}: {} was handled after {}:\n{}", after.lane, after.seq, before.seq, told.join("\n"));
    }
    account
}

/// As [`settle`], for routers that share a queue in no order, each with a log of its own.
pub fn settle_unordered(what: &str, worlds: &[&World], confirmed: &BTreeSet<u64>) -> Account {
    let world = worlds.first().expect("a router");
    world.await_empty(QUEUE);
    let dead = wait(async {
        let client = AmqpClient::connect(&world.vhost.url()).await;
        let dead = client.drain(DEAD).await.iter().map(|message| id_in(&message.body)).collect();
        client.close().await;
        dead
    });
    let entries: Vec<Entry> = worlds.iter().flat_map(|world| world.log("kept").entries()).collect();
    judge(what, confirmed, &entries, dead)
}

/// Compares, when no queue holds anything any more. Prints what is not a mistake, fails on what is.
pub fn judge(what: &str, confirmed: &BTreeSet<u64>, entries: &[Entry], dead: BTreeSet<u64>) -> Account {
    let handlings: Vec<&Entry> = entries.iter().filter(|entry| entry.what == "done").collect();
    let handled: BTreeSet<u64> = handlings.iter().map(|entry| entry.id).collect();
    let lost: Vec<u64> = confirmed.iter().filter(|id| !handled.contains(id) && !dead.contains(id)).copied().collect();
    let invented: Vec<&u64> = handled.iter().chain(&dead).filter(|id| !confirmed.contains(id)).collect();
    let mut attempts: BTreeMap<u64, u32> = BTreeMap::new();
    for entry in entries {
        let most = attempts.entry(entry.id).or_default();
        *most = entry.attempt.max(*most);
    }
    let charged = attempts.values().map(|most| usize::try_from(most.saturating_sub(1)).unwrap_or(usize::MAX)).sum();
    let repeated = handlings.len() - handled.len();
    say!("{what}: {} confirmed, {} handled, {} dead letters, {repeated} repeated, {charged} attempts charged", confirmed.len(), handled.len(), dead.len());
    assert!(lost.is_empty(), "{what}: {} events are lost: {lost:?}", lost.len());
    assert!(invented.is_empty(), "{what}: nobody published {invented:?}");
    Account { repeated, charged, dead }
}

/// The first that came behind a later one of its lane, repetitions aside.
fn out_of_order(handlings: &[Entry]) -> Option<(&Entry, &Entry)> {
    let mut seen = BTreeSet::new();
    let mut highest: BTreeMap<u64, &Entry> = BTreeMap::new();
    for entry in handlings {
        if seen.insert(entry.id)
            && let Some(before) = highest.insert(entry.lane, entry)
            && before.seq > entry.seq
        {
            return Some((before, entry));
        }
    }
    None
}

#[cfg(test)]
mod can_fail {
    use super::*;

    fn log(lines: &[&str]) -> Vec<Entry> {
        lines.iter().map(|line| Entry::parse(line)).collect()
    }

    fn of(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    const LINES: [&str; 4] = ["begun 0 0 0 done 1", "done 0 0 0 done 1", "done 12 0 1 done 2", "done 0 0 0 done 1"];

    #[test]
    fn the_account_counts_repetitions_and_attempts() {
        let account = judge("", &of(&[0, 12, 13]), &log(&LINES), of(&[13]));
        assert_eq!((account.repeated, account.charged, account.dead), (1, 1, of(&[13])));
    }

    #[test]
    #[should_panic(expected = "1 events are lost: [13]")]
    fn a_lost_event_is_found() {
        judge("", &of(&[0, 12, 13]), &log(&LINES), of(&[]));
    }

    #[test]
    #[should_panic(expected = "nobody published [12]")]
    fn an_invented_event_is_found() {
        judge("", &of(&[0]), &log(&LINES), of(&[]));
    }

    #[test]
    fn a_lane_out_of_order_is_found_and_a_repetition_is_none() {
        let found = |lines: &[&str]| out_of_order(&log(lines)).map(|(before, after)| (before.seq, after.seq));
        assert_eq!(found(&["done 0 0 0 done 1", "done 24 0 2 done 1", "done 12 0 1 done 1"]), Some((2, 1)));
        assert_eq!(found(&["done 0 0 0 done 1", "done 12 0 1 done 1", "done 0 0 0 done 2", "done 1 1 0 done 1"]), None);
    }
}
