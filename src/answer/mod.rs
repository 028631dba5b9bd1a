//! The path of a query.
//!
//! ```text
//!            ┌───────────────────────── respond: no await, no allocation for a hit ─────────────────────────┐
//! query  ──► read ──► admission ──► cache ──► fresh? ──► fit ──► response
//!              │          │           ├─────► stale, and upstreams are known to fail? ──► fit, TTL 30, EDE 3
//!           malformed  REFUSED        └─────► no entry: local ──► static, special, ANY, CH ──► response
//!                                                         └─────► Deferred
//!            └──────────────────────────────────────────────────────────────────────────────────────────────┘
//!              ┌───────────────────────── resolve: in a task of its own ────────────────────────────────────┐
//! Deferred ──► coalesce ──► forward ──► upstream ──► follow CNAMEs ──► cache ──► fit ──► response
//!                           └─────► fails or is late: stale answer, else SERVFAIL that says why (EDE 22, 23)
//!              └────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`state`] state shared by all workers, `batch_context` the state shared by the queries of one batch;
//! - `request` a client's query, [`pending`] a query that needs a task;
//! - `freshness` the use of a cache entry, [`own_answers`] the names that nodens answers itself;
//! - [`deferred`] the slow path, `obtain` one entry for it;
//! - `ancestors`, `autopath` and [`pruning`] treatment of search lists;
//! - `introspection` and [`diagnosis`] reports to a client about itself, `disclosure` the limits of what it learns;
//! - [`outcome`] the only place where results are recorded, and [`local_counters`] a worker's counters.
//!
//! The cache comes before local names because it never holds them: see
//! [`Snapshot::revalidate_scope`](crate::snapshot::Snapshot::revalidate_scope).

use std::net::IpAddr;

use crate::cache::Entry;
use crate::cause::Cause;
use crate::config::{Hints, RouteId, ViewId};
use crate::governor::pending::PendingSlot;
use crate::local::cluster::{DenialRule, FORM_TTL};
use crate::metrics::AnswerSource;
use crate::wire::cache_key::CacheKey;
use crate::wire::query::{Query, Reject, RequestBits};
use crate::wire::write;
use crate::wire::{HEADER, RrType, flag, is_truncated, rcode, rtype, u16_at};

mod ancestors;
mod autopath;
mod batch_context;
pub(crate) mod deferred;
pub(crate) mod diagnosis;
mod disclosure;
mod freshness;
mod introspection;
pub(crate) mod local_counters;
mod obtain;
pub(crate) mod outcome;
pub(crate) mod own_answers;
pub(crate) mod pending;
pub(crate) mod pruning;
mod request;
pub(crate) mod state;

use freshness::{Cached, cached};
use introspection::SelfService;
use outcome::{Explanation, ParsedQuestion, QueryOutcome};
use request::{Request, options};

pub use batch_context::BatchContext;
pub use deferred::{Resolved, resolve};
pub(crate) use introspection::why;
pub use local_counters::LocalCounters;
pub use own_answers::{LOOP_CHECK, Local, LocalLookup, denial, local};
pub use pending::{Deferred, Introspection, Path, PendingQuery, PendingTask};
pub use request::Response;
pub use state::Resolver;

/// Text for a client whose query was rejected because too many queries are pending.
const TURNED_AWAY: &str = "too many queries of this client, or in all, wait for upstreams";

impl Resolver {
    /// Responds to a query that can be answered at once. Writes the response to `out`, whose length is the transport's limit;
    /// over UDP the client's own limit applies too.
    #[inline]
    pub fn respond(
        &self,
        context: &mut BatchContext<'_>,
        packet: &[u8],
        client: IpAddr,
        over_tcp: bool,
        out: &mut [u8],
    ) -> Response {
        let query = match Query::read(packet) {
            Ok(query) => query,
            Err(reject) => return self.reject(context, packet, reject, (client, over_tcp), out),
        };
        let from = Request { query, client, over_tcp };
        if over_tcp {
            self.accounts.jobs.truncated.asked_over_tcp(client, query.name(), query.qtype);
        }
        match query.edns {
            Some(edns) if edns.asks != RequestBits::default() => self.respond_with_options(context, &from, out),
            _ => self.respond_to(context, &from, &[], out),
        }
    }

    /// Responds to a client that requests options in the response.
    #[inline(never)]
    fn respond_with_options(&self, context: &mut BatchContext<'_>, from: &Request<'_>, out: &mut [u8]) -> Response {
        let options = options(context.snapshot, &from.query, from.over_tcp);
        self.respond_to(context, from, &options, out)
    }

    /// Responds with these options. Inlined into both callers, so that the common response, without options, does not check for
    /// any.
    #[inline(always)]
    fn respond_to(
        &self,
        context: &mut BatchContext<'_>,
        from: &Request<'_>,
        options: &[u8],
        out: &mut [u8],
    ) -> Response {
        let &Request { ref query, client, over_tcp } = from;
        let limit = if over_tcp { out.len() } else { out.len().min(usize::from(query.udp_size())) };
        let out = &mut out[..limit];
        if !context.snapshot.admission.admits(client) {
            return self.refuse(context, from, out);
        }
        let view = context.view(client);
        if let Some(view) = view
            && let Some(response) = self.over_rate(context, view, from, out)
        {
            return response;
        }
        let key = CacheKey::new(query, context.snapshot.sees(view));
        let asked = (&key, self.cache.hash(&key));
        let (key, hash) = asked;
        match self.cache.with(hash, key, |entry| cached(context, entry, query, (key, view), options, out)) {
            Some(Cached::Reply { len, rcode, cause, source: (source, route), refresh }) => {
                let mut outcome = from.outcome(asked, Some(route), (rcode, cause), source);
                // Both cases are rare, and one check of the header finds either.
                if u16_at(out, 2).is_some_and(|flags| flags & (flag::TC | flag::RCODE) != 0) {
                    if rcode == rcode::NXDOMAIN
                        && source == AnswerSource::Hit
                        && let Some(path) = autopath::path(self, context, key, route, client)
                        && let Some(place) = self.place(context, Some(route), client)
                    {
                        let pending_query =
                            context.pending_query(key.clone(), hash, route, None, Some(client)).along(path);
                        return self.defer(
                            context,
                            PendingTask::Question(pending_query),
                            (from, context.snapshot.hints(view)),
                            place,
                        );
                    }
                    let is_cut = rcode == rcode::NOERROR && !over_tcp;
                    outcome.truncated_to = is_cut.then_some(out.len());
                    // Other cached responses have no words.
                    if rcode == rcode::SERVFAIL || cause == Some(Cause::Blocked) {
                        outcome.words = Explanation::Remembered(key);
                    }
                }
                outcome::enter_at_once(self, context, &outcome);
                match refresh {
                    // An entry of this configuration has the route of its name.
                    true => Response::ReplyAndRefresh(len, context.pending_query(key.clone(), hash, route, None, None)),
                    false => Response::Reply(len),
                }
            }
            _ => self.uncached(context, from, (asked, view), options, out),
        }
    }

    /// Refuses a client that is not admitted.
    #[cold]
    fn refuse(&self, context: &mut BatchContext<'_>, from: &Request<'_>, out: &mut [u8]) -> Response {
        let text = "this client may not ask: see server.allow";
        outcome::enter_at_once(
            self,
            context,
            &from.turned_away((rcode::REFUSED, Cause::Refused), AnswerSource::Refused, text),
        );
        let hints = context.snapshot.hints(context.view(from.client));
        from.error((rcode::REFUSED, Cause::Refused), text, hints, out)
    }

    /// Returns the response to a client that exceeds the rate of its view; `None` if it does not.
    #[inline(never)]
    fn over_rate(
        &self,
        context: &mut BatchContext<'_>,
        view: ViewId,
        from: &Request<'_>,
        out: &mut [u8],
    ) -> Option<Response> {
        let (hints, view) = (context.snapshot.hints(Some(view)), context.snapshot.config.views.get(view.index())?);
        let limit = view.client_max_qps?;
        if self.limits.rates.admits(from.client, limit, self.epoch.until(context.at)) {
            return None;
        }
        let text = format!("view {}: client_max_qps = {limit} is used up", view.name);
        outcome::enter_at_once(
            self,
            context,
            &from.turned_away((rcode::SERVFAIL, Cause::RateLimited), AnswerSource::Local, &text),
        );
        Some(from.error((rcode::SERVFAIL, Cause::RateLimited), &text, hints, out))
    }

    /// Responds to a message that is not a valid query.
    #[cold]
    fn reject(
        &self,
        context: &mut BatchContext<'_>,
        packet: &[u8],
        reject: Reject,
        (client, over_tcp): (IpAddr, bool),
        out: &mut [u8],
    ) -> Response {
        let (code, question_end, edns) = match reject {
            Reject::Silence(why) => {
                self.metrics.queries.dropped.with_label_values(&[why.label()]).inc();
                return Response::Silence;
            }
            Reject::Code { rcode, question_end, edns } => (rcode, question_end, edns),
        };
        let (rcode, source, cause) = match context.snapshot.admission.admits(client) {
            true => (code, AnswerSource::Local, Cause::BadQuery),
            false => (rcode::REFUSED, AnswerSource::Refused, Cause::Refused),
        };
        // The question is present if it is to be echoed.
        let qtype = question_end.checked_sub(4).and_then(|at| u16_at(packet, at)).filter(|_| question_end > HEADER);
        let name = packet.get(HEADER..question_end.saturating_sub(4)).filter(|name| !name.is_empty());
        let name = name.map_or(vec![0], <[u8]>::to_ascii_lowercase);
        let question = ParsedQuestion { name: &name, qtype: qtype.map_or(rtype::RESERVED, RrType::from), hash: 0 };
        let outcome = QueryOutcome {
            client,
            over_tcp,
            question,
            route: None,
            rcode,
            source,
            cause: Some(cause),
            words: Explanation::None,
            truncated_to: None,
        };
        outcome::enter_at_once(self, context, &outcome);
        Response::Reply(write::rejection(packet, rcode, question_end, edns, out))
    }

    /// Responds to a query that the cache cannot answer: a name that nodens answers itself, or a question for upstreams.
    #[cold]
    fn uncached(
        &self,
        context: &mut BatchContext<'_>,
        from: &Request<'_>,
        (asked, view): ((&CacheKey, u64), Option<ViewId>),
        options: &[u8],
        out: &mut [u8],
    ) -> Response {
        let (snapshot, (key, hash), Request { query, client, over_tcp }) = (context.snapshot, asked, from);
        let hints = snapshot.hints(view);
        let own = |rcode, cause| from.outcome(asked, None, (rcode, cause), AnswerSource::Local);
        match introspection::inside(self, context, query, key, (*client, hints), out.len()) {
            Some(SelfService::Now(rcode, records)) => {
                outcome::enter_at_once(self, context, &own(rcode, None));
                return Response::Reply(write::local(query, rcode, true, &records, options, out));
            }
            Some(SelfService::Refused) => {
                outcome::enter_at_once(self, context, &own(rcode::REFUSED, None));
                return from.error((rcode::REFUSED, Cause::Refused), "", hints, out);
            }
            Some(SelfService::Later) => {
                let Some(place) = self.place(context, None, *client) else {
                    return self.turn_away(context, from, asked, (None, true, hints), options, out);
                };
                return self.defer(
                    context,
                    PendingTask::Introspection(context.introspection(key.clone(), *client, hints)),
                    (from, hints),
                    place,
                );
            }
            None => {}
        }
        let found = local(snapshot, key);
        if let Local::Not { route, .. } | Local::Denied { route } = found
            && let Some(path) = autopath::path(self, context, key, route, *client)
            && let Some(place) = self.place(context, Some(route), *client)
        {
            let pending_query = context.pending_query(key.clone(), hash, route, None, Some(*client)).along(path);
            return self.defer(context, PendingTask::Question(pending_query), (from, hints), place);
        }
        let (target, hash, route, alias) = match found {
            Local::Answer(answer) => {
                let LocalLookup { rcode, ref records, cause, text } = answer;
                let mut outcome = own(rcode, cause);
                outcome.words = Explanation::Text(text);
                let len = disclosure::disclose_own(hints, &answer.extended_error(), |error| {
                    write::local(query, rcode, false, records, &[options, error].concat(), out)
                });
                let is_cut = !over_tcp && rcode == rcode::NOERROR && is_truncated(out);
                outcome.truncated_to = is_cut.then_some(out.len());
                outcome::enter_at_once(self, context, &outcome);
                return Response::Reply(len);
            }
            Local::Alias(records, target, route) => {
                let target = key.for_name(&target);
                let hash = self.cache.hash(&target);
                (target, hash, route, Some(records))
            }
            Local::Denied { route } => {
                let response =
                    self.deny(context, (from, hints), asked, (route, DenialRule::Form, FORM_TTL), options, out);
                let cluster = context.snapshot.cluster(route);
                let is_sample = cluster.is_some_and(|cluster| cluster.pruning.is_sample(cluster.form(key.name())));
                return match response {
                    Response::Reply(len) if is_sample => {
                        Response::ReplyAndRefresh(len, context.pending_query(key.clone(), hash, route, None, None))
                    }
                    response => response,
                };
            }
            Local::Not { route, depth } => match ancestors::cut(self, snapshot, key, route, depth, context.now) {
                Some(cut) => {
                    let response =
                        self.deny(context, (from, hints), asked, (route, DenialRule::Ancestor, cut.ttl), options, out);
                    return match (response, cut.refresh) {
                        (Response::Reply(len), Some((key, hash))) => {
                            Response::ReplyAndRefresh(len, context.pending_query(key, hash, route, None, None))
                        }
                        (response, _) => response,
                    };
                }
                None => (key.clone(), hash, route, None),
            },
        };
        let Some(place) = self.place(context, Some(route), *client) else {
            return self.turn_away(context, from, (&target, hash), (Some(route), alias.is_some(), hints), options, out);
        };
        self.metrics.cache.misses.inc();
        let pending_query = context.pending_query(target, hash, route, alias, Some(*client));
        self.defer(context, PendingTask::Question(pending_query), (from, hints), place)
    }

    /// Responds to a query that is rejected because too many are pending: a stale answer is better than none (RFC 8767).
    #[cold]
    fn turn_away(
        &self,
        context: &mut BatchContext<'_>,
        from: &Request<'_>,
        asked: (&CacheKey, u64),
        (route, is_alias, hints): (Option<RouteId>, bool, Hints),
        options: &[u8],
        out: &mut [u8],
    ) -> Response {
        self.metrics.capacity.rejections.with_label_values(&["pending_queries"]).inc();
        let (target, hash) = asked;
        let stale =
            |entry: &mut Entry| freshness::past_its_time(context, entry, &from.query, (target, hints), options, out);
        if !is_alias && let Some((len, rcode, cause)) = self.cache.with(hash, target, stale).flatten() {
            outcome::enter_at_once(self, context, &from.outcome(asked, route, (rcode, cause), AnswerSource::Stale));
            return Response::Reply(len);
        }
        let (code, words) = ((rcode::SERVFAIL, Some(Cause::RateLimited)), Explanation::Text(TURNED_AWAY));
        outcome::enter_at_once(
            self,
            context,
            &QueryOutcome { words, ..from.outcome(asked, route, code, AnswerSource::Local) },
        );
        from.error((rcode::SERVFAIL, Cause::RateLimited), TURNED_AWAY, hints, out)
    }

    /// Defers a query to a task.
    fn defer(
        &self,
        context: &mut BatchContext<'_>,
        task: PendingTask,
        (from, hints): (&Request<'_>, Hints),
        place: PendingSlot,
    ) -> Response {
        context.tally.query(from.over_tcp, from.query.qtype, task.route());
        let (query, over_tcp) = (from.query.retained(), from.over_tcp);
        Response::Deferred(Box::new(Deferred { task, query, over_tcp, hints, place }))
    }

    /// Reserves a slot among the pending queries for a query of this client.
    fn place(&self, context: &BatchContext<'_>, route: Option<RouteId>, client: IpAddr) -> Option<PendingSlot> {
        let group = route.and_then(|route| context.snapshot.group(route)).map(|group| &group.pending);
        self.limits.governor.pending.admit(client, group, context.snapshot.groups.iter().map(|group| &group.pending))
    }
}
