//! Where the pages are that people and scrapers look at: `[admin]` and `[report]`.

use toml::Spanned;

use super::address::Listen;
use super::table::Table;

/// `[admin] listen`: the port where the file gives none.
pub const ADMIN_PORT: u16 = 9353;
/// `[report] listen`: the port where the file gives none.
pub const REPORT_PORT: u16 = 9355;

/// `[admin] listen`.
pub type AdminListener = Spanned<Listen<ADMIN_PORT>>;
/// `[report] listen`, each.
pub type ReportListener = Spanned<Listen<REPORT_PORT>>;

/// `[admin]`: where it listens; none if a mistake has been noted.
pub(super) fn admin(table: Table<'_, '_>) -> Option<AdminListener> {
    table.read(|table| table.required("listen"))
}

/// `[report]`: where it listens; nowhere if a mistake has been noted.
pub(super) fn report(table: Table<'_, '_>) -> Vec<ReportListener> {
    table.read(|table| table.required_list("listen")).unwrap_or_default()
}
