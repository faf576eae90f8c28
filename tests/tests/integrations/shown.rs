//! `docs/integrations/shown.md` and `docs/claude-code-shown.md` name tests that exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use router_tests::workspace;

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the workspace can be read").map_while(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_the_page_names_exists_where_it_says() {
    names_tests_that_exist("docs/integrations/shown.md", &["plugins/tests", "tests/tests", "router/claude/src"]);
}

#[test]
fn every_test_that_the_page_of_claude_code_names_exists_where_it_says() {
    names_tests_that_exist("docs/claude-code-shown.md", &["tests/tests", "router"]);
}

fn names_tests_that_exist(page: &str, directories: &[&str]) {
    let page = fs::read_to_string(workspace().join(page)).expect("the page is there");
    let mut all = Vec::new();
    for directory in directories {
        sources(&workspace().join(directory), &mut all);
    }
    let (mut named, mut missing) = (0, BTreeSet::new());
    // What stands between two backticks: a file, or a test of the file that was named last.
    let mut file = String::new();
    for word in
        page.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split(" | ").nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2))
    {
        if word.ends_with(".rs") {
            file = word.to_owned();
            continue;
        }
        if !word.contains('_') {
            continue;
        }
        named += 1;
        let is_there = all.iter().filter(|path| path.ends_with(&file)).any(|path| {
            let text = fs::read_to_string(path).expect("a source can be read");
            text.contains(&format!("fn {word}()"))
        });
        if !is_there {
            missing.insert(format!("{file}: {word}"));
        }
    }
    assert!(named > 50, "only {named} tests were found on the page");
    assert!(missing.is_empty(), "named, and not there: {missing:#?}");
}
