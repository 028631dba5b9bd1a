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
//! [`late`] has the second half, `turn` what both have at hand, `kept` what an entry of the cache is worth, [`outcome`] the one
//! place where what came of a query is entered, [`ours`] the names that nodens answers itself, `inside` what it tells a client
//! of itself, `ancestors` and `autopath` what is done about search lists.
//!
//! The cache comes before local names because what is local is never in it: see [`Snapshot::rehome`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::admission::Rates;
use crate::cache::{Cache, Entry, Millis};
use crate::cause::Cause;
use crate::clients::{Clients, Tables};
use crate::coalesce::Coalesce;
use crate::governor::Governor;
use crate::governor::pending::Place;
use crate::jobs::ledger::NO_ROUTE;
use crate::jobs::projects::Projects;
use crate::jobs::{Jobs, Ledger};
use crate::local::cluster::{FORM_TTL, Rule};
use crate::metrics::{Metrics, Source, Tally};
use crate::query_log::QueryLog;
use crate::snapshot::Snapshot;
use crate::warm_up;
use crate::wire::make::{self, LocalRecords};
use crate::wire::query::{Key, Query, Reject};
use crate::wire::{HEADER, flag, is_truncated, rcode, u16_at};

mod ancestors;
mod autopath;
pub mod hints;
mod inside;
mod kept;
pub mod late;
pub mod ours;
pub mod outcome;
mod turn;

pub use autopath::Path;
use inside::Inside;
pub use inside::why;
use kept::{Cached, cached, failure_holds, stale, stale_window};
pub use late::{Resolved, resolve};
pub use ours::{LOOP_CHECK, Local, Own, denial, local};
use outcome::{Asked, Outcome, Timing, Words};
pub use turn::{Deferred, Turn, Wanted};

/// What a client is told whose query finds no place among those that wait.
const TURNED_AWAY: &str = "too many queries of this client, or in all, wait for upstreams";

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
    /// What each of them holds.
    pub governor: Governor,
    /// How often each of them asked for itself of late.
    introspection: Rates,
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
    /// The answer takes a task: see [`resolve`].
    Deferred(Box<Deferred>),
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
            governor: Governor::new(),
            introspection: Rates::new(),
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

    /// Responds at once to whatever can be responded to at once. The response is written to `out`, whose length is the most
    /// that the transport carries; over UDP the client's own limit comes on top.
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
            Err(reject) => return self.reject(turn, packet, reject, (client, over_tcp), out),
        };
        let from = From { query, client, over_tcp };
        let options = if over_tcp {
            self.jobs.truncated.asked_over_tcp(client, query.name(), query.qtype);
            keepalive(turn.snapshot, &query)
        } else {
            Vec::new()
        };
        let limit = if over_tcp { out.len() } else { out.len().min(usize::from(query.udp_size())) };
        let out = &mut out[..limit];
        if !turn.snapshot.admission.admits(client) {
            return self.refuse(turn, &from, out);
        }
        let view = turn.view(client);
        if let Some(view) = view
            && let Some(response) = self.over_rate(turn, view, &from, out)
        {
            return response;
        }
        let key = Key::new(&query, turn.snapshot.sees(view));
        let asked = (&key, self.cache.hash(&key));
        let (key, hash) = asked;
        match self.cache.with(hash, key, |entry| cached(turn, entry, &query, key, &options, out)) {
            Some(Cached::Reply { len, rcode, cause, source: (source, route), refresh }) => {
                let mut outcome = from.outcome(asked, route, (rcode, cause), source);
                // Both are seldom, and one look at what was written shows either.
                if u16_at(out, 2).is_some_and(|flags| flags & (flag::TC | flag::RCODE) != 0) {
                    if rcode == rcode::NXDOMAIN
                        && source == Source::Hit
                        && let Some(path) = autopath::path(self, turn, key, route, client)
                        && let Some(place) = self.place(turn, route, client)
                    {
                        let wanted = turn.wanted(key.clone(), hash, route, None, Some(client)).along(path);
                        return self.defer(turn, wanted, &from, place);
                    }
                    let is_cut = rcode == rcode::NOERROR && !over_tcp;
                    outcome.truncated_to = is_cut.then_some(out.len());
                    // Nothing else in the cache has any to say.
                    if rcode == rcode::SERVFAIL || cause == Some(Cause::Blocked) {
                        outcome.words = Words::Remembered(key);
                    }
                }
                self.enter(turn, &outcome);
                match refresh {
                    // An entry of this configuration came through the route of its name.
                    true => Response::ReplyAndRefresh(len, turn.wanted(key.clone(), hash, route, None, None)),
                    false => Response::Reply(len),
                }
            }
            _ => self.uncached(turn, &from, asked, &options, out),
        }
    }

    /// Enters what came of a query that is responded to at once.
    #[inline]
    fn enter(&self, turn: &mut Turn<'_>, outcome: &Outcome<'_>) {
        outcome::enter(self, turn.tally, turn.ledger, outcome, Timing::AtOnce(turn.now, turn.at));
    }

    /// The response to a client that may not ask.
    #[cold]
    fn refuse(&self, turn: &mut Turn<'_>, from: &From<'_>, out: &mut [u8]) -> Response {
        let text = "this client may not ask: see server.allow";
        self.enter(turn, &from.turned_away((rcode::REFUSED, Cause::Refused), Source::Refused, text));
        from.error(rcode::REFUSED, Cause::Refused, text, out)
    }

    /// The response to a client that has asked more than its view lets it, if it has.
    #[inline(never)]
    fn over_rate(&self, turn: &mut Turn<'_>, view: usize, from: &From<'_>, out: &mut [u8]) -> Option<Response> {
        let view = turn.snapshot.config.views.get(view)?;
        let limit = view.client_max_qps?;
        if self.rates.admits(from.client, limit, turn.at.saturating_duration_since(self.epoch)) {
            return None;
        }
        let text = format!("view {}: client_max_qps = {limit} is used up", view.name);
        self.enter(turn, &from.turned_away((rcode::SERVFAIL, Cause::RateLimited), Source::Local, &text));
        Some(from.error(rcode::SERVFAIL, Cause::RateLimited, &text, out))
    }

    /// A packet that is no query to be answered.
    #[cold]
    fn reject(
        &self,
        turn: &mut Turn<'_>,
        packet: &[u8],
        reject: Reject,
        (client, over_tcp): (IpAddr, bool),
        out: &mut [u8],
    ) -> Response {
        let (code, question_end, edns) = match reject {
            Reject::Silence(why) => {
                self.metrics.dropped.with_label_values(&[why.label()]).inc();
                return Response::Silence;
            }
            Reject::Code { rcode, question_end, edns } => (rcode, question_end, edns),
        };
        let (rcode, source, cause) = match turn.snapshot.admission.admits(client) {
            true => (code, Source::Local, Cause::BadQuery),
            false => (rcode::REFUSED, Source::Refused, Cause::Refused),
        };
        // The question is there if it is to be echoed.
        let qtype = question_end.checked_sub(4).and_then(|at| u16_at(packet, at)).filter(|_| question_end > HEADER);
        let name = packet.get(HEADER..question_end.saturating_sub(4)).filter(|name| !name.is_empty());
        let name = name.map_or(vec![0], <[u8]>::to_ascii_lowercase);
        let question = Asked { name: &name, qtype: qtype.unwrap_or(0), hash: 0 };
        let outcome = Outcome {
            client,
            over_tcp,
            question,
            route: NO_ROUTE,
            rcode,
            source,
            cause: Some(cause),
            words: Words::None,
            truncated_to: None,
        };
        self.enter(turn, &outcome);
        Response::Reply(make::rejection(packet, rcode, question_end, edns, out))
    }

    /// What is not in the cache: a name that nodens answers itself, or a question for upstreams.
    #[cold]
    fn uncached(
        &self,
        turn: &mut Turn<'_>,
        from: &From<'_>,
        asked: (&Key, u64),
        options: &[u8],
        out: &mut [u8],
    ) -> Response {
        let (snapshot, (key, hash), From { query, client, over_tcp }) = (turn.snapshot, asked, from);
        let own = |rcode, cause| from.outcome(asked, NO_ROUTE, (rcode, cause), Source::Local);
        match inside::inside(self, turn, query, key, *client, out.len()) {
            Some(Inside::Now(rcode, records)) => {
                self.enter(turn, &own(rcode, None));
                return Response::Reply(make::local(query, rcode, true, &records, options, out));
            }
            Some(Inside::Later) => {
                let Some(place) = self.place(turn, NO_ROUTE, *client) else {
                    return self.turn_away(turn, from, asked, (NO_ROUTE, true), options, out);
                };
                return self.defer(turn, turn.wanted(key.clone(), hash, NO_ROUTE, None, Some(*client)), from, place);
            }
            None => {}
        }
        let found = local(snapshot, key);
        if let Local::Not { route, .. } | Local::Denied { route } = found
            && let Some(path) = autopath::path(self, turn, key, route, *client)
            && let Some(place) = self.place(turn, route, *client)
        {
            let wanted = turn.wanted(key.clone(), hash, route, None, Some(*client)).along(path);
            return self.defer(turn, wanted, from, place);
        }
        let (target, hash, route, alias) = match found {
            Local::Answer(answer) => {
                let Own { rcode, ref records, cause, text } = answer;
                let mut outcome = own(rcode, cause);
                outcome.words = Words::Text(text);
                let all = [options, &answer.extended_error()].concat();
                let len = make::local(query, rcode, false, records, &all, out);
                let is_cut = !over_tcp && rcode == rcode::NOERROR && is_truncated(out);
                outcome.truncated_to = is_cut.then_some(out.len());
                self.enter(turn, &outcome);
                return Response::Reply(len);
            }
            Local::Alias(records, target, route) => {
                let target = key.for_name(&target);
                let hash = self.cache.hash(&target);
                (target, hash, route, Some(records))
            }
            Local::Denied { route } => {
                return self.deny(turn, from, asked, (route, Rule::Form, FORM_TTL), options, out);
            }
            Local::Not { route, depth } => match ancestors::cut(self, snapshot, key, route, depth, turn.now) {
                Some(cut) => {
                    let response = self.deny(turn, from, asked, (route, Rule::Ancestor, cut.ttl), options, out);
                    return match (response, cut.refresh) {
                        (Response::Reply(len), Some((key, hash))) => {
                            Response::ReplyAndRefresh(len, turn.wanted(key, hash, route, None, None))
                        }
                        (response, _) => response,
                    };
                }
                None => (key.clone(), hash, route, None),
            },
        };
        let Some(place) = self.place(turn, route, *client) else {
            return self.turn_away(turn, from, (&target, hash), (route, alias.is_some()), options, out);
        };
        self.metrics.cache_misses.inc();
        self.defer(turn, turn.wanted(target, hash, route, alias, Some(*client)), from, place)
    }

    /// The response to a query that finds no place among those that wait: better an old answer than none (RFC 8767).
    #[cold]
    fn turn_away(
        &self,
        turn: &mut Turn<'_>,
        from: &From<'_>,
        asked: (&Key, u64),
        (route, is_alias): (u16, bool),
        options: &[u8],
        out: &mut [u8],
    ) -> Response {
        self.metrics.overload.with_label_values(&["pending_queries"]).inc();
        let (target, hash) = asked;
        let stale = |entry: &mut Entry| kept::past_its_time(turn, entry, &from.query, target, options, out);
        if !is_alias && let Some((len, rcode, cause)) = self.cache.with(hash, target, stale).flatten() {
            self.enter(turn, &from.outcome(asked, route, (rcode, cause), Source::Stale));
            return Response::Reply(len);
        }
        let (code, words) = ((rcode::SERVFAIL, Some(Cause::RateLimited)), Words::Text(TURNED_AWAY));
        self.enter(turn, &Outcome { words, ..from.outcome(asked, route, code, Source::Local) });
        from.error(rcode::SERVFAIL, Cause::RateLimited, TURNED_AWAY, out)
    }

    /// Leaves a query to a task.
    fn defer(&self, turn: &mut Turn<'_>, wanted: Box<Wanted>, from: &From<'_>, place: Place) -> Response {
        let route = Some(wanted.route).filter(|route| *route != NO_ROUTE);
        turn.tally.query(from.over_tcp, from.query.qtype, route);
        let (query, over_tcp) = (from.query.retained(), from.over_tcp);
        Response::Deferred(Box::new(Deferred { wanted, query, over_tcp, place }))
    }

    /// A place among the queries that wait, for one of this client.
    fn place(&self, turn: &Turn<'_>, route: u16, client: IpAddr) -> Option<Place> {
        let group = turn.snapshot.group(route).map(|group| &group.pending);
        self.governor.pending.admit(client, group, turn.snapshot.groups.iter().map(|group| &group.pending))
    }
}

/// A query, and where it came from.
struct From<'q> {
    query: Query<'q>,
    client: IpAddr,
    over_tcp: bool,
}

impl<'q> From<'q> {
    /// What came of it; without words, and whole.
    #[inline]
    fn outcome<'a>(
        &self,
        (key, hash): (&'a Key, u64),
        route: u16,
        (rcode, cause): (u16, Option<Cause>),
        source: Source,
    ) -> Outcome<'a> {
        let &Self { client, over_tcp, .. } = self;
        let (question, words) = (Asked::of(key, hash), Words::None);
        Outcome { client, over_tcp, question, route, rcode, source, cause, words, truncated_to: None }
    }

    /// The same where what was asked for does not matter: one failure for all that the client asks.
    fn turned_away<'a>(&self, (rcode, cause): (u16, Cause), source: Source, text: &'a str) -> Outcome<'a>
    where
        'q: 'a,
    {
        let &Self { query, client, over_tcp } = self;
        let question = Asked { name: query.name(), qtype: query.qtype, hash: 0 };
        let (cause, words) = (Some(cause), Words::Text(text));
        Outcome { client, over_tcp, question, route: NO_ROUTE, rcode, source, cause, words, truncated_to: None }
    }

    /// A response without records, with an extended error.
    fn error(&self, rcode: u16, cause: Cause, text: &str, out: &mut [u8]) -> Response {
        let error = cause.extended_error(text);
        Response::Reply(make::local(&self.query, rcode, false, &LocalRecords::default(), &error, out))
    }
}

fn keepalive(snapshot: &Snapshot, query: &Query<'_>) -> Vec<u8> {
    let tenths = snapshot.config.server.tcp_idle_timeout.as_millis() / 100;
    make::keepalive(query.edns, u16::try_from(tenths).unwrap_or(u16::MAX))
}
