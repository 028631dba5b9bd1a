//! The pods of this node from the Kubernetes API: listed once, then watched, and listed again if the watch was lost for too
//! long to continue. Queries never wait for the watch.
//!
//! ```text
//! list ──► watch ──► event, event, bookmark ... ──► closed, failed or silent ──► wait ──► resume the watch
//!   ▲                                                                                      │
//!   └──────────────────────────────── 410: version gone ◄──────────────────────────────────┘
//! ```
//!
//! The first list may be served from the API server's memory, which costs it little even with thousands of pods. It may be a moment
//! old; the watch then starts at that moment. After a version that is gone, the list is read from its store.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::api::{Api, ApiConnection, ApiError, WatchStream};
use super::manifest::{ApiStatus, PodList, PodManifest, WatchEvent, version};
use super::pods::{Pod, PodEvent, Pods};
use super::{Client, Clients};
use crate::config::Kubernetes;
use crate::epoch::Epoch;
use crate::metrics::Metrics;
use crate::task::boxed_local;
use crate::wire::name::Name;

/// First and longest wait after a failure; each wait is twice the previous one. The actual wait is random, between half and
/// all of it, to spread the reconnections of a cluster's nodes.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Longest wait after a refusal (401, 403), which ends when somebody changes the permissions: a cheap request.
const AFTER_REFUSAL: Duration = Duration::from_secs(8);
/// Least duration of a list and watch that resets the wait to the first one.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// Timeout of connecting, of one page of a list, and of starting a watch.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// Most pods of one page.
const PAGE: &str = "500";
/// Duration of a watch that the server is asked for, in seconds.
const WATCH_SECONDS: &str = "290";
/// Code of a `ApiStatus` for a version that is too old (410 Gone).
const GONE: u16 = 410;
/// Timeout between two events of a watch; the server sends a bookmark every minute.
const LONGEST_SILENCE: Duration = Duration::from_secs(150);
/// Interval between removals of pods that have ended.
const TIDY: Duration = Duration::from_secs(10);

/// A watch is configured, but the node's name is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kubernetes.watch needs the name of this node: set `node` under [kubernetes], or NODE_NAME in the environment")]
pub(crate) struct NodeNameMissing;

/// Reason for the end of a watch.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    /// Closed by the server, which happens every few minutes.
    #[error("closed by the server")]
    Closed,
    /// The requested version is too old.
    #[error("the version asked for is too old")]
    Gone,
    /// No event within the timeout.
    #[error("silent for too long")]
    Silent,
    #[error("{0}")]
    Failed(#[from] ApiError),
}

/// Callback for a job's pod that has just been bound to the node, with its predicted hosts.
pub(crate) type OnStart = Box<dyn Fn(&Arc<Client>, &[Name])>;

/// State that the watches keep current, and their callback.
pub(crate) struct Observed {
    /// The table of pods.
    pub clients: Arc<Clients>,
    /// Origin of all times.
    pub epoch: Epoch,
    /// Metrics of the watches.
    pub metrics: Arc<Metrics>,
    /// Callback for jobs that are about to start.
    pub on_start: OnStart,
}

/// Where the API server reads a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListSource {
    Memory,
    Store,
}

/// What a watch begins with.
enum ListOrVersion {
    List(ListSource),
    Version(String),
}

/// State shared by all watches.
struct WatchState {
    observed: Observed,
    pods: RefCell<Pods>,
    connected: RefCell<Vec<bool>>,
    complained: Cell<bool>,
}

struct PodWatch {
    state: Rc<WatchState>,
    api: Rc<Api>,
    scope: usize,
    path: String,
    fields: String,
}

/// Returns the node whose pods are to be watched; `None` if the watch is disabled. `variable` reads the environment.
///
/// # Errors
/// The configuration enables the watch, but neither it nor the environment names the node.
pub(crate) fn node(
    settings: &Kubernetes,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, NodeNameMissing> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let node = settings.node.clone().or_else(|| set("NODE_NAME"));
    match settings.watch {
        Some(false) => Ok(None),
        Some(true) => node.map(Some).ok_or(NodeNameMissing),
        None => Ok(node.filter(|_| set("KUBERNETES_SERVICE_HOST").is_some())),
    }
}

/// Keeps the table of clients current from the pods of `node` in the namespaces of the settings, or in all namespaces if
/// there are none. Never returns.
pub(crate) async fn keep_current(observed: Observed, node: String, settings: Kubernetes) {
    observed.metrics.watch.heard_at(observed.epoch.now());
    let namespaces = settings.namespaces.as_slice();
    let mut wait = AFTER_FAILURE.0;
    let api = loop {
        match Api::new(&settings, |name| std::env::var(name).ok()) {
            Ok(api) => break Rc::new(api),
            Err(error) => tracing::warn!(%error, "cannot reach the Kubernetes API; retrying"),
        }
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(AFTER_FAILURE.1);
    };
    let paths: Vec<String> = match namespaces {
        [] => vec!["/api/v1/pods".to_owned()],
        some => some.iter().map(|namespace| format!("/api/v1/namespaces/{namespace}/pods")).collect(),
    };
    tracing::info!(%node, namespaces = namespaces.join(" "), "watching pods of this node");
    let state = Rc::new(WatchState {
        observed,
        pods: RefCell::new(Pods::new(paths.len(), !namespaces.is_empty())),
        connected: RefCell::new(vec![false; paths.len()]),
        complained: Cell::new(false),
    });
    // Dropping the set ends the watches.
    let mut watches = JoinSet::new();
    for (scope, path) in paths.into_iter().enumerate() {
        let (state, api, fields) = (Rc::clone(&state), Rc::clone(&api), format!("spec.nodeName={node}"));
        watches.spawn_local(boxed_local(PodWatch { state, api, scope, path, fields }.follow()));
    }
    loop {
        tokio::time::sleep(TIDY).await;
        if state.pods.borrow_mut().forget(state.observed.epoch.now()) {
            state.publish();
        }
    }
}

impl PodWatch {
    /// Lists and watches in a loop.
    async fn follow(self) {
        let mut wait = AFTER_FAILURE.0;
        let mut at = ListOrVersion::List(ListSource::Memory);
        loop {
            let began = Instant::now();
            let lost = match self.once(&mut at).await {
                Ok(lost) => lost,
                Err(error) => WatchError::of(error),
            };
            self.state.lost(self.scope, &lost);
            if began.elapsed() >= GOOD_AFTER {
                wait = AFTER_FAILURE.0;
            }
            if let WatchError::Gone = lost {
                at = ListOrVersion::List(ListSource::Store);
            }
            tokio::time::sleep(jittered(wait)).await;
            let longest = if lost.is_refusal() { AFTER_REFUSAL } else { AFTER_FAILURE.1 };
            wait = (wait * 2).min(longest);
        }
    }

    /// Watches from the version `at`, or lists first, until the watch ends. Updates `at` with each event.
    async fn once(&self, at: &mut ListOrVersion) -> Result<WatchError, ApiError> {
        let Ok(connection) = timeout(LIST_TIMEOUT, self.api.connect()).await else { return Ok(WatchError::Silent) };
        let mut connection = connection?;
        if let ListOrVersion::List(source) = at {
            *at = ListOrVersion::Version(self.list(&mut connection, *source).await?);
        }
        let ListOrVersion::Version(known) = at else { return Ok(WatchError::Closed) };
        let Ok(events) = timeout(LIST_TIMEOUT, self.events(connection, known)).await else {
            return Ok(WatchError::Silent);
        };
        let mut events = events?;
        self.state.connected(self.scope);
        loop {
            let Ok(event) = timeout(LONGEST_SILENCE, events.next()).await else { return Ok(WatchError::Silent) };
            let Some(event) = event? else { return Ok(WatchError::Closed) };
            match event {
                WatchEvent::Added(pod) => self.seen("added", pod, known, PodEvent::Seen),
                WatchEvent::Modified(pod) => self.seen("modified", pod, known, PodEvent::Seen),
                WatchEvent::Deleted(pod) => self.seen("deleted", pod, known, PodEvent::Gone),
                WatchEvent::Bookmark(bookmark) => {
                    bookmark.version().clone_into(known);
                    self.state.heard("bookmark");
                }
                WatchEvent::Error(status) => return Err(ApiError::Refused(status)),
            }
        }
    }

    async fn events(&self, connection: ApiConnection, from: &str) -> Result<WatchStream, ApiError> {
        let query = [
            ("watch", "true"),
            ("fieldSelector", &self.fields),
            ("timeoutSeconds", WATCH_SECONDS),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", from),
        ];
        connection.watch(&self.path, &query).await
    }

    fn seen(&self, kind: &str, pod: PodManifest, known: &mut String, event: impl Fn(Pod) -> PodEvent) {
        pod.version().clone_into(known);
        self.state.heard(kind);
        if let Some(pod) = self.state.pod(pod) {
            self.state.apply(self.scope, event(pod));
        }
    }

    /// Lists all pods, page by page. Returns the version of the list.
    async fn list(&self, connection: &mut ApiConnection, source: ListSource) -> Result<String, ApiError> {
        let (mut pods, mut next) = (Vec::new(), String::new());
        loop {
            let mut query = vec![("fieldSelector", self.fields.as_str()), ("limit", PAGE)];
            match source {
                _ if !next.is_empty() => query.push(("continue", &next)),
                ListSource::Memory => query.push(("resourceVersion", "0")),
                ListSource::Store => {}
            }
            let page: PodList = timeout(LIST_TIMEOUT, connection.get(&self.path, &query)).await??;
            pods.extend(page.items.into_iter().filter_map(|pod| self.state.pod(pod)));
            if page.metadata.next.is_empty() {
                self.state.heard("listed");
                let at = page.metadata.resource_version;
                self.state.apply(self.scope, PodEvent::Listed(pods, version(&at)));
                return Ok(at);
            }
            next = page.metadata.next;
        }
    }
}

impl WatchState {
    /// Converts a manifest. If the pod is a job that has just been bound to this node, starts the warm-up.
    fn pod(&self, manifest: PodManifest) -> Option<Pod> {
        let hosts = manifest.likely_hosts();
        let pod = manifest.pod()?;
        let starts = pod.addresses.is_empty() && !pod.ended && !pod.deleting && !pod.host_network;
        if starts && pod.client.job.is_some() && !self.pods.borrow().knows(&pod.uid) {
            (self.observed.on_start)(&pod.client, &hosts);
        }
        Some(pod)
    }

    fn apply(&self, scope: usize, event: PodEvent) {
        self.pods.borrow_mut().apply(scope, event, self.observed.epoch.now());
        self.publish();
    }

    fn publish(&self) {
        let pods = self.pods.borrow();
        self.observed.clients.put_pods(pods.table());
        let metrics = &self.observed.metrics.watch;
        metrics.pods.set(i64::try_from(pods.live()).unwrap_or(i64::MAX));
        metrics.ignored.inc_by(pods.ignored().saturating_sub(metrics.ignored.get()));
    }

    fn heard(&self, kind: &str) {
        let metrics = &self.observed.metrics.watch;
        metrics.events.with_label_values(&[kind]).inc();
        metrics.heard_at(self.observed.epoch.now());
    }

    fn connected(&self, scope: usize) {
        self.observed.metrics.watch.heard_at(self.observed.epoch.now());
        self.apply(scope, PodEvent::Resumed);
        self.set_connected(scope, true);
        if self.complained.take() {
            tracing::info!("Kubernetes watch re-established");
        }
    }

    fn lost(&self, scope: usize, lost: &WatchError) {
        self.observed.metrics.watch.restarts.with_label_values(&[lost.label()]).inc();
        self.apply(scope, PodEvent::Lost);
        self.set_connected(scope, false);
        // The server closes a watch every few minutes, which is not logged; a failure is logged once until the watch is back.
        if let WatchError::Failed(_) | WatchError::Silent = lost
            && !self.complained.replace(true)
        {
            tracing::warn!(reason = %lost, hint = lost.hint(), "Kubernetes watch lost; clients are unknown until it is re-established");
        }
    }

    fn set_connected(&self, scope: usize, connected: bool) {
        let mut all = self.connected.borrow_mut();
        if let Some(one) = all.get_mut(scope) {
            *one = connected;
        }
        self.observed.metrics.watch.connected.set(i64::from(all.iter().all(|connected| *connected)));
    }
}

impl WatchError {
    fn of(error: ApiError) -> Self {
        match error {
            ApiError::Refused(ApiStatus { code: GONE, .. }) => Self::Gone,
            ApiError::Late(_) => Self::Silent,
            error => Self::Failed(error),
        }
    }

    /// Returns the label in metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Failed(_) => "failed",
        }
    }

    /// Reports whether the API server refuses the request for lack of permission.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Failed(ApiError::Refused(ApiStatus { code: 401 | 403, .. })))
    }

    /// Returns the log's hint for a remedy.
    fn hint(&self) -> &'static str {
        match self {
            Self::Failed(ApiError::Refused(ApiStatus { code: 403, .. })) => {
                "its service account needs a role with list and watch on pods"
            }
            Self::Failed(ApiError::Refused(ApiStatus { code: 401, .. })) => "its token is not accepted",
            _ => "",
        }
    }
}

/// Returns a random duration between half of `wait` and `wait`.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watched_is_where_there_is_a_cluster_or_a_wish() {
        let settings =
            |watch, node: Option<&str>| Kubernetes { watch, node: node.map(str::to_owned), ..Kubernetes::default() };
        let cluster = ("KUBERNETES_SERVICE_HOST", "10.96.0.1");
        let named = ("NODE_NAME", "from-environment");
        for (watch, configured, environment, right) in [
            (None, None, &[][..], Ok(None)),
            (None, None, &[cluster], Ok(None)),
            (None, None, &[named], Ok(None)),
            (None, None, &[cluster, named], Ok(Some("from-environment"))),
            (None, None, &[cluster, ("NODE_NAME", "")], Ok(None)),
            (None, Some("own"), &[cluster, named], Ok(Some("own"))),
            (Some(false), Some("own"), &[cluster, named], Ok(None)),
            (Some(true), None, &[named], Ok(Some("from-environment"))),
            (Some(true), None, &[cluster], Err(NodeNameMissing)),
        ] {
            let variable = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, v)| v.to_string());
            let node = node(&settings(watch, configured), variable);
            assert_eq!(node.as_ref().map(Option::as_deref), right.as_ref().copied(), "{watch:?} {environment:?}");
        }
    }

    #[test]
    fn waits_differ() {
        let wait = Duration::from_secs(8);
        let drawn: Vec<_> = (0..100).map(|_| jittered(wait)).collect();
        assert!(drawn.iter().all(|drawn| (wait / 2..=wait).contains(drawn)));
        assert!(drawn.iter().any(|other| *other != drawn[0]));
    }
}
