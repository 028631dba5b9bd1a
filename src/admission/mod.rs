//! Source addresses and rates that are admitted; [`connections`], limits of connections; [`descriptors`], division of file
//! descriptors.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use ipnet::{IpNet, Ipv4Net};

pub(crate) mod connections;
pub(crate) mod descriptors;

/// Bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED: u8 = 96;

/// List of allowed source addresses.
#[derive(Clone, Debug)]
pub struct Admission {
    allow: Vec<IpNet>,
}

impl Admission {
    /// Returns a list that admits only clients within `allow`.
    pub fn new(allow: &[IpNet]) -> Self {
        let allow: Vec<IpNet> = allow.iter().map(canonical).collect();
        Self { allow: IpNet::aggregate(&allow) }
    }

    /// Returns whether `client` may send queries. An IPv4-mapped IPv6 address counts as its IPv4 address.
    #[inline]
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.iter().any(|net| net.contains(&client))
    }
}

/// Converts a network of IPv4-mapped addresses to the IPv4 network, since client addresses are converted too.
fn canonical(net: &IpNet) -> IpNet {
    let mapped = |net: &ipnet::Ipv6Net| {
        let bits = net.prefix_len().checked_sub(MAPPED)?;
        Ipv4Net::new(net.addr().to_ipv4_mapped()?, bits).ok()
    };
    match net {
        IpNet::V6(v6) => mapped(v6).map_or(*net, IpNet::V4),
        IpNet::V4(_) => *net,
    }
}

/// Slots of the table.
const RATES: usize = 4_096;
/// Slots that are examined for one address.
const PROBES: usize = 8;
/// Burst of a client that has been silent: the queries of one second, in nanoseconds.
const BURST: u64 = 1_000_000_000;
/// Largest debt that is dropped when an address loses its slot: a client that stays within its rate may owe this much.
const FORGIVEN: u64 = BURST / 2;

/// Query rate of each client, shared by all workers.
///
/// Each address has one time: when all its queries would have been sent if each took its share of a second (the generic cell
/// rate algorithm). An address whose time has passed has no debt, and another address may take its slot. If all slots have
/// debts, the address that owes least loses its slot, so the clients with the highest rates keep theirs and stay limited. If
/// that debt is large too, the newcomer inherits it: a table full of large debts is stricter, not laxer (as in the Space-Saving
/// algorithm of Metwally, Agrawal and El Abbadi, 2005).
#[derive(Debug)]
pub(crate) struct Rates {
    slots: Box<[Rate]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Rate {
    /// Hash of the address.
    owner: AtomicU64,
    until: AtomicU64,
}

impl Rates {
    /// Returns an empty table.
    pub(crate) fn new() -> Self {
        Self { slots: (0..RATES).map(|_| Rate::default()).collect(), hasher: RandomState::default() }
    }

    /// Returns whether one more query at `now` is within `per_second` on average, with a burst of one second's queries.
    pub(crate) fn admits(&self, client: IpAddr, per_second: u32, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
        let (owner, share) = (self.hasher.hash_one(client.to_canonical()), BURST / u64::from(per_second.max(1)));
        let stride = (owner >> 32) as usize | 1;
        let place = |step: usize| &self.slots[(owner as usize).wrapping_add(step.wrapping_mul(stride)) % RATES];
        let mut slot = place(0);
        for step in 0..PROBES {
            let other = place(step);
            if other.owner.load(Ordering::Relaxed) == owner {
                slot = other;
                break;
            }
            if other.until.load(Ordering::Relaxed) < slot.until.load(Ordering::Relaxed) {
                slot = other;
            }
        }
        if slot.owner.swap(owner, Ordering::Relaxed) != owner
            && slot.until.load(Ordering::Relaxed).saturating_sub(now) <= FORGIVEN
        {
            slot.until.store(now, Ordering::Relaxed);
        }
        let add = |until: u64| Some(until.max(now) + share).filter(|until| until - now <= BURST);
        slot.until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let admits = |allow: &[&str], client: &str| {
            let allow: Vec<IpNet> = allow.iter().map(|net| net.parse().expect(net)).collect();
            Admission::new(&allow).admits(client.parse().expect(client))
        };
        for (allow, client, expected) in [
            (&["10.0.0.0/8"][..], "10.1.2.3", true),
            (&["10.0.0.0/8"], "11.1.2.3", false),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&["10.1.2.3/8"], "10.9.9.9", true),
            (&["::ffff:10.0.0.0/104"], "10.1.2.3", true),
            (&["::ffff:10.0.0.0/104"], "::ffff:11.1.2.3", false),
            (&["fd00::/8"], "fd12::1", true),
            (&["::/0"], "::ffff:10.1.2.3", false),
            (&["::1/128", "127.0.0.0/8"], "127.0.0.53", true),
            (&[], "127.0.0.1", false),
        ] {
            assert_eq!(admits(allow, client), expected, "{client} in {allow:?}");
        }
    }
    #[test]
    fn a_second_at_once_and_then_the_rate() {
        let rates = Rates::new();
        let client: IpAddr = [10, 0, 0, 1].into();
        let admitted =
            |at: u64, many: usize| (0..many).filter(|_| rates.admits(client, 100, Duration::from_millis(at))).count();
        assert_eq!(admitted(5_000, 500), 100);
        assert_eq!(admitted(5_005, 10), 0);
        assert_eq!(admitted(5_500, 500), 50);
        assert_eq!(admitted(60_000, 500), 100, "no more for having been silent");
        assert!(rates.admits([10, 0, 0, 2].into(), 100, Duration::from_secs(60)), "another client");
        assert!(
            !rates.admits("::ffff:10.0.0.1".parse().expect("mapped"), 100, Duration::from_secs(60)),
            "the same one"
        );
    }

    #[test]
    fn a_full_table_limits_those_who_ask_most() {
        const OTHERS: u32 = 16_000;
        let rates = Rates::new();
        let client = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        let (mut of_abusers, mut of_others) = (0, 0);
        let seconds = 20;
        // Each client sends one query a second; ten others send sixty times their limit.
        for step in 0..seconds * OTHERS {
            let now = Duration::from_secs(5) + Duration::from_secs(1) * step / OTHERS;
            of_others += u32::from(rates.admits(client(step % OTHERS), 3, now));
            if step % (OTHERS / 180) == 0 {
                let admitted = (0..10).filter(|abuser| rates.admits(client(OTHERS + abuser), 3, now)).count();
                of_abusers += admitted as u32;
            }
        }
        // A burst of one second, and then the limit.
        assert!(of_abusers <= 10 * 3 * (seconds + 1), "{of_abusers}");
        assert!(of_others > OTHERS * seconds * 99 / 100, "{of_others}");
    }

    #[test]
    fn many_clients_make_room_for_each_other() {
        let rates = Rates::new();
        let client = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        for second in 0..80 {
            let now = Duration::from_secs(5 + 2 * second);
            for number in 0..250 {
                let number = number + 250 * second as u32;
                let admitted = (0..5).filter(|_| rates.admits(client(number), 2, now)).count();
                assert_eq!(admitted, 2, "{number}");
            }
        }
    }
}
