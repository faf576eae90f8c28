//! What somebody probably meant by options that do not fit, so that their plugin can be asked about the rest of them at once: whoever
//! mends a type should not learn of the next problem only then. Nothing is ever run with it.

use super::{
    schema_walk::{Finding, Meant},
    tree::{Node, NodeValue, Step},
};

/// The options as they were probably meant; `None` where one of the findings leaves that open.
pub(super) fn repaired(options: &Node, findings: &[Finding]) -> Option<Node> {
    let mut options = options.clone();
    let mut findings: Vec<_> = findings.iter().collect();
    // The later elements of an array first, so that the others keep their numbers.
    findings.sort_by(|one, other| other.path.cmp(&one.path));
    for finding in findings {
        match finding.meant.as_ref()? {
            Meant::Nothing => options.remove(&finding.path),
            Meant::Key(key) => rename(&mut options, &finding.path, key)?,
            Meant::Value(value) => options.at_mut(&finding.path)?.value = value.clone(),
        }
    }
    Some(options)
}

fn rename(options: &mut Node, path: &[Step], key: &str) -> Option<()> {
    let (last, way) = path.split_last()?;
    let NodeValue::Table(table) = &mut options.at_mut(way)?.value else { return None };
    let entry = table.entries.iter_mut().find(|entry| matches!(last, Step::Key(key) if entry.key == *key))?;
    key.clone_into(&mut entry.key);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{environment, lines, load_files};

    async fn problems(text: &str) -> Vec<String> {
        lines(&load_files(&[("router.toml", text)], &environment()).await.expect_err("it is wrong").report)
    }

    #[tokio::test]
    async fn what_a_plugin_has_to_say_comes_together_with_wrong_types_and_misspelt_options() {
        let found = problems(
            "[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\n[route.with]\ncommand = 'nowhere x'\ntries = '3'\ntokn = 'a b'\nwhatever = 1\non_error = 'x'\n",
        )
        .await;
        assert_eq!(found.len(), 7, "{found:#?}");
        for part in [
            "6:11 wrong-type: `command` must be an array",
            "`command.0`: no program `nowhere`",
            "7:9 wrong-type: `tries` must be an integer",
            "8:1 unknown-key: `run` has no option `tokn` | did you mean `token`?",
            "8:8 bad-option: `token`: `a b` has a space",
            "unknown-key: `run` has no option `whatever`",
            "unknown-key: `run` has no option `on_error`",
        ] {
            assert!(found.iter().any(|line| line.contains(part)), "no `{part}` in {found:#?}");
        }
    }

    #[tokio::test]
    async fn a_plugin_is_asked_though_the_route_around_it_is_wrong() {
        for (wrong, part) in [
            ("name = 'A B'\non = ['a']", "bad-name"),
            ("name = 'a'\non = ['a']\nwhen = { tool = ['x'] }", "bad-filter"),
            ("name = 'a'\non = 'a'", "wrong-type"),
            ("name = 'a'\non = ['a']\ncoalesce = { by = 'nothing', quiet_ms = 1 }", "unknown-field"),
        ] {
            let found = problems(&format!("[[route]]\n{wrong}\nhandler = 'run'\nwith = {{ command = ['nowhere'] }}\n")).await;
            assert!(found.len() == 2 && found.iter().any(|line| line.contains(part)), "{found:#?}");
            assert!(found.iter().any(|line| line.contains("bad-option: `command.0`: no program `nowhere`")), "{found:#?}");
        }
    }

    #[tokio::test]
    async fn what_was_meant_is_never_guessed_and_a_plugin_is_not_blamed_for_a_guess() {
        for with in ["command = 7", "tries = 3", "command = ['true']\ntarget = { kind = 'fle', path = 'x' }", "command = ['panic']\ntries = '1'"] {
            let found = problems(&format!("[[route]]\nname = 'a'\non = ['a']\nhandler = 'run'\n[route.with]\n{with}\n")).await;
            assert!(found.len() == 1 && !found[0].contains("bad-option"), "{with}: {found:#?}");
        }
    }

    #[tokio::test]
    async fn a_table_of_options_at_the_wrong_place_is_told_the_right_one() {
        const ROUTE: &str = "[[route]]\nname = 'a'\non = ['a']\nhandler = 'print'\n";
        for (below, help) in [
            ("[with]\nprefix = 'x'\n", "the options of a plugin stand in `[route.with]`, below the `[[route]]` that they belong to"),
            ("[wiht]\nprefix = 'x'\n", "the options of a plugin stand in `[route.with]`, below the `[[route]]` that they belong to"),
            ("[route.options]\nprefix = 'x'\n", "the options of a plugin stand in `[route.with]`, below the `[[route]]` that they belong to"),
            ("[route.wiht]\nprefix = 'x'\n", "did you mean `with`?"),
            ("[[route.with]]\nprefix = 'x'\n", "with one bracket: `[route.with]`"),
        ] {
            let found = problems(&format!("{ROUTE}{below}")).await;
            assert!(found.len() == 1 && found[0].ends_with(&format!(" | {help}")), "{below}: {found:#?}");
        }
    }
}
