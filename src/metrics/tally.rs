//! What a worker counts between two additions to the metrics: plain numbers, no look-up, no atomic.

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
const RCODE_CLASSES: usize = RCODES.len() + 1;

/// One worker's counts since it last added them up.
pub struct Tally {
    routes: Vec<String>,
    queries: Vec<Count>,
    /// Which of `queries` are not zero.
    counted: Vec<usize>,
    responses: [[Count; SOURCES.len()]; RCODE_CLASSES],
    durations: [prometheus::local::LocalHistogram; SOURCES.len()],
    timed: [u32; SOURCES.len()],
}

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
    /// A tally for routes with these labels. Route number `routes.len()` counts queries that took none.
    pub fn new(metrics: &Metrics, routes: &[String]) -> Self {
        let routes: Vec<String> = routes.iter().map(String::as_str).chain(["none"]).map(str::to_string).collect();
        Self {
            queries: (0..routes.len() * 2 * TYPE_CLASSES).map(|_| Count::default()).collect(),
            counted: Vec::with_capacity(routes.len() * 2 * TYPE_CLASSES),
            routes,
            responses: Default::default(),
            durations: SOURCES.map(|source| metrics.duration.with_label_values(&[source]).local()),
            timed: [0; SOURCES.len()],
        }
    }

    /// A query of this type came over UDP or TCP and took this route, if any.
    #[inline]
    pub fn query(&mut self, tcp: bool, qtype: u16, route: Option<u16>) {
        let class = TYPES.iter().position(|(number, _)| *number == qtype).unwrap_or(TYPES.len());
        let route = route.map_or(self.routes.len() - 1, usize::from);
        let at = (route * 2 + usize::from(tcp)) * TYPE_CLASSES + class;
        if let Some(cell) = self.queries.get_mut(at) {
            if cell.count == 0 {
                self.counted.push(at);
            }
            cell.count += 1;
        }
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
        for at in self.counted.drain(..) {
            let Some(cell) = self.queries.get_mut(at) else { continue };
            let (rest, class) = (at / TYPE_CLASSES, at % TYPE_CLASSES);
            let qtype = TYPES.get(class).map_or("other", |(_, label)| label);
            let transport = if rest % 2 == 1 { "tcp" } else { "udp" };
            let route = self.routes.get(rest / 2).map_or("none", String::as_str);
            cell.flush(|| metrics.queries.with_label_values(&[transport, qtype, route]));
        }
    }
}
