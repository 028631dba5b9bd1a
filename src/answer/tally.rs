//! What a worker counts between two additions to the metrics: plain numbers, no look-up, no atomic.

use std::sync::Arc;

use prometheus::IntCounter;

use crate::config::RouteId;
use crate::metrics::{Metrics, Source};
use crate::wire::{Rcode, RrType, rtype};

/// The types counted by name; all others are "other".
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
/// Cells that are counted in one batch, as a rule; for more the list grows.
const COUNTED: usize = 2 * TYPE_CLASSES;
/// Routes whose rows are made before any query takes them: their first hit allocates nothing, and however many routes there
/// are a reload costs a worker no more than these.
const FROM_THE_START: usize = 64;
/// Sources, as [`Source::ALL`] has them.
const SOURCES: usize = Source::ALL.len();
/// Response codes with a label of their own, and one slot for all others.
const RCODE_SLOTS: usize = Rcode::LABELLED + 1;

/// One worker's counts since it last added them up.
pub struct Tally {
    routes: Arc<[Arc<str>]>,
    /// By route, as far as any query took it or it is one of the first.
    queries: Vec<Option<Box<Row>>>,
    /// Queries that took no route.
    unrouted: Box<Row>,
    /// Which cells are not zero: the route, none for those without, and the cell of its row.
    counted: Vec<(Option<RouteId>, u8)>,
    responses: [[Count; SOURCES]; RCODE_SLOTS],
    durations: [prometheus::local::LocalHistogram; SOURCES],
    timed: [u32; SOURCES],
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
            durations: Source::ALL.map(|source| metrics.queries.duration.with_label_values(&[source.label()]).local()),
            timed: [0; SOURCES],
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

    /// A response with this code from this source; its duration follows with the batch.
    #[inline]
    pub fn response(&mut self, rcode: Rcode, source: Source) {
        self.responses[rcode.slot(RCODE_SLOTS)][source as usize].count += 1;
        self.timed[source as usize] += 1;
    }

    /// Adds everything up. The responses since the last call took `seconds` each.
    pub fn flush(&mut self, metrics: &Metrics, seconds: f64) {
        let mut hits = 0;
        for (slot, row) in self.responses.iter_mut().enumerate() {
            let rcode = Rcode::label_of_slot(slot);
            for (source, cell) in Source::ALL.into_iter().zip(row) {
                if matches!(source, Source::Hit | Source::Stale) {
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

/// The rows that there are from the start.
fn rows(routes: usize) -> Vec<Option<Box<Row>>> {
    (0..routes.min(FROM_THE_START)).map(|_| Some(Box::default())).collect()
}

/// Makes the row of a route that is taken for the first time; none if there is no such route.
#[cold]
fn open(queries: &mut Vec<Option<Box<Row>>>, routes: usize, route: RouteId) -> Option<&mut Box<Row>> {
    let route = route.index();
    if queries.len() <= route && route < routes {
        queries.resize_with(route + 1, || None);
    }
    queries.get_mut(route).map(|row| row.get_or_insert_default())
}
