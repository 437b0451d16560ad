// SPDX-License-Identifier: GPL-2.0

//! Tables of figures, for a terminal and for a document.

/// Most characters in a line of a table: what a terminal and a mail show without wrapping.
const MAX_WIDTH: usize = 100;

/// A cell without a figure. Documents leave it empty, because a lone hyphen begins a list there.
pub const NONE: &str = "-";

/// A table whose first line has the titles of its columns. The first cell of a line is not empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Columns that say which run a line is about. Each piece of a table that is too wide has them.
    keys: usize,
    lines: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table with no line but the titles.
    pub fn new(keys: usize, titles: Vec<String>) -> Table {
        Table {
            keys: keys.min(titles.len()),
            lines: vec![titles],
        }
    }

    /// Adds a line, which has a cell for each title.
    pub fn push(&mut self, line: Vec<String>) {
        debug_assert_eq!(self.lines.first().map(Vec::len), Some(line.len()));
        self.lines.push(line);
    }

    /// Returns `true` if there is no line but the titles.
    pub fn is_empty(&self) -> bool {
        self.lines.len() < 2
    }

    /// Returns the width of each column: that of its widest cell.
    fn widths(&self) -> Vec<usize> {
        let columns = self.lines.first().map_or(0, Vec::len);
        let widest = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max()
        };
        (0..columns).filter_map(widest).collect()
    }

    /// Returns the columns of each piece: one piece if the table is not wider than [`MAX_WIDTH`].
    fn pieces(&self, widths: &[usize]) -> Vec<Vec<usize>> {
        let of_keys: usize = widths[..self.keys].iter().map(|width| width + 1).sum();
        let mut pieces: Vec<Vec<usize>> = vec![(0..self.keys).collect()];
        let mut used = of_keys;
        for (column, width) in widths.iter().enumerate().skip(self.keys) {
            if used + width > MAX_WIDTH && used > of_keys {
                pieces.push((0..self.keys).collect());
                used = of_keys;
            }
            used += width + 1;
            if let Some(piece) = pieces.last_mut() {
                piece.push(column);
            }
        }
        pieces
    }

    /// Returns the table for a terminal: pieces below each other, cells flush right.
    pub fn text(&self) -> String {
        let widths = self.widths();
        let mut out = String::new();
        for (number, piece) in self.pieces(&widths).iter().enumerate() {
            if number > 0 {
                out.push('\n');
            }
            for line in &self.lines {
                let cells = (piece.iter()).map(|&column| {
                    let width = widths[column];
                    format!("{:>width$}", line[column])
                });
                out += &cells.collect::<Vec<_>>().join(" ");
                out.push('\n');
            }
        }
        out
    }

    /// Returns the table for a document (reStructuredText), each piece with the caption.
    pub fn rst(&self, caption: &str) -> String {
        let widths = self.widths();
        let mut out = String::new();
        for piece in self.pieces(&widths) {
            let rule = (piece.iter())
                .map(|&column| "=".repeat(widths[column]))
                .collect::<Vec<_>>()
                .join(" ");
            out += &format!("\n.. table:: {caption}\n\n   {rule}\n");
            for (number, line) in self.lines.iter().enumerate() {
                let cells = (piece.iter()).map(|&column| {
                    let cell = Some(&line[column]).filter(|cell| *cell != NONE);
                    format!("{:width$}", cell.map_or("", |c| c), width = widths[column])
                });
                let cells = cells.collect::<Vec<_>>().join(" ");
                out += &format!("   {}\n", cells.trim_end());
                if number == 0 {
                    out += &format!("   {rule}\n");
                }
            }
            out += &format!("   {rule}\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: usize = 2;

    fn table(lines: &[&str], columns: usize) -> Table {
        let cells = |cell: &str| vec![cell.to_string(); columns];
        let mut table = Table::new(KEYS, cells(lines[0]));
        lines[1..].iter().for_each(|cell| table.push(cells(cell)));
        table
    }

    #[test]
    fn a_table_is_not_wider_than_a_terminal() {
        let text = table(&["a title of a column", "1"], 12).text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.len() <= MAX_WIDTH), "{text}");
        assert_eq!(text.matches("a title").count(), KEYS * 4 + 10, "{text}");
        assert_eq!(lines.iter().filter(|line| line.is_empty()).count(), 3);
        assert_eq!(table(&["1"], 12).text().lines().count(), 1);
    }

    #[test]
    fn a_document_has_a_caption_and_rules() {
        let mut table = Table::new(1, vec!["folio".into(), "GiB/s".into(), "of".into()]);
        assert!(table.is_empty());
        table.push(vec!["4K".into(), NONE.into(), "0.25".into()]);
        table.push(vec!["2M".into(), "1.5".into(), NONE.into()]);
        assert!(!table.is_empty());
        let wanted = "
.. table:: A caption

   ===== ===== ====
   folio GiB/s of
   ===== ===== ====
   4K          0.25
   2M    1.5
   ===== ===== ====
";
        assert_eq!(table.rst("A caption"), wanted);
    }

    #[test]
    fn each_piece_of_a_wide_table_has_the_caption_and_the_keys() {
        let text = table(&["a title of a column", "1"], 12).rst("Wide");
        assert_eq!(text.matches(".. table:: Wide").count(), 4, "{text}");
        assert_eq!(text.matches("a title").count(), KEYS * 4 + 10, "{text}");
    }
}
