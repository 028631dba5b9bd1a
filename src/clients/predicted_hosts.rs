//! Prediction of the first names that a job queries, from its pod before it runs: the registries of its images and its
//! GitLab server.
//!
//! The job may control all of these inputs: use the result only as a prediction.

use std::fmt;
use std::net::Ipv4Addr;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::wire::name::Name;

/// Most hosts predicted for one pod.
pub(crate) const MOST_HOSTS: usize = 16;
/// Variables in which GitLab Runner names servers to every container: GitLab itself, its container registry, and its
/// dependency proxy.
const SERVERS: [&str; 3] = ["CI_SERVER_HOST", "CI_REGISTRY", "CI_DEPENDENCY_PROXY_SERVER"];
/// Hosts by which image references name Docker Hub, the registry of images without a host.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// Hosts that a pull from Docker Hub contacts: the registry, and the server that issues its tokens.
const DOCKER_HUB_HOSTS: [&str; 2] = ["registry-1.docker.io", "auth.docker.io"];

/// A container in the API: its image, and the servers that its environment names.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub(crate) struct Container {
    #[serde(default)]
    image: String,
    #[serde(default)]
    env: Servers,
}

/// Values of the variables in [`SERVERS`]; deserialization drops all other variables.
#[derive(Clone, Debug, Default)]
struct Servers(Vec<String>);

/// Predicts the hosts that a pod with these containers, of a job at `url`, queries; the GitLab server comes first.
pub(crate) fn hosts<'c>(url: Option<&str>, containers: impl Iterator<Item = &'c Container> + Clone) -> Vec<Name> {
    let of_url = url.and_then(|url| Some(url.split_once("://")?.1)).map(|rest| rest.split('/').next().unwrap_or(rest));
    let servers = containers.clone().flat_map(|container| container.env.0.iter().map(String::as_str));
    let registries = containers.flat_map(|container| registries(&container.image));
    let mut hosts = Vec::new();
    for host in of_url.into_iter().chain(servers).chain(registries).filter_map(host) {
        if hosts.len() < MOST_HOSTS && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// Returns the hosts, with their ports, that an image is pulled from: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.
///
/// The part before the first slash is a host if it has a dot, a colon or a capital letter or is `localhost`; otherwise it
/// belongs to a path on Docker Hub. The reference grammar of distribution defines this.
fn registries(image: &str) -> Vec<&str> {
    let host = image.split_once('/').map(|(first, _)| first).filter(|first| {
        first.contains(['.', ':']) || *first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
    });
    match host {
        Some(host) if !DOCKER_HUB.contains(&host) => vec![host],
        None if image.is_empty() => Vec::new(),
        _ => DOCKER_HUB_HOSTS.to_vec(),
    }
}

/// Returns the name in `HOST[:PORT]` if a resolver queries it unchanged: not an address, and with a dot, since a name
/// without a dot depends on a search list.
fn host(authority: &str) -> Option<Name> {
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let host = host.split(':').next().unwrap_or(host);
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let good = plain && host.trim_end_matches('.').contains('.') && host.parse::<Ipv4Addr>().is_err();
    if good { host.parse().ok() } else { None }
}

impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(List)
    }
}

struct List;

impl<'de> Visitor<'de> for List {
    type Value = Servers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of variables")
    }

    fn visit_unit<E>(self) -> Result<Servers, E> {
        Ok(Servers::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Servers, A::Error> {
        let mut servers = Servers::default();
        while let Some(Variable(value)) = list.next_element()? {
            servers.0.extend(value.filter(|_| servers.0.len() < MOST_HOSTS));
        }
        Ok(servers)
    }
}

/// Value of one of [`SERVERS`]; `None` for any other variable.
struct Variable(Option<String>);

impl<'de> Deserialize<'de> for Variable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Variable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a variable")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Variable, A::Error> {
                let (mut wanted, mut value) = (None, None);
                while let Some(key) = fields.next_key::<String>()? {
                    match key.as_str() {
                        "name" => wanted = Some(SERVERS.contains(&fields.next_value::<String>()?.as_str())),
                        // The API sends the name first. Values of other variables may be long and are skipped.
                        "value" if wanted != Some(false) => value = fields.next_value::<Option<String>>()?,
                        _ => drop(fields.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Variable(value.filter(|_| wanted == Some(true))))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_an_image_is_got_from() {
        let hub = &DOCKER_HUB_HOSTS[..];
        for (image, right) in [
            ("alpine", hub),
            ("alpine:3.20", hub),
            ("gcr.io", hub),
            ("library/alpine@sha256:0123", hub),
            ("docker.io/library/alpine:3", hub),
            ("index.docker.io/alpine", hub),
            ("group/image:5000", hub),
            ("ghcr.io/owner/image", &["ghcr.io"]),
            ("registry.example.com:5050/group/image:tag@sha256:0123", &["registry.example.com"]),
            ("Registry.Example.com/image", &["registry.example.com"]),
            ("mirror/docker.io/alpine", hub),
            ("quay.io./image", &["quay.io"]),
            ("localhost/image", &[]),
            ("localhost:5000/image", &[]),
            ("registry:5000/image", &[]),
            ("Registry/image", &[]),
            ("10.0.0.7:5000/image", &[]),
            ("[fd00::7]:5000/image", &[]),
            ("bad host.example/image", &[]),
            ("", &[]),
        ] {
            let container = Container { image: image.to_owned(), env: Servers::default() };
            let told: Vec<_> = hosts(None, [&container].into_iter()).iter().map(ToString::to_string).collect();
            let right: Vec<_> = right.iter().map(|host| format!("{host}.")).collect();
            assert_eq!(told, right, "{image}");
        }
    }

    #[test]
    fn gitlab_comes_first_and_nothing_twice() {
        let text = r#"{"name": "build", "image": "registry.git.example:5050/a/b", "env": [
            {"name": "SECRET", "value": "secret.example"}, {"value": "secret.example", "name": "OTHER"},
            {"value": "git.example", "name": "CI_SERVER_HOST"},
            {"name": "CI_REGISTRY", "value": "registry.git.example:5050"},
            {"name": "CI_DEPENDENCY_PROXY_SERVER", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]}"#;
        let build: Container = serde_json::from_str(text).expect("JSON");
        assert_eq!(build.env.0, ["git.example", "registry.git.example:5050"], "the rest is dropped");
        let helper: Container = serde_json::from_str(r#"{"image": "helper", "env": null}"#).expect("JSON");
        let told = hosts(Some("https://user@GIT.example:8443/group/project/-/jobs/7"), [&build, &helper].into_iter());
        let told: Vec<_> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["git.example.", "registry.git.example.", "registry-1.docker.io.", "auth.docker.io."]);
        let many: Vec<_> = (0..99).map(|n| Container { image: format!("r{n}.example/i"), ..helper.clone() }).collect();
        assert_eq!(hosts(Some("nonsense"), many.iter()).len(), MOST_HOSTS);
    }
}
