//! Which pod had an address at which time: immutable, made anew by [`super::pods::Pods`] whenever something changes.
//!
//! An address is its pod's from when the API first told so until it told of the pod's end, and never beyond doubt:
//!
//! - two pods that hold one address at once: neither, until the end of one of them is known;
//! - an address that came to a pod between two events of it: in between it is nobody's if another pod held it too;
//! - a pod that is being deleted, while another one waits for an address: it may have been given this one already;
//! - a watch that was lost: for [`SLACK`] what is known still holds, then nothing does until it is back;
//! - the node's own addresses, which all pods of the host network share: nobody's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::address::key;
use super::client::Client;
use super::unknown::Unknown;
use crate::clock::Millis;

/// How far the API's word may be behind what happens: no address passes to another pod within so short a time.
pub const SLACK: Millis = 1_000;
/// In place of a time: it has not happened.
pub const NEVER: Millis = Millis::MAX;

/// Who had which address when.
#[derive(Debug, Default)]
pub struct Table {
    claims: HashMap<u128, Box<[Claim]>, RandomState>,
    gaps: Box<[Gap]>,
    /// Since when a pod waits for its address; [`NEVER`] if none does.
    hungry: Millis,
}

/// One pod's time with one address.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Whose; none: the node's own, which is shared.
    pub client: Option<Arc<Client>>,
    /// The watch that tells of it.
    pub scope: usize,
    /// From when on it may have had the address already.
    pub maybe: Millis,
    /// From when on it had it.
    pub from: Millis,
    /// Until when; [`NEVER`] while it has.
    pub until: Millis,
    /// Since when it is being deleted; [`NEVER`] if it is not.
    pub ending: Millis,
}

/// A time in which a watch was lost: the last one.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// The end of what is known.
    pub from: Millis,
    /// When the watch was back, if it is; what it had missed is known [`SLACK`] later.
    pub back: Millis,
}

impl Gap {
    /// There was none.
    pub const NONE: Self = Self { from: NEVER, back: NEVER };

    /// Whether what happens then is not known in time.
    pub fn covers(&self, at: Millis) -> bool {
        at > self.from.saturating_add(SLACK) && at < self.back.saturating_add(SLACK)
    }

    /// Whether news that come now may be from within the gap.
    pub fn catching_up(&self, now: Millis) -> bool {
        self.from != NEVER && now < self.back.saturating_add(SLACK)
    }
}

impl Table {
    /// A table of these claims; of each the address.
    pub fn new(claims: impl Iterator<Item = (u128, Claim)>, gaps: &[Gap], hungry: Millis) -> Self {
        let mut lists: HashMap<u128, Vec<Claim>, RandomState> = HashMap::default();
        for (address, claim) in claims {
            lists.entry(address).or_default().push(claim);
        }
        let claims = lists.into_iter().map(|(address, claims)| (address, claims.into_boxed_slice())).collect();
        Self { claims, gaps: gaps.into(), hungry }
    }

    /// Who had `address` at `at`, and since when.
    #[inline]
    pub fn who(&self, address: IpAddr, at: Millis) -> Result<(&Arc<Client>, Millis), Unknown> {
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

    /// How many addresses it knows.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }
}
