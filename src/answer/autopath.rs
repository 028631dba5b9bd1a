//! The first name of a pod's search list, answered with the final result of the list (`autopath`).
//!
//! A pod with `ndots:5` that looks up `registry.example.com` queries `registry.example.com.ci.svc.cluster.local` first, and
//! other names after it. If the Kubernetes API shows the pod's whole search list, nodens tries all names of the list at the
//! first query, in their order, each by its own route. The first name that exists is the answer, behind a CNAME, and the pod
//! sends no further queries.
//!
//! If the servers of a name fail, it is unknown whether that name would have been the answer. The first name is then answered
//! by itself, and the pod goes on with its list. The same happens if no name exists.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::ancestors;
use super::batch_context::BatchContext;
use super::freshness::{failure_holds, stale_window};
use super::obtain::obtain;
use super::own_answers::{Local, LocalLookup, denial, local};
use super::pending::{Path, PendingQuery};
use super::state::Resolver;
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clients::ClientIdentity;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::forward::entries;
use crate::metrics::AnswerSource;
use crate::upstream::Ask;
use crate::wire::cache_key::CacheKey;
use crate::wire::write::LocalRecords;
use crate::wire::{class, rcode, rtype};

/// TTL of the CNAME in seconds: an earlier name of the list may be created.
const TTL: u32 = 5;

/// Answer to the first name of a search list.
pub(super) struct SearchOutcome {
    /// Answer to the name's own question, or to that of another name.
    pub(super) entry: Entry,
    /// Source of the answer.
    pub(super) source: AnswerSource,
    /// CNAME that leads to the other name, and the question for that name.
    pub(super) other: Option<Box<(LocalRecords, PendingQuery)>>,
}

/// Returns the rest of the client's search list, if the name is the first of that list and its route enables autopath.
#[inline]
pub(super) fn path(
    resolver: &Resolver,
    context: &BatchContext<'_>,
    key: &CacheKey,
    route: RouteId,
    client: IpAddr,
) -> Option<Box<Path>> {
    context.snapshot.cluster(route).filter(|cluster| cluster.config.autopath)?;
    let plain = key.rd() && !key.cd() && !key.dnssec_ok() && !key.z() && key.qclass() == class::IN;
    if !plain || !matches!(key.qtype(), rtype::A | rtype::AAAA) {
        return None;
    }
    let tables = resolver.tables(context.snapshot);
    let ClientIdentity::Known { client, .. } = tables.identify(client, context.now) else { return None };
    Some(Box::new(Path(client.search.as_ref()?.after_first(key.name())?)))
}

/// Tries the names of the path in their order until one exists.
pub(super) async fn walk<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
    path: &Path,
) -> SearchOutcome {
    let (first, source) = match look(resolver, upstreams, pending_query, pending_query.key.clone()).await {
        NameLookup::Missing(entry, source) => (entry, source),
        NameLookup::Exists(entry, source, _) | NameLookup::Failed(entry, source) => {
            return SearchOutcome { entry, source, other: None };
        }
    };
    for name in &path.0 {
        match look(resolver, upstreams, pending_query, pending_query.key.for_name(name.as_wire())).await {
            NameLookup::Missing(..) => {}
            NameLookup::Failed(..) => break,
            NameLookup::Exists(entry, source, asked) => {
                resolver.metrics.search.completed.inc();
                pending_query.by.set(asked.by.get());
                let mut alias = LocalRecords::default();
                alias.answer(rtype::CNAME, TTL, name.as_wire());
                return SearchOutcome { entry, source, other: Some(Box::new((alias, *asked))) };
            }
        }
    }
    SearchOutcome { entry: first, source, other: None }
}

/// Result of one name of the path.
enum NameLookup {
    /// The name exists, with or without an address of the type; the question says which server answered.
    Exists(Entry, AnswerSource, Box<PendingQuery>),
    /// The name does not exist.
    Missing(Entry, AnswerSource),
    /// The result is unknown, because servers failed.
    Failed(Entry, AnswerSource),
}

/// Resolves one name as a query for it would be resolved.
async fn look<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    from: &PendingQuery,
    key: CacheKey,
) -> NameLookup {
    let snapshot = &from.snapshot;
    let question = |key: CacheKey, route| {
        let hash = resolver.cache.hash(&key);
        let (snapshot, asked, client) = (Arc::clone(snapshot), from.asked, from.client);
        PendingQuery { key, hash, route, snapshot, alias: None, path: None, asked, client, by: Cell::default() }
    };
    let own = |key: CacheKey, route, own: &LocalLookup| {
        let asked = question(key, route);
        (entries::own_entry(resolver, &asked, own), AnswerSource::Local, asked)
    };
    let (entry, source, asked) = match local(snapshot, &key) {
        Local::Denied { route } => own(key, route, &denial(snapshot, route)),
        Local::Answer(answer) => own(key, from.route, &answer),
        // A static alias is rare here: the client resolves it itself.
        Local::Alias(_, target, route) => {
            let asked = question(key.for_name(&target), route);
            (entries::unasked_entry(resolver, &asked, (Cause::UpstreamFailed, &[])), AnswerSource::Local, asked)
        }
        Local::Not { route, depth } => {
            let now = resolver.now();
            match ancestors::cut(resolver, snapshot, &key, route, depth, now) {
                Some(_) => own(key, route, &denial(snapshot, route)),
                None => {
                    let asked = question(key, route);
                    let (entry, source) = match known(resolver, &asked, now) {
                        Some(known) => known,
                        None => {
                            let (entry, source) = obtain(resolver, upstreams, &asked).await;
                            ancestors::learn(resolver, upstreams, &asked, entry.rcode, source);
                            (entry, source)
                        }
                    };
                    (entry, source, asked)
                }
            }
        }
    };
    match entry.rcode {
        rcode::NOERROR => NameLookup::Exists(entry, source, Box::new(asked)),
        rcode::NXDOMAIN if source != AnswerSource::Stale => NameLookup::Missing(entry, source),
        _ => NameLookup::Failed(entry, source),
    }
}

/// Returns the cached result of a question, if no query is needed.
fn known(resolver: &Resolver, asked: &PendingQuery, now: Millis) -> Option<(Entry, AnswerSource)> {
    let (entry, freshness) = entries::usable_entry(resolver, asked, stale_window(&asked.snapshot))?;
    let failed = failure_holds(&asked.snapshot, &entry, now);
    match freshness {
        Freshness::Fresh(_) => Some((entry, AnswerSource::Hit)),
        Freshness::Stale if failed => Some((entry, AnswerSource::Stale)),
        Freshness::Failed if failed => Some((entry, AnswerSource::Hit)),
        _ => None,
    }
}
