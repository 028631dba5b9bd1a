//! What a worker counts between two additions to the metrics: plain numbers, no look-up, no atomic.

use std::sync::Arc;

use prometheus::IntCounter;

use super::Metrics;

/// Where a response came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The cache, within its time (or a remembered failure).
    Hit,
    /// The cache, past its time, because upstreams failed (RFC 8767).
    Stale,
    /// nodens itself: static records, special-use names, errors in the query.
    Local,
    /// An upstream, asked for this query or for an identical one.
    Upstream,
    /// Nowhere: the client may not ask.
    Refused,
}

impl Source {
    /// All of them, by their numbers.
    pub const ALL: [Self; 5] = [Self::Hit, Self::Stale, Self::Local, Self::Upstream, Self::Refused];

    /// The value of the label `source` in metrics.
    pub fn label(self) -> &'static str {
        SOURCES[self as usize]
    }
}

/// The value of the label `rcode` in metrics.
pub fn rcode_label(rcode: u16) -> &'static str {
    RCODES.get(usize::from(rcode)).copied().unwrap_or("other")
}

/// The labels of [`Source`], by its number.
const SOURCES: [&str; 5] = ["hit", "stale", "local", "upstream", "refused"];

/// The types counted by name; all others are "other".
const TYPES: [(u16, &str); 11] = [
    (1, "A"),
    (28, "AAAA"),
    (12, "PTR"),
    (33, "SRV"),
    (65, "HTTPS"),
    (16, "TXT"),
    (5, "CNAME"),
    (15, "MX"),
    (2, "NS"),
    (6, "SOA"),
    (255, "ANY"),
];

/// Response codes counted by name; all others are "other".
const RCODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

const TYPE_CLASSES: usize = TYPES.len() + 1;
/// Cells that are counted in one batch, as a rule; for more the list grows.
const COUNTED: usize = 2 * TYPE_CLASSES;
/// Routes whose rows are made before any query takes them: their first hit allocates nothing, and however many routes there
/// are a reload costs a worker no more than these.
const FROM_THE_START: usize = 64;
const RCODE_CLASSES: usize = RCODES.len() + 1;

/// One worker's counts since it last added them up.
pub struct Tally {
    routes: Arc<[Arc<str>]>,
    /// By route, as far as any query took it or it is one of the first.
    queries: Vec<Option<Box<Row>>>,
    /// Queries that took no route.
    unrouted: Box<Row>,
    /// Which cells are not zero: the route, none for those without, and the cell of its row.
    counted: Vec<(Option<u16>, u8)>,
    responses: [[Count; SOURCES.len()]; RCODE_CLASSES],
    durations: [prometheus::local::LocalHistogram; SOURCES.len()],
    timed: [u32; SOURCES.len()],
}

/// The queries of one route: by type, over UDP and then over TCP.
type Row = [Count; 2 * TYPE_CLASSES];

/// A number to be added to a counter, whose handle is looked up when it is first needed.
#[derive(Default)]
struct Count {
    count: u64,
    counter: Option<IntCounter>,
}

impl Count {
    fn flush(&mut self, resolve: impl FnOnce() -> IntCounter) {
        if self.count > 0 {
            self.counter.get_or_insert_with(resolve).inc_by(self.count);
            self.count = 0;
        }
    }
}

impl Tally {
    /// A tally for routes with these labels.
    pub fn new(metrics: &Metrics, routes: &[String]) -> Self {
        Self {
            queries: rows(routes.len()),
            unrouted: Box::default(),
            counted: Vec::with_capacity(COUNTED),
            routes: routes.iter().map(|route| route.as_str().into()).collect(),
            responses: Default::default(),
            durations: SOURCES.map(|source| metrics.duration.with_label_values(&[source]).local()),
            timed: [0; SOURCES.len()],
        }
    }

    /// From now on routes have these labels. Its cost depends on how many routes were taken, not on how many there are.
    pub fn follow(&mut self, metrics: &Metrics, routes: &Arc<[Arc<str>]>) {
        if !Arc::ptr_eq(&self.routes, routes) {
            self.flush(metrics, 0.0);
            self.queries = rows(routes.len());
            self.routes = Arc::clone(routes);
        }
    }

    /// A query of this type came over UDP or TCP and took this route, if any.
    #[inline]
    pub fn query(&mut self, tcp: bool, qtype: u16, route: Option<u16>) {
        let class = TYPES.iter().position(|(number, _)| *number == qtype).unwrap_or(TYPES.len());
        let at = usize::from(tcp) * TYPE_CLASSES + class;
        let row = match route {
            None => &mut self.unrouted,
            Some(route) => match self.queries.get_mut(usize::from(route)) {
                Some(Some(row)) => row,
                _ => match open(&mut self.queries, self.routes.len(), route) {
                    Some(row) => row,
                    None => return,
                },
            },
        };
        let cell = &mut row[at];
        if cell.count == 0 {
            self.counted.push((route, at as u8));
        }
        cell.count += 1;
    }

    /// A response with this code from this source; its duration follows with the batch.
    #[inline]
    pub fn response(&mut self, rcode: u16, source: Source) {
        let class = usize::from(rcode).min(RCODES.len());
        self.responses[class][source as usize].count += 1;
        self.timed[source as usize] += 1;
    }

    /// Adds everything up. The responses since the last call took `seconds` each.
    pub fn flush(&mut self, metrics: &Metrics, seconds: f64) {
        let mut hits = 0;
        for (class, row) in self.responses.iter_mut().enumerate() {
            let rcode = RCODES.get(class).copied().unwrap_or("other");
            for (source, cell) in row.iter_mut().enumerate() {
                if source == Source::Hit as usize || source == Source::Stale as usize {
                    hits += cell.count;
                }
                cell.flush(|| metrics.responses.with_label_values(&[rcode, SOURCES[source]]));
            }
        }
        if hits > 0 {
            metrics.cache_hits.inc_by(hits);
        }
        for (timed, histogram) in self.timed.iter_mut().zip(&self.durations) {
            for _ in 0..std::mem::take(timed) {
                histogram.observe(seconds);
            }
            histogram.flush();
        }
        for (route, at) in self.counted.drain(..) {
            let row = match route {
                None => Some(&mut self.unrouted),
                Some(route) => self.queries.get_mut(usize::from(route)).and_then(Option::as_mut),
            };
            let Some(cell) = row.and_then(|row| row.get_mut(usize::from(at))) else { continue };
            let (tcp, class) = (usize::from(at) / TYPE_CLASSES, usize::from(at) % TYPE_CLASSES);
            let qtype = TYPES.get(class).map_or("other", |(_, label)| label);
            let transport = if tcp == 1 { "tcp" } else { "udp" };
            let route = route.and_then(|route| self.routes.get(usize::from(route))).map_or("none", |label| label);
            cell.flush(|| metrics.queries.with_label_values(&[transport, qtype, route]));
        }
    }
}

/// The rows that there are from the start.
fn rows(routes: usize) -> Vec<Option<Box<Row>>> {
    (0..routes.min(FROM_THE_START)).map(|_| Some(Box::default())).collect()
}

/// Makes the row of a route that is taken for the first time; none if there is no such route.
#[cold]
fn open(queries: &mut Vec<Option<Box<Row>>>, routes: usize, route: u16) -> Option<&mut Box<Row>> {
    let route = usize::from(route);
    if queries.len() <= route && route < routes {
        queries.resize_with(route + 1, || None);
    }
    queries.get_mut(route).map(|row| row.get_or_insert_default())
}
