//! What is known of whoever asks, and how far each part of it can be trusted.

use std::borrow::Cow;
use std::fmt;

use super::search::SearchList;
use super::view_cache::ViewCache;

/// The longest text that is kept of one label, annotation or name; more is cut off. Annotations may be 256 KiB long.
pub const LONGEST_TEXT: usize = 256;
/// Labels kept of one pod.
pub const MOST_LABELS: usize = 64;

/// Whoever asks: a pod of this node, or what the configuration says of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// What it is.
    pub kind: Kind,
    /// The pod's name, or the `name` of the `[[client]]`.
    pub name: Box<str>,
    /// The namespace, if there is one.
    pub namespace: Option<Box<str>>,
    /// The pod's UID: names are used again, UIDs never.
    pub uid: Option<Box<str>>,
    /// The pod's labels, sorted, at most [`MOST_LABELS`].
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Whether it has more labels than that.
    pub more_labels: bool,
    /// The job that it runs, if it does.
    pub job: Option<Job>,
    /// Which views it is of, as far as that has been looked into.
    pub memo: ViewCache,
    /// Its search list, if all of it is known.
    pub search: Option<Box<SearchList>>,
}

/// What asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A pod in which GitLab Runner runs one job.
    GitlabJob,
    /// A pod in which a GitHub Actions runner, or a job of one, runs.
    GithubRunner,
    /// A pod in which Tekton runs one TaskRun.
    TektonTaskRun,
    /// Any other pod.
    Pod,
    /// A network that the configuration names.
    Configured,
}

/// What is known of a job: facts, at most one of each [`Field`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    facts: Vec<(Field, Fact)>,
}

/// One thing that is known of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// The runner's id or short token.
    RunnerId,
    /// The runner's name.
    RunnerName,
    /// The project's number.
    ProjectId,
    /// The project's own name.
    ProjectName,
    /// The group, organisation or namespace that it is in.
    ProjectNamespace,
    /// Namespace and name, as in its URL.
    ProjectPath,
    /// The job's number.
    JobId,
    /// The job's name.
    JobName,
    /// Where people look at the job.
    JobUrl,
    /// The pipeline.
    Pipeline,
    /// The branch or tag.
    Ref,
    /// The commit.
    Sha,
    /// Who started it.
    User,
}

/// A value and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The value, at most [`LONGEST_TEXT`] bytes.
    pub value: Box<str>,
    /// How far it can be trusted.
    pub trust: Trust,
}

/// Where a fact is from; the most trusted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// This server's own configuration says so.
    Configuration,
    /// The namespace, which the runner made for this one job.
    Namespace,
    /// A label that only the runner or its controller sets: the job cannot.
    Label,
    /// A label or annotation that the job may have overwritten, where the runner's configuration allows it that.
    JobControlled,
    /// The pod's name has the form that the runner gives; anybody may give a pod such a name.
    Name,
    /// It contradicts something that is trusted more, or stands beside something that does.
    Conflicting,
}

impl Job {
    /// The fact, if it is known.
    pub fn get(&self, field: Field) -> Option<&Fact> {
        self.facts.iter().find(|(known, _)| *known == field).map(|(_, fact)| fact)
    }

    /// The value, if it is known and neither the job nor whoever wrote it could have made it up.
    pub fn trusted(&self, field: Field) -> Option<&str> {
        self.known(field, Trust::Label)
    }

    /// The project as people write it, from facts that are trusted at least so far.
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

    /// The runner, from facts that are trusted at least so far.
    pub fn runner(&self, least: Trust) -> Option<&str> {
        self.known(Field::RunnerName, least).or_else(|| self.known(Field::RunnerId, least))
    }

    /// The value, if it is known and trusted at least so far.
    pub fn known(&self, field: Field, least: Trust) -> Option<&str> {
        self.get(field).filter(|fact| fact.trust <= least).map(|fact| &*fact.value)
    }

    /// All facts, in the order of [`Field`].
    pub fn facts(&self) -> impl Iterator<Item = (Field, &Fact)> {
        self.facts.iter().map(|(field, fact)| (*field, fact))
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Notes a fact. Of two values the one trusted more stays; one trusted less that says otherwise is not kept. Returns
    /// whether they agree.
    pub fn note(&mut self, field: Field, value: &str, trust: Trust) -> bool {
        let value = text(value);
        match self.facts.binary_search_by_key(&field, |(field, _)| *field) {
            Err(at) => {
                self.facts.insert(at, (field, Fact { value, trust }));
                true
            }
            Ok(at) => {
                let fact = &mut self.facts[at].1;
                let agree = fact.value == value;
                if trust < fact.trust {
                    *fact = Fact { value, trust };
                }
                agree
            }
        }
    }

    /// Marks everything that the job could have set: some of it has been found to be wrong.
    pub fn dispute(&mut self) {
        for (_, fact) in self.facts.iter_mut().filter(|(_, fact)| fact.trust == Trust::JobControlled) {
            fact.trust = Trust::Conflicting;
        }
    }
}

impl Client {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(label, _)| (**label).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }
}

impl Kind {
    /// As APIs show it.
    pub fn label(self) -> &'static str {
        match self {
            Self::GitlabJob => "gitlab-job",
            Self::GithubRunner => "github-runner",
            Self::TektonTaskRun => "tekton-taskrun",
            Self::Pod => "pod",
            Self::Configured => "configured",
        }
    }
}

impl Trust {
    /// As APIs show it.
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
    /// As APIs show it.
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

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text cut to [`LONGEST_TEXT`] bytes, between characters.
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
