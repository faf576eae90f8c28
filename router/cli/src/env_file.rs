//! `--env-file`: variables from a file, for the references of the configuration. Read as systemd and Docker read theirs: lines of
//! `NAME=VALUE`, and no shell.
//!
//! A variable that the process has counts before one of a file, so that a single run can differ. Programs that routes run get none of them.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use router_core::config::{Environment, ProcessEnvironment};

use crate::setup::InvalidConfig;

/// In bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Problems of one file that are shown.
const PROBLEMS_MAX: usize = 10;

/// The environment of the process, and behind it what files say.
#[derive(Debug, Default)]
pub(crate) struct FileEnvironment {
    variables: BTreeMap<String, String>,
}

impl FileEnvironment {
    /// Reads files, the last of which counts where several say the same.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] with every line that is wrong; never with a value.
    pub(crate) fn read<P: AsRef<Path>>(files: &[P]) -> Result<Self, InvalidConfig> {
        let (mut variables, mut problems) = (BTreeMap::new(), String::new());
        for path in files {
            let path = path.as_ref();
            match read_limited(path) {
                Ok(text) => parse(&text, &path.display().to_string(), &mut variables, &mut problems),
                Err(reason) => problem(&mut problems, format_args!("the file `{}` of `--env-file` {reason}", path.display())),
            }
        }
        if problems.is_empty() { Ok(Self { variables }) } else { Err(InvalidConfig::rendered(problems.trim_end())) }
    }
}

impl Environment for FileEnvironment {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        Ok(ProcessEnvironment.variable(name)?.or_else(|| self.variables.get(name).cloned()))
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        ProcessEnvironment.file(path)
    }

    fn readable(&self, path: &Path) -> Result<(), String> {
        ProcessEnvironment.readable(path)
    }
}

fn problem(problems: &mut String, sentence: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(problems, "error: {sentence}");
}

fn read_limited(path: &Path) -> Result<String, String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => Err(format!("is longer than {FILE_BYTES_MAX} bytes, the limit")),
        Ok(_) => std::fs::read_to_string(path).map_err(|error| reason(&error)),
        Err(error) => Err(reason(&error)),
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => "may not be read by this user: permission denied".to_owned(),
        std::io::ErrorKind::InvalidData => "is no UTF-8 text".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn parse(text: &str, file: &str, variables: &mut BTreeMap<String, String>, problems: &mut String) {
    let mut wrong = 0;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        match variable(line.trim()) {
            Ok(Some((name, value))) => drop(variables.insert(name.to_owned(), value.to_owned())),
            Ok(None) => {}
            Err(what) => {
                wrong += 1;
                if wrong <= PROBLEMS_MAX {
                    problem(problems, format_args!("{file}:{}: {what}", number + 1));
                }
            }
        }
    }
    if wrong > PROBLEMS_MAX {
        problem(problems, format_args!("{file}: and {} more lines like that", wrong - PROBLEMS_MAX));
    }
}

/// Name and value of a line; `None` for an empty one or a comment. The error says nothing of the value.
fn variable(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Ok(None);
    }
    let Some((name, value)) = line.split_once('=') else { return Err("not `NAME=VALUE`") };
    let name = name.trim_end();
    if name.starts_with("export ") {
        return Err("this is no shell script: write `NAME=VALUE` without `export`");
    }
    let is_name = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        return Err("what stands before `=` is no name of a variable: use letters, digits and `_`");
    }
    let value = value.trim_start();
    let value = match value.chars().next().filter(|quote| matches!(quote, '"' | '\'')) {
        // Nothing within quotes means anything but itself.
        Some(quote) => value[1..].strip_suffix(quote).ok_or("the quote is not closed at the end of the line")?,
        None => value,
    };
    if value.contains('\0') { Err("there is a NUL in it") } else { Ok(Some((name, value))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<BTreeMap<String, String>, String> {
        let (mut variables, mut problems) = (BTreeMap::new(), String::new());
        parse(text, "router.env", &mut variables, &mut problems);
        if problems.is_empty() { Ok(variables) } else { Err(problems) }
    }

    #[test]
    fn values_are_taken_as_they_stand_but_for_quotes_around_them() {
        let text = "\u{feff}# a comment\r\n; another\r\n\r\n A = b c \r\nB=\"x # y\"\nC='$HOME `id` \\n'\nD=\nE=a=b#c\nF=\"\"\nA=last\n_G1=it's\n";
        let expected = [("A", "last"), ("B", "x # y"), ("C", "$HOME `id` \\n"), ("D", ""), ("E", "a=b#c"), ("F", ""), ("_G1", "it's")];
        assert_eq!(of(text).unwrap(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn every_wrong_line_is_named_and_no_value_shown() {
        let problems = of("export A=hunter22\nhunter22\n1A=hunter22\n=hunter22\nA-B=hunter22\nA=\"hunter22\nA='\n").unwrap_err();
        for line in 1..=7 {
            assert!(problems.contains(&format!("error: router.env:{line}: ")), "{problems}");
        }
        assert!(problems.contains("without `export`") && !problems.contains("hunter22"), "{problems}");
        let many = of(&"x\n".repeat(5_000)).unwrap_err();
        assert!(many.lines().count() == PROBLEMS_MAX + 1 && many.contains("and 4990 more lines"), "{many}");
    }

    #[test]
    fn the_process_counts_before_a_file_and_a_later_file_before_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [file("a.env", "PATH=x\nONLY_HERE_A=1\nONLY_HERE_B=1\n"), file("b.env", "ONLY_HERE_B=2\n")];
        let environment = FileEnvironment::read(&files).unwrap();
        assert_eq!(environment.variable("PATH"), ProcessEnvironment.variable("PATH"));
        assert_eq!(environment.variable("ONLY_HERE_A"), Ok(Some("1".to_owned())));
        assert_eq!(environment.variable("ONLY_HERE_B"), Ok(Some("2".to_owned())));
        assert_eq!(environment.variable("ONLY_HERE_C"), Ok(None));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_invalid_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("long.env");
        std::fs::write(&long, vec![b'#'; 1024 * 1024 + 1]).unwrap();
        let error = FileEnvironment::read(&[directory.path().join("none.env"), long]).unwrap_err().to_string();
        assert!(error.contains("none.env` of `--env-file` does not exist") && error.contains("long.env` of `--env-file` is longer than"), "{error}");
    }
}
