//! Who may ask, and how much; [`connections`], how many connections a client may have; [`descriptors`], how file descriptors
//! are shared out.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use ipnet::{IpNet, Ipv4Net};

pub mod connections;
pub mod descriptors;

/// Bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED: u8 = 96;

/// The list of allowed source addresses.
#[derive(Clone, Debug)]
pub struct Admission {
    allow: Vec<IpNet>,
}

impl Admission {
    /// Admits clients within `allow` and nobody else.
    pub fn new(allow: &[IpNet]) -> Self {
        let allow: Vec<IpNet> = allow.iter().map(canonical).collect();
        Self { allow: IpNet::aggregate(&allow) }
    }

    /// Whether `client` may ask. An IPv4-mapped IPv6 address counts as the IPv4 address that it is.
    #[inline]
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.iter().any(|net| net.contains(&client))
    }
}

/// A network of IPv4-mapped addresses as the IPv4 network that it is, since clients are compared so.
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

/// Addresses whose rate is kept at once.
const RATES: usize = 4_096;
/// Slots looked at for one address.
const PROBES: usize = 8;
/// How much a client that asked nothing may ask at once: the queries of so long.
const BURST: u64 = 1_000_000_000;
/// Debts up to this are forgiven to one that makes room: those who ask as much as they may, now and then, owe as much.
const FORGIVEN: u64 = BURST / 2;

/// How much each client asked of late, shared by all workers.
///
/// One time for each address: when all that it asked would have been asked if each query took its share of a second
/// (the generic cell rate algorithm). An address whose time has come has no debts, and makes room for another one. Where
/// there is no room, the one that owes least makes room, so those who ask most keep their places and are limited as ever.
/// If even that one owes much, the newcomer owes it in its stead: a table that is full of such is stricter, not laxer (as in the
/// Space-Saving algorithm of Metwally, Agrawal and El Abbadi, 2005).
#[derive(Debug)]
pub struct Rates {
    slots: Box<[Rate]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Rate {
    /// The address's hash.
    owner: AtomicU64,
    /// In nanoseconds.
    until: AtomicU64,
}

impl Rates {
    /// Nobody has asked anything.
    pub fn new() -> Self {
        Self { slots: (0..RATES).map(|_| Rate::default()).collect(), hasher: RandomState::default() }
    }

    /// Whether one more query at `now` is within `per_second`, on average and with a second's worth at once.
    pub fn admits(&self, client: IpAddr, per_second: u32, now: Duration) -> bool {
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
        // Each asks once a second, and ten of them sixty times as often as they may.
        for step in 0..seconds * OTHERS {
            let now = Duration::from_secs(5) + Duration::from_secs(1) * step / OTHERS;
            of_others += u32::from(rates.admits(client(step % OTHERS), 3, now));
            if step % (OTHERS / 180) == 0 {
                let admitted = (0..10).filter(|abuser| rates.admits(client(OTHERS + abuser), 3, now)).count();
                of_abusers += admitted as u32;
            }
        }
        // A second's worth at once, and then as many as they may.
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
