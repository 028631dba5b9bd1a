//! Identities of clients: `[kubernetes]` and `[[client]]`.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::address::NetworkValue;
use super::table::TomlTable;
use super::value::ConfigValue;
use super::warm_up::FileValue;

/// Maximum length of the name of a Kubernetes node (RFC 1123, as a DNS subdomain).
const LONGEST_NODE: usize = 253;
/// Maximum length of the name of a namespace (RFC 1123, as a DNS label).
const LONGEST_NAMESPACE: usize = 63;
/// Maximum length of a text that names a client, in bytes.
const LONGEST_WORDS: usize = 256;

/// Settings of the watch on the pods of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// True: the API is watched. `None`: it is watched if nodens runs in a cluster and has the name of its node.
    pub watch: Option<bool>,
    /// Name of the node. `None`: the environment variable `NODE_NAME`.
    pub node: Option<String>,
    /// Namespaces that are watched; empty: all.
    pub namespaces: Vec<String>,
    /// API server. `None`: that of the cluster in which nodens runs as a pod.
    pub api_server: Option<ApiServer>,
    /// Certificates, in PEM, of the authorities trusted for the API server. `None`: the service account's if `api_server` is
    /// `None`, else the system's.
    pub ca_file: Option<PathBuf>,
    /// Bearer token. `None`: the service account's if `api_server` is `None`, else no token.
    pub token_file: Option<PathBuf>,
}

/// Address of a Kubernetes API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// True if the server uses TLS.
    pub tls: bool,
    /// Host name or IP address, without brackets.
    pub host: String,
    pub(crate) port: u16,
    /// Path before `/api`: empty, or with a leading and without a trailing slash.
    pub path: String,
}

impl ApiServer {
    /// Returns host and port in the form of an HTTP `Host` header.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Identity of all clients in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Network of the clients.
    pub source: IpNet,
    /// Name of the clients.
    pub name: String,
    /// Namespace that they count as.
    pub namespace: Option<String>,
    /// Project that they count as.
    pub project: Option<String>,
    /// Job that they count as.
    pub job: Option<String>,
    /// Runner that they count as.
    pub runner: Option<String>,
}

/// `[kubernetes]` in the file.
#[derive(Debug)]
pub(crate) struct KubernetesTable {
    /// Default: true if nodens runs in a cluster and has the name of its node.
    pub watch: Option<bool>,
    /// Default: the environment variable `NODE_NAME`.
    pub node: Option<Spanned<NodeNameValue>>,
    pub namespaces: Vec<Spanned<Namespace>>,
    /// Default: that of the cluster in which nodens runs as a pod.
    pub api_server: Option<Spanned<Url>>,
    /// Default: the service account's without `api_server`, else the system's.
    pub ca_file: Option<Spanned<FileValue>>,
    /// Default: the service account's without `api_server`, else none.
    pub token_file: Option<Spanned<FileValue>>,
}

/// `[[client]]` in the file.
#[derive(Debug)]
pub(crate) struct ClientTable {
    pub source: Spanned<NetworkValue>,
    pub name: Spanned<TextValue>,
    pub namespace: Option<Spanned<TextValue>>,
    pub project: Option<Spanned<TextValue>>,
    pub job: Option<Spanned<TextValue>>,
    pub runner: Option<Spanned<TextValue>>,
}

/// Name of a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct NodeNameValue(pub String);

/// Name of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Namespace(pub String);

/// URL of a Kubernetes API server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Url(pub ApiServer);

/// Text on one line, not empty and at most 256 bytes long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct TextValue(pub String);

impl KubernetesTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
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
    pub(super) fn read(table: TomlTable<'_, '_>) -> Option<Self> {
        table.read(|table| {
            let (source, name) = (table.required("source"), table.required("name"));
            let mut words = |key| table.value(key);
            let (namespace, project, job, runner) =
                (words("namespace"), words("project"), words("job"), words("runner"));
            Some(Self { source: source?, name: name?, namespace, project, job, runner })
        })
    }
}

/// Converts `[kubernetes]` to its validated form.
pub(super) fn kubernetes(file: &KubernetesTable) -> Kubernetes {
    let mut namespaces: Vec<_> = file.namespaces.iter().map(|namespace| namespace.get_ref().0.clone()).collect();
    namespaces.sort();
    namespaces.dedup();
    let path = |file: &Option<Spanned<FileValue>>| file.as_ref().map(|file| file.get_ref().0.clone());
    Kubernetes {
        watch: file.watch,
        node: file.node.as_ref().map(|node| node.get_ref().0.clone()),
        namespaces,
        api_server: file.api_server.as_ref().map(|url| url.get_ref().0.clone()),
        ca_file: path(&file.ca_file),
        token_file: path(&file.token_file),
    }
}

/// Converts a `[[client]]` to its validated form.
pub(super) fn client(file: &ClientTable) -> ClientConfig {
    let words = |words: &Option<Spanned<TextValue>>| words.as_ref().map(|words| words.get_ref().0.clone());
    ClientConfig {
        source: file.source.get_ref().0,
        name: file.name.get_ref().0.clone(),
        namespace: words(&file.namespace),
        project: words(&file.project),
        job: words(&file.job),
        runner: words(&file.runner),
    }
}

impl TryFrom<String> for NodeNameValue {
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

impl TryFrom<String> for TextValue {
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

impl ConfigValue for NodeNameValue {
    const EXPECTED: &'static str = r#""node-1.example", as `kubectl get nodes` shows it"#;
}

impl ConfigValue for Namespace {
    const EXPECTED: &'static str = r#""gitlab-runner": small letters, digits and hyphens"#;
}

impl ConfigValue for Url {
    const EXPECTED: &'static str = r#""https://10.0.0.1:6443""#;
}

impl ConfigValue for TextValue {
    const EXPECTED: &'static str = "a short text in quotes";
}

/// Reports whether a text is a label in the name of a Kubernetes object.
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
