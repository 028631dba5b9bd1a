//! Pod addresses over time, from the events of the Kubernetes API: a pure state machine that takes the time as an argument.
//!
//! A pod is identified by its UID; names and addresses are reused. The states of a pod are ordered by their version;
//! duplicate, late or reordered events have no effect. A pod that has ended is kept for [`KEPT_AFTER_END`]: queries in flight
//! are still attributed to it, and a late event does not bring it back.
//!
//! If a pod ended while the watch was lost, its end is set to the time of that loss. From then on its address is
//! unassigned.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::address::key;
use super::address_owners::{AddressOwners, Claim, NEVER, SLACK, WatchGap};
use super::client::Client;
use crate::clock::Millis;

/// Most pods kept at once, including those that ended recently. More pods are ignored. The kubelet's default is 110 per node.
pub const MOST_PODS: usize = 4_096;
/// Most claims kept of one pod.
const MOST_CLAIMS: usize = 8;
/// Most addresses of the node itself.
const MOST_HOST_ADDRESSES: usize = 64;
/// Time for which a pod is kept after its end.
pub const KEPT_AFTER_END: Millis = 300_000;

/// One state of a pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// UID of the pod, which no later pod of the same name has.
    pub uid: Box<str>,
    /// Version of the state; later states have larger ones. 0: unknown.
    pub version: u64,
    /// The pod's addresses of both families.
    pub addresses: Vec<IpAddr>,
    /// True if the pod is in the node's host network.
    pub host_network: bool,
    /// True if all containers have ended; `addresses` are then those that the pod had.
    pub ended: bool,
    /// True if the pod is being deleted.
    pub deleting: bool,
    /// The client that the pod is.
    pub client: Arc<Client>,
}

/// An event of one watch.
#[derive(Clone, Debug)]
pub enum PodEvent {
    /// A pod in its current state.
    Seen(Pod),
    /// A deleted pod in its last state.
    Gone(Pod),
    /// All pods, with the version of the list.
    Listed(Vec<Pod>, u64),
    /// The watch has continued from the version at which it was lost.
    Resumed,
    /// The watch is lost.
    Lost,
}

/// All pods, current and recently ended.
#[derive(Debug)]
pub struct Pods {
    known: HashMap<Box<str>, PodHistory>,
    hosts: BTreeSet<u128>,
    gaps: Vec<WatchGap>,
    /// True if the watches do not cover all pods of this node.
    partial: bool,
    /// Time at which a pod was first ignored since the last list, because `MOST_PODS` were kept.
    overflow: Millis,
    ignored: u64,
}

/// History of one pod.
#[derive(Debug)]
struct PodHistory {
    client: Arc<Client>,
    scope: usize,
    version: u64,
    host_network: bool,
    /// Earliest time at which the pod may have existed.
    seen: Millis,
    ending: Millis,
    ended: Millis,
    claims: Vec<HeldAddress>,
}

/// One pod's possession of one address.
#[derive(Debug)]
struct HeldAddress {
    address: u128,
    from: Millis,
    until: Millis,
}

impl Pods {
    /// Returns an empty state for `scopes` watches. `partial`: the watches do not cover all pods of this node.
    pub fn new(scopes: usize, partial: bool) -> Self {
        Self {
            known: HashMap::new(),
            hosts: BTreeSet::new(),
            gaps: vec![WatchGap::NONE; scopes],
            partial,
            overflow: NEVER,
            ignored: 0,
        }
    }

    /// Applies an event of a watch.
    pub fn apply(&mut self, scope: usize, event: PodEvent, now: Millis) {
        match event {
            PodEvent::Seen(pod) => self.seen(scope, pod, now),
            PodEvent::Gone(pod) => self.seen(scope, Pod { version: 0, ended: true, ..pod }, now),
            PodEvent::Listed(pods, version) => self.listed(scope, pods, version, now),
            PodEvent::Resumed => {
                if let Some(gap) = self.gaps.get_mut(scope).filter(|gap| gap.from != NEVER && gap.back == NEVER) {
                    gap.back = now;
                }
            }
            PodEvent::Lost => {
                if let Some(gap) = self.gaps.get_mut(scope) {
                    // Lost again before the missed events have arrived: the gap continues.
                    if !gap.catching_up(now) {
                        gap.from = now;
                    }
                    gap.back = NEVER;
                }
            }
        }
        self.forget(now);
    }

    /// Returns the table of current and past owners of addresses.
    pub fn table(&self) -> AddressOwners {
        let of_pods = self.known.values().flat_map(|record| {
            let maybe = record.seen.saturating_sub(SLACK);
            record.claims.iter().map(move |&HeldAddress { address, from, until }| {
                let (scope, ending) = (record.scope, record.ending);
                (address, Claim { client: Some(Arc::clone(&record.client)), scope, maybe, from, until, ending })
            })
        });
        let host = |address: &u128| {
            (*address, Claim { client: None, scope: usize::MAX, maybe: 0, from: 0, until: NEVER, ending: NEVER })
        };
        let hungry =
            self.known.values().filter(|record| record.waits()).map(|record| record.seen.saturating_sub(SLACK));
        let hungry = if self.partial { 0 } else { hungry.min().unwrap_or(NEVER).min(self.overflow) };
        let of_pods = of_pods.filter(|(address, _)| !self.hosts.contains(address));
        AddressOwners::new(of_pods.chain(self.hosts.iter().map(host)), &self.gaps, hungry)
    }

    /// Reports whether a pod with this UID is recorded.
    pub fn knows(&self, uid: &str) -> bool {
        self.known.contains_key(uid)
    }

    /// Returns the number of pods that have not ended.
    pub fn live(&self) -> usize {
        self.known.values().filter(|record| record.ended == NEVER).count()
    }

    /// Returns how often a pod was ignored because `MOST_PODS` were kept.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Drops pods that ended more than `KEPT_AFTER_END` ago. Returns whether any was dropped.
    pub fn forget(&mut self, now: Millis) -> bool {
        let before = self.known.len();
        self.known.retain(|_, record| record.ended == NEVER || now < record.ended.saturating_add(KEPT_AFTER_END));
        before != self.known.len()
    }

    fn seen(&mut self, scope: usize, pod: Pod, now: Millis) {
        let end = self.end_of_knowledge(scope, now);
        if pod.host_network {
            let room = MOST_HOST_ADDRESSES.saturating_sub(self.hosts.len());
            self.hosts.extend(pod.addresses.iter().copied().map(key).take(room));
        }
        if !self.known.contains_key(&pod.uid) && !self.make_room(now) {
            return;
        }
        let record = self.known.entry(pod.uid.clone()).or_insert_with(|| PodHistory::new(scope, &pod, end));
        let older = pod.version != 0 && pod.version <= record.version;
        // A UID is never reused, and a pod that has ended never runs again.
        if older || record.ended != NEVER {
            return;
        }
        record.version = pod.version;
        if *record.client != *pod.client {
            record.client = pod.client;
        }
        if pod.deleting && record.ending == NEVER {
            record.ending = end;
        }
        if pod.ended {
            record.end(end);
        } else if !pod.host_network {
            let addresses: Vec<u128> = pod.addresses.iter().copied().map(key).collect();
            record.hold(&addresses, end, now);
        }
    }

    fn listed(&mut self, scope: usize, pods: Vec<Pod>, version: u64, now: Millis) {
        self.overflow = NEVER;
        let end = self.end_of_knowledge(scope, now);
        let there: BTreeSet<Box<str>> = pods.iter().map(|pod| pod.uid.clone()).collect();
        for (uid, record) in self.known.iter_mut().filter(|(_, record)| record.scope == scope) {
            // A pod that is newer than the list may be missing from it.
            let newer = version != 0 && record.version > version;
            if !there.contains(uid) && !newer {
                record.end(end);
            }
        }
        for pod in pods {
            self.seen(scope, pod, now);
        }
        if let Some(gap) = self.gaps.get_mut(scope).filter(|gap| gap.from != NEVER) {
            // The list contains all missed events.
            gap.back = gap.back.min(now.saturating_sub(SLACK));
        }
    }

    /// Returns the last time at which the previous state is certain, for a change that is received now.
    fn end_of_knowledge(&self, scope: usize, now: Millis) -> Millis {
        self.gaps.get(scope).filter(|gap| gap.catching_up(now)).map_or(now, |gap| gap.from)
    }

    /// Reports whether there is room for one more pod; if necessary removes the pod that ended first.
    fn make_room(&mut self, now: Millis) -> bool {
        if self.known.len() < MOST_PODS {
            return true;
        }
        let ended = self.known.iter().filter(|(_, record)| record.ended != NEVER);
        let oldest = ended.min_by_key(|(_, record)| record.ended).map(|(uid, _)| uid.clone());
        match oldest {
            Some(uid) => self.known.remove(&uid).is_some(),
            None => {
                self.ignored += 1;
                self.overflow = self.overflow.min(now);
                false
            }
        }
    }
}

impl PodHistory {
    fn new(scope: usize, pod: &Pod, seen: Millis) -> Self {
        Self {
            client: Arc::clone(&pod.client),
            scope,
            version: 0,
            host_network: pod.host_network,
            seen,
            ending: NEVER,
            ended: NEVER,
            claims: Vec::new(),
        }
    }

    /// Reports whether the pod is still to be assigned an address.
    fn waits(&self) -> bool {
        !self.host_network && self.ended == NEVER && self.claims.iter().all(|held| held.until != NEVER)
    }

    /// Sets the current addresses. Claims on other addresses end at `end`, the last time at which they are certain.
    fn hold(&mut self, addresses: &[u128], end: Millis, now: Millis) {
        for held in self.claims.iter_mut().filter(|held| held.until == NEVER && !addresses.contains(&held.address)) {
            held.until = end.max(held.from);
        }
        for address in addresses.iter().take(MOST_CLAIMS / 2) {
            if !self.claims.iter().any(|held| held.until == NEVER && held.address == *address) {
                if self.claims.len() == MOST_CLAIMS {
                    self.claims.remove(0);
                }
                self.claims.push(HeldAddress { address: *address, from: now, until: NEVER });
            }
        }
    }

    fn end(&mut self, at: Millis) {
        if self.ended == NEVER {
            self.hold(&[], at, at);
            self.ended = at;
        }
    }
}
