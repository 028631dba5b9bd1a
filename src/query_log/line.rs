//! Queries as lines of JSON.

use std::borrow::Cow;

use serde::Serialize;

use super::record::{LoggedQuery, QueryBatch};
use crate::cache::Millis;
use crate::cause::Cause;
use crate::clients::client::{ClientKind, Field, Trust};
use crate::clients::{ClientIdentity, Tables};
use crate::metrics::AnswerSource;
use crate::metrics::events::{UnixMillis, rfc3339};
use crate::snapshot::Snapshot;
use crate::wire::name::DisplayNoDot;
use crate::wire::text::plain_json;

/// Guessed and conflicting values are not logged, because a line does not show how far they can be trusted.
const LEAST_TRUST: Trust = Trust::JobControlled;

/// Fields in the order of output; unknown values are null.
#[derive(Serialize)]
struct LogLine<'a> {
    time: String,
    client: String,
    kind: Option<&'static str>,
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    network: Option<&'a str>,
    job: Option<&'a str>,
    project: Option<Cow<'a, str>>,
    runner: Option<&'a str>,
    name: String,
    #[serde(rename = "type")]
    qtype: String,
    transport: &'static str,
    rcode: &'static str,
    source: &'static str,
    route: Option<&'a str>,
    upstream: Option<&'a str>,
    server: Option<String>,
    seconds: f64,
    cause: Option<&'static str>,
    error: Option<&'a str>,
}

/// A time of the process's clock, and the wall-clock time at the same moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Time of the process's clock.
    pub now: Millis,
    pub wall: UnixMillis,
}

/// Appends a line for each query of a batch to `out`.
pub(crate) fn write(batch: &QueryBatch, tables: &Tables<'_>, clock: Clock, out: &mut Vec<u8>) {
    for record in &batch.records {
        // Serialization to memory does not fail.
        let line = serde_json::to_string(&line(record, &batch.snapshot, tables, clock)).unwrap_or_default();
        out.extend_from_slice(plain_json(line).as_bytes());
        out.push(b'\n');
    }
}

/// Returns the fields of a line.
fn line<'a>(
    record: &'a LoggedQuery,
    snapshot: &'a Snapshot,
    tables: &'a Tables<'_>,
    clock: Clock,
) -> impl Serialize + 'a {
    let client = match tables.identify(record.client, record.asked) {
        ClientIdentity::Known { client, .. } => Some(&**client),
        ClientIdentity::Unknown(_) => None,
    };
    let job = client.and_then(|client| client.job.as_ref());
    let known = |field| job.and_then(|job| job.known(field, LEAST_TRUST));
    let network = client.is_some_and(|client| client.kind == ClientKind::Configured);
    let name = client.map(|client| &*client.name);
    let asked = matches!(record.source, AnswerSource::Upstream | AnswerSource::Hit | AnswerSource::Stale);
    LogLine {
        time: rfc3339(clock.wall.saturating_sub(clock.now.saturating_sub(record.asked))),
        client: record.client.to_string(),
        kind: client.map(|client| client.kind.label()),
        namespace: client.and_then(|client| client.namespace.as_deref()),
        pod: name.filter(|_| !network),
        network: name.filter(|_| network),
        job: known(Field::JobId).or_else(|| known(Field::JobName)),
        project: job.and_then(|job| job.project(LEAST_TRUST)),
        runner: job.and_then(|job| job.runner(LEAST_TRUST)),
        name: DisplayNoDot(record.name.as_wire()).to_string(),
        qtype: record.qtype.to_string(),
        transport: if record.over_tcp { "tcp" } else { "udp" },
        rcode: record.rcode.label(),
        source: record.source.label(),
        route: record.route.and_then(|route| snapshot.route(route)).map(|route| route.label.as_str()),
        upstream: record
            .route
            .and_then(|route| snapshot.group(route))
            .filter(|_| asked)
            .map(|group| group.config.name.as_str()),
        server: record.by.map(|server| server.to_string()),
        seconds: record.took.as_micros() as f64 / 1e6,
        cause: record.cause.map(Cause::label),
        error: record.words.as_deref(),
    }
}
