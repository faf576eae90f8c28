//! The texts that the normalised view has names for (`session_id`, `tool_name`, …), kept by the walk that checks the body: a filter or
//! an `order_by` on them needs no tree.
//!
//! Which place counts depends on the shape, which is known only when the walk is over. So the walk keeps a text wherever *any* shape
//! may look for one: [`BODY`] is the tree of those places, each with a number, and a shape's list of places becomes a list of numbers.

use std::{borrow::Cow, sync::LazyLock};

use bytes::Bytes;

use crate::{
    dialect::{Dialect, FILE_PATH, GIT_BRANCH, Root, SESSION_ID, TOOL_NAME, WORKING_DIRECTORY, What},
    text::Text,
};

/// An object in which texts are looked for, by its members.
#[derive(Debug)]
pub(crate) struct Spot {
    members: &'static [Member],
    /// Its members count as well.
    also: Option<&'static Spot>,
}

/// A member of a [`Spot`]: a text, or an object with texts.
#[derive(Debug)]
struct Member {
    name: &'static str,
    /// Its number, or that of its first text, counted within the spot.
    at: usize,
    inside: Option<&'static Spot>,
    /// So many texts may stand in it.
    count: usize,
}

/// Where the walk stands, if it stands somewhere that counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Nowhere,
    /// A text here is kept under this number.
    Text(usize),
    /// An object here has members that count, from this number on.
    Object(&'static Spot, usize),
}

const fn text(name: &'static str, at: usize) -> Member {
    Member { name, at, inside: None, count: 1 }
}

const fn object(name: &'static str, at: usize, inside: &'static Spot, count: usize) -> Member {
    Member { name, at, inside: Some(inside), count }
}

static INPUT: Spot = Spot { members: &[text("file_path", 0), text("notebook_path", 1), text("path", 2)], also: None };
static METADATA: Spot = Spot { members: &[text("tool_name", 0), object("tool_input", 1, &INPUT, 3)], also: None };

/// What any shape may keep in its payload, and a flat one in its body.
static PAYLOAD: Spot = Spot {
    members: &[
        text("session_id", 0),
        text("sessionId", 1),
        object("tool_metadata", 2, &METADATA, 4),
        text("tool_name", 6),
        text("toolName", 7),
        object("tool_input", 8, &INPUT, 3),
        object("arguments", 11, &INPUT, 3),
        text("file_path", 14),
        text("filePath", 15),
        text("working_directory", 16),
        text("workingDirectory", 17),
        text("cwd", 18),
        text("working_dir", 19),
        text("git_branch", 20),
        text("gitBranch", 21),
        text("invocation_id", 22),
        text("thread_id", 23),
    ],
    also: None,
};
const IN_PAYLOAD: usize = 24;

static REPO: Spot = Spot { members: &[text("git_root", 0), text("branch", 1)], also: None };
static CODE_STATE: Spot = Spot { members: &[text("branch", 0)], also: None };
static AGENT_CONTEXT: Spot = Spot { members: &[object("code_state", 0, &CODE_STATE, 1)], also: None };

/// The body.
static BODY: Spot = Spot {
    members: &[
        object("payload", IN_PAYLOAD, &PAYLOAD, IN_PAYLOAD),
        object("data", IN_PAYLOAD * 2, &PAYLOAD, IN_PAYLOAD),
        object("raw_payload", IN_PAYLOAD * 3, &PAYLOAD, IN_PAYLOAD),
        object("repo", IN_PAYLOAD * 4, &REPO, 2),
        object("agent_context", IN_PAYLOAD * 4 + 2, &AGENT_CONTEXT, 1),
        text("correlationid", IN_PAYLOAD * 4 + 3),
    ],
    also: Some(&PAYLOAD),
};
const IN_BODY: usize = IN_PAYLOAD * 4 + 4;

impl Spot {
    fn member(&self, name: &str) -> Option<&'static Member> {
        self.members.iter().find(|member| member.name == name).or_else(|| self.also?.member(name))
    }
}

impl Place {
    /// The body itself.
    pub(crate) const BODY: Self = Self::Object(&BODY, 0);
}

/// The texts that a walk has kept, by number.
#[derive(Debug)]
pub(crate) struct Kept<'a>([Option<Cow<'a, str>>; IN_BODY]);

impl Default for Kept<'_> {
    fn default() -> Self {
        Self([const { None }; IN_BODY])
    }
}

impl<'a> Kept<'a> {
    /// The place of a member that the walk has come to. Of a name that comes twice the last one counts, as in the tree: what was kept
    /// below the first one is forgotten.
    pub(crate) fn enter(&mut self, place: Place, name: &str) -> Place {
        let Place::Object(spot, base) = place else { return Place::Nowhere };
        let Some(member) = spot.member(name) else { return Place::Nowhere };
        let at = base + member.at;
        self.0[at..at + member.count].fill(None);
        member.inside.map_or(Place::Text(at), |inside| Place::Object(inside, at))
    }

    pub(crate) fn keep(&mut self, place: Place, text: impl FnOnce() -> Cow<'a, str>) {
        if let Place::Text(at) = place {
            self.0[at] = Some(text());
        }
    }

    /// The first text under these numbers. An empty one is taken only if there is no other.
    fn first(&self, numbers: &[usize]) -> Option<&Cow<'a, str>> {
        let filled = numbers.iter().copied().find(|at| self.0[*at].as_deref().is_some_and(|text| !text.is_empty()));
        let at = filled.or_else(|| numbers.iter().copied().find(|at| self.0[*at].is_some()))?;
        self.0[at].as_ref()
    }
}

/// What the view has names for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    SessionId,
    Tool,
    FilePath,
    WorkingDirectory,
    GitBranch,
}

impl Name {
    const ALL: [Self; 5] = [Self::SessionId, Self::Tool, Self::FilePath, Self::WorkingDirectory, Self::GitBranch];

    fn what(self) -> &'static What {
        match self {
            Self::SessionId => &SESSION_ID,
            Self::Tool => &TOOL_NAME,
            Self::FilePath => &FILE_PATH,
            Self::WorkingDirectory => &WORKING_DIRECTORY,
            Self::GitBranch => &GIT_BRANCH,
        }
    }
}

/// The named texts of one event.
#[derive(Debug, Default)]
pub(crate) struct Named([Option<Text>; Name::ALL.len()]);

impl Named {
    /// Chooses among what the walk over `raw` has kept. `nested` says that the body has a `payload` which is an object.
    pub(crate) fn of(kept: &Kept<'_>, dialect: Dialect, nested: bool, raw: &Bytes) -> Self {
        let numbers = &NUMBERS[Dialect::ALL.iter().position(|other| *other == dialect).unwrap_or(Dialect::ALL.len() - 1)][usize::from(nested)];
        Self(std::array::from_fn(|name| kept.first(&numbers[name]).map(|text| Text::of(text, raw))))
    }

    /// The text of `name`; `raw` is the body that was walked.
    pub(crate) fn get<'a>(&'a self, name: Name, raw: &'a [u8]) -> Option<&'a str> {
        self.0[name as usize].as_ref()?.get(raw)
    }
}

/// The numbers of all places of each name, nearest first: for each shape, without and with a `payload` that is an object.
type Numbers = [[[Vec<usize>; Name::ALL.len()]; 2]; Dialect::ALL.len()];

static NUMBERS: LazyLock<Numbers> = LazyLock::new(|| {
    Dialect::ALL.map(|dialect| {
        [false, true].map(|nested| {
            Name::ALL.map(|name| {
                let numbers = dialect.places(name.what()).map(|(root, words)| {
                    let root = if root == Root::Payload { dialect.payload_member(nested) } else { None };
                    number(root.iter().copied().chain(words.iter().copied())).expect("every place of every shape stands in the tree of places")
                });
                numbers.collect()
            })
        })
    })
});

fn number<'w>(words: impl Iterator<Item = &'w str>) -> Option<usize> {
    let (mut spot, mut base) = (Some(&BODY), 0);
    for word in words {
        let member = spot?.member(word)?;
        (spot, base) = (member.inside, base + member.at);
    }
    spot.is_none().then_some(base)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::{DecodeLimits, Envelope, RoutingKey};

    fn decoded(body: impl Into<Bytes>) -> Envelope {
        Envelope::decode(RoutingKey::new("k").unwrap(), body, DecodeLimits::default()).unwrap()
    }

    /// What the walk kept, against a look into the tree.
    fn compare(event: &Envelope) {
        let pairs = [
            (Name::Tool, event.tool_name()),
            (Name::FilePath, event.file_path()),
            (Name::WorkingDirectory, event.working_directory()),
            (Name::GitBranch, event.git_branch()),
        ];
        for (name, found) in pairs {
            assert_eq!(found, event.dialect().find(name.what(), event.body()), "{name:?} of {}", event.body());
        }
        let session = event.dialect().find(&SESSION_ID, event.body()).filter(|session| !session.is_empty());
        assert_eq!(event.session_id(), session, "{}", event.body());
    }

    fn numbers_of(spot: &'static Spot, base: usize, all: &mut Vec<usize>) {
        for member in spot.members {
            match member.inside {
                Some(inside) => {
                    let before = all.len();
                    numbers_of(inside, base + member.at, all);
                    assert_eq!(all.len() - before, member.count, "{}", member.name);
                }
                None => all.push(base + member.at),
            }
        }
        if let Some(also) = spot.also {
            numbers_of(also, base, all);
        }
    }

    #[test]
    fn every_place_has_a_number_of_its_own() {
        let mut all = Vec::new();
        numbers_of(&BODY, 0, &mut all);
        assert_eq!(all.len(), IN_BODY);
        assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), (0..IN_BODY).collect());
        assert!(NUMBERS.iter().flatten().flatten().any(|numbers| !numbers.is_empty()));
    }

    #[test]
    fn of_a_member_that_comes_twice_the_last_one_counts_with_all_that_stands_in_it() {
        let event = decoded(r#"{"event_id":"1","payload":{"session_id":"a","tool_name":"Edit"},"payload":{"cwd":"/x","cwd":3,"git_branch":"m\u0061in"}}"#);
        assert_eq!((event.session_id(), event.tool_name(), event.working_directory(), event.git_branch()), (None, None, None, Some("main")));
        compare(&event);
        let event = decoded(r#"{"event_id":"1","payload":{"session_id":"a"},"payload":null}"#);
        assert_eq!(event.session_id(), None);
        compare(&event);
    }

    #[test]
    fn a_text_is_found_where_an_empty_one_stands_before_it() {
        let event =
            decoded(json!({"event_id": "1", "payload": {"session_id": "", "sessionId": "s", "tool_name": "", "tool_metadata": {"tool_name": []}}}).to_string());
        assert_eq!((event.session_id(), event.tool_name()), (Some("s"), Some("")));
        compare(&event);
    }

    const WORDS: [&str; 30] = [
        "session_id",
        "sessionId",
        "tool_metadata",
        "tool_name",
        "toolName",
        "tool_input",
        "arguments",
        "file_path",
        "filePath",
        "notebook_path",
        "path",
        "cwd",
        "working_dir",
        "git_branch",
        "invocation_id",
        "thread_id",
        "payload",
        "data",
        "raw_payload",
        "repo",
        "git_root",
        "branch",
        "agent_context",
        "code_state",
        "correlationid",
        "event_type",
        "event_id",
        "hook_type",
        "specversion",
        "routingKey",
    ];

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![4 => "[a-c\u{e9}\"]{0,2}".prop_map(Value::from), 1 => Just(Value::Null), 1 => Just(json!(1)), 1 => Just(json!(["a"]))];
        leaf.prop_recursive(4, 60, 12, |inner| {
            prop::collection::vec((0..WORDS.len(), inner), 0..12)
                .prop_map(|members| Value::Object(members.into_iter().map(|(word, value)| (WORDS[word].to_owned(), value)).collect::<Map<_, _>>()))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_walk_and_the_tree_know_the_same_names(members in prop::collection::vec((0..WORDS.len(), value()), 0..14), marks in prop::collection::vec(0..4_usize, 3)) {
            // Written by hand, so that a name may come twice.
            let marks = [r#""specversion":"1.0""#, r#""event_id":"1""#, r#""hook_type":"h""#, r#""event_type":"t""#].iter().enumerate().filter(|(at, _)| marks.contains(at)).map(|(_, mark)| (*mark).to_owned());
            let body: Vec<String> = marks.chain(members.into_iter().map(|(word, value)| format!("\"{}\":{value}", WORDS[word]))).collect();
            compare(&decoded(format!("{{{}}}", body.join(","))));
        }
    }
}
