//! From what the API tells of pods to who had which address when: a pure state machine, time is an argument.
//!
//! A pod is its UID; names and addresses are used again. Its states are ordered by their version, so that events may
//! come twice, late or out of order. What has ended stays for [`KEPT_AFTER_END`]: for queries that were under way, and so
//! that a late event does not bring it back.
//!
//! Of a pod that has ended while the watch was lost, only the time is known at which it was last heard of; from then on
//! its address is nobody's.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::address::key;
use super::client::Client;
use super::table::{Claim, Gap, NEVER, SLACK, Table};
use crate::clock::Millis;

/// Pods known at once, those included that have ended a short time ago. More are not known; a node runs 110 by default.
pub const MOST_PODS: usize = 4_096;
/// Times with an address kept of one pod.
const MOST_CLAIMS: usize = 8;
/// Addresses of the node itself that are kept.
const MOST_HOST_ADDRESSES: usize = 64;
/// How long what a pod was is known after its end.
pub const KEPT_AFTER_END: Millis = 300_000;

/// One state of a pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Whose state it is.
    pub uid: Box<str>,
    /// The state's version; later states have larger ones. 0: not known.
    pub version: u64,
    /// Its addresses of both families.
    pub addresses: Vec<IpAddr>,
    /// Whether it is in the node's own network.
    pub host_network: bool,
    /// Whether all of it has ended; the addresses are then those that it had.
    pub ended: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Who it is.
    pub client: Arc<Client>,
}

/// What is heard of one watch.
#[derive(Clone, Debug)]
pub enum Event {
    /// A pod is in this state.
    Seen(Pod),
    /// A pod is no more; this was its last state.
    Gone(Pod),
    /// All pods that there are, at a version.
    Listed(Vec<Pod>, u64),
    /// The watch goes on where it was lost.
    Resumed,
    /// The watch is lost.
    Lost,
}

/// All pods that are known.
#[derive(Debug)]
pub struct Pods {
    known: HashMap<Box<str>, Record>,
    hosts: BTreeSet<u128>,
    gaps: Vec<Gap>,
    /// Whether pods of this node may exist that no watch tells of.
    partial: bool,
    /// When a pod was first left out for want of room.
    overflow: Millis,
    ignored: u64,
}

/// One pod's life so far.
#[derive(Debug)]
struct Record {
    client: Arc<Client>,
    scope: usize,
    version: u64,
    host_network: bool,
    /// Since when it may have been there.
    seen: Millis,
    ending: Millis,
    ended: Millis,
    claims: Vec<Held>,
}

/// One time with one address.
#[derive(Debug)]
struct Held {
    address: u128,
    from: Millis,
    until: Millis,
}

impl Pods {
    /// No pods, with that many watches, none of which has been heard yet. `partial`: they do not tell of all pods.
    pub fn new(scopes: usize, partial: bool) -> Self {
        Self {
            known: HashMap::new(),
            hosts: BTreeSet::new(),
            gaps: vec![Gap::NONE; scopes],
            partial,
            overflow: NEVER,
            ignored: 0,
        }
    }

    /// Takes what a watch tells.
    pub fn apply(&mut self, scope: usize, event: Event, now: Millis) {
        match event {
            Event::Seen(pod) => self.seen(scope, pod, now),
            Event::Gone(pod) => self.seen(scope, Pod { version: 0, ended: true, ..pod }, now),
            Event::Listed(pods, version) => self.listed(scope, pods, version, now),
            Event::Resumed => {
                if let Some(gap) = self.gaps.get_mut(scope).filter(|gap| gap.from != NEVER && gap.back == NEVER) {
                    gap.back = now;
                }
            }
            Event::Lost => {
                if let Some(gap) = self.gaps.get_mut(scope) {
                    // Lost again before what was missed is known: that is still the same gap.
                    if !gap.catching_up(now) {
                        gap.from = now;
                    }
                    gap.back = NEVER;
                }
            }
        }
        self.forget(now);
    }

    /// Who has which address, and had.
    pub fn table(&self) -> Table {
        let of_pods = self.known.values().flat_map(|record| {
            let maybe = record.seen.saturating_sub(SLACK);
            record.claims.iter().map(move |&Held { address, from, until }| {
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
        Table::new(of_pods.chain(self.hosts.iter().map(host)), &self.gaps, hungry)
    }

    /// Whether this pod has been heard of.
    pub fn knows(&self, uid: &str) -> bool {
        self.known.contains_key(uid)
    }

    /// How many pods run, or are about to.
    pub fn live(&self) -> usize {
        self.known.values().filter(|record| record.ended == NEVER).count()
    }

    /// How many times a pod was left out for want of room.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Drops what has ended long ago. Whether anything was dropped.
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
        let record = self.known.entry(pod.uid.clone()).or_insert_with(|| Record::new(scope, &pod, end));
        let older = pod.version != 0 && pod.version <= record.version;
        // A UID never comes back, and what has ended never runs again.
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
            // A pod newer than the list is not in it because of that.
            let newer = version != 0 && record.version > version;
            if !there.contains(uid) && !newer {
                record.end(end);
            }
        }
        for pod in pods {
            self.seen(scope, pod, now);
        }
        if let Some(gap) = self.gaps.get_mut(scope).filter(|gap| gap.from != NEVER) {
            // The list leaves nothing to catch up with.
            gap.back = gap.back.min(now.saturating_sub(SLACK));
        }
    }

    /// Until when what was known before is sure, where it is heard now that it has changed.
    fn end_of_knowledge(&self, scope: usize, now: Millis) -> Millis {
        self.gaps.get(scope).filter(|gap| gap.catching_up(now)).map_or(now, |gap| gap.from)
    }

    /// Whether there is room for one more pod; if not, what ended first makes some.
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

impl Record {
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

    /// Whether it will be given an address, and nobody knows which.
    fn waits(&self) -> bool {
        !self.host_network && self.ended == NEVER && self.claims.iter().all(|held| held.until != NEVER)
    }

    /// It has these addresses now, and `end` is the last time that is known of those that it has no more.
    fn hold(&mut self, addresses: &[u128], end: Millis, now: Millis) {
        for held in self.claims.iter_mut().filter(|held| held.until == NEVER && !addresses.contains(&held.address)) {
            held.until = end.max(held.from);
        }
        for address in addresses.iter().take(MOST_CLAIMS / 2) {
            if !self.claims.iter().any(|held| held.until == NEVER && held.address == *address) {
                if self.claims.len() == MOST_CLAIMS {
                    self.claims.remove(0);
                }
                self.claims.push(Held { address: *address, from: now, until: NEVER });
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
