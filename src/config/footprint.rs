//! Estimate of a configuration's memory from its counts, used for memory limits.
//!
//! The estimate is the peak beyond a small configuration. The peak occurs when a file is loaded: its text as a tree, the
//! tables made of it, and the tables of the previous configuration, which are freed once no query uses them. Otherwise
//! about half of it is used. `tests/program/reload.rs` compares the estimate with the memory of a running nodens.

use super::Config;
use super::records::RecordConfig;

/// Bytes for each record, route and client, most of them for its text with the position of each part.
const TABLE: usize = 6 << 10;
/// Bytes for each record of a hosts file.
const HOST: usize = 700;
/// Bytes for each zone of a route after the first, and for each zone that a view denies.
const ZONE: usize = 1_200;
/// Bytes for each server: its state, and its series in the metrics.
const SERVER: usize = 16 << 10;
/// Number of copies of a record's value that exist at once: text, tree, wire form and table of two configurations.
const COPIES: usize = 8;

impl Config {
    /// Returns the estimated peak memory in bytes: see [`mod@crate::config::footprint`]. Settings that views inherit count once.
    pub fn footprint(&self) -> usize {
        let records = |records: &[RecordConfig]| -> usize {
            records.iter().map(|record| TABLE + COPIES * record.rdata.len()).sum()
        };
        let views = self.views.iter().map(|view| TABLE + records(&view.records) + view.deny.len() * ZONE);
        let routes = self.routes.iter().map(|route| TABLE + route.zones.len().saturating_sub(1) * ZONE);
        let servers = self.upstreams.iter().map(|upstream| TABLE + upstream.servers.len() * SERVER);
        let others = views.chain(routes).chain(servers).sum::<usize>();
        // Records of hosts files have no text in the configuration file.
        let own = self.records.len().saturating_sub(self.hosts.records);
        records(&self.records[..own])
            + self.hosts.records * HOST
            + self.rewrites.len() * TABLE
            + self.clients.len() * TABLE
            + others
    }
}
