//! What is told of clients, as the file has it: `[metrics]`.

use toml::Spanned;

use super::Metrics as Settings;
use super::table::Table;
use super::units::{Bounds, Count};

/// `[metrics] max_projects`: each is two series in every scrape of every node.
pub const MAX_PROJECTS: Bounds<Count> = Bounds { default: Count(100), floor: Count(0), ceiling: Count(1_000) };

/// `[metrics]`.
#[derive(Debug)]
pub struct Metrics {
    /// Default: [`MAX_PROJECTS`].
    pub max_projects: Spanned<Count>,
}

impl Metrics {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self { max_projects: table.bounded("max_projects", &MAX_PROJECTS) })
    }
}

/// `[metrics]` as the rest of the house reads it.
pub(super) fn metrics(file: &Metrics) -> Settings {
    Settings { max_projects: file.max_projects.get_ref().0 }
}
