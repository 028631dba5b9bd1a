//! The startup taint of a node that waits for nodens.

use crate::support::api::Api;
use crate::support::client::lookup;
use crate::support::{Dir, Nodens, config, eventually, upstream, zone};
use nodens::lab::upstream::LabUpstream;

const TAINT: &str = "nodens.io/not-ready";

/// Starts nodens on the node of this API server.
fn start(api: &Api) -> (Nodens, LabUpstream) {
    let upstream = upstream(zone());
    let text = config(&[&upstream], "workers = 2", "") + "[kubernetes]\nwatch = true\n";
    (api.nodens(&text, Dir::new()), upstream)
}

#[test]
fn only_the_startup_taint_is_removed() {
    let api = Api::start();
    api.taint(&["example.com/other", TAINT, "node.kubernetes.io/not-ready", TAINT], 1);
    let (mut nodens, _upstream) = start(&api);
    assert!(nodens.logged("startup taint removed").contains("node-1"));
    let (mut taints, _) = api.taints();
    taints.sort_unstable();
    assert_eq!(taints, ["example.com/other", "node.kubernetes.io/not-ready"]);
    assert!(!nodens.log().iter().any(|line| line.contains("cannot remove")));
}

#[test]
fn nodens_serves_where_it_may_not_read_the_node() {
    let api = Api::start();
    let (mut nodens, _upstream) = start(&api);
    eventually("several requests", || (api.taints().1 > 1).then_some(()));
    lookup(nodens.address(), "www.lab.example");
    assert!(!nodens.log().iter().any(|line| line.contains("startup taint")));
    // The permission comes later.
    api.taint(&[TAINT], 0);
    nodens.logged("startup taint removed");
    assert_eq!(api.taints().0, [""; 0]);
}

#[test]
fn a_node_without_the_taint_is_asked_once() {
    let api = Api::start();
    api.taint(&["example.com/other"], 0);
    let (nodens, _upstream) = start(&api);
    nodens.metric_becomes("nodens_watch_connected", &[], |connected| connected == 1.0);
    eventually("a request", || (api.taints().1 == 1).then_some(()));
    lookup(nodens.address(), "www.lab.example");
    assert_eq!(api.taints(), (vec!["example.com/other"], 1));
}

#[test]
fn a_node_that_always_changes_is_tried_again_later() {
    let api = Api::start();
    api.taint(&["example.com/other", TAINT], usize::MAX);
    let (mut nodens, _upstream) = start(&api);
    assert!(nodens.logged("cannot remove the startup taint; retrying").contains("still there after 8 patches"));
    // It tries again.
    api.taint(&["example.com/other", TAINT], 0);
    nodens.logged("startup taint removed");
}
