//! `/api/v1/clients?address=IP`: the identity of a client, its source and its age.

use std::net::IpAddr;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::answer::Resolver;
use crate::clients::ClientIdentity;
use crate::clients::client::{Client, Field, Job, TrustedValue};
use crate::clock::Millis;
use crate::metrics::events::{UnixMillis, rfc3339};

/// Returns the identity of a client as JSON; the error describes what is wrong with the request.
pub(super) fn identify<'q>(
    resolver: &Resolver,
    mut parameters: impl Iterator<Item = &'q str>,
) -> Result<String, &'static str> {
    let address = parameters.find_map(|parameter| parameter.strip_prefix("address=")).unwrap_or_default();
    // HTTP clients may encode the colons of an address as %3A.
    let address = address.replace("%3A", ":").replace("%3a", ":");
    let address: IpAddr = address.parse().map_err(|_| "expected ?address=10.0.0.7\n")?;
    let now = resolver.now();
    let snapshot = resolver.snapshot.load();
    let tables = resolver.tables(&snapshot);
    let identity = tables.identify(address, now);
    let mut answer = match identity {
        ClientIdentity::Known { client, since } => known(client, since, now),
        ClientIdentity::Unknown(why) => {
            json!({ "known": false, "reason": why.label(), "explanation": why.to_string() })
        }
    };
    answer["view"] = snapshot.view(&identity, address).map(|view| view.name.as_str()).into();
    answer["address"] = Value::String(address.to_string());
    Ok(format!("{answer:#}\n"))
}

fn known(client: &Client, since: Option<Millis>, now: Millis) -> Value {
    let age = since.map(|since| now.saturating_sub(since));
    let labels: Map<String, Value> =
        client.labels.iter().map(|(key, value)| (key.to_string(), Value::from(&**value))).collect();
    json!({
        "known": true,
        "by": if since.is_some() { "kubernetes" } else { "configuration" },
        "since": age.map(|age| rfc3339(unix_now().saturating_sub(age))),
        "age_seconds": age.map(|age| age as f64 / 1_000.0),
        "kind": client.kind.label(),
        "name": &*client.name,
        "namespace": client.namespace.as_deref(),
        "uid": client.uid.as_deref(),
        "labels": labels,
        "job": client.job.as_ref().map(job),
    })
}

/// Returns each fact about a job with its value and its trust level.
pub(super) fn job(job: &Job) -> Value {
    let fact = |(field, fact): (Field, &TrustedValue)| {
        (field.label().to_owned(), json!({ "value": &*fact.value, "trust": fact.trust.label() }))
    };
    Value::Object(job.facts().map(fact).collect())
}

pub(super) fn unix_now() -> UnixMillis {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(UnixMillis::MAX)
}
