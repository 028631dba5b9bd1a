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
/// First wait after a failed attempt, which doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait after a failure, and after a refusal: in most clusters nodens may not read its node.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT_REFUSED: Duration = Duration::from_secs(600);

/// The part of a node's manifest that is needed.
#[derive(Default, Deserialize)]
struct NodeManifest {
    #[serde(default)]
    spec: NodeSpec,
}

#[derive(Default, Deserialize)]
struct NodeSpec {
    #[serde(default)]
    taints: Vec<Taint>,
}

#[derive(Deserialize)]
struct Taint {
    key: String,
}

/// Removes the taint from this node; returns when the node is without it. Continues after failures.
pub(crate) async fn remove(settings: &Kubernetes, node: &str) {
    let (path, mut wait, mut is_told) = (format!("/api/v1/nodes/{node}"), FIRST_WAIT, false);
    loop {
        let attempt = timeout(TIMEOUT, remove_once(settings, &path)).await.unwrap_or_else(|late| Err(late.into()));
        let error = match attempt {
            Ok(true) => return tracing::info!(node, taint = TAINT, "startup taint removed"),
            Ok(false) => return,
            Err(error) => error,
        };
        let longest = match &error {
            ApiError::Refused(ApiStatus { code: 401 | 403 | 404, .. }) => LONGEST_WAIT_REFUSED,
            _ => LONGEST_WAIT,
        };
        if longest == LONGEST_WAIT && !std::mem::replace(&mut is_told, true) {
            tracing::warn!(node, %error, "cannot look for the startup taint; retrying");
        }
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(longest);
    }
}

/// Removes the taint with each of its effects; returns whether it was there.
async fn remove_once(settings: &Kubernetes, path: &str) -> Result<bool, ApiError> {
    let mut connection = Api::new(settings, |name| std::env::var(name).ok())?.connect().await?;
    let mut was_there = false;
    while let Some(place) = find(&mut connection, path).await? {
        // The list has no keys, so another change may have moved the taint: then the test fails, and so does the patch.
        let taint = format!("/spec/taints/{place}");
        let patch = json!([
            { "op": "test", "path": format!("{taint}/key"), "value": TAINT },
            { "op": "remove", "path": taint },
        ]);
        match connection.patch(path, &patch).await {
            Ok(()) => was_there = true,
            Err(ApiError::Refused(ApiStatus { code: 409 | 422, .. })) => tokio::time::sleep(jittered(FIRST_WAIT)).await,
            Err(error) => return Err(error),
        }
    }
    Ok(was_there)
}

/// Returns the place of the taint among the node's taints.
async fn find(connection: &mut ApiConnection, path: &str) -> Result<Option<usize>, ApiError> {
    let node: NodeManifest = connection.get(path, &[]).await?;
    Ok(node.spec.taints.iter().position(|taint| taint.key == TAINT))
}
