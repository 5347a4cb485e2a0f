//! Tables that share the lines of a screen.

use super::paint::{Line, Tone, fit};

/// Between two columns.
const GAP: usize = 2;

/// One column of a table.
pub struct Column {
    pub title: &'static str,
    /// In letters; 0: a share of what the others leave.
    pub width: usize,
    /// Numbers stand against the right.
    pub right: bool,
}

pub const fn name(title: &'static str) -> Column {
    Column {
        title,
        width: 0,
        right: false,
    }
}

pub const fn word(title: &'static str, width: usize) -> Column {
    Column {
        title,
        width,
        right: false,
    }
}

pub const fn figure(title: &'static str, width: usize) -> Column {
    Column {
        title,
        width,
        right: true,
    }
}

/// One row: a cell for each column, and how it looks.
pub struct Row {
    pub cells: Vec<(Tone, String)>,
    /// Is shown first when not all fit.
    pub troubled: bool,
}

pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// Rows that were not sent.
    pub left_out: usize,
}

impl Table {
    /// In at most so many lines, the head among them; `None` when nothing fits.
    fn lines(mut self, width: usize, most: usize, unicode: bool) -> Vec<Line> {
        let all = self.rows.len() + self.left_out;
        let room = most.saturating_sub(1);
        let shown = if all <= room {
            all
        } else {
            room.saturating_sub(1)
        };
        let shown = shown.min(self.rows.len());
        if shown < self.rows.len() {
            // Those in trouble, then the others, each in their order.
            self.rows.sort_by_key(|row| !row.troubled);
        }
        let widths = widths(&self.columns, width);
        let titles = self.columns.iter();
        let titles = titles.map(|column| (Tone::Dim, column.title.to_owned()));
        let mut lines = vec![line(&titles.collect::<Vec<_>>(), &self.columns, &widths)];
        let rows = self.rows.iter().take(shown);
        lines.extend(rows.map(|row| line(&row.cells, &self.columns, &widths)));
        if shown < all {
            let dots = if unicode { "…" } else { "..." };
            let more = format!(" {dots} {} more", all - shown);
            lines.push(Line::of(Tone::Dim, more));
        }
        lines
    }
}

fn widths(columns: &[Column], width: usize) -> Vec<usize> {
    let fixed: usize = columns.iter().map(|column| column.width).sum();
    let gaps = GAP * columns.len().saturating_sub(1) + 1;
    let names = columns.iter().filter(|column| column.width == 0).count();
    let left = width.saturating_sub(fixed + gaps);
    // Names that are wider than this would only tear the row apart.
    let share = (left / names.max(1)).min(60);
    let of = |column: &Column| {
        if column.width == 0 {
            share
        } else {
            column.width
        }
    };
    columns.iter().map(of).collect()
}

fn line(cells: &[(Tone, String)], columns: &[Column], widths: &[usize]) -> Line {
    let mut line = Line::of(Tone::Plain, " ");
    for (nth, ((tone, text), (column, width))) in
        cells.iter().zip(columns.iter().zip(widths)).enumerate()
    {
        if nth > 0 {
            line.push(Tone::Plain, " ".repeat(GAP));
        }
        line.push(*tone, fit(text, *width, column.right));
    }
    line
}

/// The tables one below the other, each after an empty line, in at most so many lines: each gets its share, and
/// what one does not need goes to the others.
pub fn stack(tables: Vec<Table>, width: usize, height: usize, unicode: bool) -> Vec<Line> {
    let tables: Vec<Table> = tables
        .into_iter()
        .filter(|table| !table.rows.is_empty())
        .collect();
    let needs: Vec<usize> = tables
        .iter()
        .map(|table| table.rows.len() + usize::from(table.left_out > 0) + 2)
        .collect();
    let mut lines = Vec::new();
    for (table, share) in tables.into_iter().zip(shares(&needs, height)) {
        if share > 0 {
            lines.push(Line::default());
            lines.extend(table.lines(width, share - 1, unicode));
        }
    }
    lines
}

/// Fewer lines say nothing of a table of many rows: an empty one, the head, one row, how many more there are.
const USEFUL: usize = 4;

/// How many lines each gets: 0, all that it needs, or at least [`USEFUL`].
fn shares(needs: &[usize], height: usize) -> Vec<usize> {
    let mut left = height;
    let mut shares: Vec<usize> = Vec::new();
    for need in needs {
        let least = USEFUL.min(*need);
        let share = if left >= least { least } else { 0 };
        left -= share;
        shares.push(share);
    }
    loop {
        let mut given = false;
        for (share, need) in shares.iter_mut().zip(needs) {
            if *share > 0 && *share < *need && left > 0 {
                // All at once where that is possible: the height may be without limit.
                let more = if needs.iter().sum::<usize>() <= height {
                    need - *share
                } else {
                    1
                };
                *share += more;
                left -= more;
                given = true;
            }
        }
        if !given {
            return shares;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::paint::plain;
    use proptest::prelude::*;

    #[test]
    fn lines_are_shared_by_need() {
        for (needs, height, expected) in [
            (vec![5, 5], 10, vec![5, 5]),
            (vec![5, 5], usize::MAX, vec![5, 5]),
            (vec![10, 4], 10, vec![6, 4]),
            (vec![10, 10, 10], 8, vec![4, 4, 0]),
            (vec![10], 2, vec![0]),
            (vec![], 9, vec![]),
        ] {
            assert_eq!(shares(&needs, height), expected, "{needs:?} in {height}");
        }
    }

    proptest! {
        #[test]
        fn no_more_is_given_than_there_is(
            needs in prop::collection::vec(3_usize..40, 0..8), height in 0_usize..60,
        ) {
            let shares = shares(&needs, height);
            let sum: usize = shares.iter().sum();
            prop_assert!(sum <= height);
            let all_have = shares.iter().zip(&needs).all(|(share, need)| share == need);
            // Nothing is kept back that somebody needs.
            prop_assert!(all_have || sum + USEFUL > height || sum == height, "{:?}", shares);
        }
    }

    fn table(rows: &[(&str, bool)], left_out: usize) -> Table {
        let row = |(name, troubled): &(&str, bool)| Row {
            cells: vec![
                (Tone::Plain, (*name).to_owned()),
                (Tone::Plain, "7".to_owned()),
            ],
            troubled: *troubled,
        };
        Table {
            columns: vec![name("NAME"), figure("N", 3)],
            rows: rows.iter().map(row).collect(),
            left_out,
        }
    }

    #[test]
    fn those_in_trouble_are_shown_first_when_not_all_fit() {
        let rows = [("a", false), ("b", true), ("c", false), ("d", true)];
        let shown = |height| plain(&stack(vec![table(&rows, 0)], 14, height, false));
        assert_eq!(
            shown(9),
            "\n NAME        N\n a           7\n b           7\n c           7\n d           7\n"
        );
        assert_eq!(
            shown(5),
            "\n NAME        N\n b           7\n d           7\n ... 2 more\n"
        );
        let cut = plain(&stack(vec![table(&rows, 96)], 14, 99, true));
        assert!(cut.ends_with(" d           7\n … 96 more\n"), "{cut}");
    }
}
