//! Clients and their jobs, with the trust in each fact.

use std::borrow::Cow;
use std::fmt;

use super::search::SearchList;
use super::view_cache::ViewCache;

/// Most bytes kept of one label, annotation or name; the rest is cut off. Annotations may have 256 KiB.
pub const LONGEST_TEXT: usize = 256;
/// Most labels kept of one pod.
pub const MOST_LABELS: usize = 64;

/// A client: a pod of this node, or a network that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Kind of client.
    pub kind: ClientKind,
    /// The pod's name, or the `name` of the `[[client]]`.
    pub name: Box<str>,
    /// The namespace, if there is one.
    pub namespace: Option<Box<str>>,
    /// The pod's UID. Names are reused, UIDs are not.
    pub uid: Option<Box<str>>,
    /// The pod's labels, sorted, at most [`MOST_LABELS`].
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// True if the pod has more labels than are kept.
    pub more_labels: bool,
    /// The job that the pod runs, if any.
    pub job: Option<Job>,
    /// Cache of the views that match the client.
    pub memo: ViewCache,
    /// The pod's search list, if the API shows all of it.
    pub search: Option<Box<SearchList>>,
}

/// Kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientKind {
    /// A pod in which GitLab Runner runs one job.
    GitlabJob,
    /// A pod of a GitHub Actions runner, or of a job of one.
    GithubRunner,
    /// A pod in which Tekton runs one TaskRun.
    TektonTaskRun,
    /// A pod of a Jenkins agent.
    JenkinsAgent,
    /// A pod that runs no job that nodens recognizes.
    Pod,
    /// A network that the configuration names.
    Configured,
}

/// Facts about a job, at most one for each [`Field`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    facts: Vec<(Field, TrustedValue)>,
}

/// Subject of a fact about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// The runner's id or short token; for GitHub the name of the scale set, RunnerDeployment or RunnerSet.
    RunnerId,
    /// Name of the runner, as its administrator gave it.
    RunnerName,
    /// The project's numeric id.
    ProjectId,
    /// The project's name without its namespace.
    ProjectName,
    /// The project's group, organisation or namespace.
    ProjectNamespace,
    /// The project's namespace and name, as in its URL.
    ProjectPath,
    /// The job's id: a number for GitLab, a UID for Tekton, for Jenkins the number of the build within its project.
    JobId,
    /// Name of the job in the pipeline's definition.
    JobName,
    /// The URL of the job's page.
    JobUrl,
    /// Id or name of the pipeline that the job is part of.
    Pipeline,
    /// The branch or tag.
    Ref,
    /// Hash of the commit that the job builds.
    Sha,
    /// The user who started the job.
    User,
}

/// A value and the trust in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedValue {
    /// The value, at most [`LONGEST_TEXT`] bytes.
    pub value: Box<str>,
    /// Trust in the value, by its source.
    pub trust: Trust,
}

/// Source of a fact; the most trusted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// A `[[client]]` table of nodens's own configuration.
    Configuration,
    /// The pod's namespace: one that the runner created for this one job, or Tekton's project.
    Namespace,
    /// A label that only the runner or its controller can set.
    Label,
    /// A label or annotation that the job can overwrite if the runner's configuration permits it.
    JobControlled,
    /// A pod name of the form that the runner gives. Any pod may have such a name.
    Name,
    /// A job-controlled value of a pod on which at least one job-controlled value contradicts another source.
    Conflicting,
}

impl Job {
    pub(crate) fn get(&self, field: Field) -> Option<&TrustedValue> {
        self.facts.iter().find(|(known, _)| *known == field).map(|(_, fact)| fact)
    }

    /// Returns a value that the job and the author of its configuration cannot have set.
    pub fn trusted(&self, field: Field) -> Option<&str> {
        self.known(field, Trust::Label)
    }

    /// Returns the project's path or, without one, its name, namespace or id, from facts of at least the trust `least`.
    pub fn project(&self, least: Trust) -> Option<Cow<'_, str>> {
        let known = |field| self.known(field, least);
        let of_both =
            || Some(Cow::Owned(format!("{}/{}", known(Field::ProjectNamespace)?, known(Field::ProjectName)?)));
        let one = [Field::ProjectName, Field::ProjectNamespace, Field::ProjectId];
        known(Field::ProjectPath)
            .map(Cow::Borrowed)
            .or_else(of_both)
            .or_else(|| one.into_iter().find_map(known).map(Cow::Borrowed))
    }

    /// Returns the runner's name or id, from facts of at least the trust `least`.
    pub fn runner(&self, least: Trust) -> Option<&str> {
        self.known(Field::RunnerName, least).or_else(|| self.known(Field::RunnerId, least))
    }

    /// Returns a value of at least the trust `least`.
    pub fn known(&self, field: Field, least: Trust) -> Option<&str> {
        self.get(field).filter(|fact| fact.trust <= least).map(|fact| &*fact.value)
    }

    /// Returns all facts, in the order of [`Field`].
    pub fn facts(&self) -> impl Iterator<Item = (Field, &TrustedValue)> {
        self.facts.iter().map(|(field, fact)| (*field, fact))
    }

    /// Reports whether there are no facts.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Records a fact. Of two values for one field the more trusted one is kept, of two equally trusted ones the first. Returns
    /// whether they are equal.
    pub fn note(&mut self, field: Field, value: &str, trust: Trust) -> bool {
        let value = text(value);
        match self.facts.binary_search_by_key(&field, |(field, _)| *field) {
            Err(at) => {
                self.facts.insert(at, (field, TrustedValue { value, trust }));
                true
            }
            Ok(at) => {
                let fact = &mut self.facts[at].1;
                let agree = fact.value == value;
                if trust < fact.trust {
                    *fact = TrustedValue { value, trust };
                }
                agree
            }
        }
    }

    /// Marks all job-controlled facts as conflicting, since one of them has been found to be wrong.
    pub fn dispute(&mut self) {
        for (_, fact) in self.facts.iter_mut().filter(|(_, fact)| fact.trust == Trust::JobControlled) {
            fact.trust = Trust::Conflicting;
        }
    }
}

impl Client {
    /// Returns the value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(label, _)| (**label).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }
}

impl ClientKind {
    /// Returns the name in APIs.
    pub fn label(self) -> &'static str {
        match self {
            Self::GitlabJob => "gitlab-job",
            Self::GithubRunner => "github-runner",
            Self::TektonTaskRun => "tekton-taskrun",
            Self::JenkinsAgent => "jenkins-agent",
            Self::Pod => "pod",
            Self::Configured => "configured",
        }
    }
}

impl Trust {
    /// Returns the name in APIs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Namespace => "namespace",
            Self::Label => "label",
            Self::JobControlled => "job_controlled",
            Self::Name => "name",
            Self::Conflicting => "conflicting",
        }
    }
}

impl Field {
    /// Returns the name in APIs.
    pub fn label(self) -> &'static str {
        match self {
            Self::RunnerId => "runner_id",
            Self::RunnerName => "runner_name",
            Self::ProjectId => "project_id",
            Self::ProjectName => "project_name",
            Self::ProjectNamespace => "project_namespace",
            Self::ProjectPath => "project_path",
            Self::JobId => "job_id",
            Self::JobName => "job_name",
            Self::JobUrl => "job_url",
            Self::Pipeline => "pipeline",
            Self::Ref => "ref",
            Self::Sha => "sha",
            Self::User => "user",
        }
    }
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Shortens a text to at most [`LONGEST_TEXT`] bytes, at a character boundary.
pub fn text(text: &str) -> Box<str> {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_trusted_value_stays() {
        let mut job = Job::default();
        assert!(job.note(Field::JobId, "7", Trust::JobControlled));
        assert!(!job.note(Field::JobId, "8", Trust::Namespace), "they differ");
        assert_eq!(job.trusted(Field::JobId), Some("8"));
        assert!(!job.note(Field::JobId, "9", Trust::Name));
        assert_eq!(job.trusted(Field::JobId), Some("8"));
        job.note(Field::Ref, "main", Trust::JobControlled);
        assert_eq!(job.trusted(Field::Ref), None, "the job may have set it");
        job.dispute();
        let trusts: Vec<_> = job.facts().map(|(field, fact)| (field, fact.trust)).collect();
        assert_eq!(trusts, [(Field::JobId, Trust::Namespace), (Field::Ref, Trust::Conflicting)]);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ü".repeat(200);
        assert_eq!(text(&long).len(), LONGEST_TEXT);
        assert_eq!(text(&format!("x{long}")).len(), LONGEST_TEXT - 1);
        assert_eq!(&*text("short"), "short");
    }
}
