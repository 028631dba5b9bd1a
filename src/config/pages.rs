//! HTTP listeners, and the networks that may use them: `[admin]` and `[report]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use toml::Spanned;

use super::address::{Listen, NetworkValue};
use super::table::TomlTable;

/// Default port of `[admin] listen` and `metrics_listen`. NodeLocal DNSCache has 9253 and 9353; 9100 to 9999 belong to exporters of
/// Prometheus.
pub(crate) const ADMIN_PORT: u16 = 9053;
/// Default port of `[report] listen`.
pub(crate) const REPORT_PORT: u16 = 9355;
/// Default of `[admin] allow`, as prefixes: all addresses.
pub(crate) const ADMIN_ALLOW: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)];

/// Listeners of the admin pages, and the networks that may use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// Listeners of all pages; empty: none.
    pub listen: Vec<SocketAddr>,
    /// Listeners of metrics and health only.
    pub metrics_listen: Vec<SocketAddr>,
    /// Networks that may use the listeners.
    pub allow: Vec<IpNet>,
}

/// Element of `[admin] listen` and `metrics_listen`.
pub(crate) type AdminListener = Spanned<Listen<ADMIN_PORT>>;
/// Element of `[report] listen`.
pub(crate) type ReportListener = Spanned<Listen<REPORT_PORT>>;

/// `[admin]` in the file.
#[derive(Debug, Default)]
pub(crate) struct AdminTable {
    /// Required; empty if it is missing or invalid.
    pub listen: Vec<AdminListener>,
    pub metrics_listen: Vec<AdminListener>,
    pub allow: Vec<IpNet>,
}

impl AdminTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
        let network = |(address, prefix)| IpNet::new(address, prefix).ok();
        table.read(|table| Self {
            listen: table.required_some("listen").unwrap_or_default(),
            metrics_listen: table.list("metrics_listen").unwrap_or_default(),
            allow: match table.list::<NetworkValue>("allow") {
                Some(networks) => networks.into_iter().map(|network| network.into_inner().0).collect(),
                None => ADMIN_ALLOW.into_iter().filter_map(network).collect(),
            },
        })
    }
}

/// Reads the listeners of `[report]`. Adds an error and returns none if they are missing or invalid.
pub(super) fn report(table: TomlTable<'_, '_>) -> Vec<ReportListener> {
    table.read(|table| table.required_list("listen")).unwrap_or_default()
}
