//! Selection of a client's view: the first one in the configuration whose selector matches.
//!
//! Everything except the address is evaluated once for each client and configuration and cached with the client, one bit for
//! each view; a query costs one load. Addresses are compared for each query, since a client may have several.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ClientIdentity;
use super::address::key;
use super::client::{Client, Field, Job};
use crate::config::{self, Selector, ViewId};

/// All views, prepared for selection.
#[derive(Debug)]
pub struct Views {
    /// Generation of the configuration; cached results of other generations are ignored.
    generation: u32,
    selectors: Vec<Selector>,
    sources: Vec<Vec<(u128, u128)>>,
    /// Views that match unknown clients, as bits.
    strangers: u32,
}

/// Bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED: u32 = 96;

impl Views {
    /// Prepares the views of a configuration.
    pub fn new(views: &[config::View], generation: u32) -> Self {
        let selectors: Vec<Selector> = views.iter().map(|view| view.selector.clone()).collect();
        let strangers = bits(&selectors, |selector| !selector.asks_of_client());
        let sources = selectors.iter().map(|selector| selector.sources.iter().map(masked).collect()).collect();
        Self { generation, selectors, sources, strangers }
    }

    /// Reports whether there are no views.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.selectors.is_empty()
    }

    /// Returns the client's view, the first one that matches.
    #[inline]
    pub fn of(&self, identity: &ClientIdentity<'_>, address: IpAddr) -> Option<ViewId> {
        let mut fits = self.fitting(identity);
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

    /// Returns the client's view if it does not depend on the client's address; otherwise the outer option is `None`.
    pub fn wherever(&self, identity: &ClientIdentity<'_>) -> Option<Option<ViewId>> {
        let first = match self.fitting(identity) {
            0 => return Some(None),
            fits => fits.trailing_zeros() as usize,
        };
        self.sources.get(first).is_some_and(|sources| sources.is_empty()).then_some(Some(ViewId::of_index(first)))
    }

    /// Returns the views that match a client, without its address, as bits.
    #[inline]
    fn fitting(&self, identity: &ClientIdentity<'_>) -> u32 {
        match identity {
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
            // A job must not avoid a view by setting more labels than nodens keeps.
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

/// Reports whether a selector matches a client, without its address.
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

/// Returns the names by which a pattern may match the project, from trusted facts: its id, its path, and its namespace with
/// its name.
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

/// Returns a network as its mask and its masked address.
fn masked(network: &IpNet) -> (u128, u128) {
    let length = u32::from(network.prefix_len()) + if network.addr().is_ipv4() { MAPPED } else { 0 };
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    (mask, key(network.addr()) & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Unknown;
    use crate::clients::client::{ClientKind, Trust};
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
            kind: ClientKind::GitlabJob,
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
        // True if the view matches: a trusted job, a job-controlled one, another client, an unknown client.
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
            // The second pass uses the cached result.
            for address in ["10.0.0.7", "::ffff:10.0.0.7"] {
                let unknown = views.of(&ClientIdentity::Unknown(Unknown::Unassigned), address.parse().expect(address));
                let known = [&someone[0], &someone[1], &nobody].map(|client| of(&views, client, address));
                let found = [known[0], known[1], known[2], unknown].map(|view| view == Some(ViewId::of_index(0)));
                assert_eq!(found, expected, "{selector} {address}");
            }
        }
    }

    #[test]
    fn too_many_labels_match_no_view_by_label() {
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
