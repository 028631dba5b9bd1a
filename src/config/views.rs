//! Routes, records and limits for some clients: `[[view]]`.

use std::collections::BTreeMap;
use std::ops::Range;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::address::NetworkValue;
use super::clients::TextValue;
use super::diagnostic::Diagnostics;
use super::hints::Hints;
use super::records::{RecordConfig, RecordTable};
use super::routes::{FilteredType, RouteTable};
use super::table::TomlTable;
use super::units::{Bounds, CountValue};
use super::value::{ConfigValue, ValueForm};
use super::zones::ZoneValue;
use crate::wire::RrType;
use crate::wire::name::Name;

/// Default of `[[view]] inherit`.
pub(crate) const INHERIT: bool = true;
/// `[[view]] client_max_qps`. Without the key there is no limit, and the default here is not used.
pub(crate) const CLIENT_MAX_QPS: Bounds<CountValue> =
    Bounds { default: CountValue(0), floor: CountValue(1), ceiling: CountValue(1_000_000) };
/// Maximum number of views. The views that a client fits are the bits of one word.
pub(crate) const MOST_VIEWS: usize = 32;
/// Keys that select the clients of a view.
const SELECTS: [&str; 6] = ["namespaces", "labels", "projects", "runners", "sources", "known"];
/// Maximum length of the prefix of a label's key.
const LONGEST_PREFIX: usize = 253;
/// Maximum length of a namespace, of a label's value and of the name in a label's key.
const LONGEST_WORD: usize = 63;

/// Index of a view in [`Config::views`](super::Config::views).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ViewId(usize);

impl ViewId {
    /// Returns the id of the view at this index.
    pub const fn of_index(index: usize) -> Self {
        Self(index)
    }

    /// Returns the index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// Routes, records and limits for some clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Name of the view.
    pub name: String,
    /// Clients of the view.
    pub selector: Selector,
    /// True if the routes and records of all clients apply here, unless the view has its own for a zone or name.
    pub inherit: bool,
    /// Indices of its own routes in [`Config::routes`](super::Config::routes).
    pub routes: Range<usize>,
    /// Own records. A name with an own record has no other records here.
    pub records: Vec<RecordConfig>,
    /// Zones whose names do not exist here. The longest suffix wins among these and all routes.
    pub deny: Vec<Name>,
    /// Removal of private addresses from all answers; `None`: as each route has it.
    pub deny_private_addresses: Option<bool>,
    /// Types that are answered with NODATA at once, in addition to those of the routes.
    pub filter_types: Vec<RrType>,
    /// Most queries a second of each client address; `None`: no limit.
    pub client_max_qps: Option<u32>,
    /// Explanations for its clients.
    pub hints: Hints,
}

/// Conditions for the clients of a view, all of which must hold. One item of a list has to fit. An empty list always fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Namespace of the client.
    pub namespaces: Vec<Pattern>,
    /// Labels with their values, all of which the client must have.
    pub labels: BTreeMap<String, String>,
    /// Path or number of the client's project, as far as it can be trusted.
    pub projects: Vec<Pattern>,
    /// Name or id of the client's runner, as far as it can be trusted.
    pub runners: Vec<Pattern>,
    /// Source address of the client.
    pub sources: Vec<IpNet>,
    /// True: the client has a known identity; false: it has none; `None`: either.
    pub known: Option<bool>,
}

/// Exact text, or a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(crate) start: String,
    /// True for a prefix.
    pub open: bool,
}

impl Selector {
    /// Reports whether only clients with a known identity can fit.
    pub fn asks_of_client(&self) -> bool {
        let Self { namespaces, labels, projects, runners, sources: _, known } = self;
        !(namespaces.is_empty() && labels.is_empty() && projects.is_empty() && runners.is_empty())
            || *known == Some(true)
    }
}

impl Pattern {
    /// Reports whether a text matches.
    pub fn fits(&self, text: &str) -> bool {
        if self.open { text.starts_with(&self.start) } else { text == self.start }
    }
}

/// `[[view]]` in the file.
#[derive(Debug)]
pub(crate) struct ViewTable {
    /// Position of the table's header.
    pub at: Range<usize>,
    pub name: Spanned<TextValue>,
    /// True if the table has a key that selects clients, valid or not.
    pub selects: bool,
    pub namespaces: Vec<Spanned<Glob>>,
    pub labels: Option<Spanned<Labels>>,
    pub projects: Vec<Spanned<Glob>>,
    pub runners: Vec<Spanned<Glob>>,
    pub sources: Vec<Spanned<NetworkValue>>,
    /// Default: clients with and without a known identity.
    pub known: Option<Spanned<bool>>,
    pub inherit: bool,
    pub deny: Vec<Spanned<ZoneValue>>,
    /// Default: as in each route.
    pub deny_private_addresses: Option<bool>,
    pub filter_types: Vec<Spanned<FilteredType>>,
    /// Default: none. Bounds: [`CLIENT_MAX_QPS`].
    pub client_max_qps: Option<Spanned<CountValue>>,
    /// Default: see [`Hints::of_views`].
    pub hints: Option<Hints>,
    pub routes: Vec<RouteTable>,
    /// All `[[view.record]]` that have their required keys.
    pub records: Vec<RecordTable>,
}

/// Exact text, or a prefix followed by `*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Glob(pub Pattern);

/// Labels with their values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub(crate) struct Labels(pub BTreeMap<String, String>);

impl ViewTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
        table.read(|table| {
            let selects = table.has_any(&SELECTS);
            let (at, name) = (table.at(), table.required("name"));
            let mut globs = |key| table.list(key).unwrap_or_default();
            let (namespaces, projects, runners) = (globs("namespaces"), globs("projects"), globs("runners"));
            Self {
                at: at.clone(),
                name: name.unwrap_or_else(|| Spanned::new(at, TextValue(String::new()))),
                selects,
                namespaces,
                labels: table.value("labels"),
                projects,
                runners,
                sources: table.list("sources").unwrap_or_default(),
                known: table.value("known"),
                inherit: table.flag("inherit", INHERIT),
                deny: table.list("deny").unwrap_or_default(),
                deny_private_addresses: table.value("deny_private_addresses").map(Spanned::into_inner),
                filter_types: table.list("filter_types").unwrap_or_default(),
                client_max_qps: table.within("client_max_qps", &CLIENT_MAX_QPS),
                hints: table.value("hints").map(Spanned::into_inner),
                routes: table.tables("route").into_iter().flatten().map(RouteTable::read).collect(),
                records: table.tables("record").into_iter().flatten().filter_map(RecordTable::read).collect(),
            }
        })
    }

    /// Converts the keys that select clients. Adds errors for an invalid namespace, for a view without such a key, and for
    /// `known = false` beside keys that need an identity.
    pub(super) fn selector(&self, diagnostics: &Diagnostics<'_>) -> Selector {
        let globs = |globs: &[Spanned<Glob>]| globs.iter().map(|glob| glob.get_ref().0.clone()).collect();
        let labels = self.labels.iter().flat_map(|labels| labels.get_ref().0.clone()).collect();
        let selector = Selector {
            namespaces: globs(&self.namespaces),
            labels,
            projects: globs(&self.projects),
            runners: globs(&self.runners),
            sources: self.sources.iter().map(|network| network.get_ref().0).collect(),
            known: self.known.as_ref().map(|known| *known.get_ref()),
        };
        for glob in &self.namespaces {
            let Pattern { start, open } = &glob.get_ref().0;
            let is_part = |byte: u8| is_domain_byte(byte) || byte == b'-';
            let ends_well = *open || !start.ends_with('-');
            let is_namespace = start.bytes().all(is_part) && !start.starts_with('-') && ends_well;
            if !is_namespace || start.len() > LONGEST_WORD {
                let what = format!("namespaces: {start:?} is no name that a namespace can have");
                diagnostics.add(glob.span(), what);
            }
        }
        if !self.selects {
            let what = "the view selects no clients: give it `namespaces`, `labels`, `projects`, `runners`, `sources` or `known`";
            diagnostics.add(self.at.clone(), what);
        }
        if let (Some(known), true) = (&self.known, selector.asks_of_client())
            && !known.get_ref()
        {
            let what = "known: of a client that is not known nothing is known: leave out namespaces, labels, projects and \
                        runners, or make another view of them";
            diagnostics.add(known.span(), what);
        }
        selector
    }
}

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let TextValue(text) = TextValue::try_from(text)?;
        let (start, open) = match text.strip_suffix('*') {
            Some(start) => (start.to_owned(), true),
            None => (text.clone(), false),
        };
        if start.contains('*') {
            return Err(format!("{text:?}: a `*` stands at the end, for whatever follows"));
        }
        Ok(Self(Pattern { start, open }))
    }
}

/// Reports whether a key is valid for a Kubernetes label: a name, with an optional domain and slash in front.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_part =
        |part: &str| is_label_word(part) && part.bytes().all(|byte| b"-.".contains(&byte) || is_domain_byte(byte));
    let is_domain = |prefix: &str| prefix.len() <= LONGEST_PREFIX && prefix.split('.').all(is_part);
    is_label_word(name) && prefix.is_none_or(is_domain)
}

fn is_domain_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Reports whether a text is valid as a label's value or as the name in its key: letters, digits and, inside, `-`, `_` and `.`.
fn is_label_word(text: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = [text.bytes().next(), text.bytes().next_back()];
    text.len() <= LONGEST_WORD
        && text.bytes().all(is_inside)
        && ends.into_iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = String;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, String> {
        if labels.is_empty() {
            return Err("no label is given".to_owned());
        }
        match labels.iter().find(|(key, value)| !(is_label_key(key) && (value.is_empty() || is_label_word(value)))) {
            Some((key, value)) => Err(format!("{key:?} = {value:?} is no label that Kubernetes can have")),
            None => Ok(Self(labels)),
        }
    }
}

impl ConfigValue for Glob {
    const EXPECTED: &'static str = r#""group/project" or "group/*""#;
}

impl ConfigValue for Labels {
    const EXPECTED: &'static str = r#"{ "example.com/trust" = "low" }"#;
    const FORM: ValueForm = ValueForm::Map;
}
