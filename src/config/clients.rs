//! Who asks, as the file has it: `[kubernetes]` and `[[client]]`.

use serde::Deserialize;
use toml::Spanned;

use super::address::Network;
use super::file::Leaf;
use super::table::Table;
use super::{Client as Configured, Kubernetes as Settings};

/// The longest name of a Kubernetes node (RFC 1123, as a DNS subdomain).
const LONGEST_NODE: usize = 253;
/// The longest name of a namespace (RFC 1123, as a DNS label).
const LONGEST_NAMESPACE: usize = 63;
/// The longest text that names a client.
const LONGEST_WORDS: usize = 256;

/// `[kubernetes]`.
#[derive(Debug)]
pub struct Kubernetes {
    /// Default: whether nodens runs in a cluster and knows its node.
    pub watch: Option<bool>,
    /// Default: what the environment variable `NODE_NAME` says.
    pub node: Option<Spanned<Node>>,
    /// Default: all.
    pub namespaces: Vec<Spanned<Namespace>>,
}

/// `[[client]]`.
#[derive(Debug)]
pub struct Client {
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

/// A text on one line that is not empty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Words(pub String);

impl Kubernetes {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self {
            watch: table.value("watch").map(Spanned::into_inner),
            node: table.value("node"),
            namespaces: table.list("namespaces").unwrap_or_default(),
        })
    }
}

impl Client {
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
pub(super) fn kubernetes(file: &Kubernetes) -> Settings {
    let mut namespaces: Vec<_> = file.namespaces.iter().map(|namespace| namespace.get_ref().0.clone()).collect();
    namespaces.sort();
    namespaces.dedup();
    Settings { watch: file.watch, node: file.node.as_ref().map(|node| node.get_ref().0.clone()), namespaces }
}

/// A `[[client]]` as the rest of the house reads it.
pub(super) fn client(file: &Client) -> Configured {
    let words = |words: &Option<Spanned<Words>>| words.as_ref().map(|words| words.get_ref().0.clone());
    Configured {
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

impl Leaf for Node {
    const RIGHT: &'static str = r#""node-1.example", as `kubectl get nodes` shows it"#;
}

impl Leaf for Namespace {
    const RIGHT: &'static str = r#""gitlab-runner": small letters, digits and hyphens"#;
}

impl Leaf for Words {
    const RIGHT: &'static str = "a short text in quotes";
}

/// Whether a text is a label as Kubernetes has it in names.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.iter().all(|byte| plain(byte) || *byte == b'-')
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}
