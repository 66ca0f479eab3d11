//! Sizes, durations and tables as people read them. Scripts use `--json`.

use std::io;
use std::time::Duration;

use unicode_width::UnicodeWidthStr;

/// A number of bytes in decimal units with three digits: `512 B`, `4.10 kB`, `268 MB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = n as f64;
    let mut unit = 0;
    // From 999.5 on it would be rounded to four digits.
    while value >= 999.5 {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A duration in the units that tell most: `4 ms`, `0.4 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match duration {
        d if d < Duration::from_millis(100) => format!("{} ms", d.as_millis()),
        d if d < Duration::from_secs(60) => format!("{:.1} s", d.as_secs_f64()),
        d if d < Duration::from_secs(3600) => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A duration as a clock shows it: `0:03`, `1:02:03`.
pub(crate) fn clock(duration: Duration) -> String {
    let s = duration.as_secs();
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        hours => format!("{hours}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

/// A count with its noun: `1 peer`, `3 peers`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// What an error of the system says, as part of a sentence: lower case.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// A message without the numbers that the system gives its errors: `(os error 111)` tells people nothing.
pub(crate) fn without_error_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut told = parts.next().unwrap_or_default().to_string();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|digit| digit.is_ascii_digit()) => told += rest,
            _ => told.extend([" (os error ", part]),
        }
    }
    told
}

/// A text as one word of a shell, so that what a message tells to type can be pasted.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_@%+=:,./-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Lays rows out in columns two spaces apart. Rows come in pages of any number: a column only ever
/// gets wider, so a list without end needs no memory.
pub(crate) struct Table<const COLUMNS: usize> {
    widths: [usize; COLUMNS],
    align: [Align; COLUMNS],
}

/// To which side of its column a cell is pushed.
#[derive(Clone, Copy)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table whose columns are aligned so.
    pub(crate) fn new(align: [Align; COLUMNS]) -> Table<COLUMNS> {
        Table { widths: [0; COLUMNS], align }
    }

    /// The rows as lines, each with its line end.
    pub(crate) fn lay_out(&mut self, rows: &[[String; COLUMNS]]) -> String {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let mut lines = String::new();
        for row in rows {
            let start = lines.len();
            for ((cell, width), align) in row.iter().zip(self.widths).zip(self.align) {
                if lines.len() > start {
                    lines.push_str("  ");
                }
                let padding = " ".repeat(width - cell.width());
                match align {
                    Align::Left => lines.extend([cell, padding.as_str()]),
                    Align::Right => lines.extend([padding.as_str(), cell]),
                }
            }
            lines.truncate(start + lines[start..].trim_end().len());
            lines.push('\n');
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_never_a_thousand_of_a_unit() {
        for (n, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (4096, "4.10 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_949, "99.9 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (268_435_456, "268 MB"),
            (1 << 30, "1.07 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), shown, "{n}");
        }
    }

    #[test]
    fn durations_change_units_where_people_do() {
        for (ms, shown) in [
            (0, "0 ms"),
            (99, "99 ms"),
            (400, "0.4 s"),
            (12_340, "12.3 s"),
            (200_000, "3 min 20 s"),
            (7_500_000, "2 h 5 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), shown);
        }
        for (s, shown) in [(0, "0:00"), (3, "0:03"), (125, "2:05"), (3723, "1:02:03"), (360_000, "100:00:00")]
        {
            assert_eq!(clock(Duration::from_secs(s)), shown);
        }
    }

    #[test]
    fn a_reason_reads_as_part_of_a_sentence() {
        assert_eq!(reason(&io::Error::from_raw_os_error(111)), "connection refused (os error 111)");
        assert_eq!(reason(&io::Error::other("no answer within 5 s")), "no answer within 5 s");
        assert_eq!(reason(&io::Error::other("")), "");
    }

    #[test]
    fn the_numbers_of_errors_are_left_out_and_nothing_else() {
        assert_eq!(without_error_numbers("a: refused (os error 111); b (os error 2)"), "a: refused; b");
        for text in ["", "plain", "a file (os error x)", "cut (os error 11"] {
            assert_eq!(without_error_numbers(text), text);
        }
    }

    #[test]
    fn a_word_for_the_shell_survives_spaces_and_quotes() {
        assert_eq!(shell_word("dir/model.bin@1a2b"), "dir/model.bin@1a2b");
        assert_eq!(shell_word("Größe.txt"), "Größe.txt");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn columns_line_up_across_pages_and_wide_characters() {
        let mut table = Table::new([Align::Left, Align::Right, Align::Left]);
        let row = |a: &str, b: &str, c: &str| [a.to_string(), b.to_string(), c.to_string()];
        let first = table.lay_out(&[row("日本.txt", "9 B", "x"), row("a", "268 MB", "y")]);
        assert_eq!(first, "日本.txt     9 B  x\na         268 MB  y\n");
        assert_eq!(table.lay_out(&[row("b", "1 B", "")]), "b            1 B\n");
        assert_eq!(table.lay_out(&[]), "");
    }
}
