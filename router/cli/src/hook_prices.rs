//! The configuration's prices, laid beside the spool: hooks read no configuration, and charge by the same table as the router.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use router_claude::{PRICES_FILE, Spool, whole_file};
use router_core::config::Config;
use router_transcripts::Prices;
use tracing::warn;

/// Of the first line, which says whose prices these are.
const MARK: &str = "# For the hooks of this machine, by the router on ";

/// Lays the prices there, or takes away those that this router laid there before.
pub(crate) fn leave(spool: &Spool, config: &Config) {
    let file = spool.directory().join(PRICES_FILE);
    if let Err(error) = left(&file, config) {
        warn!("hooks charge by other prices than this configuration: `{}`: {error}", file.display());
    }
}

fn left(file: &Path, config: &Config) -> io::Result<()> {
    let head = format!("{MARK}{}.\n", config.store.path.display().to_string().escape_debug());
    let Some(path) = &config.sessions.prices else {
        // Those of another router, and of a person, stay.
        let is_ours = whole_file::read(file, Prices::FILE_BYTES_MAX + 4_096)?.is_some_and(|known| known.starts_with(head.as_bytes()));
        return if is_ours { fs::remove_file(file) } else { Ok(()) };
    };
    let prices = fs::read_to_string(path)?;
    fs::create_dir_all(file.parent().map_or_else(PathBuf::new, Path::to_owned))?;
    whole_file::replace(file, format!("{head}{prices}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::tests::config;

    #[test]
    fn hooks_have_the_prices_of_the_configuration_as_long_as_it_has_some() {
        let home = tempfile::tempdir().unwrap();
        let prices = home.path().join("prices.toml");
        fs::write(&prices, "as_of = \"2027-01-15\"\n").unwrap();
        let spool = Spool::at(&home.path().join("state/spool"), 1 << 20);
        let store = format!("[store]\npath = '{}'\n", home.path().join("router.db").display());
        let with = config(&format!("{store}[sessions]\nprices = '{}'\n", prices.display()));
        let without = config(&store);
        let file = spool.directory().join(PRICES_FILE);
        leave(&spool, &without);
        assert!(!file.exists());
        leave(&spool, &with);
        assert_eq!(Prices::with_overrides(&file).unwrap().as_of(), "2027-01-15");
        leave(&spool, &without);
        assert!(!file.exists());
        // A person's own.
        fs::write(&file, "as_of = \"2027-01-16\"\n").unwrap();
        leave(&spool, &without);
        assert!(file.exists());
    }
}
