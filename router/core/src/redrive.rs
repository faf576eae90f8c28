//! Dead letters back into their queues, or away for good: which ones, in which order, how fast, and whether to go on.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use router_api::{
    AdminError, ArchivedEvent, Clock, DeadLetterGroups, DeadLetterQuery, DeadLetterSelection, DecodeLimits, DeliveryRecord, DeliveryState, DoneBefore,
    Envelope, LedgerKey, Matcher, RedriveRequest, Redriven, RouteName, Store, StoredDeadLetter, Transport,
};

use crate::{
    config::RouteConfig,
    dead_letter_groups,
    filter::{EventFilter, FilterProblem},
    matcher::RouteMatcher,
    memory::Memory,
    observe::{Observers, RouterEvent},
    parts::RouteParts,
};

/// Letters that one request looks through at most.
const LETTERS_MAX: u32 = 100_000;
/// Ids in an answer.
const IDS_MAX: usize = 1_000;
/// Letters of one commit, where no rate is asked for.
const AT_ONCE: usize = 500;
/// Between two looks at a canary.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A canary that has no fate by then stops the redrive.
const CANARY_PATIENCE: Duration = Duration::from_secs(600);

/// What a redrive needs of a router, or of a store that a command has opened itself.
pub(crate) struct Redrive<'a> {
    pub transport: &'a dyn Transport,
    pub store: &'a dyn Store,
    pub clock: &'a Arc<dyn Clock>,
    pub observers: &'a Observers,
    pub decode: DecodeLimits,
    /// Every route of the configuration, with its parts where it runs.
    pub routes: Vec<(RouteConfig, Option<Arc<RouteParts>>)>,
    /// Are the routes running, so that a canary can have a fate?
    pub running: bool,
}

impl Redrive<'_> {
    /// The letters that are meant, oldest event first, so that each lane is redriven in its order.
    ///
    /// # Errors
    ///
    /// When the selection is wrong, or the transport cannot list its letters.
    async fn select(&self, selection: &DeadLetterSelection) -> Result<Vec<StoredDeadLetter>, AdminError> {
        let filter = match &selection.when {
            Some(tree) => Some(EventFilter::compile(tree).map_err(|problems| {
                let problems: Vec<String> = problems.iter().map(sentence).collect();
                AdminError::Invalid(format!("the filter is wrong: {}", problems.join("; ")))
            })?),
            None => None,
        };
        let DeadLetterSelection { route, reason, class, .. } = selection.clone();
        let query = DeadLetterQuery { route, reason, class, limit: Some(LETTERS_MAX) };
        let mut letters = self.transport.admin().dead_letters(&query).await?;
        if letters.len() >= LETTERS_MAX as usize {
            // The list begins with the newest: what it leaves out is older, and would be overtaken in its lane.
            return Err(AdminError::Invalid(format!("{LETTERS_MAX} dead letters or more: narrow the choice by route, reason or class")));
        }
        let wanted: BTreeSet<&str> = selection.ids.iter().map(String::as_str).collect();
        if let Some(missing) = wanted.iter().find(|id| !letters.iter().any(|letter| letter.id == **id)) {
            return Err(AdminError::NotFound(format!("there is no dead letter `{missing}`")));
        }
        letters.retain(|letter| {
            (wanted.is_empty() || wanted.contains(letter.id.as_str()))
                && selection.class.as_deref().is_none_or(|class| letter.letter.last_class().is_some_and(|last| last.name() == class))
                && filter.as_ref().is_none_or(|filter| self.decoded(letter).is_some_and(|event| filter.matches(&event)))
        });
        letters.sort_by_key(|letter| (letter.seq, letter.stored_at, letter.id.parse::<u64>().unwrap_or(u64::MAX)));
        if let Some(limit) = selection.limit {
            letters.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        Ok(letters)
    }

    /// Letters by route and failure; of more than one request looks through, the newest.
    ///
    /// # Errors
    ///
    /// When the transport cannot list its letters.
    pub(crate) async fn groups(&self, query: &DeadLetterQuery) -> Result<DeadLetterGroups, AdminError> {
        let query = DeadLetterQuery { limit: Some(LETTERS_MAX), ..query.clone() };
        Ok(dead_letter_groups::group(&self.transport.admin().dead_letters(&query).await?))
    }

    fn decoded(&self, letter: &StoredDeadLetter) -> Option<Envelope> {
        Envelope::decode(letter.key.clone(), letter.body.clone(), self.decode).ok()
    }

    /// Puts letters back, and lets parked lanes go on of which none is left.
    ///
    /// # Errors
    ///
    /// When the selection is wrong, the transport cannot list or move its letters, or a canary is asked for while nothing runs.
    pub(crate) async fn redrive(&self, request: &RedriveRequest) -> Result<Redriven, AdminError> {
        let redriven = self.put_all_back(request).await?;
        if !request.dry_run {
            self.unpark().await?;
        }
        Ok(redriven)
    }

    async fn put_all_back(&self, request: &RedriveRequest) -> Result<Redriven, AdminError> {
        if request.canary > 0 && !self.running && !request.dry_run {
            return Err(AdminError::Invalid("a canary needs a running router, since somebody must handle it".to_owned()));
        }
        let letters = self.select(&request.selection).await?;
        let mut redriven =
            Redriven { selected: letters.len() as u64, ids: letters.iter().take(IDS_MAX).map(|letter| letter.id.clone()).collect(), ..Redriven::default() };
        redriven.already_done = self.already_done(&letters).await?;
        if request.dry_run || letters.is_empty() {
            return Ok(redriven);
        }
        if request.again {
            self.forget_writes(&letters).await?;
        }
        let canaries = usize::try_from(request.canary).unwrap_or(usize::MAX).min(letters.len());
        let (first, rest) = letters.split_at(canaries);
        for (letter, before) in first.iter().zip(self.known_of(first).await?) {
            redriven.redriven += self.put_back(std::slice::from_ref(letter)).await?;
            if let Some(why) = self.failed_again(letter, before.as_ref()).await? {
                redriven.stopped = Some(why);
                return Ok(redriven);
            }
        }
        let at_once = usize::try_from(request.rate.unwrap_or(u32::MAX)).unwrap_or(usize::MAX).clamp(1, AT_ONCE);
        for (turn, part) in rest.chunks(at_once).enumerate() {
            if turn > 0 && request.rate.is_some() {
                self.clock.sleep(Duration::from_secs(1)).await;
            }
            redriven.redriven += self.put_back(part).await?;
        }
        Ok(redriven)
    }

    /// The names under which the ledger has what was done for a letter: of its event, and of the burst that it was in. A route that
    /// recognises no repetitions has forgotten its writes with the burial.
    fn subjects(&self, letter: &StoredDeadLetter) -> (Option<String>, Option<String>) {
        let config = self.routes.iter().map(|(config, _)| config).find(|config| config.name == letter.letter.route);
        let dedup = config.and_then(|config| RouteMatcher::of(config).dedup_key(&self.decoded(letter)?));
        (dedup.as_deref().map(LedgerKey::of_event), letter.letter.burst.as_deref().map(LedgerKey::of_burst))
    }

    async fn already_done(&self, letters: &[StoredDeadLetter]) -> Result<Vec<DoneBefore>, AdminError> {
        let mut done = Vec::new();
        for letter in letters.iter().take(IDS_MAX) {
            let (event, burst) = self.subjects(letter);
            // A burst's events come back one by one, so what was done for all of them is not recognised.
            for (subject, is_recognised) in event.into_iter().map(|event| (event, true)).chain(burst.map(|burst| (burst, false))) {
                let route = &letter.letter.route;
                let writes = self.store.ledger(route, &subject).await?;
                let known = writes.into_iter().filter_map(|write| write.result.map(|result| (write.key.effect, result)));
                done.extend(known.map(|(effect, result)| DoneBefore {
                    letter: letter.id.clone(),
                    route: route.clone(),
                    effect,
                    at: result.at,
                    result: result.summary,
                    is_kept: is_recognised && result.reply.is_some(),
                }));
            }
            if done.len() >= IDS_MAX {
                break;
            }
        }
        done.truncate(IDS_MAX);
        Ok(done)
    }

    /// So that all of it is done again.
    async fn forget_writes(&self, letters: &[StoredDeadLetter]) -> Result<(), AdminError> {
        for letters in letters.chunks(AT_ONCE) {
            let subjects = letters.iter().flat_map(|letter| {
                let (event, burst) = self.subjects(letter);
                event.into_iter().chain(burst).map(|subject| (letter.letter.route.clone(), subject))
            });
            // Together, so that they share a commit.
            let forgotten = subjects.map(|(route, subject)| async move { self.store.ledger_clear(&route, &subject).await });
            futures_util::future::try_join_all(forgotten).await?;
        }
        Ok(())
    }

    async fn put_back(&self, letters: &[StoredDeadLetter]) -> Result<u64, AdminError> {
        let ids: Vec<String> = letters.iter().map(|letter| letter.id.clone()).collect();
        for letter in letters {
            let parts = self.routes.iter().find(|(config, _)| config.name == letter.letter.route).and_then(|(_, parts)| parts.as_ref());
            if let (Some(parts), Some(identity)) = (parts, &letter.identity) {
                parts.memory.starts_anew(identity);
            }
        }
        let count = self.transport.admin().redrive(&ids).await?;
        for route in routes_of(letters) {
            let ids: Vec<String> = letters.iter().filter(|letter| letter.letter.route == route).map(|letter| letter.id.clone()).collect();
            self.observers.tell(RouterEvent::Redriven { route, ids });
        }
        Ok(count)
    }

    /// What the archive says of the letter's event on its route, of the newest event where there are several.
    async fn delivery(&self, letter: &StoredDeadLetter) -> Result<Option<DeliveryRecord>, AdminError> {
        let id = self.decoded(letter).and_then(|event| event.id().map(|id| id.as_str().to_owned()));
        let Some(reference) = letter.seq.map(|seq| seq.to_string()).or_else(|| id.clone()) else { return Ok(None) };
        let is_meant = |event: &ArchivedEvent| match letter.seq {
            Some(seq) => event.seq == seq,
            None => event.id == id,
        };
        let events = self.store.event(&reference).await?;
        let newest = events.into_iter().filter(is_meant).max_by_key(|event| event.seq);
        Ok(newest.and_then(|event| event.deliveries.into_iter().find(|delivery| delivery.route == letter.letter.route)))
    }

    /// What is known of each canary before it is put back.
    ///
    /// # Errors
    ///
    /// When what becomes of one could not be seen: then nothing may be moved.
    async fn known_of(&self, canaries: &[StoredDeadLetter]) -> Result<Vec<Option<DeliveryRecord>>, AdminError> {
        let mut known = Vec::with_capacity(canaries.len());
        for letter in canaries {
            let delivery = self.delivery(letter).await?;
            // A transport that numbers its letters tells their fate itself; on a bus it is told by who has given up on the letter.
            if letter.seq.is_none() && !delivery.as_ref().is_some_and(|delivery| matches!(delivery.state, DeliveryState::Dead { .. })) {
                return Err(AdminError::Invalid(format!(
                    "letter {} cannot be a canary, and nothing was moved: the archive of this router does not have its event, or another router gave it \
                     up; ask that one, or redrive a few with `--limit` instead of `--canary`",
                    letter.id
                )));
            }
            known.push(delivery);
        }
        Ok(known)
    }

    /// Waits for the fate of a canary, of which `before` was known: why the redrive should stop, or `None` when the canary is done.
    async fn failed_again(&self, letter: &StoredDeadLetter, before: Option<&DeliveryRecord>) -> Result<Option<String>, AdminError> {
        let begun = self.clock.monotonic();
        loop {
            let delivery = self.delivery(letter).await?;
            // On a bus the old fate stands until the new one is written.
            let is_old = letter.seq.is_none() && delivery.as_ref() == before;
            match delivery.filter(|_| !is_old).map(|delivery| delivery.state) {
                Some(DeliveryState::Finished(_)) => return Ok(None),
                Some(DeliveryState::Dead { id, reason }) => return Ok(Some(format!("letter {} failed again ({reason}) and is letter {id} now", letter.id))),
                Some(DeliveryState::Waiting { error: Some(error) }) => {
                    return Ok(Some(format!("letter {} failed again and is tried later: {error}", letter.id)));
                }
                _ => {}
            }
            if self.clock.monotonic().saturating_sub(begun) > CANARY_PATIENCE {
                return Ok(Some(format!("letter {} had no result within {} s", letter.id, CANARY_PATIENCE.as_secs())));
            }
            self.clock.sleep(LOOK_AGAIN).await;
        }
    }

    /// Deletes letters for good, and lets parked lanes go on of which none is left.
    ///
    /// # Errors
    ///
    /// As [`Redrive::redrive`].
    pub(crate) async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64, AdminError> {
        let letters = self.select(selection).await?;
        let ids: Vec<String> = letters.iter().map(|letter| letter.id.clone()).collect();
        let count = self.transport.admin().discard(&ids).await?;
        for route in routes_of(&letters) {
            let ids: Vec<String> = letters.iter().filter(|letter| letter.letter.route == route).map(|letter| letter.id.clone()).collect();
            self.observers.tell(RouterEvent::Discarded { route, ids });
        }
        self.unpark().await?;
        Ok(count)
    }

    async fn unpark(&self) -> Result<(), AdminError> {
        for (config, parts) in &self.routes {
            let matcher = RouteMatcher::of(config);
            match parts {
                Some(parts) if parts.memory.has_parked() => self.unpark_lanes(&config.name, &matcher, &parts.memory).await?,
                // Off, or not begun: what is parked stands in the store only.
                _ => {
                    let memory = Memory::default();
                    memory.load(self.store, &config.name).await?;
                    self.unpark_lanes(&config.name, &matcher, &memory).await?;
                }
            }
        }
        Ok(())
    }

    async fn unpark_lanes(&self, route: &RouteName, matcher: &RouteMatcher, memory: &Memory) -> Result<(), AdminError> {
        if !memory.has_parked() {
            return Ok(());
        }
        // Before the letters are: one that comes while they are listed parks its lane anew.
        let parked = memory.parked();
        let query = DeadLetterQuery { route: Some(route.clone()), limit: Some(LETTERS_MAX), ..DeadLetterQuery::default() };
        let letters = self.transport.admin().dead_letters(&query).await?;
        if letters.len() >= LETTERS_MAX as usize {
            // Not all of them are known, so no lane can be said to have none left.
            return Ok(());
        }
        let held: BTreeSet<String> = letters.iter().filter_map(|letter| matcher.lane(&self.decoded(letter)?)).collect();
        memory.unpark_all_but(self.store, route, &parked, &held).await?;
        Ok(())
    }
}

/// What is wrong with a filter, where, and what to do: `file_path.0`: … (did you mean …?).
pub(crate) fn sentence(problem: &FilterProblem) -> String {
    let FilterProblem { path, message, help } = problem;
    let place = format!("`{}`", path.join("."));
    // The whole tree has no name, a field without one is told by its message, and some messages begin with the name.
    let place = if path.iter().all(String::is_empty) || message.starts_with(&place) { String::new() } else { format!("{place}: ") };
    let help = help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{place}{message}{help}")
}

fn routes_of(letters: &[StoredDeadLetter]) -> BTreeSet<RouteName> {
    letters.iter().map(|letter| letter.letter.route.clone()).collect()
}
