//! Pods as the Kubernetes API shows them; deserialization drops all fields that nodens does not use.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::client::{Client, MOST_LABELS, text};
use super::pods::Pod;
use super::predicted_hosts::{self, Container};
use super::runner::{Meta, identify};
use super::runner_kinds::JOB_URL;
use super::search::SearchList;
use super::view_cache::ViewCache;
use crate::wire::name::Name;

/// A list of pods.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PodList {
    /// Metadata of the list.
    pub metadata: ListMetadata,
    /// The pods of this page.
    #[serde(default)]
    pub items: Vec<PodManifest>,
}

/// Metadata of a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListMetadata {
    /// Version from which a watch continues.
    #[serde(default)]
    pub resource_version: String,
    /// Token of the next page; empty on the last page.
    #[serde(default, rename = "continue")]
    pub next: String,
}

/// An event of a watch of pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub(crate) enum WatchEvent {
    Added(PodManifest),
    Modified(PodManifest),
    /// A deleted pod, in its last state.
    Deleted(PodManifest),
    /// A bookmark: nothing changed up to the version of this otherwise empty pod.
    Bookmark(PodManifest),
    /// A failure of the watch.
    Error(ApiStatus),
}

/// A `ApiStatus` object, the API server's error response.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ApiStatus {
    /// The HTTP status code.
    #[serde(default)]
    pub code: u16,
    #[serde(default)]
    pub message: String,
}

impl fmt::Display for ApiStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP status {}: {}", self.code, self.message)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PodManifest {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    host_network: bool,
    init_containers: Option<Vec<Container>>,
    containers: Option<Vec<Container>>,
    #[serde(default)]
    dns_policy: String,
    #[serde(default)]
    dns_config: DnsConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct DnsConfig {
    #[serde(default)]
    searches: Vec<String>,
    #[serde(default)]
    options: Vec<DnsOption>,
}

#[derive(Clone, Debug, Deserialize)]
struct DnsOption {
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default)]
    phase: String,
    #[serde(default, rename = "podIP")]
    pod_ip: String,
    #[serde(default, rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

impl Spec {
    /// Returns the pod's search list if `dnsPolicy` is `None`: with any other policy the kubelet adds domains.
    fn search(&self) -> Option<Box<SearchList>> {
        let options = self.dns_config.options.iter().map(|option| (option.name.as_str(), option.value.as_str()));
        let domains = self.dns_config.searches.iter().map(String::as_str);
        if self.dns_policy == "None" { SearchList::new(domains, options) } else { None }
    }
}

impl PodManifest {
    /// Returns the resource version of this state.
    pub(crate) fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// Predicts the hosts that the pod queries first.
    pub(crate) fn likely_hosts(&self) -> Vec<Name> {
        let url = self.metadata.annotations.get(JOB_URL).map(String::as_str);
        let (containers, init) = (&self.spec.containers, &self.spec.init_containers);
        predicted_hosts::hosts(url, containers.iter().chain(init).flatten())
    }

    /// Converts the manifest; `None` if the UID or the name is missing.
    pub(crate) fn pod(self) -> Option<Pod> {
        let Self { metadata, spec, status } = self;
        if metadata.uid.is_empty() || metadata.name.is_empty() {
            return None;
        }
        let meta = Meta {
            name: &metadata.name,
            namespace: &metadata.namespace,
            labels: &metadata.labels,
            annotations: &metadata.annotations,
        };
        let (kind, job) = identify(&meta);
        let all = status.pod_ips.iter().map(|pod_ip| pod_ip.ip.as_str()).chain([status.pod_ip.as_str()]);
        let mut addresses: Vec<IpAddr> = all.filter_map(|ip| ip.parse::<IpAddr>().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let labels = metadata.labels.iter().take(MOST_LABELS).map(|(key, value)| (text(key), text(value)));
        let client = Client {
            kind,
            name: text(&metadata.name),
            namespace: Some(text(&metadata.namespace)),
            uid: Some(text(&metadata.uid)),
            labels: labels.collect(),
            more_labels: metadata.labels.len() > MOST_LABELS,
            job,
            memo: ViewCache::default(),
            search: spec.search(),
        };
        Some(Pod {
            uid: text(&metadata.uid),
            version: version(&metadata.resource_version),
            addresses,
            host_network: spec.host_network,
            ended: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            deleting: metadata.deletion_timestamp.is_some(),
            client: Arc::new(client),
        })
    }
}

/// Parses a resource version as a number, as newer API servers guarantee it to be; returns 0 for anything else.
pub(crate) fn version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
