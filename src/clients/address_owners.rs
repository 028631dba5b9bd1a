//! Owners of addresses over time: an immutable table that [`super::pods::Pods`] builds again on each change.
//!
//! A pod owns an address from the first event that shows it to the event that shows the pod's end. Exceptions:
//!
//! - Two pods claim one address at once: neither is identified until the end of one of them is known.
//! - A pod received the address between two of its events: in between nodens identifies no pod if another one had the address.
//! - A pod is being deleted while another pod waits for an address: the other pod may already have this address.
//! - A watch was lost: its pods are identified for another [`SLACK`], and then not until the watch is re-established.
//! - The node's own addresses, which all pods of the host network share, identify no pod.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::address::key;
use super::client::Client;
use super::unknown::Unknown;
use crate::clock::Millis;

/// Most delay of the API's events. An address is assumed to be reassigned no sooner than this after its release.
pub const SLACK: Millis = 1_000;
/// Placeholder for the time of an event that has not happened.
pub const NEVER: Millis = Millis::MAX;

/// Owners of addresses over time.
#[derive(Debug, Default)]
pub struct AddressOwners {
    claims: HashMap<u128, Box<[Claim]>, RandomState>,
    gaps: Box<[WatchGap]>,
    /// Time since which a pod has been waiting for an address; [`NEVER`] if none is.
    hungry: Millis,
}

/// One pod's possession of one address.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The owner; `None` for the node's own address, which is shared.
    pub client: Option<Arc<Client>>,
    /// Index of the watch that reported it.
    pub scope: usize,
    /// Earliest time at which the pod may have had the address.
    pub maybe: Millis,
    /// Time since which the pod is known to have the address.
    pub from: Millis,
    /// End of the possession; [`NEVER`] if the pod still has the address.
    pub until: Millis,
    /// Start of the pod's deletion; [`NEVER`] if it is not being deleted.
    pub ending: Millis,
}

/// Last period in which a watch was lost.
#[derive(Clone, Copy, Debug)]
pub struct WatchGap {
    /// Time of the loss.
    pub from: Millis,
    /// Time at which the watch was re-established, or `NEVER`. The missed events have arrived [`SLACK`] later.
    pub back: Millis,
}

impl WatchGap {
    pub(crate) const NONE: Self = Self { from: NEVER, back: NEVER };

    /// Reports whether changes at `at` are not known in time.
    pub fn covers(&self, at: Millis) -> bool {
        at > self.from.saturating_add(SLACK) && at < self.back.saturating_add(SLACK)
    }

    /// Reports whether an event that arrives at `now` may date from the gap.
    pub fn catching_up(&self, now: Millis) -> bool {
        self.from != NEVER && now < self.back.saturating_add(SLACK)
    }
}

impl AddressOwners {
    /// Builds a table of addresses and claims on them.
    pub fn new(claims: impl Iterator<Item = (u128, Claim)>, gaps: &[WatchGap], hungry: Millis) -> Self {
        let mut lists: HashMap<u128, Vec<Claim>, RandomState> = HashMap::default();
        for (address, claim) in claims {
            lists.entry(address).or_default().push(claim);
        }
        let claims = lists.into_iter().map(|(address, claims)| (address, claims.into_boxed_slice())).collect();
        Self { claims, gaps: gaps.into(), hungry }
    }

    /// Returns the owner of `address` at `at`, and the time since which it has the address.
    #[inline]
    pub fn identify(&self, address: IpAddr, at: Millis) -> Result<(&Arc<Client>, Millis), Unknown> {
        let claims = self.claims.get(&key(address)).ok_or(Unknown::Unassigned)?;
        let claim = claims.iter().find(|claim| claim.from <= at && at < claim.until).ok_or(Unknown::Unassigned)?;
        let client = claim.client.as_ref().ok_or(Unknown::Host)?;
        let another = |other: &Claim| !other.client.as_ref().is_some_and(|other| Arc::ptr_eq(other, client));
        if claims.iter().any(|claim| claim.maybe <= at && at < claim.until && another(claim)) {
            return Err(Unknown::Shared);
        }
        if claim.ending <= at && self.hungry <= at {
            return Err(Unknown::Terminating);
        }
        match self.gaps.get(claim.scope) {
            Some(gap) if gap.covers(at) => Err(Unknown::WatchStale),
            _ => Ok((client, claim.from)),
        }
    }

    /// Returns the number of addresses.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Reports whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }
}
