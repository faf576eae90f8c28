//! The fuzz targets on what is known, and on mutations of it: each file of `tests/fuzz/corpus` as it is, then changed at random, the same
//! way in each run. `tests/fuzz/run` goes on from there for as long as one likes.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use router_tests::{
    fuzz::{TARGETS, Target},
    workspace,
};

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index, u8),
    Repeat(prop::sample::Index, u8),
    Word(prop::sample::Index, prop::sample::Index),
    Bytes(prop::sample::Index, Vec<u8>),
    /// Takes the rest of another input.
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    use prop::sample::Index;
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Flip(at, byte)),
        1 => any::<Index>().prop_map(Change::Cut),
        2 => (any::<Index>(), 1..40_u8).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (any::<Index>(), 1..60_u8).prop_map(|(at, length)| Change::Repeat(at, length)),
        3 => (any::<Index>(), any::<Index>()).prop_map(|(at, word)| Change::Word(at, word)),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Change::Bytes(at, bytes)),
        1 => (any::<Index>(), any::<Index>(), any::<Index>()).prop_map(|(at, other, from)| Change::Splice(at, other, from)),
    ]
}

fn apply(input: &mut Vec<u8>, change: &Change, target: Target, corpus: &[(PathBuf, Vec<u8>)]) {
    let length = input.len();
    let place = |index: &prop::sample::Index| index.index(length + 1);
    let run = |at: &prop::sample::Index, wanted: u8| place(at)..(place(at) + usize::from(wanted)).min(length);
    match change {
        Change::Flip(at, byte) if length > 0 => input[at.index(length)] ^= (*byte).max(1),
        Change::Flip(..) => {}
        Change::Cut(at) => input.truncate(place(at)),
        Change::Remove(at, wanted) => drop(input.drain(run(at, *wanted))),
        Change::Repeat(at, wanted) => {
            let again = input[run(at, *wanted)].to_vec();
            input.splice(place(at)..place(at), again);
        }
        Change::Word(at, word) => drop(input.splice(place(at)..place(at), target.words[word.index(target.words.len())].bytes())),
        Change::Bytes(at, bytes) => drop(input.splice(place(at)..place(at), bytes.iter().copied())),
        Change::Splice(at, other, from) => {
            let other = &corpus[other.index(corpus.len())].1;
            input.truncate(place(at));
            input.extend_from_slice(&other[from.index(other.len() + 1)..]);
        }
    }
}

fn corpus(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = workspace().join("tests/fuzz/corpus").join(target.name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut inputs: Vec<_> = entries.map(|entry| entry.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "`{}` has no seeds", target.name);
    inputs
}

/// Runs one input; what fails is kept, so that it can be looked at and become a file of the corpus.
fn run(target: Target, name: &str, input: &[u8]) {
    if let Err(cause) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let why = cause.downcast_ref::<String>().cloned().or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
        fs::write(&kept, input).unwrap();
        panic!("`{}` on {name}: {why}; the input is kept in {}: {:?}", target.name, kept.display(), String::from_utf8_lossy(input));
    }
}

fn try_it(name: &str) {
    let target = *TARGETS.iter().find(|target| target.name == name).expect("a target");
    let corpus = corpus(target);
    for (path, input) in &corpus {
        run(target, &path.display().to_string(), input);
    }
    // The same mutations each time, unless the long form asks for new ones.
    let is_long = std::env::var_os("EVENT_ROUTER_TESTS_LONG").is_some();
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = if is_long { TestRunner::new(config) } else { TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)) };
    let count = if is_long { target.mutations * 20 } else { target.mutations };
    let strategy = (any::<prop::sample::Index>(), prop::collection::vec(change(), 1..6));
    for _ in 0..count {
        let (seed, changes) = strategy.new_tree(&mut runner).expect("a value").current();
        let (path, mut input) = corpus[seed.index(corpus.len())].clone();
        for change in &changes {
            apply(&mut input, change, target, &corpus);
            input.truncate(200_000);
        }
        run(target, &format!("a mutation of {}", path.display()), &input);
    }
}

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                try_it(stringify!($name));
            }
        )+

        #[test]
        fn every_target_is_tried() {
            let tried = [$(stringify!($name)),+];
            let all: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(all, tried);
        }
    };
}

targets!(envelope, pattern, filter, template, config, http, hook, redaction, transcript, store);
