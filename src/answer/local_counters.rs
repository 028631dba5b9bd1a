//! A worker's counters between two flushes to the metrics: plain numbers, no look-up, no atomic.

use std::sync::Arc;

use prometheus::IntCounter;

use crate::config::RouteId;
use crate::metrics::{AnswerSource, Metrics};
use crate::wire::{Rcode, RrType, rtype};

/// Types that are counted by name; all others are "other".
const TYPES: [(RrType, &str); 11] = [
    (rtype::A, "A"),
    (rtype::AAAA, "AAAA"),
    (rtype::PTR, "PTR"),
    (rtype::SRV, "SRV"),
    (rtype::HTTPS, "HTTPS"),
    (rtype::TXT, "TXT"),
    (rtype::CNAME, "CNAME"),
    (rtype::MX, "MX"),
    (rtype::NS, "NS"),
    (rtype::SOA, "SOA"),
    (rtype::ANY, "ANY"),
];

const TYPE_CLASSES: usize = TYPES.len() + 1;
/// Initial capacity of the list of cells counted in one batch; the list grows if there are more.
const COUNTED: usize = 2 * TYPE_CLASSES;
/// Routes whose rows are allocated in advance: their first hit allocates nothing, and the cost of a reload to a worker is
/// bounded by these rows.
const FROM_THE_START: usize = 64;
/// Number of sources, in the order of [`AnswerSource::ALL`].
const SOURCES: usize = AnswerSource::ALL.len();
/// Response codes with a label of their own, and one slot for all others.
const RCODE_SLOTS: usize = Rcode::LABELLED + 1;

/// One worker's counts since its last flush.
pub struct LocalCounters {
    routes: Arc<[Arc<str>]>,
    /// Rows by route; only the first routes and those that a query took have one.
    queries: Vec<Option<Box<RouteRow>>>,
    /// Queries without a route.
    unrouted: Box<RouteRow>,
    /// Cells that are not zero: the route, `None` for queries without one, and the index in its row.
    counted: Vec<(Option<RouteId>, u8)>,
    responses: [[LocalCounter; SOURCES]; RCODE_SLOTS],
    durations: [prometheus::local::LocalHistogram; SOURCES],
    timed: [u32; SOURCES],
}

/// Queries of one route: by type, first over UDP, then over TCP.
type RouteRow = [LocalCounter; 2 * TYPE_CLASSES];

/// Number to be added to a counter, whose handle is looked up when it is first needed.
#[derive(Default)]
struct LocalCounter {
    count: u64,
    counter: Option<IntCounter>,
}

impl LocalCounter {
    fn flush(&mut self, resolve: impl FnOnce() -> IntCounter) {
        if self.count > 0 {
            self.counter.get_or_insert_with(resolve).inc_by(self.count);
            self.count = 0;
        }
    }
}

impl LocalCounters {
    /// Returns empty counters for routes with these labels.
    pub fn new(metrics: &Metrics, routes: &[String]) -> Self {
        Self {
            queries: rows(routes.len()),
            unrouted: Box::default(),
            counted: Vec::with_capacity(COUNTED),
            routes: routes.iter().map(|route| route.as_str().into()).collect(),
            responses: Default::default(),
            durations: AnswerSource::ALL
                .map(|source| metrics.queries.duration.with_label_values(&[source.label()]).local()),
            timed: [0; SOURCES],
        }
    }

    /// Replaces the labels of the routes. The cost depends on the number of routes that were used, not on the number of routes.
    pub fn follow(&mut self, metrics: &Metrics, routes: &Arc<[Arc<str>]>) {
        if !Arc::ptr_eq(&self.routes, routes) {
            self.flush(metrics, 0.0);
            self.queries = rows(routes.len());
            self.routes = Arc::clone(routes);
        }
    }

    /// Counts a query of this type over UDP or TCP, and its route, if any.
    #[inline]
    pub fn query(&mut self, tcp: bool, qtype: RrType, route: Option<RouteId>) {
        let class = TYPES.iter().position(|(counted, _)| *counted == qtype).unwrap_or(TYPES.len());
        let at = usize::from(tcp) * TYPE_CLASSES + class;
        let row = match route {
            None => &mut self.unrouted,
            Some(route) => match self.queries.get_mut(route.index()) {
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

    /// Counts a response with this code from this source; its duration follows with the batch.
    #[inline]
    pub fn response(&mut self, rcode: Rcode, source: AnswerSource) {
        self.responses[rcode.slot(RCODE_SLOTS)][source as usize].count += 1;
        self.timed[source as usize] += 1;
    }

    /// Adds all counts to the metrics. Each response since the last flush took `seconds`.
    pub fn flush(&mut self, metrics: &Metrics, seconds: f64) {
        let mut hits = 0;
        for (slot, row) in self.responses.iter_mut().enumerate() {
            let rcode = Rcode::label_of_slot(slot);
            for (source, cell) in AnswerSource::ALL.into_iter().zip(row) {
                if matches!(source, AnswerSource::Hit | AnswerSource::Stale) {
                    hits += cell.count;
                }
                cell.flush(|| metrics.queries.responses.with_label_values(&[rcode, source.label()]));
            }
        }
        if hits > 0 {
            metrics.cache.hits.inc_by(hits);
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
                Some(route) => self.queries.get_mut(route.index()).and_then(Option::as_mut),
            };
            let Some(cell) = row.and_then(|row| row.get_mut(usize::from(at))) else { continue };
            let (tcp, class) = (usize::from(at) / TYPE_CLASSES, usize::from(at) % TYPE_CLASSES);
            let qtype = TYPES.get(class).map_or("other", |(_, label)| label);
            let transport = if tcp == 1 { "tcp" } else { "udp" };
            let route = route.and_then(|route| self.routes.get(route.index())).map_or("none", |label| label);
            cell.flush(|| metrics.queries.received.with_label_values(&[transport, qtype, route]));
        }
    }
}

/// Allocates the rows of the first routes.
fn rows(routes: usize) -> Vec<Option<Box<RouteRow>>> {
    (0..routes.min(FROM_THE_START)).map(|_| Some(Box::default())).collect()
}

/// Returns the row of a route, which is created if necessary; `None` if there is no such route.
#[cold]
fn open(queries: &mut Vec<Option<Box<RouteRow>>>, routes: usize, route: RouteId) -> Option<&mut Box<RouteRow>> {
    let route = route.index();
    if queries.len() <= route && route < routes {
        queries.resize_with(route + 1, || None);
    }
    queries.get_mut(route).map(|row| row.get_or_insert_default())
}
