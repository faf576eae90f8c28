//! From a tree to a filter. Every problem is told at once, with its place in the tree; a clause that no event can satisfy is one.
//!
//! Fields come as TOML makes them: `payload.a = 1` as nested tables, `"payload.a" = 1` as one key. Under `payload` and `raw` a
//! table is either a clause or more fields: it is a clause if its keys are names of operators, and nothing else. A payload whose
//! own key is called `prefix` or `exists` is addressed by the quoted key: `"payload.prefix" = "x"`. A key within a table is one
//! word, whatever dots are in it; the quoted key at the top is a path, in which `payload."a.b"` means the key `a.b`.

use router_api::{Dialect, FieldPath, suggest, suggest::slips};
use serde_json::{Map, Value};

use super::{
    EventFilter, FieldClauses, FilterProblem,
    clause::{Cidr, Clause, Scalar, Wildcard},
    number::{Bound, Num, Range},
    show,
};

const OPERATORS: [&str; 9] = ["prefix", "suffix", "wildcard", "equals-ignore-case", "anything-but", "exists", "nonempty", "numeric", "cidr"];

/// The operators that `anything-but` takes.
const BUT_OPERATORS: [&str; 4] = ["prefix", "suffix", "wildcard", "equals-ignore-case"];

/// What people who know other filter languages write.
const OTHER_OPERATORS: [(&str, &str); 20] = [
    ("starts_with", "prefix"),
    ("startswith", "prefix"),
    ("ends_with", "suffix"),
    ("endswith", "suffix"),
    ("glob", "wildcard"),
    ("like", "wildcard"),
    ("matches", "wildcard"),
    ("contains", "wildcard"),
    ("regex", "wildcard"),
    ("iequals", "equals-ignore-case"),
    ("ignore_case", "equals-ignore-case"),
    ("not", "anything-but"),
    ("ne", "anything-but"),
    ("not_in", "anything-but"),
    ("except", "anything-but"),
    ("present", "exists"),
    ("not_empty", "nonempty"),
    ("number", "numeric"),
    ("range", "numeric"),
    ("ip", "cidr"),
];

/// Those of them that are taken for operators even under `payload`. The others may well be keys there: `pull_request.number`.
const FOREIGN: [&str; 6] = ["starts_with", "startswith", "ends_with", "endswith", "iequals", "not_in"];

/// In one list.
const VALUES_MAX: usize = 1000;

/// In one filter, without those in its `any`.
const FIELDS_MAX: usize = 1000;

/// Of `any` within `any`.
const NESTING_MAX: usize = 8;

pub(super) fn compile(tree: &Value) -> Result<EventFilter, Vec<FilterProblem>> {
    let mut compiler = Compiler { path: Vec::new(), problems: Vec::new() };
    let filter = compiler.filter(tree, 0);
    if compiler.problems.is_empty() { Ok(filter) } else { Err(compiler.problems) }
}

struct Compiler {
    /// To where it is.
    path: Vec<String>,
    problems: Vec<FilterProblem>,
}

impl Compiler {
    fn problem(&mut self, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.problems.push(FilterProblem { path: self.path.clone(), message: message.into(), help: help.into() });
    }

    /// Does `work` one step further down the tree.
    fn at<R>(&mut self, step: impl Into<String>, work: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(step.into());
        let result = work(self);
        self.path.pop();
        result
    }

    fn filter(&mut self, tree: &Value, nesting: usize) -> EventFilter {
        let mut filter = EventFilter::default();
        let Value::Object(members) = tree else {
            self.problem(format!("a filter is a table of fields, this is {}", kind(tree)), "write `{ tool_name = \"Write\" }`".to_owned());
            return filter;
        };
        for (key, value) in members {
            self.at(key, |this| match key.as_str() {
                "any" => filter.any = this.any(value, nesting),
                _ => match key.parse::<FieldPath>() {
                    Ok(field) => this.field(&field, value, &mut filter.fields),
                    Err(error) => {
                        let message = if error.suggestion.is_some() { format!("`{}` is no field of events", show::plain(key)) } else { error.message };
                        let help = match key.as_str() {
                            "or" | "$or" | "any_of" | "anyOf" | "oneOf" => Some("did you mean `any`?".to_owned()),
                            "and" | "all" | "all_of" | "allOf" => Some("all fields of a table must fit: write them side by side".to_owned()),
                            "not" => Some("write `field = { anything-but = … }`".to_owned()),
                            _ => error.suggestion.map(|suggestion| format!("did you mean `{suggestion}`?")),
                        };
                        this.problem(message, help);
                    }
                },
            });
        }
        filter.fields.sort_by(|left, right| left.field.as_str().cmp(right.field.as_str()));
        filter
    }

    fn any(&mut self, value: &Value, nesting: usize) -> Vec<EventFilter> {
        let Value::Array(items) = value else {
            self.problem(format!("`any` is a list of tables, this is {}", kind(value)), "write `any = [{ … }, { … }]`".to_owned());
            return Vec::new();
        };
        if items.is_empty() {
            self.problem("an empty `any` never matches", "take it out, or list at least one table".to_owned());
        }
        if items.len() > VALUES_MAX {
            self.problem(format!("{} tables, {VALUES_MAX} are the limit", items.len()), None);
            return Vec::new();
        }
        if nesting >= NESTING_MAX {
            self.problem(format!("`any` within `any` more than {NESTING_MAX} times"), None);
            return Vec::new();
        }
        let filter = |(place, item): (usize, &Value)| {
            self.at(place.to_string(), |this| {
                if item.as_object().is_some_and(Map::is_empty) {
                    this.problem("an empty table takes every event, and so does this `any`", "give it a field, or take out the `any`".to_owned());
                }
                this.filter(item, nesting + 1)
            })
        };
        items.iter().enumerate().map(filter).collect()
    }

    fn field(&mut self, field: &FieldPath, value: &Value, fields: &mut Vec<FieldClauses>) {
        let clauses = match value {
            Value::Object(members) if !is_clause(field, members) => {
                if members.is_empty() {
                    self.problem("an empty table says nothing about the field", "write a value, or `{ exists = true }`".to_owned());
                }
                for (key, value) in members {
                    self.at(key, |this| match field.join(key) {
                        Ok(field) => this.field(&field, value, fields),
                        Err(error) => this.problem(error.message, error.suggestion.map(|suggestion| format!("did you mean `{suggestion}`?"))),
                    });
                }
                return;
            }
            Value::Array(items) => self.list(field, items),
            value => self.clause(field, value).into_iter().collect(),
        };
        if fields.iter().any(|known| known.field == *field) {
            self.problem(format!("`{field}` is given twice"), "put both into one list if either may fit".to_owned());
        } else if fields.len() == FIELDS_MAX {
            self.problem(format!("more than {FIELDS_MAX} fields"), None);
        } else if fields.len() < FIELDS_MAX {
            // Without clauses, too, so that a second one is noticed; such a filter is thrown away.
            fields.push(FieldClauses { field: field.clone(), clauses });
        }
    }

    fn list(&mut self, field: &FieldPath, items: &[Value]) -> Vec<Clause> {
        if items.is_empty() {
            self.problem("an empty list never matches", "list at least one value, or take the field out".to_owned());
        }
        if items.len() > VALUES_MAX {
            self.problem(format!("{} values, {VALUES_MAX} are the limit", items.len()), None);
            return Vec::new();
        }
        let mut clauses = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            clauses.extend(self.at(place.to_string(), |this| this.clause(field, item)));
        }
        clauses
    }

    fn clause(&mut self, field: &FieldPath, value: &Value) -> Option<Clause> {
        let Value::Object(members) = value else { return self.exact(field, value).map(Clause::Exact) };
        if members.is_empty() {
            self.problem("an empty table says nothing about the field", "write a value, or `{ exists = true }`".to_owned());
            return None;
        }
        let mut clauses: Vec<Clause> = Vec::new();
        for (name, operand) in members {
            clauses.extend(self.at(name, |this| this.operator(field, name, operand)));
        }
        if members.len() > 1 {
            self.problem(
                format!("{} operators in one table, a clause has one", members.len()),
                "for either of them write a list: `[{ prefix = \"a\" }, { suffix = \"b\" }]`; for both, one `wildcard`: `a*b`".to_owned(),
            );
        }
        clauses.pop()
    }

    fn exact(&mut self, field: &FieldPath, value: &Value) -> Option<Scalar> {
        let scalar = match value {
            Value::String(text) => Scalar::Text(text.clone()),
            Value::Bool(bool) => Scalar::Bool(*bool),
            Value::Number(number) => match Num::of(number) {
                Some(number) => Scalar::Number(number),
                None => {
                    self.problem(format!("{number} is no number that an event can have"), None);
                    return None;
                }
            },
            Value::Null => {
                self.problem("null is no value to compare with", "write `{ nonempty = false }` for null, empty or missing".to_owned());
                return None;
            }
            Value::Array(_) => {
                self.problem("a list within a list", "write the values side by side: one of them must fit".to_owned());
                return None;
            }
            Value::Object(_) => {
                self.problem("a table where a value is needed", None);
                return None;
            }
        };
        if field.is_tree() {
            return Some(scalar);
        }
        match &scalar {
            Scalar::Text(text) => self.text_of(field, text),
            Scalar::Number(_) | Scalar::Bool(_) => self.problem(format!("`{field}` is a text, so {value} never matches"), format!("write `\"{value}\"`")),
        }
        Some(scalar)
    }

    /// Texts that cannot be what was meant.
    fn text_of(&mut self, field: &FieldPath, text: &str) {
        match field.as_str() {
            "key" if text.split('.').any(|word| word == "*" || word == "#") => {
                self.problem(
                    format!("{} is compared as it stands, and no key is called so", show::text(text)),
                    "patterns of keys belong into the route's `on`".to_owned(),
                );
            }
            "dialect" if !Dialect::ALL.iter().any(|dialect| dialect.name() == text) => {
                let names = Dialect::ALL.map(Dialect::name);
                let help = match suggest(text, &names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are `{}`", names.join("`, `")),
                };
                self.problem(format!("there is no dialect {}", show::text(text)), help);
            }
            "session_id" if text.is_empty() => {
                self.problem("an empty session counts as missing, so this never matches", "write `{ exists = false }`".to_owned())
            }
            _ if text.contains('*') => self.problem(
                format!("{} is compared as it stands, star included", show::text(text)),
                format!("write `{{ wildcard = {text:?} }}`; for a real star, `{{ wildcard = {:?} }}`", text.replace('*', r"\*")),
            ),
            _ => {}
        }
    }

    fn operator(&mut self, field: &FieldPath, name: &str, operand: &Value) -> Option<Clause> {
        match name {
            "prefix" | "suffix" | "wildcard" | "equals-ignore-case" => self.of_text(name, operand),
            "anything-but" => self.anything_but(field, operand).map(Clause::AnythingBut),
            "exists" => {
                let wanted = self.of_bool(name, operand)?;
                if !wanted && matches!(field.as_str(), "key" | "dialect" | "raw") {
                    self.problem(format!("every event has `{field}`, so this never matches"), None);
                }
                Some(Clause::Exists(wanted))
            }
            "nonempty" => self.of_bool(name, operand).map(Clause::Nonempty),
            "numeric" => {
                let range = self.range(operand);
                if !field.is_tree() {
                    self.problem(format!("`{field}` is a text, so `numeric` never matches"), None);
                }
                range.map(Clause::Numeric)
            }
            "cidr" => self.cidr(operand).map(Clause::Cidr),
            other => {
                let help = match near_operator(other) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are `{}`", OPERATORS.join("`, `")),
                };
                self.problem(format!("`{}` is no operator", show::plain(other)), help);
                None
            }
        }
    }

    /// The operators that take one text.
    fn of_text(&mut self, name: &str, operand: &Value) -> Option<Clause> {
        let Value::String(text) = operand else {
            let help = match operand {
                Value::Array(_) => format!("write one table for each: `[{{ {name} = \"a\" }}, {{ {name} = \"b\" }}]`"),
                _ => format!("write `{{ {name} = \"a\" }}`"),
            };
            self.problem(format!("`{name}` takes a text, this is {}", kind(operand)), help);
            return None;
        };
        Some(match name {
            "prefix" => Clause::Prefix(text.clone()),
            "suffix" => Clause::Suffix(text.clone()),
            "equals-ignore-case" => Clause::EqualsIgnoreCase(text.clone()),
            _ => match Wildcard::new(text) {
                Ok(wildcard) => Clause::Wildcard(wildcard),
                Err(_) => {
                    self.problem("a backslash stands before `*` or another backslash only", r"write `\\` for a backslash, `\*` for a star".to_owned());
                    return None;
                }
            },
        })
    }

    fn of_bool(&mut self, name: &str, operand: &Value) -> Option<bool> {
        let bool = operand.as_bool();
        if bool.is_none() {
            self.problem(format!("`{name}` takes true or false, this is {}", kind(operand)), None);
        }
        bool
    }

    fn anything_but(&mut self, field: &FieldPath, operand: &Value) -> Option<Vec<Clause>> {
        match operand {
            Value::Array(items) => {
                if items.is_empty() {
                    self.problem("`anything-but` of an empty list is every value", "write `{ exists = true }`".to_owned());
                }
                if items.len() > VALUES_MAX {
                    self.problem(format!("{} values, {VALUES_MAX} are the limit", items.len()), None);
                    return None;
                }
                let mut clauses = Vec::with_capacity(items.len());
                for (place, item) in items.iter().enumerate() {
                    clauses.extend(self.at(place.to_string(), |this| this.exact(field, item)).map(Clause::Exact));
                }
                Some(clauses)
            }
            Value::Object(members) => {
                if members.len() != 1 {
                    self.problem(
                        format!("`anything-but` takes one operator, here are {}", members.len()),
                        "write `{ anything-but = { suffix = \".md\" } }`".to_owned(),
                    );
                }
                let mut clauses = Vec::new();
                for (name, operand) in members {
                    self.at(name, |this| {
                        if !BUT_OPERATORS.contains(&name.as_str()) {
                            let help = match suggest(name, &BUT_OPERATORS) {
                                Some(near) => format!("did you mean `{near}`?"),
                                None => format!("it takes `{}`, or plain values", BUT_OPERATORS.join("`, `")),
                            };
                            return this.problem(format!("`anything-but` takes no `{}`", show::plain(name)), help);
                        }
                        match operand {
                            Value::Array(items) => {
                                if items.is_empty() {
                                    this.problem("`anything-but` of an empty list is every value", "write `{ exists = true }`".to_owned());
                                }
                                if items.len() > VALUES_MAX {
                                    return this.problem(format!("{} values, {VALUES_MAX} are the limit", items.len()), None);
                                }
                                for (place, item) in items.iter().enumerate() {
                                    clauses.extend(this.at(place.to_string(), |this| this.of_text(name, item)));
                                }
                            }
                            operand => clauses.extend(this.of_text(name, operand)),
                        }
                    });
                }
                Some(clauses)
            }
            value => self.exact(field, value).map(|scalar| vec![Clause::Exact(scalar)]),
        }
    }

    fn range(&mut self, operand: &Value) -> Option<Range> {
        let help = "write `{ numeric = [\">\", 5, \"<=\", 10] }`, with `<`, `<=`, `=`, `>=` or `>`".to_owned();
        let Some(pairs) = operand.as_array().filter(|items| matches!(items.len(), 2 | 4)) else {
            self.problem(format!("`numeric` takes one or two comparisons, this is {}", kind(operand)), help);
            return None;
        };
        let mut range = Range::default();
        let problems = self.problems.len();
        for (place, pair) in pairs.chunks_exact(2).enumerate() {
            let sign = pair[0].as_str().filter(|sign| ["<", "<=", "=", ">=", ">"].contains(sign));
            if sign.is_none() {
                let help = match pair[0].as_str() {
                    Some("!=" | "<>") => "write `{ anything-but = 5 }`".to_owned(),
                    Some("==") => "write `=`".to_owned(),
                    _ => help.clone(),
                };
                self.at((2 * place).to_string(), |this| this.problem(format!("{} is no comparison", show::value(&pair[0])), help));
            }
            let number = pair[1].as_number().and_then(Num::of);
            if number.is_none() {
                self.at((2 * place + 1).to_string(), |this| this.problem(format!("{} is no number", show::value(&pair[1])), help.clone()));
            }
            let (Some(sign), Some(at)) = (sign, number) else { continue };
            let bound = Some(Bound { at, inclusive: sign.contains('=') });
            let twice = |end: &mut Option<Bound>| end.replace(Bound { at, inclusive: sign.contains('=') }).is_some();
            let again = match sign {
                ">" | ">=" => twice(&mut range.lower),
                "<" | "<=" => twice(&mut range.upper),
                _ => {
                    let again = range.lower.is_some() || range.upper.is_some() || pairs.len() > 2;
                    (range.lower, range.upper) = (bound, bound);
                    again
                }
            };
            if again {
                self.at((2 * place).to_string(), |this| {
                    this.problem("the same end of the range is given twice", "give a lower and an upper end, or one `=`".to_owned())
                });
            }
        }
        if self.problems.len() == problems && range.is_empty() {
            self.problem("no number is in this range, so it never matches", "give a lower end that is below the upper one".to_owned());
        }
        Some(range)
    }

    fn cidr(&mut self, operand: &Value) -> Option<Cidr> {
        let Some(cidr) = operand.as_str().and_then(Cidr::new) else {
            self.problem(format!("{} is no block of addresses", show::value(operand)), "write `10.0.0.0/8`, `fd00::/8` or one address".to_owned());
            return None;
        };
        if let Some(meant) = cidr.tidied() {
            self.problem(format!("{} has bits set behind its length", show::value(operand)), format!("did you mean `{meant}`?"));
        }
        Some(cidr)
    }
}

/// Is a table behind `field` a clause, or are its keys further words of the field?
fn is_clause(field: &FieldPath, members: &Map<String, Value>) -> bool {
    if !field.is_tree() {
        return true;
    }
    let is_operator = |name: &str| OPERATORS.contains(&name);
    match members.keys().next() {
        None => false,
        // One key alone that is nearly an operator is a slip: as a field it would be compared in silence and never match.
        Some(only) if members.len() == 1 => is_operator(only) || (is_slip(only) && field.join(only).is_ok()),
        Some(_) => members.keys().all(|name| is_operator(name)),
    }
}

fn near_operator(name: &str) -> Option<&'static str> {
    let folded = name.to_ascii_lowercase().replace('-', "_");
    let other = OTHER_OPERATORS.iter().find(|(other, _)| *other == folded).map(|(_, operator)| *operator);
    other.or_else(|| suggest(name, &OPERATORS))
}

/// Nearer than a mere suggestion: one letter off, or a name that other languages have and hardly any payload.
fn is_slip(name: &str) -> bool {
    OPERATORS.iter().any(|operator| slips(name, operator) <= 1) || FOREIGN.contains(&name)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}
