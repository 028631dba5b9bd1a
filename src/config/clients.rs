//! Who asks: `[kubernetes]` and `[[client]]`.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::address::Network;
use super::table::Table;
use super::value::ConfigValue;
use super::warm_up::File;

/// The longest name of a Kubernetes node (RFC 1123, as a DNS subdomain).
const LONGEST_NODE: usize = 253;
/// The longest name of a namespace (RFC 1123, as a DNS label).
const LONGEST_NAMESPACE: usize = 63;
/// The longest text that names a client.
const LONGEST_WORDS: usize = 256;

/// Where the pods of this node are learned from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether the API is watched; none: where nodens runs in a cluster and knows its node.
    pub watch: Option<bool>,
    /// The node's name; none: the environment variable `NODE_NAME` has it.
    pub node: Option<String>,
    /// The namespaces that are watched; empty: all.
    pub namespaces: Vec<String>,
    /// The API server; none: that of the cluster whose pod this process is.
    pub api_server: Option<ApiServer>,
    /// Certificates, in PEM, of the authorities that the API server is trusted by; none: the service account's in a pod,
    /// else the system's.
    pub ca_file: Option<PathBuf>,
    /// The bearer token; none: the service account's in a pod, else none.
    pub token_file: Option<PathBuf>,
}

/// The address of a Kubernetes API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its name or IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path before `/api`; empty or with a leading and without a trailing slash.
    pub path: String,
}

impl ApiServer {
    /// Returns host and port as an HTTP `Host` header has them.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Whoever asks from one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The network.
    pub source: IpNet,
    /// What it is called.
    pub name: String,
    /// The namespace that it counts as.
    pub namespace: Option<String>,
    /// The project that it works for.
    pub project: Option<String>,
    /// The job that it does.
    pub job: Option<String>,
    /// The runner that it belongs to.
    pub runner: Option<String>,
}

/// `[kubernetes]`.
#[derive(Debug)]
pub struct KubernetesTable {
    /// Default: whether nodens runs in a cluster and knows its node.
    pub watch: Option<bool>,
    /// Default: what the environment variable `NODE_NAME` says.
    pub node: Option<Spanned<Node>>,
    /// Default: all.
    pub namespaces: Vec<Spanned<Namespace>>,
    /// Default: that of the cluster whose pod nodens is.
    pub api_server: Option<Spanned<Url>>,
    /// Default: the service account's in a pod, else the system's store.
    pub ca_file: Option<Spanned<File>>,
    /// Default: the service account's in a pod, else none.
    pub token_file: Option<Spanned<File>>,
}

/// `[[client]]`.
#[derive(Debug)]
pub struct ClientTable {
    /// Required.
    pub source: Spanned<Network>,
    /// Required.
    pub name: Spanned<Words>,
    /// Default: none.
    pub namespace: Option<Spanned<Words>>,
    /// Default: none.
    pub project: Option<Spanned<Words>>,
    /// Default: none.
    pub job: Option<Spanned<Words>>,
    /// Default: none.
    pub runner: Option<Spanned<Words>>,
}

/// The name of a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Node(pub String);

/// The name of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Namespace(pub String);

/// The URL of a Kubernetes API server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url(pub ApiServer);

/// A text on one line that is not empty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Words(pub String);

impl KubernetesTable {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self {
            watch: table.value("watch").map(Spanned::into_inner),
            node: table.value("node"),
            namespaces: table.list("namespaces").unwrap_or_default(),
            api_server: table.value("api_server"),
            ca_file: table.value("ca_file"),
            token_file: table.value("token_file"),
        })
    }
}

impl ClientTable {
    pub(super) fn read(table: Table<'_, '_>) -> Option<Self> {
        table.read(|table| {
            let (source, name) = (table.required("source"), table.required("name"));
            let mut words = |key| table.value(key);
            let (namespace, project, job, runner) =
                (words("namespace"), words("project"), words("job"), words("runner"));
            Some(Self { source: source?, name: name?, namespace, project, job, runner })
        })
    }
}

/// `[kubernetes]` as the rest of the house reads it.
pub(super) fn kubernetes(file: &KubernetesTable) -> Kubernetes {
    let mut namespaces: Vec<_> = file.namespaces.iter().map(|namespace| namespace.get_ref().0.clone()).collect();
    namespaces.sort();
    namespaces.dedup();
    let path = |file: &Option<Spanned<File>>| file.as_ref().map(|file| file.get_ref().0.clone());
    Kubernetes {
        watch: file.watch,
        node: file.node.as_ref().map(|node| node.get_ref().0.clone()),
        namespaces,
        api_server: file.api_server.as_ref().map(|url| url.get_ref().0.clone()),
        ca_file: path(&file.ca_file),
        token_file: path(&file.token_file),
    }
}

/// A `[[client]]` as the rest of the house reads it.
pub(super) fn client(file: &ClientTable) -> Client {
    let words = |words: &Option<Spanned<Words>>| words.as_ref().map(|words| words.get_ref().0.clone());
    Client {
        source: file.source.get_ref().0,
        name: file.name.get_ref().0.clone(),
        namespace: words(&file.namespace),
        project: words(&file.project),
        job: words(&file.job),
        runner: words(&file.runner),
    }
}

impl TryFrom<String> for Node {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let good = text.split('.').all(is_label) && text.len() <= LONGEST_NODE;
        if good { Ok(Self(text)) } else { Err(format!("{text:?} is no name of a node")) }
    }
}

impl TryFrom<String> for Namespace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let good = is_label(&text) && text.len() <= LONGEST_NAMESPACE;
        if good { Ok(Self(text)) } else { Err(format!("{text:?} is no name of a namespace")) }
    }
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let url: hyper::Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let tls = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{text:?} does not begin with https:// or http://")),
        };
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'));
        let (Some(authority), None) = (authority, url.query()) else {
            return Err(format!("{text:?} has a user or a query"));
        };
        Ok(Self(ApiServer {
            tls,
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: url.path().trim_end_matches('/').to_owned(),
        }))
    }
}

impl TryFrom<String> for Words {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let good = !text.is_empty() && text.len() <= LONGEST_WORDS && !text.chars().any(char::is_control);
        if good {
            Ok(Self(text))
        } else {
            Err(format!("{text:?} is empty, longer than 256 bytes or has control characters"))
        }
    }
}

impl ConfigValue for Node {
    const EXPECTED: &'static str = r#""node-1.example", as `kubectl get nodes` shows it"#;
}

impl ConfigValue for Namespace {
    const EXPECTED: &'static str = r#""gitlab-runner": small letters, digits and hyphens"#;
}

impl ConfigValue for Url {
    const EXPECTED: &'static str = r#""https://10.0.0.1:6443""#;
}

impl ConfigValue for Words {
    const EXPECTED: &'static str = "a short text in quotes";
}

/// Whether a text is a label as Kubernetes has it in names.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.iter().all(|byte| plain(byte) || *byte == b'-')
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_an_api_server_is_read() {
        let read = |text: &str| Url::try_from(text.to_owned()).map(|url| url.0);
        for (text, tls, authority, path) in [
            ("https://10.0.0.1:6443", true, "10.0.0.1:6443", ""),
            ("https://api.cluster.example/", true, "api.cluster.example:443", ""),
            ("https://[fd00::1]:6443", true, "[fd00::1]:6443", ""),
            ("https://rancher.example/k8s/clusters/c-1/", true, "rancher.example:443", "/k8s/clusters/c-1"),
            ("http://127.0.0.1:8001", false, "127.0.0.1:8001", ""),
        ] {
            let server = read(text).expect(text);
            assert_eq!((server.tls, server.authority().as_str(), server.path.as_str()), (tls, authority, path));
        }
        for (text, why) in [
            ("10.0.0.1:6443", "does not begin with https"),
            ("10.0.0.1", "does not begin with https"),
            ("ftp://10.0.0.1", "does not begin with https"),
            ("https://admin:secret@10.0.0.1", "has a user or a query"),
            ("https://10.0.0.1/?x=y", "has a user or a query"),
            ("https://", "is no URL"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
