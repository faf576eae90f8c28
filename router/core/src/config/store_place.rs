//! Where the store is: what the configuration says, or what goes by the place of the configuration; and what can still be told of it
//! when the configuration cannot be used, since a router may run on that store with an earlier one.

use std::path::{Path, PathBuf};

use router_api::suggest;

use super::{
    environment::Environment,
    interpolate::Filler,
    locate::clean,
    source::{FileId, Sources},
    tree::{Filled, Node, NodeValue, Step, Table},
};

/// The store's path: what is said, else `router.db` in the directory that the service manager gives, else in `state`.
pub(super) fn resolved(said: Option<PathBuf>, state: &Path, environment: &dyn Environment) -> PathBuf {
    let path = said.unwrap_or_else(|| {
        let given = environment.variable("STATE_DIRECTORY").ok().flatten().filter(|directory| !directory.is_empty());
        // systemd says an absolute path; a relative one of somebody else is relative to the directory that it stands for.
        given.map_or_else(|| state.to_owned(), |given| state.parent().unwrap_or(state).join(given)).join("router.db")
    });
    clean(&path)
}

/// May what stands at `path`, and does not fit, have been meant to say where the store is?
pub(super) fn concerns(path: &[Step]) -> bool {
    matches!(path.first(), Some(Step::Key(key)) if key == "store" || suggest(key, &["store"]).is_some())
}

/// What is known of a configuration that cannot be used.
pub(super) struct Clues<'a> {
    /// Of the files that are valid TOML, without what does not fit.
    pub tables: &'a Node,
    /// What can be made out of the other files.
    pub broken: Vec<(FileId, Table)>,
    /// Every file could be read, and nothing that was left out of `tables` was about the store.
    pub all_is_known: bool,
}

impl Clues<'_> {
    /// Where the store is. `None` rather than a guess: whoever asks goes on to command the router that runs there.
    pub(super) fn store(self, sources: &Sources, state: &Path, environment: &dyn Environment) -> Option<PathBuf> {
        let Self { tables, broken, all_is_known } = self;
        let path = [Step::Key("store".to_owned()), Step::Key("path".to_owned())];
        let mut filler = Filler::new(environment, sources);
        let mut said: Option<Node> = tables.at(&path).cloned();
        let mut all_is_known = all_is_known;
        for (file, table) in broken {
            let root = Node { span: Default::default(), value: NodeValue::Table(table) };
            match root.at(&path).cloned() {
                // A later file's word counts.
                Some(mut node) if said.as_ref().is_none_or(|said| said.span.file < file) => {
                    filler.fill(&mut node, false, &mut Vec::new());
                    said = Some(node);
                }
                Some(_) => {}
                None => all_is_known &= !sources.file(file).text.lines().any(may_say_it),
            }
        }
        let said = match said {
            Some(node) => {
                let text = node.as_text().filter(|text| text.filled != Filled::Missing)?;
                Some(sources.file(node.span.file).base_dir.join(&text.value))
            }
            None => None,
        };
        (all_is_known || said.is_some()).then(|| resolved(said, state, environment))
    }
}

/// A line of a file that is no TOML, from which the parser made nothing, and which may say where the store is.
fn may_say_it(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("path") || (line.starts_with("store") && line.contains("path"))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::load_files, *};
    use crate::config::FixedEnvironment;

    /// Where a configuration of these files is taken to have its store, relative to them.
    async fn store(files: &[(&str, &str)]) -> Option<String> {
        let environment = FixedEnvironment::default().with("PLACE", "filled");
        let problems = load_files(files, &environment).await.expect_err("it is wrong");
        let path = problems.store?;
        let place: PathBuf = path.components().skip_while(|part| !part.as_os_str().to_string_lossy().starts_with("router-core-config")).skip(1).collect();
        Some(place.to_string_lossy().into_owned())
    }

    #[tokio::test]
    async fn the_store_of_a_configuration_that_cannot_be_used_is_told_only_where_it_is_sure() {
        const SAID: &str = "[store]\npath = \"said/x.db\"\n";
        const WRONG: &str = "[[route]]\nname = \"a\"\n";
        const CUT: &str = "[[route]\nname = \"a\n";
        for (text, expected) in [
            (format!("{SAID}{WRONG}"), Some("said/x.db")),
            (format!("{SAID}{CUT}"), Some("said/x.db")),
            (WRONG.to_owned(), Some("state/router.db")),
            (CUT.to_owned(), Some("state/router.db")),
            (format!("[store]\npath = \"${{PLACE}}/x.db\"\n{CUT}"), Some("filled/x.db")),
            (format!("[store]\npath = \"${{PLACE}}/x.db\"\n{WRONG}"), Some("filled/x.db")),
            (format!("[store]\npath = \"${{NONE}}/x.db\"\n{CUT}"), None),
            (format!("[store]\npath = \"${{NONE}}/x.db\"\n{WRONG}"), None),
            // Without its quotes it is no TOML, and still clear.
            ("[store]\npath = said/x.db\n".to_owned(), Some("said/x.db")),
            ("[store]\npath\n= 'said/x.db'\n".to_owned(), None),
            ("[store]\npath = 7\n".to_owned(), None),
            ("[store]\npth = \"said/x.db\"\n".to_owned(), None),
            ("[stroe]\npath = \"said/x.db\"\n".to_owned(), None),
            ("store = { path = said/x.db }\n".to_owned(), Some("said/x.db")),
            ("[stor\n".to_owned(), Some("state/router.db")),
        ] {
            assert_eq!(store(&[("router.toml", &text)]).await.as_deref(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn the_last_file_that_says_it_counts_whether_it_is_valid_or_not() {
        let (one, two) = ("[store]\npath = \"one.db\"\n", "[store]\npath = \"two.db\"\n");
        let cut = |text: &str| format!("{text}[[route]\n");
        assert_eq!(store(&[("a.toml", &cut(one)), ("b.toml", two)]).await.as_deref(), Some("two.db"));
        assert_eq!(store(&[("a.toml", one), ("b.toml", &cut(two))]).await.as_deref(), Some("two.db"));
        assert_eq!(store(&[("a.toml", one), ("b.toml", "[[route]\n")]).await.as_deref(), Some("one.db"));
        assert_eq!(store(&[("a.toml", one), ("b.toml", "[[route]\nstore.path = \"two.db\n")]).await.as_deref(), None);
    }
}
