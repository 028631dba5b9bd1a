//! Labels of the client metrics, and the part of an account that the metrics contain already.

use std::sync::Arc;

use crate::clients::Client;
use crate::clients::client::{ClientKind, Field, Trust};
use crate::clock::Millis;

/// Label values of a client's metrics. Only the runner or the configuration can have set them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MetricKey {
    namespace: Box<str>,
    project: Box<str>,
    runner: Box<str>,
}

/// Part of an account that the metrics contain already.
#[derive(Clone, Debug, Default)]
pub(super) struct ReportedCounts {
    /// Labels; `None` for the account of all unknown clients.
    pub(super) key: Option<Arc<MetricKey>>,
    /// True if the account has changed.
    pub(super) due: bool,
    pub(super) queries: u64,
    pub(super) failed: u64,
    /// Number of failures when the current delay began, and its beginning; `None` if no failure waits to be counted.
    pub(super) waiting: Option<(u64, Millis)>,
}

impl MetricKey {
    /// Returns the labels for a client.
    pub(crate) fn of(client: &Client) -> Self {
        let job = client.job.as_ref();
        let project = job.and_then(|job| job.project(Trust::Label)).map(Into::into);
        // The name of a configured network is safe as a label: the configuration bounds their number.
        let name = || if client.kind == ClientKind::Configured { client.name.clone() } else { Box::default() };
        let namespace = client.namespace.as_deref().unwrap_or_default();
        let of_one_job = job.and_then(|job| job.get(Field::JobId)).is_some_and(|fact| fact.trust == Trust::Namespace);
        Self {
            namespace: match of_one_job {
                true => format!("{}*", namespace.trim_end_matches(|c: char| c.is_ascii_digit())).into(),
                false => namespace.into(),
            },
            project: project.unwrap_or_else(name),
            runner: job.and_then(|job| job.runner(Trust::Label)).unwrap_or_default().into(),
        }
    }

    #[cfg(test)]
    pub(super) fn new(namespace: &str, project: &str, runner: &str) -> Self {
        Self { namespace: namespace.into(), project: project.into(), runner: runner.into() }
    }

    pub(super) fn labels(&self) -> [&str; 3] {
        [&self.namespace, &self.project, &self.runner]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::client::Job;

    #[test]
    fn only_trusted_identities_name_series() {
        let client = |kind, namespace: Option<&str>, facts: &[(Field, &str, Trust)]| {
            let mut job = Job::default();
            facts.iter().for_each(|(field, value, trust)| assert!(job.note(*field, value, *trust)));
            let (name, namespace) = ("pod-1".into(), namespace.map(Into::into));
            let job = Some(job).filter(|job| !job.is_empty());
            let (labels, memo) = Default::default();
            Client { kind, name, namespace, uid: None, labels, more_labels: false, job, search: None, memo }
        };
        use Field::*;
        for (client, expected) in [
            (client(ClientKind::Pod, Some("shop"), &[]), ["shop", "", ""]),
            (client(ClientKind::Configured, None, &[]), ["", "pod-1", ""]),
            (
                client(
                    ClientKind::GitlabJob,
                    Some("ci"),
                    &[
                        (RunnerId, "t1", Trust::Label),
                        (ProjectId, "42", Trust::Label),
                        (ProjectName, "api", Trust::Label),
                        (ProjectNamespace, "shop", Trust::Label),
                        (ProjectPath, "made/up", Trust::JobControlled),
                        (JobId, "8123", Trust::JobControlled),
                    ],
                ),
                ["ci", "shop/api", "t1"],
            ),
            (
                client(
                    ClientKind::GitlabJob,
                    Some("ci-job-8123"),
                    &[(JobId, "8123", Trust::Namespace), (ProjectId, "42", Trust::Name)],
                ),
                ["ci-job-*", "", ""],
            ),
        ] {
            assert_eq!(MetricKey::of(&client).labels(), expected);
        }
    }
}
