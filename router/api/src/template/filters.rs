//! The filters and tests that templates can use, and the pure functions on paths among them.

use minijinja::{Environment, filters, tests};

/// Every filter, sorted.
pub(super) const FILTERS: &[&str] = &[
    "basename",
    "count",
    "d",
    "default",
    "dirname",
    "first",
    "int",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "relative_to",
    "replace",
    "sort",
    "split",
    "string",
    "tojson",
    "trim",
    "unique",
    "upper",
];

/// Every test that is written as a word, sorted.
pub(super) const TESTS: &[&str] =
    &["boolean", "defined", "endingwith", "eq", "false", "in", "mapping", "ne", "none", "number", "sequence", "startingwith", "string", "true", "undefined"];

/// Adds them to an empty environment.
pub(super) fn add_to(engine: &mut Environment<'static>) {
    engine.add_filter("basename", basename);
    engine.add_filter("dirname", dirname);
    engine.add_filter("relative_to", relative_to);
    engine.add_filter("count", filters::length);
    engine.add_filter("d", filters::default);
    engine.add_filter("default", filters::default);
    engine.add_filter("first", filters::first);
    engine.add_filter("int", filters::int);
    engine.add_filter("join", filters::join);
    engine.add_filter("last", filters::last);
    engine.add_filter("length", filters::length);
    engine.add_filter("lines", filters::lines);
    engine.add_filter("list", filters::list);
    engine.add_filter("lower", filters::lower);
    engine.add_filter("map", filters::map);
    engine.add_filter("replace", filters::replace);
    engine.add_filter("sort", filters::sort);
    engine.add_filter("split", filters::split);
    engine.add_filter("string", filters::string);
    engine.add_filter("tojson", tojson);
    engine.add_filter("trim", filters::trim);
    engine.add_filter("unique", filters::unique);
    engine.add_filter("upper", filters::upper);

    engine.add_test("boolean", tests::is_boolean);
    engine.add_test("defined", tests::is_defined);
    engine.add_test("endingwith", tests::is_endingwith);
    engine.add_test("eq", tests::is_eq);
    engine.add_test("false", tests::is_false);
    engine.add_test("in", tests::is_in);
    engine.add_test("mapping", tests::is_mapping);
    engine.add_test("ne", tests::is_ne);
    engine.add_test("none", tests::is_none);
    engine.add_test("number", tests::is_number);
    engine.add_test("sequence", tests::is_sequence);
    engine.add_test("startingwith", tests::is_startingwith);
    engine.add_test("string", tests::is_string);
    engine.add_test("true", tests::is_true);
    engine.add_test("undefined", tests::is_undefined);
}

/// Plain JSON: the library's own filter escapes `<`, `>`, `&` and `'` for HTML, which nothing here is.
fn tojson(value: &minijinja::Value) -> Result<String, minijinja::Error> {
    if value.is_undefined() {
        return Err(minijinja::ErrorKind::UndefinedError.into());
    }
    serde_json::to_string(value).map_err(|error| minijinja::Error::new(minijinja::ErrorKind::BadSerialization, error.to_string()))
}

/// The last component: `a.py` of `/srv/a.py` and of `/srv/a.py/`. Of `/` and of nothing, nothing.
fn basename(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

/// All but the last component: `/srv` of `/srv/a.py`, `/` of `/a`, `.` of `a`.
fn dirname(path: &str) -> String {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((parent, _)) => match parent.trim_end_matches('/') {
            "" => "/".to_owned(),
            parent => parent.to_owned(),
        },
        None if path.starts_with('/') => "/".to_owned(),
        None => ".".to_owned(),
    }
}

/// The path as seen from a directory: `src/a.py` of `/srv/src/a.py` in `/srv`, `.` of the directory itself. A path that does not
/// lie below the directory, or has `..` in it, stays as it is and so still names the same file.
fn relative_to(path: &str, directory: &str) -> String {
    let climbs = |text: &str| text.split('/').any(|component| component == "..");
    let directory = directory.trim_end_matches('/');
    let below = match path.strip_prefix(directory) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => return path.to_owned(),
    };
    if climbs(path) || climbs(directory) || (directory.is_empty() && !path.starts_with('/')) {
        return path.to_owned();
    }
    if below.is_empty() { ".".to_owned() } else { below.to_owned() }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn names_are_sorted_and_all_of_them_are_there() {
        assert!(FILTERS.is_sorted() && TESTS.is_sorted());
        let mut engine = Environment::empty();
        add_to(&mut engine);
        for filter in FILTERS {
            let error = engine.compile_expression_owned(format!("key | {filter}")).unwrap().eval(()).err();
            assert!(error.is_none_or(|error| error.kind() != minijinja::ErrorKind::UnknownFilter), "{filter}");
        }
        for test in TESTS {
            let error = engine.compile_expression_owned(format!("1 is {test}")).unwrap().eval(()).err();
            assert!(error.is_none_or(|error| error.kind() != minijinja::ErrorKind::UnknownTest), "{test}");
        }
    }

    #[test]
    fn paths_are_taken_apart_as_texts() {
        for (path, base, dir) in [
            ("/srv/a.py", "a.py", "/srv"),
            ("/srv/a/", "a", "/srv"),
            ("a", "a", "."),
            ("/a", "a", "/"),
            ("/", "", "/"),
            ("", "", "."),
            ("a//b", "b", "a"),
            ("//x", "x", "/"),
        ] {
            assert_eq!((basename(path).as_str(), dirname(path).as_str()), (base, dir), "{path}");
        }
    }

    #[test]
    fn a_path_outside_of_the_directory_stays_whole() {
        assert_eq!(relative_to("/srv/app/src/a.py", "/srv/app"), "src/a.py");
        assert_eq!(relative_to("/srv/app/src/a.py", "/srv/app/"), "src/a.py");
        assert_eq!(relative_to("/srv/application/a.py", "/srv/app"), "/srv/application/a.py");
        assert_eq!(relative_to("/srv/app", "/srv/app"), ".");
        assert_eq!(relative_to("/srv/app/../x", "/srv/app"), "/srv/app/../x");
        assert_eq!(relative_to("/a", "/"), "a");
        assert_eq!(relative_to("a", ""), "a");
    }
}
