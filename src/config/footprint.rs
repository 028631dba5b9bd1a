//! What a configuration takes of memory, about, by its counts alone: what limits are set by.
//!
//! That is the most beyond a small one, and it is needed while a file is taken in: its text as a tree, the tables made of
//! it, and those of the configuration before it, which go when nobody answers by them. In between some half of it is
//! used. `tests/program/reload.rs` holds it to what a running nodens takes.

use super::Config;
use super::records::Record;

/// Bytes for each record, route and client: most of it for their text, with the place of each part.
const TABLE: usize = 6 << 10;
/// Bytes for each record of a hosts file.
const HOST: usize = 700;
/// Bytes for each zone of a route beyond its first, and for each zone that a view denies.
const ZONE: usize = 1_200;
/// Bytes for each server: what is known of it, and its series in the metrics.
const SERVER: usize = 16 << 10;
/// How often the bytes of a record's value are there at once: text, tree, wire form and table of two configurations.
const COPIES: usize = 8;

impl Config {
    /// Bytes that it takes at most, about: see [`mod@crate::config::footprint`]. What views inherit counts once, however many there are.
    pub fn footprint(&self) -> usize {
        let records =
            |records: &[Record]| -> usize { records.iter().map(|record| TABLE + COPIES * record.rdata.len()).sum() };
        let views = self.views.iter().map(|view| TABLE + records(&view.records) + view.deny.len() * ZONE);
        let routes = self.routes.iter().map(|route| TABLE + route.zones.len().saturating_sub(1) * ZONE);
        let servers = self.upstreams.iter().map(|upstream| TABLE + upstream.servers.len() * SERVER);
        let others = views.chain(routes).chain(servers).sum::<usize>();
        // Those of hosts files have no text in this one.
        let own = self.records.len().saturating_sub(self.hosts.records);
        records(&self.records[..own])
            + self.hosts.records * HOST
            + self.rewrites.len() * TABLE
            + self.clients.len() * TABLE
            + others
    }
}
