//! Recognition of jobs and their facts from a pod's metadata, by the table of [`runner_kinds`](super::runner_kinds).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::client::{ClientKind, Job, Trust};
use super::runner_kinds::{Criterion, NamePart, RUNNERS, RunnerKind, UrlPart, ValueSource};

/// Metadata of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta<'m> {
    pub name: &'m str,
    pub namespace: &'m str,
    pub labels: &'m BTreeMap<String, String>,
    pub annotations: &'m BTreeMap<String, String>,
}

/// Most characters of a runner's token in a pod's name.
const LONGEST_TOKEN: usize = 9;
/// Characters of the random suffix of a pod's name.
const NAME_SUFFIX: usize = 8;

/// Identifies the kind of client that a pod is, and the facts about its job.
pub(crate) fn identify(pod: &Meta<'_>) -> (ClientKind, Option<Job>) {
    let is_of = |runner: &&RunnerKind| {
        runner.marks.iter().any(|mark| mark.is_on(pod)) && !runner.not.iter().any(|m| m.is_on(pod))
    };
    match RUNNERS.iter().find(is_of) {
        Some(runner) => (runner.kind, Some(job(runner, pod))),
        None => (ClientKind::Pod, None),
    }
}

fn job(runner: &RunnerKind, pod: &Meta<'_>) -> Job {
    let mut job = Job::default();
    let mut conflicts = false;
    for (field, source, trust) in runner.facts {
        if let Some(value) = source.find(pod).filter(|value| !value.is_empty()) {
            conflicts |= !job.note(*field, &value, *trust) && *trust == Trust::JobControlled;
        }
    }
    if conflicts {
        job.dispute();
    }
    job
}

impl Criterion {
    fn is_on(&self, pod: &Meta<'_>) -> bool {
        match self {
            Self::Label(key) => pod.labels.contains_key(*key),
            Self::LabelPrefix(prefix) => pod.labels.keys().any(|key| key.starts_with(prefix)),
            Self::LabelValue(key, value) => pod.labels.get(*key).is_some_and(|found| found == value),
            Self::NumberedNamespace(start) => number_behind(pod.namespace, start).is_some(),
            Self::GitlabName => gitlab_name(pod.name).is_some(),
            Self::LabelAndName(key, end) => pod.labels.contains_key(*key) && pod.name.ends_with(end),
        }
    }
}

impl ValueSource {
    fn find<'m>(&self, pod: &Meta<'m>) -> Option<Cow<'m, str>> {
        let value: &'m str = match self {
            Self::Label(key) => pod.labels.get(*key)?,
            Self::Annotation(key) => pod.annotations.get(*key)?,
            Self::Namespace => pod.namespace,
            Self::NamespaceNumber(start) => number_behind(pod.namespace, start)?,
            Self::Url(key, part) => {
                let (project, job) = gitlab_url(pod.annotations.get(*key)?)?;
                match part {
                    UrlPart::Project => project,
                    UrlPart::Job => job,
                }
            }
            Self::JenkinsUrl(key, part) => {
                let (project, job) = jenkins_url(pod.annotations.get(*key)?)?;
                match part {
                    UrlPart::Project => return Some(project.into()),
                    UrlPart::Job => job,
                }
            }
            Self::GitlabName(part) => {
                let (runner, project) = gitlab_name(pod.name)?;
                match part {
                    NamePart::Runner => runner,
                    NamePart::Project => project,
                }
            }
        };
        Some(value.into())
    }
}

fn number_behind<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    text.strip_prefix(start).filter(|rest| is_number(rest))
}

/// Returns project and job of `https://HOST/PROJECT/-/jobs/JOB`.
fn gitlab_url(url: &str) -> Option<(&str, &str)> {
    let (_, behind) = url.split_once("://")?;
    let (_, path) = behind.split_once('/')?;
    let (project, job) = path.split_once("/-/jobs/")?;
    is_number(job).then_some((project, job))
}

/// Returns project and build number of `job/FOLDER/job/PROJECT/NUMBER/`. There may be any number of folders. Names are escaped as
/// in the URL.
fn jenkins_url(url: &str) -> Option<(String, &str)> {
    let (path, number) = url.strip_suffix('/')?.rsplit_once('/')?;
    let project = path.strip_prefix("job/")?.replace("/job/", "/");
    is_number(number).then_some((project, number))
}

/// Returns token and project of `runner-TOKEN-project-PROJECT-concurrent-SLOT-SUFFIX`. A token may have hyphens.
fn gitlab_name(name: &str) -> Option<(&str, &str)> {
    let (rest, suffix) = name.strip_prefix("runner-")?.rsplit_once('-')?;
    let (rest, slot) = rest.rsplit_once("-concurrent-")?;
    let (token, project) = rest.rsplit_once("-project-")?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let good = suffix.len() == NAME_SUFFIX
        && plain(suffix)
        && (1..=LONGEST_TOKEN).contains(&token.len())
        && is_number(project)
        && is_number(slot);
    good.then_some((token, project))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::client::Field;
    use crate::clients::manifest::PodManifest;

    /// Returns the pod's kind, and its job's facts as `field=value (trust)`.
    fn told(metadata: &str) -> (ClientKind, Vec<String>) {
        let text = format!("{{\"metadata\": {metadata}}}");
        let manifest: PodManifest = serde_json::from_str(&text).expect("JSON");
        let client = manifest.pod().expect("whole").client;
        let fact = |(field, fact): (Field, &super::super::client::TrustedValue)| {
            format!("{}={} ({})", field.label(), fact.value, fact.trust.label())
        };
        (client.kind, client.job.iter().flat_map(|job| job.facts().map(fact)).collect())
    }

    const GITLAB_POD: &str = r#"{
        "name": "runner-t1_a9kq2-project-4711-concurrent-0-x7k2m9qa", "namespace": "ci", "uid": "u1",
        "labels": {
            "pod": "runner-t1-a9kq2-project-4711-concurrent-0",
            "job.runner.gitlab.com/pod": "runner-t1-a9kq2-project-4711-concurrent-0",
            "manager.runner.gitlab.com/id-short": "t1_a9kq2", "manager.runner.gitlab.com/name": "builders-eu",
            "project.runner.gitlab.com/id": "4711", "project.runner.gitlab.com/name": "shop",
            "project.runner.gitlab.com/namespace": "retail_web", "pipeline_id": "990"
        },
        "annotations": {
            "job.runner.gitlab.com/id": "8123", "job.runner.gitlab.com/name": "unit tests: [3/7]",
            "job.runner.gitlab.com/url": "https://git.example/retail/web/shop/-/jobs/8123",
            "job.runner.gitlab.com/ref": "main", "job.runner.gitlab.com/sha": "5f3c",
            "project.runner.gitlab.com/id": "PROJECT", "kubernetes.io/config.source": "api"
        }
    }"#;

    #[test]
    fn a_gitlab_job() {
        let (kind, facts) = told(&GITLAB_POD.replace("PROJECT", "4711"));
        assert_eq!(kind, ClientKind::GitlabJob);
        assert_eq!(
            facts,
            [
                "runner_id=t1_a9kq2 (label)",
                "runner_name=builders-eu (label)",
                "project_id=4711 (label)",
                "project_name=shop (label)",
                "project_namespace=retail_web (label)",
                "project_path=retail/web/shop (job_controlled)",
                "job_id=8123 (job_controlled)",
                "job_name=unit tests: [3/7] (job_controlled)",
                "job_url=https://git.example/retail/web/shop/-/jobs/8123 (job_controlled)",
                "pipeline=990 (job_controlled)",
                "ref=main (job_controlled)",
                "sha=5f3c (job_controlled)",
            ]
        );
    }

    #[test]
    fn annotations_that_contradict_a_label_or_each_other() {
        let (_, facts) = told(&GITLAB_POD.replace("PROJECT", "1"));
        assert!(facts.contains(&"project_id=4711 (label)".to_owned()), "{facts:?}");
        assert!(facts.contains(&"job_id=8123 (conflicting)".to_owned()), "{facts:?}");
        assert!(facts.contains(&"ref=main (conflicting)".to_owned()), "{facts:?}");
        let (_, facts) = told(&GITLAB_POD.replace("PROJECT", "4711").replace("/id\": \"8123\"", "/id\": \"8124\""));
        assert!(facts.contains(&"job_id=8124 (conflicting)".to_owned()), "its URL says otherwise: {facts:?}");
    }

    #[test]
    fn a_job_namespace_outranks_an_annotation() {
        let own = GITLAB_POD.replace("PROJECT", "4711").replace("\"ci\"", "\"ci-job-9000\"");
        let (_, facts) = told(&own);
        assert!(facts.contains(&"job_id=9000 (namespace)".to_owned()), "{facts:?}");
        assert!(facts.contains(&"ref=main (conflicting)".to_owned()), "{facts:?}");
        let (kind, facts) = told(r#"{"name": "build", "namespace": "ci-job-77", "uid": "u"}"#);
        assert_eq!((kind, facts), (ClientKind::GitlabJob, vec!["job_id=77 (namespace)".to_owned()]));
    }

    #[test]
    fn the_name_is_the_last_resort() {
        for (name, right) in [
            ("runner-abc-de12-project-7-concurrent-12-a1b2c3d4", Some(("abc-de12", "7"))),
            ("runner-x-project-1-project-7-concurrent-0-a1b2c3d4", None),
            ("runner-abcdefghij-project-7-concurrent-0-a1b2c3d4", None),
            ("runner-abc-project-7-concurrent-0-a1b2c3d", None),
            ("runner-abc-project-x-concurrent-0-a1b2c3d4", None),
            ("runner--project-7-concurrent-0-a1b2c3d4", None),
            ("gitlab-runner-6c9d7f-x2x9p", None),
        ] {
            assert_eq!(gitlab_name(name), right, "{name}");
        }
        let (kind, facts) =
            told(r#"{"name": "runner-abc-project-7-concurrent-0-a1b2c3d4", "namespace": "ci", "uid": "u"}"#);
        assert_eq!(kind, ClientKind::GitlabJob);
        assert_eq!(facts, ["runner_id=abc (name)", "project_id=7 (name)"]);
    }

    #[test]
    fn pods_beside_the_jobs_are_plain() {
        for (metadata, why) in [
            (r#"{"name": "web-5d", "namespace": "shop", "uid": "u", "labels": {"app": "web"}}"#, "any pod"),
            (
                r#"{"name": "runner-pause-1", "namespace": "ci", "uid": "u", "labels": {
                "runner.gitlab.com/pause-pod": "true", "job.runner.gitlab.com/pod": "x"}}"#,
                "a pause pod",
            ),
            (
                r#"{"name": "set-754b-listener", "namespace": "arc", "uid": "u", "labels": {
                "actions.github.com/scale-set-name": "set"}}"#,
                "a listener",
            ),
            (
                r#"{"name": "jenkins-0", "namespace": "jenkins", "uid": "u", "labels": {
                "app.kubernetes.io/component": "jenkins-controller", "jenkins": "controller"}}"#,
                "the controller of Jenkins",
            ),
            (r#"{"name": "x", "namespace": "ci-job-x", "uid": "u"}"#, "no number"),
            (
                r#"{"name": "x", "namespace": "n", "uid": "u", "annotations": {
                "job.runner.gitlab.com/id": "5"}}"#,
                "an annotation alone, which anybody may set",
            ),
        ] {
            assert_eq!(told(metadata), (ClientKind::Pod, Vec::new()), "{why}");
        }
    }

    #[test]
    fn github_runners_and_tekton_task_runs() {
        let (kind, facts) = told(
            r#"{"name": "linux-x64-k8ff2-runner-9vq7d", "namespace": "arc-runners", "uid": "u", "labels": {
            "actions.github.com/scale-set-name": "linux-x64", "actions.github.com/organization": "acme",
            "actions.github.com/repository": "shop", "app.kubernetes.io/component": "runner"}}"#,
        );
        assert_eq!(kind, ClientKind::GithubRunner);
        assert_eq!(
            facts,
            ["runner_id=linux-x64 (label)", "project_name=shop (label)", "project_namespace=acme (label)"]
        );
        let (kind, facts) = told(
            r#"{"name": "linux-x64-k8ff2-runner-9vq7d-workflow", "namespace": "arc-runners", "uid": "u",
            "labels": {"runner-pod": "linux-x64-k8ff2-runner-9vq7d"}}"#,
        );
        assert_eq!(kind, ClientKind::GithubRunner);
        assert_eq!(facts, ["runner_name=linux-x64-k8ff2-runner-9vq7d (job_controlled)"]);
        let (kind, facts) = told(
            r#"{"name": "build-shop-run-7-pod", "namespace": "shop", "uid": "u", "labels": {
            "tekton.dev/taskRun": "build-shop-run-7", "tekton.dev/taskRunUID": "9b1e", "tekton.dev/task": "build",
            "tekton.dev/pipelineRun": "shop-run", "app.kubernetes.io/managed-by": "tekton-pipelines"}}"#,
        );
        assert_eq!(kind, ClientKind::TektonTaskRun);
        let right = [
            "project_namespace=shop (namespace)",
            "job_id=9b1e (label)",
            "job_name=build-shop-run-7 (label)",
            "pipeline=shop-run (label)",
        ];
        assert_eq!(facts, right);
    }

    #[test]
    fn runners_of_the_older_github_controller() {
        for label in ["runner-deployment-name", "runnerset-name"] {
            let metadata =
                format!(r#"{{"name": "linux-1", "namespace": "ci", "uid": "u", "labels": {{"{label}": "linux"}}}}"#);
            let (kind, facts) = told(&metadata);
            assert_eq!(kind, ClientKind::GithubRunner, "{label}");
            assert_eq!(facts, ["runner_id=linux (label)"], "{label}");
        }
    }

    #[test]
    fn jenkins_agents() {
        let (kind, facts) = told(
            r#"{"name": "shop-main-18-htk2p-f93p6-zqdt3", "namespace": "jenkins-agents", "uid": "u", "labels": {
            "jenkins/jenkins-jenkins-agent": "true", "jenkins/label": "shop_main_18-htk2p",
            "kubernetes.jenkins.io/controller": "http___jenkins_jenkins_svc_8080x"},
            "annotations": {"buildUrl": "http://jenkins.jenkins.svc:8080/job/web%20team/job/shop/job/main/18/",
            "runUrl": "job/web%20team/job/shop/job/main/18/"}}"#,
        );
        assert_eq!(kind, ClientKind::JenkinsAgent);
        let right = [
            "project_path=web%20team/shop/main (job_controlled)",
            "job_id=18 (job_controlled)",
            "job_url=http://jenkins.jenkins.svc:8080/job/web%20team/job/shop/job/main/18/ (job_controlled)",
        ];
        assert_eq!(facts, right);
        for label in [
            r#""jenkins": "slave""#,
            r#""jenkins/label": "maven""#,
            r#""jenkins/ci-jenkins-agent": "true""#,
            r#""kubernetes.jenkins.io/controller": "x""#,
        ] {
            let metadata = format!(r#"{{"name": "maven-1", "namespace": "ci", "uid": "u", "labels": {{{label}}}}}"#);
            assert_eq!(told(&metadata), (ClientKind::JenkinsAgent, Vec::new()), "{label}");
        }
    }

    #[test]
    fn urls_of_jenkins_builds() {
        for (url, right) in [
            ("job/shop/7/", Some(("shop", "7"))),
            ("job/web/job/shop/job/feature%252Fcart/12/", Some(("web/shop/feature%252Fcart", "12"))),
            ("job/job/job/shop/3/", Some(("job/shop", "3"))),
            ("job/shop/lastBuild/", None),
            ("job/shop/7", None),
            ("job/7/", None),
            ("view/all/job/shop/7/", None),
            ("", None),
        ] {
            let found = jenkins_url(url);
            assert_eq!(found.as_ref().map(|(project, number)| (project.as_str(), *number)), right, "{url}");
        }
    }
}
