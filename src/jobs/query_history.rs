//! Questions that the jobs of each project ask, for the warm-up of the next job.
//!
//! For each project, the questions that were answered for most of its jobs are kept. Only deferred responses are
//! recorded: an answer that is in the cache anyway need not be remembered, and an answer of the warm-up is recorded
//! when a client uses it. Names that a search list produced have no answer, so they are not included.
//!
//! No job can read the history, not even that of its own project: it only determines the queries of the warm-up. A
//! project is recorded only if the job cannot have forged it.

use std::hash::BuildHasher;
use std::num::NonZeroUsize;

use foldhash::fast::FixedState;
use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::clients::Client;
use crate::clients::client::{ClientKind, Field};
use crate::wire::RrType;
use crate::wire::name::{DisplayName, Name};

/// Most projects kept; the one whose jobs have been idle longest is evicted.
pub(crate) const MOST_PROJECTS: usize = 256;
/// Most questions kept of one project; the one that the fewest jobs asked is evicted, the oldest in case of a tie.
pub(crate) const MOST_QUESTIONS: usize = 64;
/// Approximate size limit in bytes.
pub(crate) const MOST_BYTES: usize = 1 << 20;
/// Number of jobs after which all counts of their project are halved. Questions that are no longer asked are evicted
/// thus.
const HALVED_AFTER: u32 = 64;
/// Upper limit for a count that is loaded.
const MOST_JOBS: u32 = 2 * HALVED_AFTER;
/// Version of the file format.
const VERSION: u32 = 1;

/// Name in lower-case wire form, and query type.
pub(crate) type HistoryKey = (Box<[u8]>, RrType);

/// Questions of all projects.
#[derive(Debug)]
pub struct QueryHistory {
    projects: LruCache<Box<str>, Project>,
    bytes: usize,
    /// True if questions are recorded.
    on: bool,
    /// Number of questions recorded; loading does not count.
    changes: u64,
}

/// Questions of the jobs of one project.
#[derive(Debug, Default)]
struct Project {
    /// Ordered by time of the last query, oldest first.
    query_history: Vec<NameUse>,
    /// Number of jobs that asked anything since the counts were halved.
    jobs: u32,
    /// Hash of the UID of the last of these jobs.
    last: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NameUse {
    name: Box<[u8]>,
    qtype: RrType,
    /// Number of jobs that asked it.
    jobs: u32,
    /// Hash of the UID of the last of these jobs: repetitions by that job are not counted.
    last: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredHistory {
    version: u32,
    projects: Vec<StoredProject>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredProject {
    project: Box<str>,
    questions: Vec<(String, u16, u32)>,
}

/// Error from loading a serialized history.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The text is not in the expected format.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
    /// The format is that of another version of nodens.
    #[error("it has the form of version {0}, not {VERSION}")]
    Version(u32),
}

impl QueryHistory {
    /// Creates an empty history, which records nothing.
    pub fn new() -> Self {
        let most = NonZeroUsize::new(MOST_PROJECTS).unwrap_or(NonZeroUsize::MIN);
        Self { projects: LruCache::new(most), bytes: 0, on: false, changes: 0 }
    }

    /// Starts recording, or stops it and discards everything.
    pub fn learn(&mut self, on: bool) {
        if !on {
            *self = Self { changes: self.changes, ..Self::new() };
        }
        self.on = on;
    }

    /// Returns the number of questions recorded since the start.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Records that a client's question was answered, if the client is a job of a trusted project.
    pub fn note(&mut self, client: &Client, name: &[u8], qtype: RrType) {
        if !self.on {
            return;
        }
        let (Some(project), Some(uid)) = (project(client), &client.uid) else { return };
        self.add(project, name, qtype, 1, FixedState::default().hash_one(uid));
        self.changes += 1;
    }

    /// Returns the questions of the project of this client, those of most jobs first.
    pub fn of(&self, client: &Client) -> Vec<HistoryKey> {
        let query_history = project(client).and_then(|project| self.projects.peek(&project));
        let mut query_history: Vec<&NameUse> =
            query_history.into_iter().flat_map(|project| &project.query_history).collect();
        query_history.sort_by_key(|name_use| std::cmp::Reverse(name_use.jobs));
        query_history.into_iter().map(|name_use| (name_use.name.clone(), name_use.qtype)).collect()
    }

    /// Serializes the history as JSON.
    pub fn write(&self) -> String {
        let question =
            |name_use: &NameUse| (DisplayName(&name_use.name).to_string(), u16::from(name_use.qtype), name_use.jobs);
        // The most recently active project comes last, which makes it the newest after loading.
        let projects = self.projects.iter().rev().map(|(project, asked)| StoredProject {
            project: project.clone(),
            questions: asked.query_history.iter().map(question).collect(),
        });
        let written = StoredHistory { version: VERSION, projects: projects.collect() };
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// Loads a serialized history, within the bounds above. Returns the number of projects afterwards.
    ///
    /// # Errors
    /// The text is not the output of [`Self::write`]; nothing is added then.
    pub fn read(&mut self, text: &[u8]) -> Result<usize, LoadError> {
        let written: StoredHistory = serde_json::from_slice(text)?;
        if written.version != VERSION {
            return Err(LoadError::Version(written.version));
        }
        let projects = if self.on { written.projects } else { Vec::new() };
        for StoredProject { project, questions } in projects {
            for (name, qtype, jobs) in questions {
                if let Ok(name) = name.parse::<Name>() {
                    self.add(project.clone(), name.as_wire(), qtype.into(), jobs.clamp(1, MOST_JOBS), 0);
                }
            }
        }
        Ok(self.projects.len())
    }

    fn add(&mut self, key: Box<str>, name: &[u8], qtype: RrType, jobs: u32, last: u64) {
        if !self.projects.contains(&key) {
            let project = Project::default();
            self.bytes += project.weight(&key);
            if let Some((gone, project)) = self.projects.push(key.clone(), project) {
                self.bytes = self.bytes.saturating_sub(project.weight(&gone));
            }
        }
        let Some(project) = self.projects.get_mut(&key) else { return };
        let before = project.weight(&key);
        project.note(NameUse { name: name.into(), qtype, jobs, last });
        self.bytes = (self.bytes + project.weight(&key)).saturating_sub(before);
        while self.bytes > MOST_BYTES {
            let Some((gone, project)) = self.projects.pop_lru() else { break };
            self.bytes = self.bytes.saturating_sub(project.weight(&gone));
        }
    }
}

impl Default for QueryHistory {
    fn default() -> Self {
        Self::new()
    }
}

impl Project {
    /// Adds a question of one job.
    fn note(&mut self, new: NameUse) {
        if self.last != new.last {
            self.last = new.last;
            self.jobs += 1;
            if self.jobs >= HALVED_AFTER {
                self.jobs = 0;
                self.query_history.iter_mut().for_each(|name_use| name_use.jobs = (name_use.jobs / 2).max(1));
            }
        }
        let query_history = &mut self.query_history;
        let name_use = match query_history.iter().position(|old| old.qtype == new.qtype && old.name == new.name) {
            Some(at) => {
                let old = query_history.remove(at);
                let more = if old.last == new.last { 0 } else { new.jobs };
                NameUse { jobs: old.jobs.saturating_add(more), ..new }
            }
            None => {
                if query_history.len() >= MOST_QUESTIONS {
                    // The first of several minima is the oldest.
                    let least = query_history.iter().enumerate().min_by_key(|(_, name_use)| name_use.jobs);
                    least.map(|(at, _)| at).into_iter().for_each(|at| drop(query_history.remove(at)));
                }
                new
            }
        };
        query_history.push(name_use);
    }

    /// Returns the approximate size in bytes, with the key.
    fn weight(&self, key: &str) -> usize {
        let names: usize = self.query_history.iter().map(|name_use| size_of::<NameUse>() + name_use.name.len()).sum();
        // The constant accounts for the pointers of the list entry.
        size_of::<Self>() + key.len() + 64 + names
    }
}

/// Returns the key of the project of a pod, if the project is trusted. IDs are unique within one server only. The key
/// therefore contains the names where they are known.
fn project(client: &Client) -> Option<Box<str>> {
    let job = client.job.as_ref().filter(|_| client.kind != ClientKind::Configured)?;
    let [id, namespace, name] =
        [Field::ProjectId, Field::ProjectNamespace, Field::ProjectName].map(|field| job.trusted(field));
    id.or(namespace)?;
    let [id, namespace, name] = [id, namespace, name].map(Option::unwrap_or_default);
    Some(format!("{} {id} {namespace} {name}", client.kind).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::client::{Job, Trust};
    use crate::wire::rtype::{A, AAAA};

    fn job(project: &str, uid: &str, trust: Trust) -> Client {
        let mut job = Job::default();
        job.note(Field::ProjectId, project, trust);
        Client {
            kind: ClientKind::GitlabJob,
            name: uid.into(),
            namespace: Some("ci".into()),
            uid: Some(uid.into()),
            labels: Box::default(),
            more_labels: false,
            job: Some(job),
            memo: Default::default(),
            search: None,
        }
    }

    fn query_history() -> QueryHistory {
        let mut query_history = QueryHistory::new();
        query_history.learn(true);
        query_history
    }

    fn wire(name: &str) -> Box<[u8]> {
        name.parse::<Name>().expect(name).as_wire().into()
    }

    /// Returns the questions of the warm-up for a job of this project.
    fn names(query_history: &QueryHistory, project: &str) -> Vec<String> {
        let client = job(project, "next", Trust::Label);
        query_history
            .of(&client)
            .iter()
            .map(|(name, qtype)| format!("{} {}", DisplayName(name), u16::from(*qtype)))
            .collect()
    }

    #[test]
    fn names_rank_by_jobs_and_a_job_counts_once() {
        let mut query_history = query_history();
        for (uid, name) in
            [("1", "once.example"), ("1", "once.example"), ("1", "often.example"), ("2", "often.example")]
        {
            query_history.note(&job("7", uid, Trust::Label), &wire(name), A);
        }
        query_history.note(&job("7", "3", Trust::Label), &wire("often.example"), AAAA);
        assert_eq!(names(&query_history, "7"), ["often.example. 1", "once.example. 1", "often.example. 28"]);
        assert!(names(&query_history, "8").is_empty(), "another project");
        query_history.note(&job("8", "4", Trust::JobControlled), &wire("a.example"), A);
        query_history.note(&job("8", "4", Trust::Name), &wire("a.example"), A);
        let plain = Client { kind: ClientKind::Pod, job: None, ..job("8", "5", Trust::Label) };
        query_history.note(&plain, &wire("a.example"), A);
        assert!(names(&query_history, "8").is_empty(), "the job may have made it up");
        query_history.learn(false);
        query_history.note(&job("7", "6", Trust::Label), &wire("a.example"), A);
        assert!(names(&query_history, "7").is_empty(), "switched off");
    }

    #[test]
    fn one_greedy_job_evicts_no_common_name() {
        let mut query_history = query_history();
        for uid in ["1", "2"] {
            (0..40).for_each(|n| query_history.note(&job("7", uid, Trust::Label), &wire(&format!("n{n}.example")), A));
        }
        (0..1_000).for_each(|n| query_history.note(&job("7", "3", Trust::Label), &wire(&format!("x{n}.example")), A));
        let names = names(&query_history, "7");
        assert_eq!(names.len(), MOST_QUESTIONS);
        assert!(names[..40].iter().all(|name| name.starts_with('n')), "{names:?}");
        assert!(names.contains(&"x999.example. 1".to_owned()), "{names:?}");
        // Questions that are no longer asked are evicted.
        for uid in 0..500 {
            (0..70).for_each(|n| {
                query_history.note(&job("7", &format!("u{uid}"), Trust::Label), &wire(&format!("y{n}.example")), A)
            });
        }
        assert!(query_history.of(&job("7", "next", Trust::Label)).iter().all(|(name, _)| name[1] == b'y'));
    }

    #[test]
    fn all_of_it_is_bounded() {
        let mut query_history = query_history();
        for project in 0..2_000 {
            query_history.note(&job(&project.to_string(), "1", Trust::Label), &wire("a.example"), A);
        }
        assert_eq!(query_history.projects.len(), MOST_PROJECTS);
        assert_eq!(names(&query_history, "1999"), ["a.example. 1"]);
        let long = format!("{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63));
        for project in 0..200 {
            let client = job(&project.to_string(), "1", Trust::Label);
            (0..MOST_QUESTIONS).for_each(|n| query_history.note(&client, &wire(&format!("n{n}.{long}")), A));
            let true_weight: usize = query_history.projects.iter().map(|(key, project)| project.weight(key)).sum();
            assert_eq!(query_history.bytes, true_weight);
            assert!(query_history.bytes <= MOST_BYTES, "{}", query_history.bytes);
        }
        assert_eq!(names(&query_history, "199").len(), MOST_QUESTIONS);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut one = query_history();
        for (project, uid, name) in
            [("7", "1", r"a\.b\255\032c.example"), ("7", "1", "b.example"), ("7", "2", "b.example"), ("8", "3", ".")]
        {
            one.note(&job(project, uid, Trust::Label), &wire(name), A);
        }
        let mut other = query_history();
        assert_eq!(other.read(one.write().as_bytes()).map_err(|error| error.to_string()), Ok(2));
        for project in ["7", "8"] {
            assert_eq!(names(&other, project), names(&one, project));
        }
        assert_eq!(other.write(), one.write(), "in the same order");
        for text in ["", "{", "[]", r#"{"version":1}"#, r#"{"version":2,"projects":[]}"#] {
            assert!(other.read(text.as_bytes()).is_err(), "{text}");
        }
        // Invalid names are skipped, and counts are limited.
        let text = r#"{"version":1,"projects":[{"project":"p","questions":[["a..b",1,1],["c",1,4000000000]]}]}"#;
        assert!(other.read(text.as_bytes()).is_ok());
        assert!(other.write().contains(r#"[["c.",1,128]]"#), "{}", other.write());
    }
}
