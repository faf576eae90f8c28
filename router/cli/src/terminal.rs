//! What people see: colour where the terminal allows, columns that line up, and no control character of an event ever.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, Write as _},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// Headings, and what the eye should find first.
pub const BOLD: Style = Style::new().bold();
/// Names of routes and plugins.
pub const NAME: Style = AnsiColor::Cyan.on_default();
/// What went well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What somebody should look at.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// What failed.
pub const BAD: Style = AnsiColor::Red.on_default();
/// What matters less.
pub const DIM: Style = Style::new().dimmed();

/// The standard output of a command. Colour codes are dropped where the terminal or the user wants none.
pub struct Output {
    stream: Box<dyn io::Write + Send>,
    /// Of the terminal; `None` where the reader is none.
    width: Option<usize>,
}

impl Output {
    /// The process's standard output.
    #[must_use]
    pub fn stdout() -> Self {
        let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
        Self { stream: Box::new(anstream::AutoStream::auto(io::stdout())), width }
    }

    /// Any writer; colour codes are dropped.
    #[cfg(test)]
    pub fn plain(writer: impl io::Write + Send + 'static) -> Self {
        Self { stream: Box::new(Stripped(writer)), width: None }
    }

    /// The same as if it were a terminal.
    #[cfg(test)]
    pub fn plain_terminal(writer: impl io::Write + Send + 'static, width: usize) -> Self {
        Self { width: Some(width), ..Self::plain(writer) }
    }

    /// Is the reader somebody at a terminal?
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// Writes a line.
    ///
    /// # Errors
    ///
    /// When the reader is gone.
    pub fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(self.stream, "{text}")
    }

    /// Writes a sentence; on a terminal broken into lines of its width, all but the first indented by `indent`.
    ///
    /// # Errors
    ///
    /// When the reader is gone.
    pub fn prose(&mut self, indent: usize, text: impl fmt::Display) -> io::Result<()> {
        match self.width {
            Some(width) => self.line(wrapped(&text.to_string(), width, indent)),
            None => self.line(text),
        }
    }

    /// Writes an empty line.
    ///
    /// # Errors
    ///
    /// When the reader is gone.
    pub fn gap(&mut self) -> io::Result<()> {
        writeln!(self.stream)
    }

    /// Writes text as it is, without a line break at its end.
    ///
    /// # Errors
    ///
    /// When the reader is gone.
    pub fn text(&mut self, text: impl fmt::Display) -> io::Result<()> {
        write!(self.stream, "{text}")
    }

    /// Writes an answer for programs: one JSON document, indented.
    ///
    /// # Errors
    ///
    /// When the reader is gone.
    pub fn json(&mut self, answer: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(answer).map_err(io::Error::other)?;
        writeln!(self.stream, "{text}")
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    ///
    /// When the reader is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Below this a terminal is too narrow for breaking lines to help.
const WIDTH_MIN: usize = 40;

/// Breaks `text` between words. Styles take no room.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    if width < WIDTH_MIN {
        return text.to_owned();
    }
    let room = |word: &str| anstream::adapter::strip_str(word).to_string().chars().count();
    let (mut broken, mut column) = (String::with_capacity(text.len() + 16), 0);
    for (index, word) in text.split(' ').enumerate() {
        let wide = room(word);
        // A word that is longer than a line stays whole: it is a path or an address that somebody may copy.
        if index > 0 && wide > 0 && column > indent && column + 1 + wide > width {
            broken.truncate(broken.trim_end().len());
            broken.push('\n');
            broken.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if index > 0 {
            broken.push(' ');
            column += 1;
        }
        broken.push_str(word);
        column += wide;
    }
    broken
}

/// `text` in `style`.
pub fn styled(style: Style, text: impl fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// `text` without anything that could move the cursor, hide text or turn it around: such characters appear as `\u{…}`.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_harmful(c) {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Like [`harmless`], but keeps line breaks, for texts of several lines.
#[must_use]
pub fn harmless_lines(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

/// At most `chars_max` characters of `text`, made [`harmless`].
#[must_use]
pub fn shortened(text: &str, chars_max: usize) -> String {
    let mut taken: String = text.chars().take(chars_max).collect();
    if taken.len() < text.len() {
        taken.pop();
        taken.push('…');
    }
    harmless(&taken).into_owned()
}

/// Rows of cells, each column as wide as its widest cell.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<(Style, String)>>,
}

impl Table {
    /// An empty table with headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (DIM, (*heading).to_owned())).collect()] }
    }

    /// Adds a row; texts are made [`harmless`].
    pub fn row(&mut self, cells: Vec<(Style, String)>) {
        self.rows.push(cells.into_iter().map(|(style, text)| (style, harmless(&text).into_owned())).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|(_, text)| text.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            for (column, (style, text)) in row.iter().enumerate() {
                // Nothing is put behind the last cell, so that no line ends in spaces.
                let last = column + 1 == row.len();
                let padding = if last { 0 } else { widths[column] - text.chars().count() + 2 };
                write!(f, "{style}{text}{style:#}{:padding$}", "")?;
            }
        }
        Ok(())
    }
}

/// `7 writes`, `1 run`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A duration as people say it: `380 ms`, `2.5 s`, `3 min`, `5 h`.
#[must_use]
pub fn duration(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 if !ms.is_multiple_of(1_000) => format!("{:.1} s", duration.as_secs_f64()),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// A time as commands show it, in this machine's zone, which is named: the date only where it is not today's.
#[must_use]
pub fn time(at: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let zone = jiff::tz::TimeZone::system();
    let (at, now) = (at.to_zoned(zone.clone()), now.to_zoned(zone));
    let format = if at.date() == now.date() { "%H:%M:%S %Z" } else { "%Y-%m-%d %H:%M:%S %Z" };
    at.strftime(format).to_string()
}

/// Drops colour codes on the way to a writer.
#[cfg(test)]
struct Stripped<W>(W);

#[cfg(test)]
impl<W: io::Write> io::Write for Stripped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let plain = anstream::adapter::strip_bytes(bytes).into_vec();
        self.0.write_all(&plain)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_that_moves_the_cursor_or_turns_text_around_gets_through() {
        assert_eq!(harmless("a\u{1b}[2Jb\r\n\u{202e}c\u{9b}"), "a\\u{1b}[2Jb\\r\\n\\u{202e}c\\u{9b}");
        assert!(matches!(harmless("grün — ✓"), Cow::Borrowed("grün — ✓")));
        assert_eq!(shortened("abc\u{7}def", 5), "abc\\u{7}…");
        assert_eq!(shortened("abc", 3), "abc");
    }

    #[test]
    fn sentences_are_broken_between_words_and_long_words_stay_whole() {
        let text = format!("  {} one two three four five six seven eight", styled(BOLD, "now:"));
        let plain = anstream::adapter::strip_str(&wrapped(&text, 40, 6)).to_string();
        assert_eq!(plain, "  now: one two three four five six seven\n      eight");
        let path = "x".repeat(60);
        assert_eq!(wrapped(&format!("at {path} it is"), 40, 1), format!("at\n {path}\n it is"));
        assert_eq!(wrapped("a b", 10, 2), "a b");
    }

    #[test]
    fn times_name_their_zone() {
        let shown = time(jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(shown.split(' ').count(), 2, "{shown}");
    }

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let mut table = Table::new(&["ROUTE", "STATE"]);
        table.row(vec![(NAME, "ci".into()), (GOOD, "running".into())]);
        table.row(vec![(NAME, "a-long-name".into()), (GOOD, "x".into())]);
        let plain = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert_eq!(plain, "ROUTE        STATE\nci           running\na-long-name  x");
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let shown: Vec<String> = [0, 380, 2_000, 2_500, 45_000, 180_000, 18_000_000].into_iter().map(|ms| duration(Duration::from_millis(ms))).collect();
        assert_eq!(shown, ["0 ms", "380 ms", "2 s", "2.5 s", "45 s", "3 min", "5 h"]);
    }
}
