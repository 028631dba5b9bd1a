//! Search lists of pods, if the API shows all of them.

use crate::wire::name::{MAX_NAME, Name, suffixes};

/// Most domains of a search list: the limit of the API server.
const MOST_DOMAINS: usize = 32;
/// Default of `ndots` (resolv.conf(5)).
const NDOTS: u8 = 1;

/// The domains that a pod's stub resolver appends to a name, and its `ndots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchList {
    domains: Box<[Name]>,
    ndots: u8,
}

impl SearchList {
    /// Returns the search list with these domains and options (name and value). Returns `None` if there are no domains, more
    /// than `MOST_DOMAINS`, or an invalid domain or `ndots`.
    pub fn new<'t>(
        domains: impl Iterator<Item = &'t str>,
        options: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) -> Option<Box<Self>> {
        let domains: Option<Box<[Name]>> = domains.take(MOST_DOMAINS + 1).map(|domain| domain.parse().ok()).collect();
        let domains = domains.filter(|domains| !domains.is_empty() && domains.len() <= MOST_DOMAINS)?;
        let mut ndots = NDOTS;
        for (_, value) in options.into_iter().filter(|(name, _)| *name == "ndots") {
            ndots = value.parse().ok()?;
        }
        Some(Box::new(Self { domains, ndots }))
    }

    /// Returns the names that the stub resolver tries in order after `name` (wire form); the last one is the name without a
    /// suffix. Returns `None` unless `name` is the first that the stub resolver tries for a name with fewer than `ndots` dots.
    pub fn after_first(&self, name: &[u8]) -> Option<Vec<Name>> {
        let (first, others) = self.domains.split_first()?;
        let bare = name.strip_suffix(first.as_wire()).filter(|bare| !bare.is_empty())?;
        // The suffix must begin at a label boundary.
        suffixes(name).find(|suffix| suffix.len() == first.as_wire().len())?;
        let labels = suffixes(bare).count();
        if labels > usize::from(self.ndots) {
            return None;
        }
        let root = Name::root();
        let candidate = |domain: &Name| Name::from_wire(&[bare, domain.as_wire()].concat()).ok();
        let fits = |domain: &&Name| bare.len() + domain.as_wire().len() <= MAX_NAME;
        Some(others.iter().chain([&root]).filter(fits).filter_map(candidate).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAINS: [&str; 4] = ["ci.svc.cluster.local", "svc.cluster.local", "cluster.local", "eu.internal"];

    fn after(list: &SearchList, name: &str) -> Option<Vec<String>> {
        let name: Name = name.parse().expect(name);
        Some(list.after_first(name.as_wire())?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_first_try_leads_to_the_others() {
        let list = SearchList::new(DOMAINS.into_iter(), [("edns0", ""), ("ndots", "5")]).expect("a list");
        let others = ["a.b.svc.cluster.local.", "a.b.cluster.local.", "a.b.eu.internal.", "a.b."];
        assert_eq!(after(&list, "a.b.ci.svc.cluster.local"), Some(others.map(String::from).into()));
        for name in [
            "ci.svc.cluster.local",
            "a.b.svc.cluster.local",
            "a.b",
            "a.b.c.d.e.f.ci.svc.cluster.local",
            "a.bci.svc.cluster.local",
        ] {
            assert_eq!(after(&list, name), None, "{name}");
        }
        assert!(after(&list, "a.b.c.d.e.ci.svc.cluster.local").is_some(), "four dots are fewer than five");
        let list = SearchList::new(DOMAINS.into_iter(), []).expect("a list");
        assert_eq!(after(&list, "a.b.ci.svc.cluster.local"), None);
        assert!(after(&list, "a.ci.svc.cluster.local").is_some());
    }

    #[test]
    fn lists_that_are_none() {
        let many: Vec<String> = (0..33).map(|number| format!("d{number}")).collect();
        for domains in [vec![], vec!["a..b"], many.iter().map(String::as_str).collect()] {
            assert_eq!(SearchList::new(domains.into_iter(), []), None);
        }
        assert_eq!(SearchList::new(["a"].into_iter(), [("ndots", "many")]), None);
    }

    #[test]
    fn too_long_names_are_left_out() {
        let long = format!("{0}.{0}.{0}", "x".repeat(60));
        let list = SearchList::new(["a", &long].into_iter(), [("ndots", "9")]).expect("a list");
        let name = format!("{0}.{0}.a", "y".repeat(60));
        assert_eq!(after(&list, &name).map(|names| names.len()), Some(1));
    }
}
