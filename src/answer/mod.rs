//! THE PATH of a query, on one screen.
//!
//! ```text
//!            ┌───────────────────────── respond: no await, no allocation for a hit ─────────────────────────┐
//! packet ──► read ──► admission ──► cache ──► fresh? ──► fit ──► reply
//!              │          │           ├─────► past its time, and upstreams are known to fail? ──► fit, TTL 30, EDE 3
//!           malformed  REFUSED        └─────► nothing: local ──► static, special, ANY, CH ──► reply
//!                                                        └─────► Later
//!            └──────────────────────────────────────────────────────────────────────────────────────────────┘
//!            ┌───────────────────────── finish: in a task of its own ───────────────────────────────────────┐
//! Later  ──► coalesce ──► fetch ──► route ──► upstream ──► follow CNAMEs ──► cache ──► fit ──► reply
//!                           └─────► fails or is late: stale answer, else SERVFAIL that says why (EDE 22, 23)
//!            └──────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`late`] has the second half, `turn` what both have at hand, `kept` what an entry of the cache is worth, `notes` what is
//! noted of answers that are given at once, [`ours`] the names that nodens answers itself, `inside` what it tells a client
//! of itself, `ancestors` and `autopath` what is done about search lists.
//!
//! The cache comes before local names because what is local is never in it: see [`Snapshot::rehome`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::admission::Rates;
use crate::cache::{Cache, Millis};
use crate::clients::{Clients, Tables};
use crate::coalesce::Coalesce;
use crate::jobs::ledger::{Failed, NO_ROUTE};
use crate::jobs::projects::Projects;
use crate::jobs::{Jobs, Ledger};
use crate::local::cluster::{FORM_TTL, Rule};
use crate::metrics::{Metrics, Source, Tally};
use crate::query_log::QueryLog;
use crate::snapshot::Snapshot;
use crate::warm_up;
use crate::wire::make::{self, LocalRecords};
use crate::wire::query::{Key, Query, Reject};
use crate::wire::{ede, flag, is_truncated, rcode, u16_at};

mod ancestors;
mod autopath;
pub mod hints;
mod inside;
mod kept;
pub mod late;
mod notes;
pub mod ours;
mod turn;

pub use autopath::Path;
pub use inside::why;
use kept::{Cached, cached, failure_holds, stale, stale_window};
pub use late::{Finished, finish};
use notes::Answered;
pub use ours::{LOOP_CHECK, Local, Own, denial, local};
pub use turn::{Turn, Wanted};

/// Queries that may wait for upstreams at once; more get SERVFAIL. Bounds the memory of a flood of unique names.
pub const MAX_PENDING: i64 = 16_384;

/// How long before its start a resolver begins to count: answers of another process may be as old as this.
const BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// All that workers share.
pub struct Resolver {
    /// What upstreams said.
    pub cache: Cache,
    /// Questions under way.
    pub flights: Arc<Coalesce>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The configuration in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// Which pods ask; the configuration's own clients are in its snapshot, see [`Resolver::tables`].
    pub clients: Clients,
    /// What each of them asked, and how it fared.
    pub jobs: Jobs,
    /// How much each of them asked of late, where a view limits that.
    rates: Rates,
    /// Jobs that are about to start, and what is asked for them ahead.
    pub warm_up: warm_up::Queue,
    /// The log of all that.
    pub query_log: QueryLog,
    epoch: Instant,
}

/// What to do with a packet.
pub enum Response {
    /// Nothing: any reply could be used for reflection.
    Silence,
    /// Send that many bytes of the buffer.
    Reply(usize),
    /// Send that many bytes, and then fetch the answer anew.
    ReplyAndRefresh(usize, Box<Wanted>),
    /// The answer takes a task: see [`finish`].
    Later(Box<Wanted>),
}

impl Resolver {
    /// A resolver with an empty cache.
    pub fn new(snapshot: Snapshot, metrics: Arc<Metrics>) -> Self {
        let jobs = Jobs::new(Projects::new(&metrics.clients, snapshot.config.metrics.max_projects));
        jobs.habits(|habits| habits.learn(snapshot.config.warm_up.enabled));
        Self {
            cache: Cache::new(snapshot.config.cache.memory),
            flights: Arc::default(),
            clients: Clients::default(),
            jobs,
            rates: Rates::new(),
            query_log: QueryLog::default(),
            warm_up: warm_up::Queue::default(),
            metrics,
            snapshot: ArcSwap::from_pointee(snapshot),
            epoch: Instant::now().checked_sub(BEFORE).unwrap_or_else(Instant::now),
        }
    }

    /// Milliseconds since a moment before this resolver began.
    pub fn now(&self) -> Millis {
        self.millis(Instant::now())
    }

    /// The same for a time that has been read already.
    #[inline]
    pub fn millis(&self, now: Instant) -> Millis {
        now.saturating_duration_since(self.epoch).as_millis() as Millis
    }

    /// What one turn that begins at `at` has at hand.
    pub fn turn<'a>(
        &self,
        snapshot: &'a Arc<Snapshot>,
        at: Instant,
        tally: &'a mut Tally,
        ledger: &'a mut Ledger,
    ) -> Turn<'a> {
        let tables = (!snapshot.views.is_empty()).then(|| self.tables(snapshot));
        Turn { snapshot, at, now: self.millis(at), tally, ledger, tables }
    }

    /// Who asks, as a configuration has it: to be used with the views of the same one.
    #[inline]
    pub fn tables<'s>(&self, snapshot: &'s Snapshot) -> Tables<'s> {
        self.clients.tables(&snapshot.clients)
    }

    /// The moment of `millis`.
    pub fn instant(&self, millis: Millis) -> Instant {
        self.epoch + Duration::from_millis(millis)
    }

    /// Responds at once to whatever can be responded to at once. The reply is written to `out`, whose length is the most
    /// that the transport carries; over UDP the client's own limit comes on top. `options` go into the reply's OPT.
    #[inline]
    pub fn respond(
        &self,
        turn: &mut Turn<'_>,
        packet: &[u8],
        client: IpAddr,
        over_tcp: bool,
        out: &mut [u8],
    ) -> Response {
        let query = match Query::read(packet) {
            Ok(query) => query,
            Err(reject) => return self.reject(turn, packet, reject, client, out),
        };
        let keepalive = if over_tcp {
            self.jobs.truncated.asked_over_tcp(client, query.name(), query.qtype);
            keepalive(turn.snapshot, &query)
        } else {
            Vec::new()
        };
        let limit = if over_tcp { out.len() } else { out.len().min(usize::from(query.udp_size())) };
        let out = &mut out[..limit];
        if !turn.snapshot.admission.admits(client) {
            turn.tally.query(over_tcp, query.qtype, None);
            turn.answered(client, NO_ROUTE, rcode::REFUSED, Source::Refused);
            // One for all that it asks: what for does not matter.
            let (name, qtype, source) = (query.name(), query.qtype, Source::Refused);
            let failed = Failed { name, hash: 0, qtype, route: NO_ROUTE, rcode: rcode::REFUSED, source };
            turn.ledger.fail(client, failed, turn.now, || None);
            turn.log(&Answered { client, name, qtype, rcode: failed.rcode, source, route: NO_ROUTE, over_tcp }, &[]);
            let error = make::extended_error(ede::PROHIBITED, "this client may not ask: see server.allow");
            return Response::Reply(make::local(&query, rcode::REFUSED, false, &LocalRecords::default(), &error, out));
        }
        let view = turn.view(client);
        if let Some(view) = view
            && let Some(len) = self.over_rate(turn, view, &query, client, over_tcp, out)
        {
            return Response::Reply(len);
        }
        let key = Key::new(&query, turn.snapshot.sees(view));
        let hash = self.cache.hash(&key);
        match self.cache.with(hash, &key, |entry| cached(turn, entry, &query, &key, &keepalive, out)) {
            Some(Cached::Reply { len, rcode, source, refresh }) => {
                let (source, route) = source;
                // Both are seldom, and one look at what was written shows either.
                if u16_at(out, 2).is_some_and(|flags| flags & (flag::TC | flag::RCODE) != 0) {
                    if rcode == rcode::NXDOMAIN
                        && source == Source::Hit
                        && let Some(path) = autopath::path(self, turn, &key, route, client)
                    {
                        return self.walk(turn, key, hash, route, client, over_tcp, path);
                    }
                    if rcode != rcode::NOERROR {
                        self.note(turn, client, &key, hash, route, rcode, source, None);
                    } else if !over_tcp {
                        self.cut_off(turn, client, &key, route, out.len());
                    }
                }
                if turn.ledger.log.draws(rcode) {
                    let (name, qtype) = (key.name(), key.qtype());
                    let answered = Answered { client, name, qtype, rcode, source, route, over_tcp };
                    turn.copy(&answered, self.remembered(&key, hash, rcode, source));
                }
                turn.answered(client, route, rcode, source);
                turn.tally.query(over_tcp, query.qtype, Some(route));
                match refresh {
                    // An entry of this configuration came through the route of its name.
                    true => Response::ReplyAndRefresh(len, turn.wanted(key, hash, route, None, None)),
                    false => Response::Reply(len),
                }
            }
            _ => self.uncached(turn, &query, key, hash, client, over_tcp, &keepalive, out),
        }
    }

    /// The reply to a client that has asked more than its view lets it, if it has.
    #[inline(never)]
    fn over_rate(
        &self,
        turn: &mut Turn<'_>,
        view: usize,
        query: &Query<'_>,
        client: IpAddr,
        over_tcp: bool,
        out: &mut [u8],
    ) -> Option<usize> {
        let view = turn.snapshot.config.views.get(view)?;
        let limit = view.client_max_qps?;
        if self.rates.admits(client, limit, turn.at.saturating_duration_since(self.epoch)) {
            return None;
        }
        turn.tally.query(over_tcp, query.qtype, None);
        turn.answered(client, NO_ROUTE, rcode::SERVFAIL, Source::Local);
        // One for all that it asks: what for does not matter.
        let (name, qtype, source) = (query.name(), query.qtype, Source::Local);
        let failed = Failed { name, hash: 0, qtype, route: NO_ROUTE, rcode: rcode::SERVFAIL, source };
        let error =
            make::extended_error(ede::OTHER, &format!("view {}: client_max_qps = {limit} is used up", view.name));
        turn.ledger.fail(client, failed, turn.now, || Some(error.clone().into()));
        turn.log(&Answered { client, name, qtype, rcode: failed.rcode, source, route: NO_ROUTE, over_tcp }, &error);
        Some(make::local(query, rcode::SERVFAIL, false, &LocalRecords::default(), &error, out))
    }

    /// A packet that is no query to be answered.
    #[cold]
    fn reject(&self, turn: &mut Turn<'_>, packet: &[u8], reject: Reject, client: IpAddr, out: &mut [u8]) -> Response {
        match reject {
            Reject::Silence(why) => {
                self.metrics.dropped.with_label_values(&[why.label()]).inc();
                Response::Silence
            }
            Reject::Code { question_end, edns, .. } if !turn.snapshot.admission.admits(client) => {
                turn.answered(client, NO_ROUTE, rcode::REFUSED, Source::Refused);
                Response::Reply(make::rejection(packet, rcode::REFUSED, question_end, edns, out))
            }
            Reject::Code { rcode, question_end, edns } => {
                turn.answered(client, NO_ROUTE, rcode, Source::Local);
                Response::Reply(make::rejection(packet, rcode, question_end, edns, out))
            }
        }
    }

    /// What is not in the cache: a name that nodens answers itself, or a question for upstreams.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    fn uncached(
        &self,
        turn: &mut Turn<'_>,
        query: &Query<'_>,
        key: Key,
        hash: u64,
        client: IpAddr,
        over_tcp: bool,
        options: &[u8],
        out: &mut [u8],
    ) -> Response {
        let snapshot = turn.snapshot;
        let (name, qtype) = (query.name(), query.qtype);
        let here = |rcode, route| Answered { client, name, qtype, rcode, source: Source::Local, route, over_tcp };
        if let Some((rcode, records)) = inside::inside(self, turn, query, &key, client, out.len()) {
            turn.tally.query(over_tcp, query.qtype, None);
            turn.answered(client, NO_ROUTE, rcode, Source::Local);
            turn.log(&here(rcode, NO_ROUTE), &[]);
            return Response::Reply(make::local(query, rcode, true, &records, options, out));
        }
        let found = local(snapshot, &key);
        let route = match &found {
            Local::Not { route, .. } | Local::Denied { route } => Some(*route),
            _ => None,
        };
        if let Some(route) = route
            && let Some(path) = autopath::path(self, turn, &key, route, client)
        {
            return self.walk(turn, key, hash, route, client, over_tcp, path);
        }
        turn.tally.query(over_tcp, query.qtype, route);
        let (target, hash, route, alias) = match found {
            Local::Answer(Own { rcode, records, error }) => {
                turn.answered(client, NO_ROUTE, rcode, Source::Local);
                if rcode != rcode::NOERROR {
                    self.note(turn, client, &key, hash, NO_ROUTE, rcode, Source::Local, error);
                }
                let error = error.map(|(code, text)| make::extended_error(code, text)).unwrap_or_default();
                turn.log(&here(rcode, NO_ROUTE), &error);
                let options = [options, &error].concat();
                let len = make::local(query, rcode, false, &records, &options, out);
                if !over_tcp && rcode == rcode::NOERROR && is_truncated(out) {
                    self.cut_off(turn, client, &key, NO_ROUTE, out.len());
                }
                return Response::Reply(len);
            }
            Local::Alias(records, target, route) => {
                let target = key.for_name(&target);
                let hash = self.cache.hash(&target);
                (target, hash, route, Some(records))
            }
            Local::Denied { route } => {
                let answered = here(rcode::NXDOMAIN, route);
                let len = self.deny(turn, query, (&key, hash), &answered, (Rule::Form, FORM_TTL), options, out);
                return Response::Reply(len);
            }
            Local::Not { route, depth } => match ancestors::cut(self, snapshot, &key, route, depth, turn.now) {
                Some(cut) => {
                    let (answered, rule) = (here(rcode::NXDOMAIN, route), (Rule::Ancestor, cut.ttl));
                    let len = self.deny(turn, query, (&key, hash), &answered, rule, options, out);
                    return match cut.refresh {
                        Some((key, hash)) => Response::ReplyAndRefresh(len, turn.wanted(key, hash, route, None, None)),
                        None => Response::Reply(len),
                    };
                }
                None => (key, hash, route, None),
            },
        };
        if self.metrics.pending.get() >= MAX_PENDING {
            turn.answered(client, route, rcode::SERVFAIL, Source::Local);
            self.note(turn, client, &target, hash, route, rcode::SERVFAIL, Source::Local, None);
            let error = make::extended_error(ede::OTHER, "too many queries wait for upstreams");
            turn.log(&here(rcode::SERVFAIL, route), &error);
            return Response::Reply(make::local(query, rcode::SERVFAIL, false, &LocalRecords::default(), &error, out));
        }
        self.metrics.cache_misses.inc();
        Response::Later(turn.wanted(target, hash, route, alias, Some(client)))
    }
}

fn keepalive(snapshot: &Snapshot, query: &Query<'_>) -> Vec<u8> {
    let tenths = snapshot.config.server.tcp_idle_timeout.as_millis() / 100;
    make::keepalive(query.edns, u16::try_from(tenths).unwrap_or(u16::MAX))
}
