//! One answer of a model, counted once: [`Messages`].
//!
//! A transcript has a line for each block of an answer, all with the usage so far, and copies of answers: a fork begins with those of its
//! parent, a side chain may replay them under requests of its own. Two lines are of one answer if message and request are the same, or if
//! the message is and one of them is of a side chain. Of the two the one of the main chain counts, then the one with more tokens, then the
//! one that says its speed. (Anything else counts twice what was paid once; `ccusage` does it so in its daily report.)

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{Reach, Slot, SlotUsage, Tokens, fingerprint::Fingerprints, line::Line};

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// `None` is the same as nothing.
    pub(crate) id: Option<u64>,
    pub(crate) request: u64,
    pub(crate) is_sidechain: bool,
    /// Of the table of models.
    pub(crate) model: u16,
    pub(crate) is_fast: bool,
    pub(crate) says_speed: bool,
    pub(crate) slot: Option<Slot>,
    /// Whose it is, where several are read together.
    pub(crate) owner: u32,
    pub(crate) tokens: Tokens,
    pub(crate) cost_said: Option<f64>,
}

impl Message {
    /// The answer in a line, if it has one, for `owner`.
    pub(crate) fn of(line: &mut Line, slot: Option<Slot>, owner: u32, models: &mut Models) -> Option<Self> {
        let answer = line.answer.take()?;
        Some(Self {
            id: answer.id,
            request: answer.request,
            is_sidechain: line.is_sidechain,
            model: models.number(answer.model.as_deref()),
            is_fast: answer.is_fast,
            says_speed: answer.says_speed,
            slot,
            owner,
            tokens: answer.tokens,
            cost_said: answer.cost_said,
        })
    }

    fn replaces(&self, known: &Self) -> bool {
        if self.is_sidechain != known.is_sidechain {
            return known.is_sidechain;
        }
        match self.tokens.total().cmp(&known.tokens.total()) {
            std::cmp::Ordering::Equal => self.says_speed && !known.says_speed,
            order => order.is_gt(),
        }
    }
}

/// Answers that may still come again in another form, and fingerprints of those that are settled.
#[derive(Debug)]
pub(crate) struct Messages {
    open: VecDeque<Message>,
    open_max: usize,
    /// The number of the first one that is open.
    first: u64,
    /// Numbers of open ones.
    by_id: HashMap<u64, Vec<u64>>,
    settled: Fingerprints,
}

impl Messages {
    /// At most `open_max` stay open.
    pub(crate) fn new(open_max: usize, settled: Fingerprints) -> Self {
        Self { open: VecDeque::new(), open_max, first: 0, by_id: HashMap::new(), settled }
    }

    /// Adds one. Gives back the oldest where there are too many: it is settled, and what comes of it again counts nothing any more.
    pub(crate) fn add(&mut self, message: Message) -> Option<Message> {
        if let Some(id) = message.id {
            if let Some(number) = self.same(id, &message) {
                let known = &mut self.open[(number - self.first) as usize];
                if message.replaces(known) {
                    let owner = known.owner;
                    *known = Message { owner, ..message };
                }
                return None;
            }
            if self.settled.contains(id) {
                return None;
            }
            self.by_id.entry(id).or_default().push(self.first + self.open.len() as u64);
        }
        self.open.push_back(message);
        if self.open.len() <= self.open_max {
            return None;
        }
        let settled = self.open.pop_front()?;
        if let Some(id) = settled.id {
            self.settled.add(id);
            if let Some(numbers) = self.by_id.get_mut(&id) {
                numbers.retain(|number| *number != self.first);
                if numbers.is_empty() {
                    self.by_id.remove(&id);
                }
            }
        }
        self.first += 1;
        Some(settled)
    }

    fn same(&self, id: u64, message: &Message) -> Option<u64> {
        let numbers = self.by_id.get(&id)?;
        let known = |number: &u64| &self.open[(*number - self.first) as usize];
        let exact = numbers.iter().find(|number| known(number).request == message.request);
        exact.or_else(|| numbers.iter().find(|number| message.is_sidechain || known(number).is_sidechain)).copied()
    }

    /// Those that are not settled, oldest first.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Message> {
        self.open.iter()
    }

    /// In its parts, to be stored.
    pub(crate) fn into_parts(self) -> (Vec<Message>, Fingerprints) {
        (self.open.into(), self.settled)
    }
}

/// What is added up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Kind {
    pub(crate) owner: u32,
    pub(crate) slot: Option<Slot>,
    pub(crate) model: u16,
    pub(crate) is_fast: bool,
    pub(crate) reach: Reach,
}

/// A sum.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) messages: u64,
    pub(crate) tokens: Tokens,
    pub(crate) tokens_said: Tokens,
    pub(crate) cost_said: f64,
}

impl Sum {
    /// With what it is the sum of.
    pub(crate) fn usage(&self, kind: &Kind, models: &Models) -> SlotUsage {
        SlotUsage {
            slot: kind.slot,
            model: models.name(kind.model).to_owned(),
            is_fast: kind.is_fast,
            reach: kind.reach,
            messages: self.messages,
            tokens: self.tokens,
            tokens_said: self.tokens_said,
            cost_said: self.cost_said,
        }
    }
}

/// Sums of answers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sums(pub(crate) std::collections::BTreeMap<Kind, Sum>);

impl Sums {
    pub(crate) fn add(&mut self, message: &Message) {
        let kind = Kind { owner: message.owner, slot: message.slot, model: message.model, is_fast: message.is_fast, reach: Reach::of(&message.tokens) };
        let sum = self.0.entry(kind).or_default();
        sum.messages += 1;
        match message.cost_said {
            Some(cost) => {
                sum.tokens_said += message.tokens;
                sum.cost_said += cost;
            }
            None => sum.tokens += message.tokens,
        }
    }
}

impl Serialize for Sums {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sums {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<(Kind, Sum)>::deserialize(deserializer).map(|sums| Self(sums.into_iter().collect()))
    }
}

/// Names of models, each once.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Models(Vec<String>);

/// More in one session are told as one.
const MODELS_MAX: usize = 200;
/// Of an answer that names no model, and of those that are too many.
const UNNAMED: &str = "(unnamed)";

impl Models {
    pub(crate) fn number(&mut self, name: Option<&str>) -> u16 {
        let name = name.unwrap_or(UNNAMED);
        let known = self.0.iter().position(|known| known == name);
        let place = known.unwrap_or_else(|| {
            let name = if self.0.len() + 1 < MODELS_MAX { name } else { UNNAMED };
            self.0.iter().position(|known| known == name).unwrap_or_else(|| {
                self.0.push(name.to_owned());
                self.0.len() - 1
            })
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }

    pub(crate) fn name(&self, number: u16) -> &str {
        self.0.get(usize::from(number)).map_or(UNNAMED, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u64, request: u64, is_sidechain: bool, output: u64) -> Message {
        Message {
            id: Some(id),
            request,
            is_sidechain,
            model: 0,
            is_fast: false,
            says_speed: false,
            slot: None,
            owner: 0,
            tokens: Tokens { output, ..Tokens::default() },
            cost_said: None,
        }
    }

    fn outputs(messages: &[Message]) -> Vec<u64> {
        let mut all = Messages::new(100, Fingerprints::default());
        for message in messages {
            all.add(message.clone());
        }
        all.open().map(|message| message.tokens.output).collect()
    }

    #[test]
    fn the_line_with_more_tokens_counts_whichever_comes_first() {
        assert_eq!(outputs(&[message(1, 1, false, 5), message(1, 1, false, 300)]), [300]);
        assert_eq!(outputs(&[message(1, 1, false, 300), message(1, 1, false, 5)]), [300]);
    }

    #[test]
    fn a_replay_on_a_side_chain_counts_nothing_whichever_comes_first() {
        assert_eq!(outputs(&[message(1, 1, false, 30), message(1, 9, true, 40)]), [30]);
        assert_eq!(outputs(&[message(1, 9, true, 40), message(1, 1, false, 30)]), [30]);
        assert_eq!(outputs(&[message(1, 1, false, 30), message(1, 9, false, 40)]), [30, 40]);
        assert_eq!(outputs(&[message(1, 1, true, 30), message(2, 1, true, 40)]), [30, 40]);
    }

    #[test]
    fn an_answer_without_an_id_is_no_copy_of_another() {
        let nameless = Message { id: None, ..message(0, 1, false, 7) };
        assert_eq!(outputs(&[nameless.clone(), nameless]), [7, 7]);
    }

    #[test]
    fn what_is_settled_counts_once_though_it_comes_again() {
        let mut all = Messages::new(2, Fingerprints::default());
        let mut settled = Sums::default();
        for id in [1, 2, 3, 4, 1, 2, 3, 4] {
            if let Some(message) = all.add(message(id, 1, false, 10)) {
                settled.add(&message);
            }
        }
        all.open().for_each(|message| settled.add(message));
        assert_eq!(settled.0.values().map(|sum| (sum.messages, sum.tokens.output)).collect::<Vec<_>>(), [(4, 40)]);
    }

    #[test]
    fn models_beyond_the_limit_share_a_name() {
        let mut models = Models::default();
        for number in 0..1_000 {
            models.number(Some(&format!("m{number}")));
        }
        let last = models.number(Some("m999"));
        assert_eq!((models.0.len(), models.name(last)), (MODELS_MAX, UNNAMED));
        assert_eq!(models.number(Some("m3")), 3);
    }
}
