//! The zone that Kubernetes serves, and which names cannot be in it.
//!
//! A search list puts the cluster's domain behind every public name. What Kubernetes's DNS specification (1.1.0) has, and
//! what CoreDNS's `kubernetes` plugin and kube-dns answer beyond it, has few forms; below the cluster's domain these are
//!
//! ```text
//! (the domain), dns-version, svc, pod, ns.dns              schema version, apexes, CoreDNS's own name
//! ns.svc, service.ns.svc, endpoint.service.ns.svc          endpoint: a hostname, a pod's name or a dashed address
//! _port._proto.service.ns.svc, port.proto.service.ns.svc   CoreDNS takes both
//! a-b-c-d.ns.pod and up to two labels before it            CoreDNS does not look at those
//! ```
//!
//! Names of any other form do not exist, whoever is asked. What is in doubt is asked: labels that begin with an underscore
//! (kube-dns has more of these), and the wildcards `*` and `any` of old times, wherever they are.

use std::sync::Arc;

use super::probes::Probes;
use super::pruning::{Below, Form, Pruning};
use crate::cause::Cause;
use crate::config;
use crate::wire::name::suffixes;
use crate::wire::{RrType, rtype};

/// How long the denial of a form may be cached, in seconds: as short as CoreDNS's own, so that a change of the
/// configuration is seen as soon.
pub const FORM_TTL: u32 = 5;

/// Why a name was denied without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No name of Kubernetes has its form.
    Form,
    /// A name above it does not exist (RFC 8020).
    Ancestor,
}

impl Rule {
    /// All of them, by their numbers.
    const ALL: [Self; 2] = [Self::Form, Self::Ancestor];
}

/// The cluster's domain of a route.
#[derive(Debug)]
pub struct Cluster {
    /// What was asked for.
    pub config: config::Cluster,
    /// What is known of how far its servers' denials reach.
    pub probes: Probes,
    /// Whether it has names of the forms that are denied, as far as is known.
    pub pruning: Arc<Pruning>,
    labels: usize,
    /// The extended errors of denials by rule, as whole options.
    errors: [Vec<u8>; 2],
}

impl Cluster {
    /// The table of a route's cluster domain, of which `pruning` is known.
    pub fn new(config: &config::Cluster, pruning: Arc<Pruning>) -> Self {
        let error = |rule| {
            let why = match rule {
                Rule::Form => "not asked: Kubernetes has no name of this form",
                Rule::Ancestor => "not asked: a name above it does not exist",
            };
            Cause::Pruned.extended_error(&format!("{why} (prune_search)"))
        };
        Self {
            labels: config.domain.label_count(),
            errors: Rule::ALL.map(error),
            config: config.clone(),
            probes: Probes::new(),
            pruning,
        }
    }

    /// The domain in wire form.
    pub fn domain(&self) -> &[u8] {
        self.config.domain.as_wire()
    }

    /// The extended error of a denial, as a whole option.
    pub fn error(&self, rule: Rule) -> &[u8] {
        &self.errors[rule as usize]
    }

    /// Whether a name that took its route by a suffix of `depth` labels is of this domain, and of no zone within it that a
    /// route claims too.
    pub fn has(&self, name: &[u8], depth: usize) -> bool {
        depth == self.labels && name.ends_with(self.domain())
    }

    /// Whether names are denied without asking.
    #[inline]
    pub fn prunes(&self) -> bool {
        self.config.prune_search && !self.pruning.is_off()
    }

    /// The form of a name of this domain.
    pub fn form(&self, name: &[u8]) -> Form {
        let front = self.front(name);
        let below = match labels(front).last() {
            Some(b"svc") => Below::Svc,
            Some(b"pod") => Below::Pod,
            _ => Below::Domain,
        };
        Form::new(below, labels(front).count())
    }

    /// Whether no name below the domain can have the form of `name` (lower-case wire form), if an address is asked for.
    /// CoreDNS denies nothing of other types, where it has no address to look for.
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

    /// The names of the namespace and of the service that `name` is below, if it is.
    pub fn ancestors<'n>(&self, name: &'n [u8]) -> [Option<&'n [u8]>; 2] {
        let front = self.front(name);
        if labels(front).last() != Some(b"svc") || labels(front).any(is_in_doubt) {
            return [None, None];
        }
        let count = labels(front).count();
        // Before `svc` there is the namespace, before that the service, before that what is below it.
        [2, 3].map(|depth| {
            count.checked_sub(depth).filter(|above| *above > 0).and_then(|above| suffixes(name).nth(above))
        })
    }

    /// A namespace that every cluster has, in wire form. A server that denies it denies names that have others below them.
    pub fn default_namespace(&self) -> Vec<u8> {
        [b"\x07default\x03svc", self.domain()].concat()
    }

    /// The name without the domain, which it must be within.
    fn front<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        &name[..name.len().saturating_sub(self.domain().len())]
    }
}

/// The labels of a name in wire form, or of its first part.
fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    suffixes(name).filter_map(|suffix| suffix.get(1..1 + usize::from(suffix[0])))
}

/// With or without the underscore that CoreDNS strips.
fn is_protocol(label: &[u8]) -> bool {
    matches!(label.strip_prefix(b"_").unwrap_or(label), b"tcp" | b"udp" | b"sctp")
}

fn is_in_doubt(label: &[u8]) -> bool {
    label.starts_with(b"_") || matches!(label, b"*" | b"any")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::{Bare, Name};

    fn wire(name: &str) -> Vec<u8> {
        format!("{name}cluster.local").parse::<Name>().expect(name).as_wire().to_vec()
    }

    fn cluster() -> Cluster {
        let domain = "cluster.local".parse().expect("a name");
        Cluster::new(&config::Cluster { domain, prune_search: true, autopath: false }, Arc::default())
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
            assert_eq!(cluster.ancestors(&name), expected, "{}", Bare(&name));
        }
    }
}
