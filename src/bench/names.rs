//! Questions of a run: a built-in set like that of a CI cluster, or a file of names, encoded as queries.

use std::str::FromStr;

use hickory_proto::rr::RecordType;

use crate::wire::name::Name;
use crate::wire::{ADVERTISED_SIZE, HEADER, RrType, class, flag, rtype};

/// Maximum questions of one run: each takes some 60 bytes, and a flag for each target.
pub const MOST_QUESTIONS: usize = 1_000_000;

/// Bytes of the longest query: header, name, type, class and an OPT record.
pub const LONGEST_QUERY: usize = HEADER + crate::wire::name::MAX_NAME + 4 + OPT.len();

/// OPT record that only advertises a larger response size (RFC 6891).
const OPT: [u8; 11] = {
    let [high, low] = ADVERTISED_SIZE.to_be_bytes();
    let [_, opt] = rtype::OPT.to_be_bytes();
    [0, 0, opt, high, low, 0, 0, 0, 0, 0, 0]
};

/// Public names that most jobs ask for: registries, package indexes, code hosts and object stores, most popular first.
const PUBLIC: &str = "
    registry-1.docker.io auth.docker.io production.cloudflare.docker.com ghcr.io pkg-containers.githubusercontent.com
    github.com registry.npmjs.org pypi.org files.pythonhosted.org proxy.golang.org sum.golang.org gitlab.com
    registry.gitlab.com quay.io cdn01.quay.io index.crates.io static.crates.io crates.io repo.maven.apache.org
    repo1.maven.org plugins.gradle.org services.gradle.org deb.debian.org security.debian.org archive.ubuntu.com
    security.ubuntu.com dl-cdn.alpinelinux.org mirrors.fedoraproject.org registry.k8s.io prod-registry-k8s-io.s3.amazonaws.com
    gcr.io storage.googleapis.com europe-docker.pkg.dev us-docker.pkg.dev mcr.microsoft.com public.ecr.aws
    api.ecr.eu-central-1.amazonaws.com sts.amazonaws.com sts.eu-central-1.amazonaws.com s3.amazonaws.com
    s3.eu-central-1.amazonaws.com ec2.eu-central-1.amazonaws.com api.github.com raw.githubusercontent.com
    objects.githubusercontent.com codeload.github.com uploads.github.com registry.yarnpkg.com nodejs.org
    rubygems.org index.rubygems.org api.nuget.org packagist.org repo.packagist.org getcomposer.org static.rust-lang.org
    go.dev dl.google.com packages.cloud.google.com apt.kubernetes.io pkgs.k8s.io dl.k8s.io get.helm.sh charts.bitnami.com
    releases.hashicorp.com registry.terraform.io checkpoint-api.hashicorp.com download.docker.com apt.releases.hashicorp.com
    conda.anaconda.org repo.anaconda.com huggingface.co cdn-lfs.huggingface.co download.pytorch.org bootstrap.pypa.io
    hub.docker.com registry.access.redhat.com cdn.redhat.com bitbucket.org sonarcloud.io codecov.io uploader.codecov.io
    sentry.io o0.ingest.sentry.io slack.com hooks.slack.com api.datadoghq.com time.google.com pool.ntp.org ocsp.digicert.com
    r3.o.lencr.org acme-v02.api.letsencrypt.org packages.microsoft.com login.microsoftonline.com oauth2.googleapis.com
    playwright.azureedge.net chromedriver.storage.googleapis.com cdn.cypress.io download.cypress.io";

/// Services of a CI cluster, as `service.namespace`, to be completed with the cluster's zone.
const SERVICES: &str = "
    kubernetes.default kube-dns.kube-system metrics-server.kube-system gitlab-webservice.gitlab gitlab-registry.gitlab
    gitlab-gitaly.gitlab gitlab-minio.gitlab runner-cache.ci runner-manager.ci registry-mirror.ci npm-mirror.ci
    pypi-mirror.ci maven-mirror.ci go-proxy.ci buildkitd.ci sccache.ci vault.vault prometheus.monitoring
    alertmanager.monitoring loki.monitoring grafana.monitoring otel-collector.monitoring sonarqube.quality
    postgres.test mysql.test redis.test rabbitmq.test kafka.test elasticsearch.test selenium-hub.test minio.test
    argocd-server.argocd ingress-nginx-controller.ingress-nginx cert-manager-webhook.cert-manager";

/// Number of public names for each cluster service.
const CLUSTER_EVERY: usize = 2;
/// Number of the most popular names that are also asked with a pod's search list appended, as `ndots:5` causes.
const SEARCHED: usize = 40;

/// Queries in wire format, stored consecutively. A question is identified by its number; 0 is the most popular.
#[derive(Debug, Default)]
pub struct Questions {
    wire: Vec<u8>,
    ends: Vec<u32>,
    edns: bool,
}

impl Questions {
    /// Returns the built-in set: A and AAAA of public names, of cluster services, and of names that a search list produces.
    pub fn built_in(edns: bool) -> Self {
        let mut questions = Self { edns, ..Self::default() };
        let mut services = SERVICES.split_whitespace();
        let mut ask = |name: &str| {
            // Cannot fail: a test parses all of these names.
            let _ = questions.push(name, rtype::A).and_then(|()| questions.push(name, rtype::AAAA));
        };
        for (at, name) in PUBLIC.split_whitespace().enumerate() {
            ask(name);
            if at % CLUSTER_EVERY == 0
                && let Some(service) = services.next()
            {
                ask(&format!("{service}.svc.cluster.local"));
            }
        }
        for name in PUBLIC.split_whitespace().take(SEARCHED) {
            ask(&format!("{name}.ci.svc.cluster.local"));
        }
        questions
    }

    /// Parses a file with `name [TYPE]` on each line, most popular first; the default type is A. Empty lines and text after
    /// a `#` are ignored.
    ///
    /// # Errors
    /// The first invalid line and the reason; no question; or more than [`MOST_QUESTIONS`].
    pub fn parse(text: &str, edns: bool) -> Result<Self, String> {
        let mut questions = Self { edns, ..Self::default() };
        for (at, line) in text.lines().enumerate() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(name) = words.next() else { continue };
            let read = match (words.next(), words.next()) {
                (None, _) => questions.push(name, rtype::A),
                (Some(kind), None) => match RecordType::from_str(&kind.to_ascii_uppercase()) {
                    Ok(kind) => questions.push(name, kind.into()),
                    Err(_) => Err(format!("{kind:?} is no record type")),
                },
                _ => Err("more than a name and a type".to_owned()),
            };
            read.map_err(|error| format!("line {}: {error}", at + 1))?;
        }
        if questions.is_empty() { Err("there is no name in it".to_owned()) } else { Ok(questions) }
    }

    /// Returns the number of questions.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there is no question.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the query for question `at`, with ID 0; empty past the end.
    pub fn query(&self, at: u32) -> &[u8] {
        let at = at as usize;
        let start = if at == 0 { 0 } else { self.ends.get(at - 1).map_or(usize::MAX, |end| *end as usize) };
        self.ends.get(at).and_then(|end| self.wire.get(start..*end as usize)).unwrap_or_default()
    }

    /// Returns name, type and class of question `at`, as a response repeats them.
    pub fn question(&self, at: u32) -> &[u8] {
        let query = self.query(at);
        let end = query.len().saturating_sub(if self.edns { OPT.len() } else { 0 });
        query.get(HEADER..end).unwrap_or_default()
    }

    fn push(&mut self, name: &str, kind: RrType) -> Result<(), String> {
        if self.len() == MOST_QUESTIONS {
            return Err(format!("more than {MOST_QUESTIONS} questions"));
        }
        let name = Name::from_str(name).map_err(|error| format!("{name:?}: {error}"))?;
        self.wire.extend_from_slice(&[0, 0]);
        self.wire.extend_from_slice(&flag::RD.to_be_bytes());
        self.wire.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns)]);
        self.wire.extend_from_slice(name.as_wire());
        self.wire.extend_from_slice(&kind.to_be_bytes());
        self.wire.extend_from_slice(&class::IN.to_be_bytes());
        if self.edns {
            self.wire.extend_from_slice(&OPT);
        }
        self.ends.push(self.wire.len() as u32); // MOST_QUESTIONS * LONGEST_QUERY fits
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_built_in_set_has_hundreds_of_valid_questions() {
        let questions = Questions::built_in(false);
        let names = PUBLIC.split_whitespace().count() + SERVICES.split_whitespace().count() + SEARCHED;
        assert_eq!(questions.len(), 2 * names, "each name is one, and each service finds a place");
        assert!((300..1000).contains(&questions.len()));
        let different: HashSet<&[u8]> = (0..questions.len() as u32).map(|at| questions.question(at)).collect();
        assert_eq!(different.len(), questions.len());
    }

    #[test]
    fn a_file_is_read_line_by_line() {
        let questions = Questions::parse("a.b # the first\n\n# none\nc mx\n", true).expect("questions");
        assert_eq!(questions.len(), 2);
        assert_eq!(
            questions.query(0),
            b"\0\0\x01\0\0\x01\0\0\0\0\0\x01\x01a\x01b\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0"
        );
        assert_eq!(questions.question(1), b"\x01c\0\0\x0f\0\x01");
        assert_eq!(questions.query(2), b"");
        for (text, fault) in [
            ("a..b", "line 1: \"a..b\""),
            ("a\nb SPLENDID", "line 2: \"SPLENDID\" is no record type"),
            ("a A A", "line 1: more than"),
            ("# nothing\n", "there is no name in it"),
        ] {
            let error = Questions::parse(text, false).expect_err(text);
            assert!(error.starts_with(fault), "{error}");
        }
    }
}
