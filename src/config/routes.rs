//! Routes from names to upstreams: `[[route]]`, of all clients or of one view.

use std::num::NonZeroU16;
use std::ops::Range;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde::Deserialize;
use toml::Spanned;

use super::cache::NEGATIVE_MAX_TTL;
use super::diagnostic::Diagnostics;
use super::table::TomlTable;
use super::units::Time;
use super::value::{ConfigValue, ValueForm};
use super::zones::{Domain, ZoneValue};
use crate::wire::RrType;
use crate::wire::name::Name;

/// Default of `[[route]] deny_private_addresses`.
pub(crate) const DENY_PRIVATE_ADDRESSES: bool = false;
/// Default of `[[route]] cluster_domain` if the route claims this zone: the name that kubeadm and most others use.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// Default of `[[route]] prune_search`. Pruning in the cluster's domain loses no answer.
pub(crate) const PRUNE_SEARCH: bool = true;
/// Default of `[[route]] deny_private_names`. CNAMEs from one route into another are common in hybrid networks.
pub(crate) const DENY_PRIVATE_NAMES: bool = false;
/// Default of `[[route]] fallthrough_nodata`. A name that exists in the private zone belongs to that zone.
pub(crate) const FALLTHROUGH_NODATA: bool = false;
/// Default of `[[route]] autopath`. Autopath returns the answer of another name than the queried one.
pub(crate) const AUTOPATH: bool = false;

/// Index of a route in [`Config::routes`](super::Config::routes), stored plus one. Every cache entry and every response has an
/// optional index, which thus takes no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(NonZeroU16);

const _: () = assert!(size_of::<Option<RouteId>>() == 2);

impl RouteId {
    /// Returns the id of the route at this index; `None` if the index is out of range.
    pub const fn of_index(index: usize) -> Option<Self> {
        if index < u16::MAX as usize { Self::unpack(index as u16 + 1) } else { None }
    }

    /// Returns the index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// Packs an optional route into 16 bits.
    #[inline]
    pub const fn pack(route: Option<Self>) -> u16 {
        match route {
            Some(Self(number)) => number.get(),
            None => 0,
        }
    }

    /// Unpacks the result of [`Self::pack`].
    #[inline]
    pub const fn unpack(bits: u16) -> Option<Self> {
        match NonZeroU16::new(bits) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

/// Names that go to one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Suffixes that the route claims; CIDRs are converted to their reverse zones.
    pub zones: Vec<Name>,
    /// Zones as written in the file, joined by a blank, then a view's name in parentheses: name of the route in metrics and
    /// explanations.
    pub label: String,
    /// Index of the upstream in [`Config::upstreams`](super::Config::upstreams).
    pub to: usize,
    /// Longest time that a negative answer of this route is kept; `None`: that of the cache.
    pub negative_max_ttl: Option<Duration>,
    /// Removal of private addresses from answers (protection against DNS rebinding).
    pub deny_private_addresses: bool,
    /// Removal of CNAMEs that lead into the zones of other routes from answers.
    pub deny_private_names: bool,
    /// Types that are answered with NODATA at once.
    pub filter_types: Vec<RrType>,
    /// Zone of the route that Kubernetes serves, if there is one.
    pub cluster: Option<ClusterConfig>,
    /// Upstream for questions that the route's own upstream denies, if configured.
    pub fallthrough: Option<Fallthrough>,
}

/// Upstream for questions that the route's own upstream denies. A failure is no denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fallthrough {
    /// Index of the upstream in [`Config::upstreams`](super::Config::upstreams).
    pub to: usize,
    /// Fallthrough after NODATA, in addition to NXDOMAIN.
    pub nodata: bool,
}

/// Zone that Kubernetes serves, and the treatment of the search lists that end in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterConfig {
    /// Domain of the cluster: one of the route's zones.
    pub domain: Name,
    /// Denial, without a query, of names that cannot exist in the domain.
    pub prune_search: bool,
    /// Autopath: the first name of a pod's search list gets the answer of the first one that exists.
    pub autopath: bool,
}

/// `[[route]]` in the file.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// Position of the table's header.
    pub at: Range<usize>,
    /// Required; `None` if it is missing or invalid.
    pub zones: Option<Vec<Spanned<ZoneValue>>>,
    /// Required; `None` if it is missing or invalid.
    pub to: Option<Spanned<String>>,
    /// Default: none, so the limit of the cache applies. Bounds: [`NEGATIVE_MAX_TTL`].
    pub negative_max_ttl: Option<Spanned<Time>>,
    pub deny_private_addresses: bool,
    pub deny_private_names: bool,
    pub filter_types: Vec<Spanned<FilteredType>>,
    pub fallthrough: Option<Spanned<String>>,
    pub fallthrough_nodata: Option<Spanned<bool>>,
    /// Default: [`CLUSTER_DOMAIN`] if it is among the zones, else none.
    pub cluster_domain: Option<Spanned<Domain>>,
    /// Default: [`PRUNE_SEARCH`], or false with a `fallthrough`.
    pub prune_search: Option<Spanned<bool>>,
    pub autopath: Option<Spanned<bool>>,
}

impl RouteTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Self {
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

/// Element of `filter_types`: a record type for addresses or services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct FilteredType(pub RrType);

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
    const FORM: ValueForm = ValueForm::OneOf(&["AAAA", "A", "HTTPS", "SVCB", "SRV", "MX", "NAPTR", "PTR", "TXT"]);
}

/// Types that `filter_types` may have. Types that a resolver needs to find others are excluded.
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

/// Converts a `filter_types` list. Adds an error for each duplicate.
pub(super) fn filter_types(list: &[Spanned<FilteredType>], diagnostics: &Diagnostics<'_>) -> Vec<RrType> {
    diagnostics.once("type", list.iter().map(|kind| (kind.span(), *kind.get_ref())));
    list.iter().map(|kind| kind.get_ref().0).collect()
}

/// Returns the cluster settings of a route. Adds errors for a domain outside its zones, and for settings without a domain.
pub(super) fn cluster(
    file: &RouteTable,
    zones: &[Spanned<ZoneValue>],
    diagnostics: &Diagnostics<'_>,
) -> Option<ClusterConfig> {
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
        diagnostics.add(given.span(), what);
    }
    if domain.is_none() {
        for (key, flag) in [("prune_search", &file.prune_search), ("autopath", &file.autopath)] {
            if let Some(flag) = flag.as_ref().filter(|flag| *flag.get_ref()) {
                let what = format!("{key}: this route has no cluster's domain; name it with cluster_domain");
                diagnostics.add(flag.span(), what);
            }
        }
    }
    let flag = |flag: &Option<Spanned<bool>>, default| flag.as_ref().map_or(default, |flag| *flag.get_ref());
    Some(ClusterConfig {
        domain: domain?,
        // With a `fallthrough`, names that the cluster's server denies may exist elsewhere.
        prune_search: flag(&file.prune_search, PRUNE_SEARCH && file.fallthrough.is_none()),
        autopath: flag(&file.autopath, AUTOPATH),
    })
}
