//! `/api/v1/jobs`: query counts of each client. `/api/v1/jobs/ID`: the queries of one client and the causes of its failures.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::clients::{self, unix_now};
use crate::answer::Resolver;
use crate::answer::diagnosis::{Reader, explain};
use crate::clients::Client;
use crate::clients::client::Field;
use crate::clock::Millis;
use crate::jobs::account::{FailedQuestion, ResponseKind, SlowQuestion};
use crate::jobs::{ClientStats, Excerpt};
use crate::metrics::events::rfc3339;
use crate::snapshot::Snapshot;
use crate::wire::name::DisplayNoDot;

/// Returns all accounts with their totals, the most recently active first.
pub(super) fn list(resolver: &Resolver) -> String {
    let now = resolver.now();
    // Keeps the lock on the accounts short: the control thread needs it too.
    let jobs = resolver.accounts.jobs.each(|account| (account.client.clone(), Totals::of(account)));
    let json = |(client, totals): &(Option<Arc<Client>>, Totals)| with_client(client.as_deref(), totals.json(now));
    let jobs: Vec<Value> = jobs.iter().map(json).collect();
    let dropped = resolver.accounts.jobs.dropped();
    format!("{:#}\n", json!({ "jobs": jobs, "dropped": dropped, "counted_since": counted_since(resolver) }))
}

/// Returns the report about the account with this job id, pod name or UID, if there is one.
pub(super) fn one(resolver: &Resolver, id: &str) -> Option<String> {
    let found = resolver.accounts.jobs.find(id)?;
    Some(format!("{:#}\n", report(resolver, &resolver.snapshot.load(), &found, Reader::Operator)))
}

/// Returns the report about an account, as far as the reader may see it.
pub(super) fn report(
    resolver: &Resolver,
    snapshot: &Snapshot,
    Excerpt { account, like }: &Excerpt,
    reader: Reader,
) -> Value {
    let now = resolver.now();
    let mut report = with_client(account.client.as_deref(), Totals::of(account).json(now));
    let mut routes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut rcodes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut sources: BTreeMap<&str, u64> = BTreeMap::new();
    let is_seen = |route: &Option<Arc<str>>| route.as_ref().is_none_or(|route| reader.sees_route(snapshot, route));
    for ResponseKind { route, rcode, source, times } in &account.kinds {
        let label = route.as_deref().filter(|_| is_seen(route)).unwrap_or("none");
        *routes.entry(label).or_default() += times;
        *rcodes.entry(rcode.label()).or_default() += times;
        *sources.entry(source.label()).or_default() += times;
    }
    let failures = account.failures.iter().zip(like).filter(|(failure, _)| is_seen(&failure.route));
    let mut failures: Vec<(&FailedQuestion, &Vec<Box<[u8]>>)> = failures.collect();
    failures.sort_by_key(|(failure, _)| (std::cmp::Reverse(failure.times), failure.first));
    let mut search_targets: Vec<_> = account.search_targets.iter().collect();
    search_targets.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let search_targets: Vec<_> = search_targets
        .iter()
        .map(|(name, times)| json!({ "name": DisplayNoDot(name).to_string(), "queries": times }))
        .collect();
    report["counted_since"] = counted_since(resolver).into();
    report["address"] = account.address.to_string().into();
    report["by_route"] = json!(routes);
    report["by_rcode"] = json!(rcodes);
    report["by_source"] = json!(sources);
    report["slowest"] = account.slowest.iter().filter(|slow| is_seen(&slow.route)).map(slow).collect();
    report["failures"] = failures
        .iter()
        .map(|(failure, like)| {
            self::failure(failure, explain(resolver, snapshot, account, (failure, like), reader), now)
        })
        .collect();
    report["failures_left_out"] = account.left_out.into();
    report["search_list"] = json!({
        "queries": account.searches,
        "explanation": account.search_list_explanation(),
        "names": search_targets,
    });
    report
}

/// Totals of an account.
struct Totals {
    queries: u64,
    failed: u64,
    searches: u64,
    failures: usize,
    first: Millis,
    last: Millis,
}

impl Totals {
    fn of(account: &ClientStats) -> Self {
        let (queries, failed) = (account.count(|_| true), account.failed());
        let ClientStats { searches, first, last, .. } = *account;
        Self { queries, failed, searches, failures: account.failures.len(), first, last }
    }

    fn json(&self, now: Millis) -> Value {
        json!({
            "queries": self.queries,
            "failed": self.failed,
            "search_list_queries": self.searches,
            "distinct_failures": self.failures,
            "first": time(self.first, now),
            "last": time(self.last, now),
            "last_age_seconds": age(self.last, now) as f64 / 1_000.0,
        })
    }
}

fn with_client(client: Option<&Client>, mut totals: Value) -> Value {
    let Some(client) = client else {
        totals["known"] = false.into();
        totals["name"] = "unknown".into();
        return totals;
    };
    totals["known"] = true.into();
    totals["kind"] = client.kind.label().into();
    totals["name"] = (*client.name).into();
    totals["namespace"] = client.namespace.as_deref().into();
    totals["uid"] = client.uid.as_deref().into();
    totals["job_id"] = client.job.as_ref().and_then(|job| job.get(Field::JobId)).map(|fact| &*fact.value).into();
    totals["job"] = client.job.as_ref().map(clients::job).into();
    totals
}

fn slow(slow: &SlowQuestion) -> Value {
    json!({
        "name": DisplayNoDot(&slow.name).to_string(),
        "type": slow.qtype.to_string(),
        "rcode": slow.rcode.label(),
        "route": slow.route.as_deref(),
        "seconds": slow.took.as_secs_f64(),
    })
}

fn failure(failure: &FailedQuestion, (cause, explanation): (&str, String), now: Millis) -> Value {
    json!({
        "name": DisplayNoDot(&failure.name).to_string(),
        "type": failure.qtype.to_string(),
        "rcode": failure.rcode.label(),
        "route": failure.route.as_deref(),
        "cause": cause,
        "explanation": explanation,
        "queries": failure.times,
        "first": time(failure.first, now),
        "last": time(failure.last, now),
    })
}

/// Returns the start of this process, before which it has counted nothing.
fn counted_since(resolver: &Resolver) -> String {
    rfc3339(resolver.metrics.events.began())
}

/// Converts a time of the process's clock to RFC 3339.
fn time(then: Millis, now: Millis) -> String {
    rfc3339(unix_now().saturating_sub(age(then, now)))
}

fn age(then: Millis, now: Millis) -> Millis {
    now.saturating_sub(then)
}
