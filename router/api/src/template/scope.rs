//! What templates can refer to. Values are made when a template first asks for them, and once for a handling.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use minijinja::value::{Object, Serde, Value as Field};
use serde_json::Value;

use crate::{Context, Envelope};

/// Names that stand for a text or number.
pub(super) const TEXT_NAMES: &[&str] =
    &["key", "id", "type", "time", "dialect", "session_id", "tool_name", "file_path", "working_directory", "git_branch", "route", "attempt", "events"];

/// Names that stand for something with fields or elements. `source` is an object or a text, as the event has it.
pub(super) const TREE_NAMES: &[&str] = &["source", "payload", "raw", "correlation_ids", "files", "burst"];

/// What templates can refer to: the normalised view of the newest event (`key`, `id`, `type`, `source`, `time`, `dialect`,
/// `payload`, `session_id`, `tool_name`, `file_path`, `working_directory`, `git_branch`, `correlation_ids`), its whole body as
/// `raw`, and `route`, `attempt` (the number of the try), `events` (how many), `files` (the distinct `file_path`s of the burst, in
/// order) and `burst` (the views of all events, oldest first).
///
/// Cloning is cheap. A field that the event does not have is missing here too.
#[derive(Debug, Clone)]
pub struct Scope {
    names: Arc<Names>,
}

#[derive(Debug, Clone)]
struct Names {
    handling: Arc<Handling>,
    /// Added by [`Scope::with`]; comes before what the handling has.
    extra: BTreeMap<String, Field>,
}

#[derive(Debug, Default)]
struct Handling {
    newest: Option<Arc<Envelope>>,
    burst: Vec<Arc<Envelope>>,
    fixed: BTreeMap<&'static str, Field>,
    view: OnceLock<BTreeMap<String, Field>>,
    raw: OnceLock<Field>,
    views: OnceLock<Field>,
}

impl Scope {
    /// The scope of a handling.
    #[must_use]
    pub fn of(event: &Envelope, cx: &Context) -> Self {
        Self::of_burst(event, cx.burst().to_vec(), cx.route().as_str(), cx.attempt().number)
    }

    fn of_burst(event: &Envelope, burst: Vec<Arc<Envelope>>, route: &str, attempt: u32) -> Self {
        let fixed = BTreeMap::from([
            ("route", Field::from(route)),
            ("attempt", Field::from(attempt)),
            ("events", Field::from(burst.len())),
            ("files", files(burst.iter().map(Arc::as_ref))),
        ]);
        // The event is one of the burst, normally the last, so its values can wait until somebody asks.
        let newest = burst.iter().rev().find(|member| std::ptr::eq(member.as_ref(), event)).cloned();
        let handling = Handling { newest, burst, fixed, ..Handling::default() };
        if handling.newest.is_none() {
            handling.fill_from(event);
        }
        Self::over(handling)
    }

    /// The scope of one event outside of a handling: without `route` and `attempt`, a burst of its own.
    #[must_use]
    pub fn of_event(event: &Envelope) -> Self {
        let handling = Handling { fixed: BTreeMap::from([("events", Field::from(1)), ("files", files([event]))]), ..Handling::default() };
        handling.fill_from(event);
        handling.views.get_or_init(|| Field::from(vec![Field::from(Serde(event.view()))]));
        Self::over(handling)
    }

    /// A scope with exactly the fields of a JSON object, for tests and tools. What is no object gives an empty scope.
    #[must_use]
    pub fn from_value(value: Value) -> Self {
        let mut scope = Self::over(Handling::default());
        if let Value::Object(fields) = value {
            for (name, value) in fields {
                scope = scope.with(&name, value);
            }
        }
        scope
    }

    /// Adds or replaces a name. A template can only refer to an added one that [`crate::Template::parse_with`] was told of.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        Arc::make_mut(&mut self.names).extra.insert(name.to_owned(), Field::from(Serde(value)));
        self
    }

    fn over(handling: Handling) -> Self {
        Self { names: Arc::new(Names { handling: Arc::new(handling), extra: BTreeMap::new() }) }
    }

    pub(super) fn value(&self) -> Field {
        Field::from_dyn_object(Arc::clone(&self.names))
    }

    /// The distinct files of the handling, oldest first, where `files` is a list of texts.
    pub(super) fn files(&self) -> Option<Vec<String>> {
        let files = self.names.get_value_by_str("files")?;
        files.try_iter().ok()?.map(|file| file.as_str().map(ToOwned::to_owned)).collect()
    }
}

/// The distinct files of some events, in order.
fn files<'e>(events: impl IntoIterator<Item = &'e Envelope>) -> Field {
    let mut seen = std::collections::HashSet::new();
    let distinct = events.into_iter().filter_map(Envelope::file_path).filter(|path| !path.is_empty() && seen.insert(*path));
    Field::from(distinct.map(Field::from).collect::<Vec<_>>())
}

impl Handling {
    fn fill_from(&self, event: &Envelope) {
        self.view.get_or_init(|| fields_of(event));
        self.raw.get_or_init(|| Field::from(Serde(event.body())));
    }

    fn get(&self, name: &str) -> Option<Field> {
        if let Some(value) = self.fixed.get(name) {
            return Some(value.clone());
        }
        match name {
            "raw" => match &self.newest {
                Some(event) => Some(self.raw.get_or_init(|| Field::from(Serde(event.body()))).clone()),
                None => self.raw.get().cloned(),
            },
            "burst" if !self.burst.is_empty() => {
                Some(self.views.get_or_init(|| Field::from(self.burst.iter().map(|event| Field::from(Serde(event.view()))).collect::<Vec<_>>())).clone())
            }
            "burst" => self.views.get().cloned(),
            _ => match &self.newest {
                Some(event) => self.view.get_or_init(|| fields_of(event)).get(name).cloned(),
                None => self.view.get().and_then(|view| view.get(name).cloned()),
            },
        }
    }
}

fn fields_of(event: &Envelope) -> BTreeMap<String, Field> {
    match event.view() {
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, Field::from(Serde(value)))).collect(),
        _ => BTreeMap::new(),
    }
}

impl Object for Names {
    fn get_value(self: &Arc<Self>, key: &Field) -> Option<Field> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Field> {
        self.extra.get(key).cloned().or_else(|| self.handling.get(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ArgvTemplate, DecodeLimits, JsonTemplate, RoutingKey, Template};

    fn envelope(key: &str, body: &Value) -> Arc<Envelope> {
        Arc::new(Envelope::decode(RoutingKey::new(key).unwrap(), body.to_string(), DecodeLimits::default()).unwrap())
    }

    fn write(path: &str) -> Arc<Envelope> {
        let payload = json!({"tool_name": "Write", "tool_input": {"file_path": path}, "session_id": "s1", "working_directory": "/srv"});
        envelope(
            "session.thread.agent.action",
            &json!({
                "event_id": "3a748c81-e435-46d6-88f2-e2bb657910cc", "event_type": "session.thread.agent.action", "timestamp": "2026-02-24T10:00:00Z", "version": "1.0.0",
                "source": {"host": "h", "type": "hook", "app": "claude"}, "correlation_ids": ["c1"], "payload": payload, "extra": {"n": 1},
            }),
        )
    }

    fn render(scope: &Scope, text: &str) -> String {
        Template::parse(text).unwrap().render(scope).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_field_of_the_view_can_be_referred_to() {
        let event = write("/srv/a.py");
        let view = event.view();
        for scope in [Scope::of_burst(&event, vec![Arc::clone(&event)], "ci", 2), Scope::of_event(&event)] {
            for (name, value) in view.as_object().unwrap() {
                let template = JsonTemplate::parse(json!(format!("{{{{ {name} }}}}"))).unwrap_or_else(|error| panic!("{name} is in the view, but: {error}"));
                assert_eq!(&template.render(&scope).unwrap(), value, "{name}");
            }
            assert_eq!(render(&scope, "{{ raw.extra.n }} {{ raw.event_id }}"), "1 3a748c81-e435-46d6-88f2-e2bb657910cc");
            assert_eq!(JsonTemplate::parse(json!("{{ raw }}")).unwrap().render(&scope).unwrap(), *event.body());
            assert_eq!(JsonTemplate::parse(json!("{{ burst[0].payload }}")).unwrap().render(&scope).unwrap(), *event.payload());
            assert_eq!(render(&scope, "{{ events }} {{ session_id }} {{ payload.tool_name }}"), "1 s1 Write");
        }
        assert_eq!(render(&Scope::of_burst(&event, vec![Arc::clone(&event)], "ci", 2), "{{ route }} {{ attempt }}"), "ci 2");
        assert!(Template::parse("{{ route }}").unwrap().render(&Scope::of_event(&event)).is_err(), "an event alone has no route");
    }

    #[test]
    fn a_burst_has_its_distinct_files_in_order() {
        let burst = vec![write("/srv/b.py"), write("/srv/a.py"), envelope("x", &json!({"a": 1})), write("/srv/b.py"), write("/srv/c.py")];
        let scope = Scope::of_burst(burst.last().unwrap(), burst.clone(), "ci", 1);
        let argv = ArgvTemplate::parse(["pytest", "-q", "{{ files }}"].map(str::to_owned).to_vec()).unwrap();
        assert_eq!(argv.render(&scope).unwrap(), ["-q", "--", "/srv/b.py", "/srv/a.py", "/srv/c.py"]);
        assert_eq!(
            render(&scope, "{{ events }} {{ file_path }} {{ burst | map(attribute='key') | unique | join(' ') }}"),
            "5 /srv/c.py session.thread.agent.action x"
        );
    }

    #[test]
    fn an_event_that_is_not_of_the_burst_is_the_newest_all_the_same() {
        let (event, other) = (write("/srv/new.py"), write("/srv/old.py"));
        let scope = Scope::of_burst(&event, vec![other], "ci", 1);
        assert_eq!(render(&scope, "{{ file_path }} {{ raw.payload.tool_input.file_path }} {{ files | join }}"), "/srv/new.py /srv/new.py /srv/old.py");
    }

    #[test]
    fn an_added_name_comes_first() {
        let event = write("/srv/a.py");
        let scope = Scope::of_event(&event);
        let changed = scope.clone().with("tool_name", json!("Edit"));
        assert_eq!((render(&scope, "{{ tool_name }}"), render(&changed, "{{ tool_name }}")), ("Write".to_owned(), "Edit".to_owned()));
    }
}
