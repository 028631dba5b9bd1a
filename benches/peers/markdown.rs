//! The ratios as a Markdown table, for a README.

use std::fmt::Write;

use crate::modes::Mode;
use crate::results::Results;

/// Returns the CPU time of an answer as multiples of the floor: a row for each server, a column for each mode.
pub fn table(results: &Results) -> String {
    let modes: Vec<Mode> = Mode::ALL.into_iter().filter(|mode| !results.rows(*mode).is_empty()).collect();
    let mut out = String::from("| CPU for an answer, × floor |");
    for mode in &modes {
        out += &format!(" {} |", mode.title());
    }
    out += "\n|---|";
    out += &"---:|".repeat(modes.len());
    out += "\n";
    let Some(first) = modes.first() else { return out };
    for server in results.rows(*first).iter().map(|row| row.server) {
        let _ = write!(out, "| {server} |"); // writing to a String cannot fail
        for mode in &modes {
            let ratio = results.rows(*mode).iter().find(|row| row.server == server).and_then(|row| row.ratio);
            let _ = write!(out, " {} |", ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"))); // as above
        }
        out += "\n";
    }
    out
}
