//! The first name of a pod's search list, answered with what the list comes to (`autopath`).
//!
//! A pod with `ndots:5` that wants `registry.example.com` asks for `registry.example.com.ci.svc.cluster.local` first, and
//! for others after that. Where the API shows its whole list, nodens goes through it at the first question, each name by
//! its own route, in the order of the list. The first that exists is the answer, behind a CNAME; the pod asks no more.
//!
//! If one cannot be had, because its servers fail, nobody knows whether it would have been the answer: then the first name
//! gets its own, and the pod goes on by itself. So it does if none exists.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::ancestors;
use super::kept::{failure_holds, stale_window};
use super::obtain::obtain;
use super::ours::{Local, Own, denial, local};
use super::pending::{Path, PendingQuery};
use super::state::Resolver;
use super::turn::BatchContext;
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clients::ClientIdentity;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::fetch;
use crate::metrics::Source;
use crate::upstream::Ask;
use crate::wire::make::LocalRecords;
use crate::wire::query::Key;
use crate::wire::{class, rcode, rtype};

/// How long the CNAME may be cached, in seconds: an earlier name of the list may come to be.
const TTL: u32 = 5;

/// The answer to the first name of a list.
pub(super) struct SearchOutcome {
    /// The answer, to the name's own question or to another's.
    pub(super) entry: Entry,
    /// Where it came from.
    pub(super) source: Source,
    /// The CNAME that leads to that other name, and its question.
    pub(super) other: Option<Box<(LocalRecords, PendingQuery)>>,
}

/// The rest of the client's search list, if this is the first name on it and it wants to be spared that.
#[inline]
pub(super) fn path(
    resolver: &Resolver,
    turn: &BatchContext<'_>,
    key: &Key,
    route: RouteId,
    client: IpAddr,
) -> Option<Box<Path>> {
    turn.snapshot.cluster(route).filter(|cluster| cluster.config.autopath)?;
    let plain = key.rd() && !key.cd() && !key.dnssec_ok() && !key.z() && key.qclass() == class::IN;
    if !plain || !matches!(key.qtype(), rtype::A | rtype::AAAA) {
        return None;
    }
    let tables = resolver.tables(turn.snapshot);
    let ClientIdentity::Known { client, .. } = tables.who(client, turn.now) else { return None };
    Some(Box::new(Path(client.search.as_ref()?.after_first(key.name())?)))
}

/// Goes along the path until a name exists.
pub(super) async fn walk<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
    path: &Path,
) -> SearchOutcome {
    let (first, source) = match look(resolver, upstreams, wanted, wanted.key.clone()).await {
        Look::Missing(entry, source) => (entry, source),
        Look::Exists(entry, source, _) | Look::Failed(entry, source) => {
            return SearchOutcome { entry, source, other: None };
        }
    };
    for name in &path.0 {
        match look(resolver, upstreams, wanted, wanted.key.for_name(name.as_wire())).await {
            Look::Missing(..) => {}
            Look::Failed(..) => break,
            Look::Exists(entry, source, asked) => {
                resolver.metrics.search.completed.inc();
                wanted.by.set(asked.by.get());
                let mut alias = LocalRecords::default();
                alias.answer(rtype::CNAME, TTL, name.as_wire());
                return SearchOutcome { entry, source, other: Some(Box::new((alias, *asked))) };
            }
        }
    }
    SearchOutcome { entry: first, source, other: None }
}

/// What came of a name on the path.
enum Look {
    /// It exists, with or without an address of the type, and what was asked of whom.
    Exists(Entry, Source, Box<PendingQuery>),
    /// It does not.
    Missing(Entry, Source),
    /// Nobody knows.
    Failed(Entry, Source),
}

/// Looks up one name the way that a query for it goes.
async fn look<U: Ask + 'static>(resolver: &Arc<Resolver>, upstreams: &Rc<U>, from: &PendingQuery, key: Key) -> Look {
    let snapshot = &from.snapshot;
    let question = |key: Key, route| {
        let hash = resolver.cache.hash(&key);
        let (snapshot, asked, client) = (Arc::clone(snapshot), from.asked, from.client);
        PendingQuery { key, hash, route, snapshot, alias: None, path: None, asked, client, by: Cell::default() }
    };
    let own = |key: Key, route, own: &Own| {
        let asked = question(key, route);
        (fetch::own_entry(resolver, &asked, own), Source::Local, asked)
    };
    let (entry, source, asked) = match local(snapshot, &key) {
        Local::Denied { route } => own(key, route, &denial(snapshot, route)),
        Local::Answer(answer) => own(key, from.route, &answer),
        // A static alias on the way: rare, and left to the client.
        Local::Alias(_, target, route) => {
            let asked = question(key.for_name(&target), route);
            (fetch::unasked_entry(resolver, &asked, (Cause::UpstreamFailed, &[])), Source::Local, asked)
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
        rcode::NOERROR => Look::Exists(entry, source, Box::new(asked)),
        rcode::NXDOMAIN if source != Source::Stale => Look::Missing(entry, source),
        _ => Look::Failed(entry, source),
    }
}

/// What the cache has for a question, if nobody need be asked.
fn known(resolver: &Resolver, asked: &PendingQuery, now: Millis) -> Option<(Entry, Source)> {
    let (entry, freshness) = fetch::kept(resolver, asked, stale_window(&asked.snapshot))?;
    let failed = failure_holds(&asked.snapshot, &entry, now);
    match freshness {
        Freshness::Fresh(_) => Some((entry, Source::Hit)),
        Freshness::Stale if failed => Some((entry, Source::Stale)),
        Freshness::Failed if failed => Some((entry, Source::Hit)),
        _ => None,
    }
}
