//! Which clients see what: `[[view]]`.

use std::collections::BTreeMap;
use std::ops::Range;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::address::Network;
use super::clients::Words;
use super::mistake::Diagnostics;
use super::records::{Record, RecordTable};
use super::routes::{FilteredType, RouteTable};
use super::table::Table;
use super::units::{Bounds, Count};
use super::value::ConfigValue;
use super::zones::Zone;
use crate::wire::RrType;
use crate::wire::name::Name;

/// `[[view]] inherit`.
pub const INHERIT: bool = true;
/// `[[view]] client_max_qps`: none where the file gives none.
pub const CLIENT_MAX_QPS: Bounds<Count> = Bounds { default: Count(0), floor: Count(1), ceiling: Count(1_000_000) };
/// The most views: whether a client is of each is kept in one word beside it.
pub const MOST_VIEWS: usize = 32;
/// The keys that say whom a view is for.
const SELECTS: [&str; 6] = ["namespaces", "labels", "projects", "runners", "sources", "known"];
/// The longest prefix of a label's key.
const LONGEST_PREFIX: usize = 253;
/// The longest value of a label, and name of its key.
const LONGEST_WORD: usize = 63;

/// A view, as [`Config::views`](super::Config::views) counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ViewId(usize);

impl ViewId {
    /// The view with this index.
    pub const fn of_index(index: usize) -> Self {
        Self(index)
    }

    /// Its index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// What some clients see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Whom it is for.
    pub selector: Selector,
    /// Whether the routes and records of all clients hold here where the view's own say nothing else.
    pub inherit: bool,
    /// Its own routes, as [`Config::routes`](super::Config::routes) counts them.
    pub routes: Range<usize>,
    /// Its own records; a name that has any has no others here.
    pub records: Vec<Record>,
    /// Zones whose names do not exist here; of zones within each other the smallest counts, a route's or this.
    pub deny: Vec<Name>,
    /// Whether private addresses are taken out of answers, whatever the routes say; none: as they say.
    pub deny_private_addresses: Option<bool>,
    /// The types that are answered with "no data" at once, beside those of the routes.
    pub filter_types: Vec<RrType>,
    /// The most queries of each client address in a second; none: as many as there are.
    pub client_max_qps: Option<u32>,
}

/// Whom a view is for: a client for whom all of this is true. Of each list one item has to be; what is empty always is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Its namespace.
    pub namespaces: Vec<Pattern>,
    /// All of these labels, with these values.
    pub labels: BTreeMap<String, String>,
    /// The path or number of its project, as far as that can be trusted.
    pub projects: Vec<Pattern>,
    /// The name or id of its runner, as far as that can be trusted.
    pub runners: Vec<Pattern>,
    /// Its address.
    pub sources: Vec<IpNet>,
    /// Whether it is known who it is; none: either.
    pub known: Option<bool>,
}

/// A text, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The text or how it begins.
    pub start: String,
    /// Whether anything may follow.
    pub open: bool,
}

impl Selector {
    /// Whether something has to be known of a client to be selected.
    pub fn asks_of_client(&self) -> bool {
        let Self { namespaces, labels, projects, runners, sources: _, known } = self;
        !(namespaces.is_empty() && labels.is_empty() && projects.is_empty() && runners.is_empty())
            || *known == Some(true)
    }
}

impl Pattern {
    /// Whether a text is meant.
    pub fn fits(&self, text: &str) -> bool {
        if self.open { text.starts_with(&self.start) } else { text == self.start }
    }
}

/// `[[view]]`.
#[derive(Debug)]
pub struct ViewTable {
    /// Its header.
    pub at: Range<usize>,
    /// Required.
    pub name: Spanned<Words>,
    /// Whether it says whom it is for, rightly or not.
    pub selects: bool,
    /// Default: whatever namespace.
    pub namespaces: Vec<Spanned<Glob>>,
    /// Default: whatever labels.
    pub labels: Option<Spanned<Labels>>,
    /// Default: whatever project.
    pub projects: Vec<Spanned<Glob>>,
    /// Default: whatever runner.
    pub runners: Vec<Spanned<Glob>>,
    /// Default: whatever address.
    pub sources: Vec<Spanned<Network>>,
    /// Default: known clients and others.
    pub known: Option<Spanned<bool>>,
    /// Default: [`INHERIT`].
    pub inherit: bool,
    /// Default: none.
    pub deny: Vec<Spanned<Zone>>,
    /// Default: as each route says.
    pub deny_private_addresses: Option<bool>,
    /// Default: none.
    pub filter_types: Vec<Spanned<FilteredType>>,
    /// Default: none. Bounds: [`CLIENT_MAX_QPS`].
    pub client_max_qps: Option<Spanned<Count>>,
    /// `[[view.route]]`, each.
    pub routes: Vec<RouteTable>,
    /// `[[view.record]]`, each that is whole.
    pub records: Vec<RecordTable>,
}

/// A text, or the beginning of one with `*` behind it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Glob(pub Pattern);

/// Labels with their values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Labels(pub BTreeMap<String, String>);

impl ViewTable {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| {
            let selects = table.has_any(&SELECTS);
            let (at, name) = (table.at(), table.required("name"));
            let mut globs = |key| table.list(key).unwrap_or_default();
            let (namespaces, projects, runners) = (globs("namespaces"), globs("projects"), globs("runners"));
            Self {
                at: at.clone(),
                name: name.unwrap_or_else(|| Spanned::new(at, Words(String::new()))),
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
                routes: table.tables("route").into_iter().flatten().map(RouteTable::read).collect(),
                records: table.tables("record").into_iter().flatten().filter_map(RecordTable::read).collect(),
            }
        })
    }

    /// Whom it is for, as the rest of the house reads it.
    pub(super) fn selector(&self, mistakes: &Diagnostics<'_>) -> Selector {
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
                mistakes.add(glob.span(), what);
            }
        }
        if !self.selects {
            let what =
                "the view is for nobody: give it `namespaces`, `labels`, `projects`, `runners`, `sources` or `known`";
            mistakes.add(self.at.clone(), what);
        }
        if let (Some(known), true) = (&self.known, selector.asks_of_client())
            && !known.get_ref()
        {
            let what = "known: of a client that is not known nothing is known: leave out namespaces, labels, projects and \
                        runners, or make another view of them";
            mistakes.add(known.span(), what);
        }
        selector
    }
}

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Words(text) = Words::try_from(text)?;
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

/// Reports whether a label of Kubernetes may have this key: a name, before it perhaps a domain and a slash.
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

/// Reports whether a text may be the value of a label or the name of its key: letters, digits and, within, `-`, `_` and `.`.
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
}
