//! Text for a terminal: what is shown of names, numbers in few letters, and colours.

use std::fmt::Write;
use std::time::Duration;

/// What stands where a letter cannot be shown.
const UNKNOWN: char = '?';

/// What a piece of text says by its colour, which never says it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Dim,
    Strong,
    Good,
    Warn,
    Bad,
}

/// What the terminal can.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub colour: bool,
    pub unicode: bool,
}

/// Each character takes one column: see [`safe`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line(Vec<(Tone, String)>);

impl Line {
    pub fn of(tone: Tone, text: impl Into<String>) -> Self {
        Self(vec![(tone, text.into())])
    }

    pub fn push(&mut self, tone: Tone, text: impl Into<String>) {
        self.0.push((tone, text.into()));
    }

    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// Fills up with blanks.
    pub fn pad_to(&mut self, width: usize) {
        let missing = width.saturating_sub(self.width());
        self.push(Tone::Plain, " ".repeat(missing));
    }

    /// What is beyond `width` goes.
    #[must_use]
    pub fn cut(mut self, width: usize) -> Self {
        let mut left = width;
        for (_, text) in &mut self.0 {
            *text = text.chars().take(left).collect();
            left -= text.chars().count();
        }
        self
    }
}

/// A name or an error as a terminal may have it: no control character, nothing that turns the direction of
/// writing, nothing that takes no column or two.
pub fn safe(text: &str, unicode: bool) -> String {
    let one_column = |letter: &char| {
        matches!(letter, ' '..='~')
            // Latin, Greek and Cyrillic letters; and the sign for what was cut.
            || (unicode && (letter.is_alphanumeric() && ('\u{a1}'..'\u{250}').contains(letter)
                || letter.is_alphabetic() && ('\u{388}'..'\u{530}').contains(letter)
                || *letter == '…'))
    };
    let shown = text
        .chars()
        .map(|letter| if one_column(&letter) { letter } else { UNKNOWN });
    shown.collect()
}

/// Exactly so wide: filled up, or cut, which shows.
pub fn fit(text: &str, width: usize, right: bool) -> String {
    let length = text.chars().count();
    if length > width {
        let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
        if width > 0 {
            cut.push('~');
        }
        cut
    } else if right {
        format!("{text:>width$}")
    } else {
        format!("{text:<width$}")
    }
}

/// For scripts and files.
pub fn plain(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let whole: String = line.0.iter().map(|(_, part)| part.as_str()).collect();
        text.push_str(whole.trim_end());
        text.push('\n');
    }
    text
}

/// For a terminal: from its upper left corner, each line to its end, then nothing more below.
pub fn screen(lines: &[Line], look: Look) -> String {
    let mut text = "\x1b[H".to_owned();
    for (nth, line) in lines.iter().enumerate() {
        if nth > 0 {
            text.push_str("\r\n");
        }
        for (tone, part) in &line.0 {
            let code = match tone {
                _ if !look.colour => "",
                Tone::Plain => "",
                Tone::Dim => "2",
                Tone::Strong => "1",
                Tone::Good => "32",
                Tone::Warn => "33",
                Tone::Bad => "1;31",
            };
            // Writing to a string cannot fail.
            let _ = if code.is_empty() {
                write!(text, "{part}")
            } else {
                write!(text, "\x1b[{code}m{part}\x1b[0m")
            };
        }
        text.push_str("\x1b[K");
    }
    text.push_str("\x1b[J");
    text
}

/// At most five letters.
pub fn number(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "-".to_owned();
    };
    match value {
        ..=0.0 => "0".to_owned(),
        ..9.95 => format!("{value:.1}"),
        ..999.5 => format!("{value:.0}"),
        ..9_950.0 => format!("{:.1}k", value / 1e3),
        ..999_500.0 => format!("{:.0}k", value / 1e3),
        ..9.95e6 => format!("{:.1}M", value / 1e6),
        ..999.5e6 => format!("{:.0}M", value / 1e6),
        _ => format!("{:.1}G", value / 1e9),
    }
}

/// A count of whole things.
pub fn count(value: f64) -> String {
    if value < 10_000.0 {
        format!("{:.0}", value.max(0.0))
    } else {
        number(Some(value))
    }
}

/// Seconds in the unit that suits them.
pub fn duration(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s < 0.009_95 => format!("{:.1} ms", s * 1e3),
        Some(s) if s < 0.999_5 => format!("{:.0} ms", s * 1e3),
        Some(s) if s < 9.95 => format!("{s:.1} s"),
        Some(s) => format!("{s:.0} s"),
    }
}

/// Bytes, by powers of 1024.
pub fn bytes(value: Option<f64>) -> String {
    let Some(mut value) = value else {
        return "-".to_owned();
    };
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1_023.5 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if value < 9.95 && unit != "B" {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// Days, hours, minutes, seconds.
pub fn uptime(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    let (days, hours) = (whole / 86_400, whole / 3_600 % 24);
    let (minutes, seconds) = (whole / 60 % 60, whole % 60);
    match days {
        0 => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}d {hours:02}:{minutes:02}"),
    }
}

/// The values as columns of different height, the last ones that fit, against the right.
pub fn curve(values: &[f64], width: usize, unicode: bool) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const LETTERS: [char; 8] = ['.', ':', '-', '=', '+', '*', '#', '@'];
    let steps = if unicode { BLOCKS } else { LETTERS };
    let shown = &values[values.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(0.0, f64::max);
    let column = |value: &f64| {
        // The lowest is for nothing at all.
        let height = (1..8_u8).rev().find(|step| {
            most > 0.0 && *value > 0.0 && *value >= most * (f64::from(*step) - 0.5) / 7.0
        });
        let least = usize::from(*value > 0.0);
        steps[height.map_or(least, usize::from)]
    };
    shown.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_take_few_letters() {
        for (value, expected) in [
            (0.0, "0"),
            (-1.0, "0"),
            (0.04, "0.0"),
            (0.3, "0.3"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12k"),
            (999_600.0, "1.0M"),
            (123e6, "123M"),
            (2.5e9, "2.5G"),
        ] {
            assert_eq!(number(Some(value)), expected, "{value}");
        }
        assert_eq!(number(None), "-");
        assert_eq!(
            (count(9_999.0), count(10_000.0)),
            ("9999".into(), "10k".into())
        );
    }

    #[test]
    fn times_and_sizes_choose_their_unit() {
        for (seconds, expected) in [
            (0.000_4, "0.4 ms"),
            (0.009_96, "10 ms"),
            (0.999_6, "1.0 s"),
            (9.96, "10 s"),
            (120.0, "120 s"),
        ] {
            assert_eq!(duration(Some(seconds)), expected);
        }
        for (value, expected) in [
            (0.0, "0 B"),
            (5.0, "5 B"),
            (1_023.6, "1.0 KiB"),
            (64_225_280.0, "61 MiB"),
            (1.5e9, "1.4 GiB"),
        ] {
            assert_eq!(bytes(Some(value)), expected);
        }
        assert_eq!(uptime(61.9), "00:01:01");
        assert_eq!(uptime(273_845.0), "3d 04:04");
        assert_eq!(uptime(f64::NAN), "00:00:00");
    }

    #[test]
    fn a_curve_tells_little_from_nothing() {
        assert_eq!(curve(&[0.0, 0.1, 50.0, 100.0], 9, true), "▁▂▅█");
        assert_eq!(curve(&[0.0, 0.1, 50.0, 100.0], 9, false), ".:+@");
        assert_eq!(curve(&[5.0, 0.0, 0.0], 2, false), "..");
        assert_eq!(curve(&[], 9, true), "");
    }

    #[test]
    fn what_would_command_the_terminal_is_not_shown() {
        for (text, expected) in [
            ("plain-name_1", "plain-name_1"),
            ("\x1b[2Jgone", "?[2Jgone"),
            ("a\r\nb\tc\u{7f}\u{9b}", "a??b?c??"),
            ("\u{202e}abc\u{200b}\u{301}", "?abc??"),
            ("größe Ωмир", "größe Ωмир"),
            ("漢字", "??"),
        ] {
            assert_eq!(safe(text, true), expected);
        }
        assert_eq!(safe("größe", false), "gr??e");
    }

    proptest! {
        #[test]
        fn nothing_but_letters_of_one_column_is_shown(text in any::<String>(), width in 0_usize..30) {
            let shown = safe(&text, true);
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert_eq!(shown.chars().count(), text.chars().count());
            for right in [true, false] {
                prop_assert_eq!(fit(&shown, width, right).chars().count(), width);
            }
            prop_assert!(safe(&text, false).is_ascii());
        }
    }
}
