//! What secrets look like: the shapes that are built in (`router-secrets`), and the operator's own patterns.

use std::fmt;

use regex::{Regex, RegexBuilder};
use router_secrets::{Finding, found, settled};

use super::{RedactProblem, Redactor};

pub(super) struct Shapes {
    builtin: bool,
    own: Vec<Regex>,
}

impl Shapes {
    const PATTERN_BYTES_MAX: usize = 1_024;
    const PROGRAM_BYTES_MAX: usize = 1024 * 1024;

    pub(super) fn new(builtin: bool, patterns: &[String], problems: &mut Vec<RedactProblem>) -> Self {
        if patterns.len() > Redactor::RULES_MAX {
            problems.push(RedactProblem::new("patterns", format!("has {} patterns, {} are the limit", patterns.len(), Redactor::RULES_MAX)));
        }
        let mut own = Vec::new();
        for (number, pattern) in patterns.iter().take(Redactor::RULES_MAX).enumerate() {
            match Self::pattern(pattern) {
                Ok(regex) => own.push(regex),
                Err(mut problem) => {
                    problem.field = format!("patterns.{number}");
                    problems.push(problem);
                }
            }
        }
        Self { builtin, own }
    }

    fn pattern(pattern: &str) -> Result<Regex, RedactProblem> {
        if pattern.len() > Self::PATTERN_BYTES_MAX {
            return Err(RedactProblem::new("", format!("is {} bytes long, {} are the limit", pattern.len(), Self::PATTERN_BYTES_MAX)));
        }
        let regex = RegexBuilder::new(pattern).size_limit(Self::PROGRAM_BYTES_MAX).build().map_err(|error| {
            let text = error.to_string();
            // The error draws the pattern over several lines; its last line is the sentence.
            let sentence = text.lines().last().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.').to_owned();
            RedactProblem::new("", format!("`{pattern}` is no regular expression: {sentence}"))
                .help("look-around and back-references are left out on purpose: every search takes linear time")
        })?;
        if regex.is_match("") {
            return Err(
                RedactProblem::new("", format!("`{pattern}` fits the empty text, so it would fit everywhere")).help("use `+` or a minimum instead of `*`")
            );
        }
        Ok(regex)
    }

    /// All secrets of a text, in order, without overlaps. Of an own pattern the group `secret` goes where there is one, else all of it.
    pub(super) fn find(&self, text: &str) -> Vec<Finding> {
        let mut all = if self.builtin { found(text) } else { Vec::new() };
        for pattern in &self.own {
            if pattern.captures_len() == 1 {
                all.extend(pattern.find_iter(text).map(|whole| Finding { range: whole.range(), kind: "pattern" }));
                continue;
            }
            for captures in pattern.captures_iter(text) {
                let part = captures.name("secret").or_else(|| captures.get(0)).filter(|part| !part.is_empty());
                all.extend(part.map(|part| Finding { range: part.range(), kind: "pattern" }));
            }
        }
        settled(text, all)
    }

    /// Does the key that a string value stands under say that the value is a secret?
    pub(super) fn key_names_secret(&self, key: &str, value: &str) -> bool {
        self.builtin && router_secrets::key_names_secret(key, value)
    }
}

impl fmt::Debug for Shapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shapes").field("builtin", &self.builtin).field("own", &self.own.iter().map(Regex::as_str).collect::<Vec<_>>()).finish()
    }
}
