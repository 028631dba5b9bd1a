//! Which names go to whom: `[[route]]`, of all clients or of one view.

use std::num::NonZeroU16;
use std::ops::Range;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde::Deserialize;
use toml::Spanned;

use super::cache::NEGATIVE_MAX_TTL;
use super::mistake::Diagnostics;
use super::table::Table;
use super::units::Time;
use super::value::ConfigValue;
use super::zones::{Domain, Zone};
use crate::wire::RrType;
use crate::wire::name::Name;

/// `[[route]] deny_private_addresses`.
pub const DENY_PRIVATE_ADDRESSES: bool = false;
/// `[[route]] cluster_domain` of a route that claims this zone: what kubeadm and most others call it.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// `[[route]] prune_search`: of the cluster's domain, where no answer is lost by it.
pub const PRUNE_SEARCH: bool = true;
/// `[[route]] deny_private_names`: names that lead from one route into another are common where networks are hybrid.
pub const DENY_PRIVATE_NAMES: bool = false;
/// `[[route]] fallthrough_nodata`: a name that exists in the private zone is that zone's.
pub const FALLTHROUGH_NODATA: bool = false;
/// `[[route]] autopath`: it gives an answer for another name than was asked for.
pub const AUTOPATH: bool = false;

/// A route, as [`Config::routes`](super::Config::routes) counts them. Its index plus one, so that an optional one, of which
/// every cache entry has one and every response, takes no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(NonZeroU16);

const _: () = assert!(size_of::<Option<RouteId>>() == 2);

impl RouteId {
    /// The route with this index; none if it is beyond what can be counted.
    pub const fn of_index(index: usize) -> Option<Self> {
        if index < u16::MAX as usize { Self::unpack(index as u16 + 1) } else { None }
    }

    /// Its index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// A route, or none, as a number of sixteen bits.
    #[inline]
    pub const fn pack(route: Option<Self>) -> u16 {
        match route {
            Some(Self(number)) => number.get(),
            None => 0,
        }
    }

    /// What [`Self::pack`] packed.
    #[inline]
    pub const fn unpack(bits: u16) -> Option<Self> {
        match NonZeroU16::new(bits) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

/// Names that go to one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The suffixes it claims; CIDRs have become their reverse zones.
    pub zones: Vec<Name>,
    /// The zones as the file wrote them, joined by a blank: the route's name in metrics and explanations.
    pub label: String,
    /// The group's index in [`Config::upstreams`](super::Config::upstreams).
    pub to: usize,
    /// The longest that a negative answer of this route is kept; none: as the cache says.
    pub negative_max_ttl: Option<Duration>,
    /// Whether private addresses are taken out of answers (protection against DNS rebinding).
    pub deny_private_addresses: bool,
    /// Whether CNAMEs into the zones of other routes are taken out of answers.
    pub deny_private_names: bool,
    /// The types that are answered with "no data" at once.
    pub filter_types: Vec<RrType>,
    /// The zone of its that Kubernetes serves, if it has one.
    pub cluster: Option<Cluster>,
    /// The group that is asked for what this one denies, if any is.
    pub fallthrough: Option<Fallthrough>,
}

/// Where a question goes that the route's own group denies. Never one that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fallthrough {
    /// The group's index in [`Config::upstreams`](super::Config::upstreams).
    pub to: usize,
    /// Whether also the types go there that a name does not have, not only names that do not exist.
    pub nodata: bool,
}

/// The zone that Kubernetes serves, and what is done about the search lists that end in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// The cluster's domain: one of the route's zones.
    pub domain: Name,
    /// Whether names that cannot exist there are denied without asking.
    pub prune_search: bool,
    /// Whether the first try of a pod's search list gets the answer of the last.
    pub autopath: bool,
}

/// `[[route]]`.
#[derive(Debug)]
pub struct RouteTable {
    /// Its header.
    pub at: Range<usize>,
    /// Required; none if a mistake has been noted.
    pub zones: Option<Vec<Spanned<Zone>>>,
    /// Required; none if a mistake has been noted.
    pub to: Option<Spanned<String>>,
    /// Default: none, the cache's holds. Bounds: [`NEGATIVE_MAX_TTL`].
    pub negative_max_ttl: Option<Spanned<Time>>,
    /// Default: [`DENY_PRIVATE_ADDRESSES`].
    pub deny_private_addresses: bool,
    /// Default: [`DENY_PRIVATE_NAMES`].
    pub deny_private_names: bool,
    /// Default: none.
    pub filter_types: Vec<Spanned<FilteredType>>,
    /// Default: none.
    pub fallthrough: Option<Spanned<String>>,
    /// Default: [`FALLTHROUGH_NODATA`].
    pub fallthrough_nodata: Option<Spanned<bool>>,
    /// Default: [`CLUSTER_DOMAIN`] if that is among the zones, else none.
    pub cluster_domain: Option<Spanned<Domain>>,
    /// Default: [`PRUNE_SEARCH`]; false where there is a `fallthrough`.
    pub prune_search: Option<Spanned<bool>>,
    /// Default: [`AUTOPATH`].
    pub autopath: Option<Spanned<bool>>,
}

impl RouteTable {
    pub(super) fn read(table: Table<'_, '_>) -> Self {
        table.read(|table| Self {
            at: table.at(),
            zones: table.required_list("zones"),
            to: table.required("to"),
            negative_max_ttl: table.within("negative_max_ttl", &NEGATIVE_MAX_TTL),
            deny_private_addresses: table.flag("deny_private_addresses", DENY_PRIVATE_ADDRESSES),
            deny_private_names: table.flag("deny_private_names", DENY_PRIVATE_NAMES),
            filter_types: table.list("filter_types").unwrap_or_default(),
            fallthrough: table.value("fallthrough"),
            fallthrough_nodata: table.value("fallthrough_nodata"),
            cluster_domain: table.value("cluster_domain"),
            prune_search: table.value("prune_search"),
            autopath: table.value("autopath"),
        })
    }
}

/// A type of record of addresses or services, as `filter_types` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FilteredType(pub RrType);

impl TryFrom<String> for FilteredType {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let kind = FILTERED.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text));
        let known = kind.map(|(_, rtype)| Self((*rtype).into()));
        known.ok_or_else(|| format!("{text:?} is not a type that can be filtered"))
    }
}

impl ConfigValue for FilteredType {
    const EXPECTED: &'static str = r#""AAAA", "A", "HTTPS", "SVCB", "SRV", "MX", "NAPTR", "PTR" or "TXT""#;
}

/// What `filter_types` may name: no type that a resolver needs to find others.
const FILTERED: [(&str, RecordType); 9] = [
    ("AAAA", RecordType::AAAA),
    ("A", RecordType::A),
    ("HTTPS", RecordType::HTTPS),
    ("SVCB", RecordType::SVCB),
    ("SRV", RecordType::SRV),
    ("MX", RecordType::MX),
    ("NAPTR", RecordType::NAPTR),
    ("PTR", RecordType::PTR),
    ("TXT", RecordType::TXT),
];

/// Returns the types of a `filter_types` list; notes those that are there twice.
pub(super) fn filter_types(list: &[Spanned<FilteredType>], mistakes: &Diagnostics<'_>) -> Vec<RrType> {
    mistakes.once("type", list.iter().map(|kind| (kind.span(), *kind.get_ref())));
    list.iter().map(|kind| kind.get_ref().0).collect()
}

/// What a route says of the cluster's domain.
pub(super) fn cluster(file: &RouteTable, zones: &[Spanned<Zone>], mistakes: &Diagnostics<'_>) -> Option<Cluster> {
    let claims = |domain: &Name| zones.iter().any(|zone| zone.get_ref().names.contains(domain));
    let usual = || CLUSTER_DOMAIN.parse::<Name>().ok().filter(claims);
    let domain = match &file.cluster_domain {
        Some(given) => Some(given.get_ref().0.clone()),
        None => usual(),
    };
    if let (Some(given), Some(domain)) = (&file.cluster_domain, &domain)
        && !claims(domain)
    {
        let what = format!("cluster_domain: {domain} is none of this route's zones; add it to them");
        mistakes.add(given.span(), what);
    }
    if domain.is_none() {
        for (key, flag) in [("prune_search", &file.prune_search), ("autopath", &file.autopath)] {
            if let Some(flag) = flag.as_ref().filter(|flag| *flag.get_ref()) {
                let what = format!("{key}: this route has no cluster's domain; name it with cluster_domain");
                mistakes.add(flag.span(), what);
            }
        }
    }
    let flag = |flag: &Option<Spanned<bool>>, default| flag.as_ref().map_or(default, |flag| *flag.get_ref());
    Some(Cluster {
        domain: domain?,
        // What the cluster's server denies is then for others to answer.
        prune_search: flag(&file.prune_search, PRUNE_SEARCH && file.fallthrough.is_none()),
        autopath: flag(&file.autopath, AUTOPATH),
    })
}
