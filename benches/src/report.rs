//! Results over rounds, and tables of them.

use std::fmt;

use serde::Serialize;

/// Minimum, median and maximum of some rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The smallest value.
    pub min: f64,
    /// The middle value; of an even number the upper one of the middle two.
    pub median: f64,
    /// The largest value.
    pub max: f64,
}

impl Spread {
    /// `None` if there are no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: *sorted.get(sorted.len() / 2)?,
            max: *sorted.last()?,
        })
    }
}

/// `min/median/max`, with the precision of the format (one digit by default).
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:.digits$}/{:.digits$}/{:.digits$}", self.min, self.median, self.max)
    }
}

/// Prints a Markdown table whose columns are as wide as their longest cell.
pub fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        cells.chain(header.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .enumerate()
            .map(|(n, cell)| format!("{cell:<width$}", width = width(n)))
            .collect();
        println!("| {} |", padded.join(" | "));
    };
    line(&mut header.iter().copied());
    let rules: Vec<String> = (0..header.len()).map(|n| "-".repeat(width(n))).collect();
    line(&mut rules.iter().map(String::as_str));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_rounds() {
        let spread = Spread::of(&[3.0, 1.25, 2.0]).unwrap();
        assert_eq!(spread.to_string(), "1.2/2.0/3.0");
        assert_eq!(format!("{spread:.0}"), "1/2/3");
        assert!(Spread::of(&[]).is_none());
    }
}
