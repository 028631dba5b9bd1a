//! Removal of the startup taint from this node, once nodens serves there.
//!
//! A node that registers with the taint [`TAINT`] gets no job before it has a resolver. Without the taint, or without permission to
//! read the node, nothing happens: the permission is a part of `deploy/kustomize/components/startup-taint`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::api::{Api, ApiConnection, ApiError};
use super::manifest::ApiStatus;
use super::watch::jittered;
use crate::config::Kubernetes;

/// Key of the taint.
pub(crate) const TAINT: &str = "nodens.io/not-ready";
/// Timeout of all requests of one attempt.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most patches of one attempt: two effects, and some conflicts with other changes of the node.
const MOST_PATCHES: usize = 8;
/// First wait after a failed attempt, which doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait after a failure, and where nodens may not read its node.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT_FORBIDDEN: Duration = Duration::from_secs(600);

/// The part of a node's manifest that is needed.
#[derive(Deserialize)]
struct NodeManifest {
    spec: Option<NodeSpec>,
}

#[derive(Deserialize)]
struct NodeSpec {
    taints: Option<Vec<Taint>>,
}

#[derive(Deserialize)]
struct Taint {
    key: String,
}

/// Result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Removed,
    /// The node is without the taint.
    Absent,
    /// nodens may not read its node, as in most clusters.
    Forbidden,
}

/// Removes the taint from this node; returns when the node is without it. Continues after failures.
pub(crate) async fn remove(settings: &Kubernetes, node: &str) {
    let (path, mut wait, mut is_told) = (format!("/api/v1/nodes/{node}"), FIRST_WAIT, false);
    loop {
        let attempt = timeout(TIMEOUT, remove_once(settings, &path)).await.unwrap_or_else(|late| Err(late.into()));
        let longest = match attempt {
            Ok(Outcome::Removed) => return tracing::info!(node, taint = TAINT, "startup taint removed"),
            Ok(Outcome::Absent) => return,
            Ok(Outcome::Forbidden) => LONGEST_WAIT_FORBIDDEN,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(node, %error, "cannot remove the startup taint; retrying");
                }
                LONGEST_WAIT
            }
        };
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(longest);
    }
}

/// Removes the taint with each of its effects.
async fn remove_once(settings: &Kubernetes, path: &str) -> Result<Outcome, ApiError> {
    let mut connection = Api::new(settings, |name| std::env::var(name).ok())?.connect().await?;
    let mut outcome = Outcome::Absent;
    for _ in 0..MOST_PATCHES {
        let place = match find(&mut connection, path).await {
            Ok(Some(place)) => place,
            Ok(None) => return Ok(outcome),
            Err(ApiError::Refused(ApiStatus { code: 403, .. })) => return Ok(Outcome::Forbidden),
            Err(error) => return Err(error),
        };
        // The list has no keys, so another change may have moved the taint: then the test fails, and so does the patch.
        let taint = format!("/spec/taints/{place}");
        let patch = json!([
            { "op": "test", "path": format!("{taint}/key"), "value": TAINT },
            { "op": "remove", "path": taint },
        ]);
        match connection.patch(path, &patch).await {
            Ok(()) => outcome = Outcome::Removed,
            Err(ApiError::Refused(ApiStatus { code: 409 | 422, .. })) => tokio::time::sleep(jittered(FIRST_WAIT)).await,
            Err(error) => return Err(error),
        }
    }
    let message = format!("the taint is still there after {MOST_PATCHES} patches");
    Err(ApiError::Refused(ApiStatus { code: 409, message }))
}

/// Returns the place of the taint among the node's taints.
async fn find(connection: &mut ApiConnection, path: &str) -> Result<Option<usize>, ApiError> {
    let node: NodeManifest = connection.get(path, &[]).await?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    Ok(taints.iter().position(|taint| taint.key == TAINT))
}
