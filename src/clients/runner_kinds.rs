//! The CI runners that nodens knows: how their pods are recognized, and where the facts about a job are found.
//!
//! To add a CI runner, add one `RunnerKind` to `RUNNERS`: the marks of its pods, and the sources of each [`Field`] with their
//! trust. A pod without a mark is a plain pod.
//!
//! GitLab Runner lets neither its configuration nor a job set a label whose domain is `runner.gitlab.com` or below it: these
//! labels are the reference for all other facts. A job can overwrite annotations under this domain
//! (`KUBERNETES_POD_ANNOTATIONS_*`, if `pod_annotations_overwrite_allowed` matches): they are [`Trust::JobControlled`].
//! If one of them contradicts another source, all of them are [`Trust::Conflicting`].

use super::client::{ClientKind, Field, Trust};

/// A system that runs jobs in pods.
pub(super) struct RunnerKind {
    pub(super) kind: ClientKind,
    /// Marks of a job's pod; one is enough.
    pub(super) marks: &'static [Criterion],
    /// Marks of the runner's other pods, which a job's pod never has.
    pub(super) not: &'static [Criterion],
    /// Sources of the facts, with the most trusted source of a field first.
    pub(super) facts: &'static [(Field, ValueSource, Trust)],
}

/// A criterion that recognizes a pod.
pub(super) enum Criterion {
    /// A label with this key.
    Label(&'static str),
    /// A label whose key begins with this prefix.
    LabelPrefix(&'static str),
    /// A label with this key and this value.
    LabelValue(&'static str, &'static str),
    /// A namespace that consists of this prefix and a number.
    NumberedNamespace(&'static str),
    /// A name of the form that GitLab Runner gives to its pods.
    GitlabName,
    /// A label with the first key, on a pod whose name has the second text as its suffix.
    LabelAndName(&'static str, &'static str),
}

/// Source of a value.
pub(super) enum ValueSource {
    /// The value of a label.
    Label(&'static str),
    /// The value of an annotation.
    Annotation(&'static str),
    Namespace,
    /// The number after this prefix of the namespace.
    NamespaceNumber(&'static str),
    /// A part of GitLab's job URL in this annotation: `https://HOST/PROJECT/-/jobs/JOB`.
    Url(&'static str, UrlPart),
    /// A part of the relative URL of a Jenkins build in this annotation: `job/FOLDER/job/PROJECT/NUMBER/`.
    JenkinsUrl(&'static str, UrlPart),
    /// A part of the name that GitLab Runner gives to its pods.
    GitlabName(NamePart),
}

#[derive(Clone, Copy)]
pub(super) enum UrlPart {
    Project,
    Job,
}

#[derive(Clone, Copy)]
pub(super) enum NamePart {
    Runner,
    Project,
}

pub(super) const RUNNERS: &[RunnerKind] = &[GITLAB, GITHUB, TEKTON, JENKINS];

/// GitLab Runner's Kubernetes executor. Its pause pods only reserve capacity on a node.
const GITLAB: RunnerKind = RunnerKind {
    kind: ClientKind::GitlabJob,
    marks: &[
        Criterion::Label("job.runner.gitlab.com/pod"),
        Criterion::Label("project.runner.gitlab.com/id"),
        Criterion::NumberedNamespace(CI_JOB),
        Criterion::GitlabName,
    ],
    not: &[Criterion::Label("runner.gitlab.com/pause-pod")],
    facts: &[
        (Field::JobId, ValueSource::NamespaceNumber(CI_JOB), Trust::Namespace),
        (Field::RunnerId, ValueSource::Label("manager.runner.gitlab.com/id-short"), Trust::Label),
        (Field::RunnerName, ValueSource::Label("manager.runner.gitlab.com/name"), Trust::Label),
        (Field::ProjectId, ValueSource::Label("project.runner.gitlab.com/id"), Trust::Label),
        (Field::ProjectName, ValueSource::Label("project.runner.gitlab.com/name"), Trust::Label),
        (Field::ProjectNamespace, ValueSource::Label("project.runner.gitlab.com/namespace"), Trust::Label),
        (Field::ProjectId, ValueSource::Annotation("project.runner.gitlab.com/id"), Trust::JobControlled),
        (Field::JobId, ValueSource::Annotation("job.runner.gitlab.com/id"), Trust::JobControlled),
        (Field::JobUrl, ValueSource::Annotation(JOB_URL), Trust::JobControlled),
        (Field::JobId, ValueSource::Url(JOB_URL, UrlPart::Job), Trust::JobControlled),
        (Field::ProjectPath, ValueSource::Url(JOB_URL, UrlPart::Project), Trust::JobControlled),
        (Field::JobName, ValueSource::Annotation("job.runner.gitlab.com/name"), Trust::JobControlled),
        (Field::Ref, ValueSource::Annotation("job.runner.gitlab.com/ref"), Trust::JobControlled),
        (Field::Sha, ValueSource::Annotation("job.runner.gitlab.com/sha"), Trust::JobControlled),
        // The runner sets neither; operators add these labels with `pod_labels`.
        (Field::Pipeline, ValueSource::Label("pipeline_id"), Trust::JobControlled),
        (Field::User, ValueSource::Label("user_login"), Trust::JobControlled),
        (Field::RunnerId, ValueSource::GitlabName(NamePart::Runner), Trust::Name),
        (Field::ProjectId, ValueSource::GitlabName(NamePart::Project), Trust::Name),
    ],
};

/// GitHub's Actions Runner Controller: runner pods of a scale set, and the pods that a runner's container hooks create
/// for a job. Its predecessor: runner pods of a RunnerDeployment or RunnerSet. The pods do not identify the job.
const GITHUB: RunnerKind = RunnerKind {
    kind: ClientKind::GithubRunner,
    marks: &[
        Criterion::Label("actions.github.com/scale-set-name"),
        Criterion::Label("runner-deployment-name"),
        Criterion::Label("runnerset-name"),
        Criterion::LabelAndName("runner-pod", "-workflow"),
    ],
    // The listener waits for jobs and runs none.
    not: &[Criterion::LabelAndName("actions.github.com/scale-set-name", "-listener")],
    facts: &[
        (Field::RunnerId, ValueSource::Label("actions.github.com/scale-set-name"), Trust::Label),
        (Field::RunnerId, ValueSource::Label("runner-deployment-name"), Trust::Label),
        (Field::RunnerId, ValueSource::Label("runnerset-name"), Trust::Label),
        (Field::ProjectNamespace, ValueSource::Label("actions.github.com/organization"), Trust::Label),
        (Field::ProjectName, ValueSource::Label("actions.github.com/repository"), Trust::Label),
        (Field::RunnerName, ValueSource::Label("runner-pod"), Trust::JobControlled),
    ],
};

/// Tekton: one pod for each TaskRun. The namespace is the project.
const TEKTON: RunnerKind = RunnerKind {
    kind: ClientKind::TektonTaskRun,
    marks: &[Criterion::Label("tekton.dev/taskRun")],
    not: &[],
    facts: &[
        (Field::ProjectNamespace, ValueSource::Namespace, Trust::Namespace),
        (Field::JobId, ValueSource::Label("tekton.dev/taskRunUID"), Trust::Label),
        (Field::JobName, ValueSource::Label("tekton.dev/taskRun"), Trust::Label),
        (Field::Pipeline, ValueSource::Label("tekton.dev/pipelineRun"), Trust::Label),
    ],
};

/// Jenkins's Kubernetes plugin: one pod for each agent. The plugin annotates agents of pipelines with their build. A Jenkinsfile
/// can contain the manifest of its pod, so its author can set every label and annotation.
const JENKINS: RunnerKind = RunnerKind {
    kind: ClientKind::JenkinsAgent,
    marks: &[
        Criterion::Label("kubernetes.jenkins.io/controller"),
        Criterion::LabelPrefix("jenkins/"),
        Criterion::LabelValue("jenkins", "slave"),
    ],
    not: &[],
    facts: &[
        (Field::ProjectPath, ValueSource::JenkinsUrl("runUrl", UrlPart::Project), Trust::JobControlled),
        (Field::JobId, ValueSource::JenkinsUrl("runUrl", UrlPart::Job), Trust::JobControlled),
        (Field::JobUrl, ValueSource::Annotation("buildUrl"), Trust::JobControlled),
    ],
};

/// Prefix of the namespaces that GitLab Runner creates with `namespace_per_job`.
const CI_JOB: &str = "ci-job-";
/// Annotation with the job's URL.
pub(super) const JOB_URL: &str = "job.runner.gitlab.com/url";
