//! Which view a client is of: the first of the configuration's whose selector fits.
//!
//! What is asked of a client is looked into once for each configuration; the outcome is kept beside it, one bit for each
//! view, so that a query costs one load. Addresses are compared for each query: a client may have several.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ClientIdentity;
use super::address::key;
use super::client::{Client, Field, Job};
use crate::config::{self, Selector, ViewId};

/// All views, ready to choose from.
#[derive(Debug)]
pub struct Views {
    /// Of the configuration: what is remembered under another one is not believed.
    generation: u32,
    selectors: Vec<Selector>,
    sources: Vec<Vec<(u128, u128)>>,
    /// The views that are for those of whom nothing is known, as bits.
    strangers: u32,
}

/// Bits of a number that IPv4-mapped addresses have in front.
const MAPPED: u32 = 96;

impl Views {
    /// The views of a configuration.
    pub fn new(views: &[config::View], generation: u32) -> Self {
        let selectors: Vec<Selector> = views.iter().map(|view| view.selector.clone()).collect();
        let strangers = bits(&selectors, |selector| !selector.asks_of_client());
        let sources = selectors.iter().map(|selector| selector.sources.iter().map(masked).collect()).collect();
        Self { generation, selectors, sources, strangers }
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }

    /// The view that a client is of: the first that fits.
    #[inline]
    pub fn of(&self, who: &ClientIdentity<'_>, address: IpAddr) -> Option<ViewId> {
        let mut fits = self.fitting(who);
        let address = key(address);
        while fits != 0 {
            let number = fits.trailing_zeros() as usize;
            let sources = self.sources.get(number)?;
            if sources.is_empty() || sources.iter().any(|(mask, network)| address & mask == *network) {
                return Some(ViewId::of_index(number));
            }
            fits &= fits - 1;
        }
        None
    }

    /// The same for a client whose address is not known yet: the outer none says that it depends on that.
    pub fn wherever(&self, who: &ClientIdentity<'_>) -> Option<Option<ViewId>> {
        let first = match self.fitting(who) {
            0 => return Some(None),
            fits => fits.trailing_zeros() as usize,
        };
        self.sources.get(first).is_some_and(|sources| sources.is_empty()).then_some(Some(ViewId::of_index(first)))
    }

    /// The views that a client is of by all but its address, a bit each.
    #[inline]
    fn fitting(&self, who: &ClientIdentity<'_>) -> u32 {
        match who {
            ClientIdentity::Known { client, .. } => {
                client.memo.get(self.generation).unwrap_or_else(|| self.look(client))
            }
            ClientIdentity::Unknown(_) => self.strangers,
        }
    }

    #[cold]
    fn look(&self, client: &Client) -> u32 {
        let by_labels = self.selectors.iter().any(|selector| !selector.labels.is_empty());
        let fits = match client.more_labels && by_labels {
            // A job must not get out of a view by so many labels that one of them is not kept.
            true => self.strangers,
            false => bits(&self.selectors, |selector| selector.known != Some(false) && fits(selector, client)),
        };
        client.memo.put(self.generation, fits);
        fits
    }
}

fn bits(selectors: &[Selector], fits: impl Fn(&Selector) -> bool) -> u32 {
    selectors.iter().take(32).enumerate().fold(0, |bits, (number, selector)| bits | u32::from(fits(selector)) << number)
}

/// Whether a client is one of those that a selector asks for, its address aside.
fn fits(selector: &Selector, client: &Client) -> bool {
    let Selector { namespaces, labels, projects, runners, sources: _, known: _ } = selector;
    let any = |patterns: &[config::Pattern], texts: &[&str]| {
        patterns.is_empty() || texts.iter().any(|text| patterns.iter().any(|pattern| pattern.fits(text)))
    };
    let job = client.job.as_ref();
    let trusted = |field| job.and_then(|job| job.trusted(field));
    let runner = [trusted(Field::RunnerName), trusted(Field::RunnerId)].into_iter().flatten().collect::<Vec<_>>();
    any(namespaces, &client.namespace.iter().map(|namespace| &**namespace).collect::<Vec<_>>())
        && labels.iter().all(|(key, value)| client.label(key) == Some(value))
        && any(projects, &job.map(self::projects).unwrap_or_default().iter().map(String::as_str).collect::<Vec<_>>())
        && any(runners, &runner)
}

/// What the project may be called, as far as it can be trusted: its number, its path.
fn projects(job: &Job) -> Vec<String> {
    let [id, path, namespace, name] =
        [Field::ProjectId, Field::ProjectPath, Field::ProjectNamespace, Field::ProjectName]
            .map(|field| job.trusted(field));
    let joined = namespace.map(|namespace| match name {
        Some(name) => format!("{namespace}/{name}"),
        None => namespace.to_owned(),
    });
    [id.map(str::to_owned), path.map(str::to_owned), joined].into_iter().flatten().collect()
}

/// A network as a mask and what is left of its addresses under it.
fn masked(network: &IpNet) -> (u128, u128) {
    let length = u32::from(network.prefix_len()) + if network.addr().is_ipv4() { MAPPED } else { 0 };
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    (mask, key(network.addr()) & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Unknown;
    use crate::clients::client::{Kind, Trust};
    use crate::config::parse::parse;
    use std::sync::Arc;

    const FILE: &str = r#"
        [upstreams.a]
        servers = ["192.0.2.1"]
        [[route]]
        zones = ["."]
        to = "a"
    "#;

    fn views(views: &str, generation: u32) -> Views {
        let config = parse(&format!("{FILE}{views}"), &[]).expect("good");
        Views::new(&config.views, generation)
    }

    fn client(namespace: &str, labels: &[(&str, &str)], facts: &[(Field, &str, Trust)]) -> Arc<Client> {
        let mut job = Job::default();
        for (field, value, trust) in facts {
            job.note(*field, value, *trust);
        }
        Arc::new(Client {
            kind: Kind::GitlabJob,
            name: "pod".into(),
            namespace: Some(namespace.into()),
            uid: Some("1".into()),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            more_labels: false,
            job: Some(job),
            memo: Default::default(),
            search: None,
        })
    }

    fn of(views: &Views, client: &Arc<Client>, address: &str) -> Option<ViewId> {
        views.of(&ClientIdentity::Known { client, since: None }, address.parse().expect(address))
    }

    #[test]
    fn each_part_of_a_selector_has_to_fit() {
        let nobody = client("other", &[], &[]);
        let mut someone = Vec::new();
        for trust in [Trust::Label, Trust::JobControlled] {
            someone.push(client(
                "ci-job-7",
                &[("tier", "low")],
                &[
                    (Field::ProjectId, "42", trust),
                    (Field::ProjectNamespace, "group", trust),
                    (Field::ProjectName, "app", trust),
                    (Field::RunnerName, "shared-1", trust),
                ],
            ));
        }
        // Whether the view is for the trusted one, the one that may have made it up, another one, and one that is not known.
        let cases = [
            ("namespaces = ['ci-job-7']", [true, true, false, false]),
            ("namespaces = ['ci-job-*']", [true, true, false, false]),
            ("namespaces = ['a', 'ci-job-7']", [true, true, false, false]),
            ("labels = { tier = 'low' }", [true, true, false, false]),
            ("labels = { tier = 'high' }", [false, false, false, false]),
            ("labels = { tier = 'low', other = 'x' }", [false, false, false, false]),
            ("projects = ['42']", [true, false, false, false]),
            ("projects = ['group/app']", [true, false, false, false]),
            ("projects = ['group/*']", [true, false, false, false]),
            ("projects = ['app']", [false, false, false, false]),
            ("runners = ['shared-*']", [true, false, false, false]),
            ("known = true", [true, true, true, false]),
            ("known = false", [false, false, false, true]),
            ("sources = ['10.0.0.0/8']", [true, true, true, true]),
            ("sources = ['10.0.0.0/8']\nnamespaces = ['ci-job-7']", [true, true, false, false]),
            ("sources = ['11.0.0.0/8']\nnamespaces = ['ci-job-7']", [false, false, false, false]),
            ("sources = ['11.0.0.0/8', '10.0.0.7']", [true, true, true, true]),
            ("sources = ['fd00::/8']", [false, false, false, false]),
        ];
        for (generation, (selector, expected)) in (0..).zip(cases) {
            let views = views(&format!("[[view]]\nname = 'v'\n{selector}\n"), generation);
            // The second time by what is remembered.
            for address in ["10.0.0.7", "::ffff:10.0.0.7"] {
                let unknown = views.of(&ClientIdentity::Unknown(Unknown::Unassigned), address.parse().expect(address));
                let known = [&someone[0], &someone[1], &nobody].map(|client| of(&views, client, address));
                let found = [known[0], known[1], known[2], unknown].map(|view| view == Some(ViewId::of_index(0)));
                assert_eq!(found, expected, "{selector} {address}");
            }
        }
    }

    #[test]
    fn with_too_many_labels_one_is_a_stranger_to_views_that_ask_for_labels() {
        let text = "[[view]]\nname='a'\nnamespaces=['x']\n[[view]]\nname='s'\nknown=false\n";
        let many = |text| {
            let client = Client { more_labels: true, ..(*client("x", &[("a", "b")], &[])).clone() };
            of(&views(text, 0), &Arc::new(client), "10.0.0.7")
        };
        assert_eq!(many(text), Some(ViewId::of_index(0)));
        assert_eq!(many(&format!("{text}[[view]]\nname='l'\nlabels={{a='b'}}\n")), Some(ViewId::of_index(1)));
    }

    #[test]
    fn the_first_that_fits_and_only_of_this_configuration() {
        let text =
            "[[view]]\nname='a'\nnamespaces=['x']\nsources=['10.0.0.0/8']\n[[view]]\nname='b'\nnamespaces=['x']\n";
        let client = client("x", &[], &[]);
        let views_now = views(text, 0);
        assert_eq!(of(&views_now, &client, "10.0.0.7"), Some(ViewId::of_index(0)));
        assert_eq!(
            of(&views_now, &client, "11.0.0.7"),
            Some(ViewId::of_index(1)),
            "the same client by another address"
        );
        let later = views("[[view]]\nname='c'\nnamespaces=['y']\n", 1);
        assert_eq!(of(&later, &client, "10.0.0.7"), None);
        assert_eq!(of(&views_now, &client, "10.0.0.7"), Some(ViewId::of_index(0)));
    }
}
