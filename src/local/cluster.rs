//! The zone that Kubernetes serves, and the names that it cannot contain.
//!
//! A search list appends the cluster's domain to every public name. The names of Kubernetes's DNS specification (1.1.0), and
//! those that CoreDNS's `kubernetes` plugin and kube-dns answer beyond it, have few forms; below the cluster's domain these are
//!
//! ```text
//! (the domain), dns-version, svc, pod, ns.dns              schema version, apexes, CoreDNS's own name
//! ns.svc, service.ns.svc, endpoint.service.ns.svc          endpoint: a hostname, a pod's name or a dashed address
//! _port._proto.service.ns.svc, port.proto.service.ns.svc   CoreDNS accepts both
//! a-b-c-d.ns.pod and up to two labels before it            CoreDNS ignores those labels
//! ```
//!
//! Names of any other form do not exist on any server. Doubtful names are forwarded: labels that begin with an underscore
//! (kube-dns has more of these), and the obsolete wildcards `*` and `any`, wherever they are.

use std::sync::Arc;

use super::probes::Probes;
use super::pruning::{Below, NameForm, Pruning};
use crate::cause::Cause;
use crate::config;
use crate::wire::name::suffixes;
use crate::wire::{RrType, rtype};

/// TTL of a denial by form, in seconds: as short as CoreDNS's own, so that a change of the configuration takes effect as soon.
pub(crate) const FORM_TTL: u32 = 5;

/// Reason why a name was denied without a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialRule {
    /// No Kubernetes name has this form.
    Form,
    /// A name above it does not exist (RFC 8020).
    Ancestor,
}

impl DenialRule {
    /// All rules, in the order of their numbers.
    const ALL: [Self; 2] = [Self::Form, Self::Ancestor];
}

/// Cluster's domain of a route.
#[derive(Debug)]
pub struct Cluster {
    pub config: config::ClusterConfig,
    /// State of the probes that find out how far its servers' denials reach.
    pub probes: Probes,
    /// State of the checks that the cluster has no names of the denied forms.
    pub pruning: Arc<Pruning>,
    labels: usize,
    /// Extended errors of denials by rule, as whole options.
    errors: [Vec<u8>; 2],
}

impl Cluster {
    /// Returns the cluster's domain of a route, with the state of earlier checks.
    pub fn new(config: &config::ClusterConfig, pruning: Arc<Pruning>) -> Self {
        let error = |rule| {
            let why = match rule {
                DenialRule::Form => "not asked: Kubernetes has no name of this form",
                DenialRule::Ancestor => "not asked: a name above it does not exist",
            };
            Cause::Pruned.extended_error(&format!("{why} (prune_search)"))
        };
        Self {
            labels: config.domain.label_count(),
            errors: DenialRule::ALL.map(error),
            config: config.clone(),
            probes: Probes::new(),
            pruning,
        }
    }

    /// Returns the domain in wire form.
    pub fn domain(&self) -> &[u8] {
        self.config.domain.as_wire()
    }

    /// Returns the extended error of a denial, as a whole option.
    pub fn error(&self, rule: DenialRule) -> &[u8] {
        &self.errors[rule as usize]
    }

    /// Returns whether a name that matched its route by a suffix of `depth` labels is in this domain, and in no zone within it
    /// that a route claims too.
    pub fn has(&self, name: &[u8], depth: usize) -> bool {
        depth == self.labels && name.ends_with(self.domain())
    }

    /// Returns whether names are denied without a query.
    #[inline]
    pub fn prunes(&self) -> bool {
        self.config.prune_search && !self.pruning.is_off()
    }

    /// Returns the form of a name of this domain.
    pub fn form(&self, name: &[u8]) -> NameForm {
        let front = self.front(name);
        let below = match labels(front).last() {
            Some(b"svc") => Below::Svc,
            Some(b"pod") => Below::Pod,
            _ => Below::Domain,
        };
        NameForm::new(below, labels(front).count())
    }

    /// Returns whether an address is queried, and no name in the domain has the form of `name` (lower-case wire form). Other
    /// types are forwarded: CoreDNS denies no name for which it has no address to look up.
    pub fn lacks(&self, name: &[u8], qtype: RrType) -> bool {
        if !self.prunes() || !matches!(qtype, rtype::A | rtype::AAAA) {
            return false;
        }
        let front = self.front(name);
        let count = labels(front).count();
        let impossible = match labels(front).last() {
            None | Some(b"dns-version" | b"dns") => false,
            Some(b"svc") => count > 5 || (count == 5 && !labels(front).nth(1).is_some_and(is_protocol)),
            Some(b"pod") => count > 5,
            Some(_) => true,
        };
        impossible && !labels(front).any(is_in_doubt)
    }

    /// Returns the names of the namespace and of the service above `name`, if there are any.
    pub fn ancestors<'n>(&self, name: &'n [u8]) -> [Option<&'n [u8]>; 2] {
        let front = self.front(name);
        if labels(front).last() != Some(b"svc") || labels(front).any(is_in_doubt) {
            return [None, None];
        }
        let count = labels(front).count();
        // `svc` is preceded by the namespace, the service, and the labels below the service.
        [2, 3].map(|depth| {
            count.checked_sub(depth).filter(|above| *above > 0).and_then(|above| suffixes(name).nth(above))
        })
    }

    /// Returns a namespace that every cluster has, in wire form. A server that denies it denies names that have names below
    /// them.
    pub fn default_namespace(&self) -> Vec<u8> {
        [b"\x07default\x03svc", self.domain()].concat()
    }

    /// Returns the labels before the domain, which `name` must be in.
    fn front<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        &name[..name.len().saturating_sub(self.domain().len())]
    }
}

/// Returns the labels of a name in wire form, or of its first part.
fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    suffixes(name).filter_map(|suffix| suffix.get(1..1 + usize::from(suffix[0])))
}

/// Returns whether a label is a protocol, with or without the underscore that CoreDNS strips.
fn is_protocol(label: &[u8]) -> bool {
    matches!(label.strip_prefix(b"_").unwrap_or(label), b"tcp" | b"udp" | b"sctp")
}

fn is_in_doubt(label: &[u8]) -> bool {
    label.starts_with(b"_") || matches!(label, b"*" | b"any")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::{DisplayNoDot, Name};

    fn wire(name: &str) -> Vec<u8> {
        format!("{name}cluster.local").parse::<Name>().expect(name).as_wire().to_vec()
    }

    fn cluster() -> Cluster {
        let domain = "cluster.local".parse().expect("a name");
        Cluster::new(&config::ClusterConfig { domain, prune_search: true, autopath: false }, Arc::default())
    }

    #[test]
    fn forms() {
        for (possible, names) in [
            (
                true,
                &[
                    "",
                    "svc.",
                    "pod.",
                    "dns-version.",
                    "ns.dns.",
                    "ci.svc.",
                    "web.ci.svc.",
                    "example.com.svc.",
                    "web-0.web.ci.svc.",
                    "10-1-2-3.web.ci.svc.",
                    "_http._tcp.web.ci.svc.",
                    "http.tcp.web.ci.svc.",
                    "http._udp.web.ci.svc.",
                    "http.sctp.web.ci.svc.",
                    "web-0._http._tcp.web.ci.svc.",
                    "zone-a._zone.web.ci.svc.",
                    "*.*.web.ci.svc.",
                    "any.any.web.ci.svc.",
                    "10-1-2-3.ci.pod.",
                    "a.b.10-1-2-3.ci.pod.",
                    "*.",
                    "_x.",
                ][..],
            ),
            (
                false,
                &[
                    "redis.",
                    "com.",
                    "example.com.",
                    "registry.example.com.",
                    "registry.example.com.ci.svc.",
                    "a.b.example.com.svc.",
                    "web.tcp.example.com.ci.svc.",
                    "a.b.c.10-1-2-3.ci.pod.",
                    "web.ci.svc.other.",
                ],
            ),
        ] {
            for name in names {
                assert_eq!(cluster().lacks(&wire(name), rtype::A), !possible, "{name}");
                assert!(!cluster().lacks(&wire(name), rtype::SRV), "{name}");
            }
        }
    }

    #[test]
    fn ancestors() {
        for (name, expected) in [
            ("web.ci.svc.", [Some("ci.svc."), None]),
            ("web-0.web.ci.svc.", [Some("ci.svc."), Some("web.ci.svc.")]),
            ("http.tcp.web.ci.svc.", [Some("ci.svc."), Some("web.ci.svc.")]),
            ("_http._tcp.web.ci.svc.", [None, None]),
            ("ci.svc.", [None, None]),
            ("svc.", [None, None]),
            ("", [None, None]),
            ("a.ci.pod.", [None, None]),
        ] {
            let expected = expected.map(|name| name.map(wire));
            let expected = expected.each_ref().map(|name| name.as_deref());
            let (cluster, name) = (cluster(), wire(name));
            assert_eq!(cluster.ancestors(&name), expected, "{}", DisplayNoDot(&name));
        }
    }
}
