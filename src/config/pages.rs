//! Where the pages are that people and scrapers look at, and who may: `[admin]` and `[report]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use toml::Spanned;

use super::address::{Listen, Network};
use super::table::Table;

/// `[admin] listen` and `metrics_listen`: the port where the file gives none.
pub const ADMIN_PORT: u16 = 9353;
/// `[report] listen`: the port where the file gives none.
pub const REPORT_PORT: u16 = 9355;
/// `[admin] allow` where the file has none, as prefixes: whoever can reach where it listens.
pub const ADMIN_ALLOW: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)];

/// Where the pages are that show nodens whole, and who may look at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// Where all pages are; empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// Where metrics and health are, and nothing else.
    pub metrics_listen: Vec<SocketAddr>,
    /// Who may look at either.
    pub allow: Vec<IpNet>,
}

/// `[admin] listen` and `metrics_listen`, each.
pub type AdminListener = Spanned<Listen<ADMIN_PORT>>;
/// `[report] listen`, each.
pub type ReportListener = Spanned<Listen<REPORT_PORT>>;

/// `[admin]`.
#[derive(Debug, Default)]
pub struct AdminTable {
    /// Nowhere if a mistake has been noted.
    pub listen: Vec<AdminListener>,
    /// Default: nowhere.
    pub metrics_listen: Vec<AdminListener>,
    /// Default: [`ADMIN_ALLOW`].
    pub allow: Vec<IpNet>,
}

impl AdminTable {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        let network = |(address, prefix)| IpNet::new(address, prefix).ok();
        table.read(|table| Self {
            listen: table.required_some("listen").unwrap_or_default(),
            metrics_listen: table.list("metrics_listen").unwrap_or_default(),
            allow: match table.list::<Network>("allow") {
                Some(networks) => networks.into_iter().map(|network| network.into_inner().0).collect(),
                None => ADMIN_ALLOW.into_iter().filter_map(network).collect(),
            },
        })
    }
}

/// `[report]`: where it listens; nowhere if a mistake has been noted.
pub(super) fn report(table: Table<'_, '_>) -> Vec<ReportListener> {
    table.read(|table| table.required_list("listen")).unwrap_or_default()
}
