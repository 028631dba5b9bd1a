//! Self-service for clients over DNS. The source address identifies the client, which needs no credentials and sees only its
//! own data.
//!
//! - `me.nodens.internal` TXT: the client's identity, its number of queries, and its failures;
//! - `NAME.why.nodens.internal` TXT: the route of NAME, its state in the cache, and its last failure for this client.
//!
//! With `hints = "own"` nothing of other views, of servers' addresses and of the cache is in them; with `off` they are refused.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ancestors;
use super::batch_context::BatchContext;
use super::diagnosis::{Reader, explain};
use super::freshness::stale_window;
use super::own_answers::{Local, LocalLookup, local};
use super::pending::Introspection;
use super::request::options;
use super::state::Resolver;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clients::client::Field;
use crate::clients::{Client, ClientIdentity};
use crate::clock::Millis;
use crate::config::{Hints, RouteId};
use crate::jobs::{Excerpt, Pick};
use crate::snapshot::Snapshot;
use crate::wire::cache_key::CacheKey;
use crate::wire::name::{DisplayNoDot, OWN_ZONE, suffixes};
use crate::wire::query::Query;
use crate::wire::text::plain;
use crate::wire::write::{LocalRecords, OPT_SIZE};
use crate::wire::{HEADER, LARGEST_UDP_REPLY, Rcode, class, rcode, rtype};

/// Name whose answer describes the client.
const ME: &[u8] = b"\x02me\x06nodens\x08internal\x00";
/// Suffix whose answer explains how the name before it resolves.
const WHY: &[u8] = b"\x03why\x06nodens\x08internal\x00";
/// Longest string of a TXT record (RFC 1035 section 3.3).
const LONGEST_STRING: usize = 255;
/// Bytes of a record before its only string: pointer, type, class, TTL, length, the string's length.
const BEFORE_STRING: usize = 13;
/// Most failures in one answer.
const MOST_FAILURES: usize = 5;
/// Most servers in one answer; a UDP response has room for fewer.
const MOST_SERVERS: usize = 32;
/// Such answers per client and second, with a burst of as many. People and scripts query a few times.
const MOST_A_SECOND: u32 = 10;
/// Longest wait of such an answer until earlier statistics have been merged and can be read; the control thread takes
/// some 50 ms.
const PATIENCE: Duration = Duration::from_millis(500);
/// Interval between checks that the statistics can be read.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Way in which such a name is answered.
pub(super) enum SelfService {
    Now(Rcode, LocalRecords),
    /// Refused: the client gets no explanations.
    Refused,
    /// Deferred to [`report_records`], which waits until the statistics that this worker has recorded are merged.
    Later,
}

/// Returns how the name is answered, if it is one of these names. Caches must not keep the answer.
pub(super) fn inside(
    resolver: &Resolver,
    context: &mut BatchContext<'_>,
    query: &Query<'_>,
    key: &CacheKey,
    (client, hints): (IpAddr, Hints),
    room: usize,
) -> Option<SelfService> {
    let name = key.name();
    if !name.ends_with(OWN_ZONE) || key.qclass() != class::IN {
        return None;
    }
    let asked_for = asked_for(name);
    if asked_for.is_none() && name != ME {
        return None;
    }
    if hints == Hints::Off {
        return Some(SelfService::Refused);
    }
    if asked_for == Some(0) || key.qtype() != rtype::TXT {
        let mut records = LocalRecords::default();
        records.soa(OWN_ZONE, 0);
        return Some(SelfService::Now(rcode::NOERROR, records));
    }
    let since_start = resolver.epoch.until(context.at);
    if !resolver.limits.introspection.admits(client, MOST_A_SECOND, since_start) {
        let line = format!("rate limited: at most {MOST_A_SECOND} such answers a second for each client");
        return Some(SelfService::Now(rcode::NOERROR, records(query, &[line], room)));
    }
    // The answer includes what this worker has recorded so far.
    resolver.accounts.jobs.flush(context.stats_buffer, context.now);
    Some(SelfService::Later)
}

/// Returns the records for a query that [`inside`] deferred. Waits for the control thread and for readers of the statistics,
/// but only as a task: other queries of the worker go on.
pub(super) async fn report_records(
    resolver: &Resolver,
    pending_query: &Introspection,
    packet: &[u8],
    over_tcp: bool,
) -> LocalRecords {
    let Ok(query) = Query::read(packet) else { return LocalRecords::default() };
    let client = pending_query.client;
    let (handed_over, _) = resolver.accounts.jobs.progress();
    let deadline = Instant::now() + PATIENCE;
    while resolver.accounts.jobs.progress().1 < handed_over && Instant::now() < deadline {
        sleep(LOOK_EVERY).await;
    }
    let name = pending_query.key.name();
    let length = asked_for(name);
    let question = length.map(|length| pending_query.key.for_question(&[&name[..length], &[0]].concat(), rtype::A));
    let pick = question.as_ref().map_or(Pick::Latest(MOST_FAILURES), |question| Pick::Of(question.name()));
    let (snapshot, now) = (&pending_query.snapshot, resolver.millis(pending_query.asked));
    let reader = Reader::Client(pending_query.hints, pending_query.key.effective_view());
    let lines = loop {
        match (try_look(resolver, snapshot, client, now, pick), &question) {
            (Some(excerpt), Some(question)) => break why(resolver, snapshot, now, question, excerpt, reader),
            (Some(excerpt), None) => break me(resolver, snapshot, now, client, excerpt, reader),
            (None, _) if Instant::now() >= deadline => {
                break vec!["statistics are being updated: ask again".to_string()];
            }
            (None, _) => sleep(LOOK_EVERY).await,
        }
    };
    let room = match over_tcp {
        true => usize::from(u16::MAX).saturating_sub(options(&pending_query.snapshot, &query, over_tcp).len()),
        false => query.udp_size().min(LARGEST_UDP_REPLY).into(),
    };
    records(&query, &lines, room)
}

/// Returns the number of bytes before `why.nodens.internal`, if the name is that name or below it.
fn asked_for(name: &[u8]) -> Option<usize> {
    name.len().checked_sub(WHY.len()).filter(|_| suffixes(name).any(|suffix| suffix == WHY))
}

/// Returns the excerpt of the client's statistics, if the client is known and has any; the outer `None` means that they cannot
/// be read at the moment.
fn try_look(
    resolver: &Resolver,
    snapshot: &Snapshot,
    address: IpAddr,
    now: Millis,
    pick: Pick<'_>,
) -> Option<Option<Excerpt>> {
    match resolver.tables(snapshot).identify(address, now) {
        ClientIdentity::Known { client, .. } => resolver.accounts.jobs.try_look(client, pick),
        ClientIdentity::Unknown(_) => Some(None),
    }
}

/// Returns one record for each line, as many as fit into the response.
fn records(query: &Query<'_>, lines: &[String], room: usize) -> LocalRecords {
    let mut records = LocalRecords::default();
    let mut left = room.saturating_sub(HEADER + query.question().len() + query.edns.map_or(0, |_| OPT_SIZE));
    for line in lines {
        let line = plain(line);
        let text = cut(&line);
        let Some(rest) = left.checked_sub(BEFORE_STRING + text.len()) else { break };
        left = rest;
        records.answer(rtype::TXT, 0, &[&[text.len() as u8], text].concat());
    }
    records
}

/// Describes the client and the results of its queries.
fn me(
    resolver: &Resolver,
    snapshot: &Snapshot,
    now: Millis,
    address: IpAddr,
    excerpt: Option<Excerpt>,
    reader: Reader,
) -> Vec<String> {
    let tables = resolver.tables(snapshot);
    let identity = tables.identify(address, now);
    let client = match identity {
        ClientIdentity::Known { client, .. } => client,
        ClientIdentity::Unknown(why) => return vec![format!("{address} is not known: {why}")],
    };
    let mut lines = vec![title(client, address)];
    if let Some(view) = snapshot.view(&identity, address) {
        lines[0].push_str(&format!(", view {}", view.name));
    }
    let Some(Excerpt { account, like }) = excerpt else {
        lines.push("no queries yet".to_string());
        return lines;
    };
    let (queries, searches) = (account.count(|_| true), account.searches);
    let noise = format!(", search-list noise ({searches} of {queries} queries)");
    let noise = if searches > 0 { noise.as_str() } else { "" };
    lines.push(format!("{queries} queries, {} failed{noise}", account.failed()));
    for (failure, like) in account.failures.iter().zip(&like) {
        if failure.route.as_ref().is_some_and(|route| !reader.sees_route(snapshot, route)) {
            continue;
        }
        let seconds = now.saturating_sub(failure.last) / 1_000;
        let (_, sentence) = explain(resolver, snapshot, &account, (failure, like), reader);
        let name = DisplayNoDot(&failure.name);
        let fared = if failure.cause == Cause::TooBig { "was cut off" } else { "failed" };
        lines.push(format!("{name} {fared} {}x, last {seconds} s ago: {sentence}", failure.times));
    }
    // The last line is the first to be left out if there is no room.
    if searches > 0 {
        lines.push("a final dot after a name, or ndots: 1, avoids the queries of the search list".to_string());
    }
    lines
}

fn title(client: &Client, address: IpAddr) -> String {
    let mut text = format!("{address} is {} {}", client.kind, client.name);
    if let Some(namespace) = &client.namespace {
        text.push_str(&format!(" in namespace {namespace}"));
    }
    let fact = |field| Some(&*client.job.as_ref()?.get(field)?.value);
    if let Some(job) = fact(Field::JobId) {
        text.push_str(&format!(", job {job}"));
    }
    if let Some(project) = fact(Field::ProjectPath).or(fact(Field::ProjectId)) {
        text.push_str(&format!(", project {project}"));
    }
    text
}

/// Explains the route of the name of `question`, its state in the cache, and its last failure for the client; one sentence
/// each. `excerpt` is the client's excerpt for that name, chosen by [`Pick::Of`].
pub(crate) fn why(
    resolver: &Resolver,
    snapshot: &Snapshot,
    now: Millis,
    question: &CacheKey,
    excerpt: Option<Excerpt>,
    reader: Reader,
) -> Vec<String> {
    let name = question.name();
    let (target, route, mut lines) = match local(snapshot, question) {
        Local::Answer(LocalLookup { rcode, text, .. }) => {
            let is_static = snapshot.effective_view(question.effective_view()).has_records(name);
            let what = match text {
                "" if is_static => "a static record",
                "" => "a special-use name",
                why => why,
            };
            (
                name.to_vec(),
                None,
                vec![format!("{} is {what}: nodens answers {} itself", DisplayNoDot(name), rcode.label())],
            )
        }
        Local::Alias(_, target, route) => {
            let line = format!("{} is a static alias of {}", DisplayNoDot(name), DisplayNoDot(&target));
            (target, Some(route), vec![line])
        }
        Local::Denied { .. } => {
            let line = format!("{} cannot exist in Kubernetes: nodens denies it itself", DisplayNoDot(name));
            (name.to_vec(), None, vec![line])
        }
        Local::Not { route, depth } => {
            match ancestors::denied_above(resolver, snapshot, question, (route, depth), now) {
                Some(above) => {
                    let (above, denied) = (DisplayNoDot(above.name()), DisplayNoDot(name));
                    let line =
                        format!("{above} does not exist, so no name below it exists: nodens denies {denied} itself");
                    (name.to_vec(), None, vec![line])
                }
                None => (name.to_vec(), Some(route), Vec::new()),
            }
        }
    };
    // Clients ask for the failure most often, so it comes first.
    if let Some(Excerpt { account, like }) = excerpt
        && let Some((failure, like)) = account.failures.iter().zip(&like).next()
        && failure.route.as_ref().is_none_or(|route| reader.sees_route(snapshot, route))
    {
        let seconds = now.saturating_sub(failure.last) / 1_000;
        let (_, sentence) = explain(resolver, snapshot, &account, (failure, like), reader);
        let fared = if failure.cause == Cause::TooBig { "was cut off" } else { "failed" };
        lines.push(format!("it {fared} {seconds} s ago for you: {sentence}"));
    }
    let known = route.and_then(|number| Some((number, snapshot.route(number)?, snapshot.group(number)?)));
    let Some((number, route, group)) = known else { return lines };
    let next = route.fallthrough.and_then(|next| snapshot.groups.get(next.to));
    let next = next.map_or(String::new(), |next| format!(", and what that denies to upstream {}", next.config.name));
    lines.push(format!(
        "{} takes route \"{}\" to upstream {}{next}",
        DisplayNoDot(&target),
        route.label,
        group.config.name
    ));
    if !reader.sees_all() {
        let state = if group.is_alive() { "answers" } else { "does not answer at present" };
        lines.push(format!("upstream {} {state}", group.config.name));
        return lines;
    }
    for (qtype, label) in [(rtype::A, "A"), (rtype::AAAA, "AAAA")] {
        let line = cached(resolver, snapshot, now, &question.for_question(&target, qtype), number);
        lines.push(format!("{label}: {line}"));
    }
    let servers = group.servers.load();
    for server in servers.iter().take(MOST_SERVERS) {
        lines.push(format!("server {}: {}", server.address, server.server_status().state.words()));
    }
    if let Some(more) = servers.len().checked_sub(MOST_SERVERS).filter(|more| *more > 0) {
        lines.push(format!("and {more} servers more"));
    }
    lines
}

/// Describes the cache entry for a question.
fn cached(resolver: &Resolver, snapshot: &Snapshot, now: Millis, key: &CacheKey, route: RouteId) -> String {
    let (generation, window) = (snapshot.generation, stale_window(snapshot));
    let look = |entry: &mut crate::cache::Entry| {
        let at_home = entry.scope.route_under(generation) == Some(route);
        let code = entry.rcode.label();
        let left = entry.expires.saturating_sub(now) / 1_000;
        match entry.freshness(now, window) {
            _ if !at_home => None,
            Freshness::Fresh(age) => Some(format!("cached {age} s ago, {code}, for {left} s more")),
            Freshness::Stale => Some(format!("{code} in the cache is stale; upstreams are queried first")),
            Freshness::Failed => Some("failed recently; upstreams are queried again soon".to_string()),
            Freshness::Expired => None,
        }
    };
    let known = resolver.cache.with(resolver.cache.hash(key), key, look).flatten();
    known.unwrap_or_else(|| "not in the cache, upstreams are asked".to_string())
}

/// Returns the longest prefix of a text that fits into one string and ends between characters.
fn cut(text: &str) -> &[u8] {
    let mut end = text.len().min(LONGEST_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}
