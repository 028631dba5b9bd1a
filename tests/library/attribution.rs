//! Attribution compared with a model of a node whose pods start, end and pass on addresses. The API's events arrive late,
//! twice, out of order, or not at all for a while. An identified client had the address; no client is identified wrongly.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;

use nodens::clients::Unknown;
use nodens::clients::address_owners::{AddressOwners, SLACK};
use nodens::clients::client::{Client, ClientKind};
use nodens::clients::pods::{KEPT_AFTER_END, MOST_PODS, Pod, PodEvent, Pods};
use nodens::clock::Millis;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Number of addresses of the node: few, to force frequent reuse.
const ADDRESSES: u8 = 12;
/// Most delay of an event.
const LATEST: Millis = SLACK;
/// Least time between a change in the API and the node's action, and time before the address of a completed pod is reused.
const HAND_OVER: Millis = 2 * SLACK + 1;

fn address(number: u8) -> IpAddr {
    match number % 2 {
        0 => Ipv4Addr::new(10, 244, 0, number).into(),
        _ => std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

fn pod(uid: u64, version: u64, addresses: &[u8]) -> Pod {
    let client = Client {
        kind: ClientKind::Pod,
        name: "same-name".into(),
        namespace: None,
        uid: Some(uid.to_string().into()),
        labels: Box::default(),
        more_labels: false,
        job: None,
        memo: Default::default(),
        search: None,
    };
    Pod {
        uid: uid.to_string().into(),
        version,
        addresses: addresses.iter().copied().map(address).collect(),
        host_network: false,
        ended: false,
        deleting: false,
        client: Arc::new(client),
    }
}

/// State and history of the node.
struct World {
    dice: StdRng,
    now: Millis,
    version: u64,
    uids: u64,
    /// Pods in the API, in the state that it shows.
    api: BTreeMap<u64, Shown>,
    /// Time from which each address may be assigned again.
    rests: Vec<Millis>,
    /// Pods that had each address, each with start and end.
    truth: Vec<Vec<(u64, Millis, Millis)>>,
    /// Events in flight, each with its arrival time.
    wire: Vec<(Millis, PodEvent)>,
    told: u64,
}

/// A pod, and the node's next action on it.
struct Shown {
    pod: Pod,
    next: Next,
    at: Millis,
    has: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Next {
    GetAddress,
    ShowAddress,
    Finish,
    Release,
    Vanish,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: StdRng::seed_from_u64(seed),
            now: 100_000,
            version: 10,
            uids: 0,
            api: BTreeMap::new(),
            rests: vec![0; ADDRESSES.into()],
            truth: vec![Vec::new(); ADDRESSES.into()],
            wire: Vec::new(),
            told: 0,
        }
    }

    fn owner(&self, number: u8, at: Millis) -> Option<u64> {
        // No query of the test is old enough to concern earlier owners.
        let mut owners = self.truth[usize::from(number)].iter().rev().take(16);
        owners.find(|(_, from, until)| *from <= at && at < *until).map(|(uid, _, _)| *uid)
    }

    /// Sends a pod's state as an event, sometimes twice, each with a random delay.
    fn tell(&mut self, uid: u64, gone: bool, connected: bool) {
        self.version += 1;
        let shown = self.api.get_mut(&uid).unwrap();
        shown.pod.version = self.version;
        let state = shown.pod.clone();
        self.told += 1;
        for _ in 0..if self.dice.random_bool(0.1) { 2 } else { 1 } {
            let event = if gone { PodEvent::Gone(state.clone()) } else { PodEvent::Seen(state.clone()) };
            let late = self.dice.random_range(0..=LATEST);
            if connected {
                self.wire.push((self.now + late, event));
            }
        }
    }

    /// Performs the first action that is due; if there is none, may create a pod.
    fn step(&mut self, connected: bool) {
        let due = self.api.iter().filter(|(_, shown)| shown.at <= self.now).map(|(uid, _)| *uid).next();
        let Some(uid) = due else {
            if self.api.len() < usize::from(ADDRESSES) && self.dice.random_bool(0.5) {
                self.uids += 1;
                let at = self.now + HAND_OVER + self.dice.random_range(0..2_000);
                let pod = pod(self.uids, 0, &[]);
                self.api.insert(self.uids, Shown { pod, next: Next::GetAddress, at, has: Vec::new() });
                self.tell(self.uids, false, connected);
            }
            return;
        };
        let after = self.now + self.dice.random_range(0..3_000);
        let next = self.api[&uid].next;
        match next {
            Next::GetAddress => {
                // One address or one of each family, as far as they are free.
                let first = self.dice.random_range(0..ADDRESSES);
                let both = [first, first ^ 1];
                let wanted = if self.dice.random_bool(0.3) { &both[..] } else { &both[..1] };
                let free: Vec<u8> =
                    wanted.iter().copied().filter(|n| self.rests[usize::from(*n)] <= self.now).collect();
                for number in &free {
                    self.rests[usize::from(*number)] = Millis::MAX;
                    self.truth[usize::from(*number)].push((uid, self.now, Millis::MAX));
                }
                let shown = self.api.get_mut(&uid).unwrap();
                (shown.next, shown.at) = (Next::ShowAddress, after);
                if free.is_empty() {
                    (shown.next, shown.at) = (Next::GetAddress, self.now + 500);
                }
                shown.has = free;
            }
            Next::ShowAddress => {
                let shown = self.api.get_mut(&uid).unwrap();
                shown.pod.addresses = shown.has.iter().copied().map(address).collect();
                (shown.next, shown.at) = (Next::Finish, after + 3 * HAND_OVER);
                self.tell(uid, false, connected);
            }
            Next::Finish => {
                let by_itself = self.dice.random_bool(0.4);
                let annotated = self.dice.random_bool(0.3);
                let shown = self.api.get_mut(&uid).unwrap();
                if annotated {
                    shown.at = after;
                } else if by_itself {
                    // The API still shows the address, and the node does not reassign it for a while.
                    shown.pod.ended = true;
                    (shown.next, shown.at) = (Next::Vanish, after + HAND_OVER);
                    self.release(uid, HAND_OVER);
                } else {
                    shown.pod.deleting = true;
                    (shown.next, shown.at) = (Next::Release, after + HAND_OVER);
                }
                self.tell(uid, false, connected);
            }
            Next::Release => {
                // Another pod may get the address at once, though the API still shows it for this pod.
                self.release(uid, 0);
                let shown = self.api.get_mut(&uid).unwrap();
                (shown.next, shown.at) = (Next::Vanish, after);
            }
            Next::Vanish => {
                self.tell(uid, true, connected);
                self.api.remove(&uid);
            }
        }
    }

    fn release(&mut self, uid: u64, rest: Millis) {
        for number in self.api[&uid].has.clone() {
            self.rests[usize::from(number)] = self.now + rest;
            self.truth[usize::from(number)].last_mut().unwrap().2 = self.now;
        }
    }

    /// Removes and returns the events that have arrived, not in the order of their arrival.
    fn arrived(&mut self) -> Vec<PodEvent> {
        let (here, later) = self.wire.drain(..).partition(|(at, _)| *at <= self.now);
        self.wire = later;
        let here: Vec<(Millis, PodEvent)> = here;
        here.into_iter().map(|(_, event)| event).collect()
    }

    fn list(&self) -> PodEvent {
        PodEvent::Listed(self.api.values().map(|shown| shown.pod.clone()).collect(), self.version)
    }
}

/// Number of lookups by outcome.
#[derive(Debug, Default)]
struct Count {
    right: u64,
    unknown: u64,
    wrong: Vec<String>,
}

impl Count {
    fn look(&mut self, table: &AddressOwners, world: &World, number: u8, at: Millis) {
        // No query comes from an address without an owner.
        let Some(owner) = world.owner(number, at) else { return };
        match table.identify(address(number), at) {
            Ok((client, _)) if client.uid.as_deref() == Some(owner.to_string().as_str()) => self.right += 1,
            Ok((client, since)) => self.wrong.push(format!(
                "{} at {at}, now {}: {:?} since {since}, but {:?}",
                address(number),
                world.now,
                client.uid,
                world.truth[usize::from(number)].iter().rev().take(3).collect::<Vec<_>>()
            )),
            Err(_) => self.unknown += 1,
        }
    }
}

/// Lives through 10,000 events of a world; returns the lookups of queries at once and of those up to 10 s late.
fn lookups(seed: u64) -> [Count; 2] {
    let (mut live, mut past) = (Count::default(), Count::default());
    let mut world = World::new(seed);
    let mut pods = Pods::new(1, false);
    pods.apply(0, world.list(), world.now);
    // End of the watch's loss, and whether the watch then lists again or resumes.
    let mut lost: Option<(Millis, bool)> = None;
    let mut missed: VecDeque<PodEvent> = VecDeque::new();
    let mut table = pods.table();
    while world.told < 10_000 {
        world.now += world.dice.random_range(1..400);
        world.step(true);
        let arrived = world.arrived();
        let news = !arrived.is_empty() || lost.is_some();
        match lost {
            Some((until, relist)) if world.now >= until => {
                lost = None;
                let now = world.now;
                if relist {
                    missed.clear();
                    pods.apply(0, world.list(), now);
                }
                pods.apply(0, PodEvent::Resumed, now);
                for event in missed.drain(..) {
                    pods.apply(0, event, now);
                }
                arrived.into_iter().for_each(|event| pods.apply(0, event, now));
            }
            Some(_) => missed.extend(arrived),
            None => {
                arrived.into_iter().for_each(|event| pods.apply(0, event, world.now));
                if world.dice.random_bool(0.002) {
                    let until = world.now + world.dice.random_range(1..20_000);
                    lost = Some((until, world.dice.random_bool(0.5)));
                    pods.apply(0, PodEvent::Lost, world.now);
                }
            }
        }
        if news || lost.is_some() {
            table = pods.table();
        }
        let number = world.dice.random_range(0..ADDRESSES);
        live.look(&table, &world, number, world.now);
        let at = world.now - world.dice.random_range(0..10_000).min(world.now);
        past.look(&table, &world, number, at);
    }
    [live, past]
}

#[test]
fn nobody_is_named_wrongly_in_100_000_events() {
    let worlds = thread::scope(|scope| {
        let worlds: Vec<_> = (0..10).map(|seed| scope.spawn(move || lookups(seed))).collect();
        worlds.into_iter().map(|world| world.join().expect("no panic")).collect::<Vec<_>>()
    });
    for (seed, counts) in worlds.iter().enumerate() {
        for (count, what) in counts.iter().zip(["live", "past"]) {
            let (right, unknown, wrong) = (count.right, count.unknown, &count.wrong);
            println!("world {seed}, {what}: {right} right, {unknown} unknown");
            assert!(
                wrong.is_empty(),
                "{what}: {} wrong, {right} right: {:#?}",
                wrong.len(),
                &wrong[..wrong.len().min(5)]
            );
            // Pods live for seconds here. They are not identified near their start and end, where an identity could be wrong.
            assert!(right > unknown, "{what}: {right} right, {unknown} unknown");
        }
    }
}

fn uid(pods: &Pods, number: u8, at: Millis) -> Result<String, Unknown> {
    pods.table().identify(address(number), at).map(|(client, _)| client.uid.as_deref().unwrap().to_owned())
}

#[test]
fn a_completed_pod_owns_no_address() {
    let mut pods = Pods::new(1, false);
    pods.apply(0, PodEvent::Seen(pod(1, 5, &[2])), 1_000);
    assert_eq!(uid(&pods, 2, 1_000).as_deref(), Ok("1"));
    pods.apply(0, PodEvent::Seen(Pod { ended: true, ..pod(1, 6, &[2]) }), 5_000);
    assert_eq!(uid(&pods, 2, 5_000), Err(Unknown::Unassigned));
    assert_eq!(uid(&pods, 2, 4_999).as_deref(), Ok("1"), "a query that was under way");
    pods.apply(0, PodEvent::Seen(pod(2, 7, &[2])), 8_000);
    assert_eq!(uid(&pods, 2, 8_000).as_deref(), Ok("2"));
    // Events of the completed pod have no effect.
    pods.apply(0, PodEvent::Seen(pod(1, 9, &[2])), 9_000);
    assert_eq!(uid(&pods, 2, 9_000).as_deref(), Ok("2"));
    pods.apply(0, PodEvent::Gone(Pod { ended: true, ..pod(1, 10, &[2]) }), 10_000);
    assert_eq!(uid(&pods, 2, 10_000).as_deref(), Ok("2"));
}

#[test]
fn two_pods_with_one_address_are_unassigned() {
    let mut pods = Pods::new(1, false);
    pods.apply(0, PodEvent::Seen(pod(1, 5, &[2])), 1_000);
    pods.apply(0, PodEvent::Seen(pod(2, 6, &[2])), 20_000);
    assert_eq!(uid(&pods, 2, 20_000), Err(Unknown::Shared));
    pods.apply(0, PodEvent::Gone(pod(1, 7, &[2])), 21_000);
    assert_eq!(uid(&pods, 2, 21_000).as_deref(), Ok("2"));
    assert_eq!(uid(&pods, 2, 10_000).as_deref(), Ok("1"));
    assert_eq!(uid(&pods, 2, 20_500), Err(Unknown::Shared), "when both had it");
}

#[test]
fn the_nodes_own_address_is_nobodys() {
    let mut pods = Pods::new(1, false);
    pods.apply(0, PodEvent::Seen(Pod { host_network: true, ..pod(1, 5, &[2]) }), 1_000);
    assert_eq!(uid(&pods, 2, 1_000), Err(Unknown::Host));
    pods.apply(0, PodEvent::Seen(pod(2, 6, &[2])), 2_000);
    assert_eq!(uid(&pods, 2, 2_000), Err(Unknown::Host), "whoever claims it");
}

#[test]
fn both_families_and_mapped_addresses() {
    let mut pods = Pods::new(1, false);
    pods.apply(0, PodEvent::Seen(pod(1, 5, &[2, 3])), 1_000);
    assert_eq!(uid(&pods, 2, 1_000).as_deref(), Ok("1"));
    assert_eq!(uid(&pods, 3, 1_000).as_deref(), Ok("1"));
    let mapped = "::ffff:10.244.0.2".parse().unwrap();
    assert!(pods.table().identify(mapped, 1_000).is_ok());
}

#[test]
fn a_state_that_comes_late_takes_nothing_back() {
    let mut pods = Pods::new(1, false);
    pods.apply(0, PodEvent::Seen(pod(1, 9, &[2])), 1_000);
    pods.apply(0, PodEvent::Seen(pod(1, 8, &[])), 2_000);
    assert_eq!(uid(&pods, 2, 2_000).as_deref(), Ok("1"), "it had none before");
    pods.apply(0, PodEvent::Seen(pod(1, 10, &[4])), 3_000);
    pods.apply(0, PodEvent::Seen(pod(1, 9, &[2])), 4_000);
    assert_eq!(uid(&pods, 2, 4_000), Err(Unknown::Unassigned));
    assert_eq!(uid(&pods, 4, 4_000).as_deref(), Ok("1"));
}

#[test]
fn a_new_sandbox_gives_a_pod_another_address() {
    let mut pods = Pods::new(1, false);
    for (version, number) in [(5, 2), (6, 4), (7, 2)] {
        pods.apply(0, PodEvent::Seen(pod(1, version, &[number])), version * 10_000);
    }
    for (number, at, right) in [
        (2, 55_000, Ok("1")),
        (4, 55_000, Err(Unknown::Unassigned)),
        (2, 65_000, Err(Unknown::Unassigned)),
        (4, 65_000, Ok("1")),
        (2, 75_000, Ok("1")),
        (4, 75_000, Err(Unknown::Unassigned)),
    ] {
        assert_eq!(uid(&pods, number, at).as_deref().map_err(|why| *why), right, "{number} at {at}");
    }
}

#[test]
fn a_terminating_pod_is_in_doubt_beside_a_pending_one() {
    let mut pods = Pods::new(1, false);
    pods.apply(0, PodEvent::Seen(pod(1, 5, &[2])), 1_000);
    pods.apply(0, PodEvent::Seen(Pod { deleting: true, ..pod(1, 6, &[2]) }), 5_000);
    assert_eq!(uid(&pods, 2, 6_000).as_deref(), Ok("1"), "nobody waits");
    pods.apply(0, PodEvent::Seen(pod(2, 7, &[])), 7_000);
    assert_eq!(uid(&pods, 2, 7_000), Err(Unknown::Terminating));
    pods.apply(0, PodEvent::Seen(pod(2, 8, &[4])), 8_000);
    assert_eq!(uid(&pods, 2, 8_000).as_deref(), Ok("1"), "the other one has its own");
    // If the watch does not cover all pods, another pod may be waiting at any time.
    let mut partial = Pods::new(1, true);
    partial.apply(0, PodEvent::Seen(Pod { deleting: true, ..pod(1, 6, &[2]) }), 5_000);
    assert_eq!(uid(&partial, 2, 6_000), Err(Unknown::Terminating));
}

#[test]
fn a_lost_watch_knows_nobody_after_a_while() {
    let mut pods = Pods::new(2, false);
    pods.apply(0, PodEvent::Listed(vec![pod(1, 5, &[2]), pod(2, 6, &[4])], 6), 1_000);
    pods.apply(1, PodEvent::Listed(vec![pod(3, 6, &[6])], 6), 1_000);
    pods.apply(0, PodEvent::Lost, 10_000);
    assert_eq!(uid(&pods, 2, 10_000 + SLACK).as_deref(), Ok("1"));
    assert_eq!(uid(&pods, 2, 60_000), Err(Unknown::WatchStale));
    assert_eq!(uid(&pods, 6, 60_000).as_deref(), Ok("3"), "told of by another watch");
    // Pod 1 is still listed, so it had its address throughout. Pod 2 lost its address at an unknown time after the loss.
    pods.apply(0, PodEvent::Listed(vec![pod(1, 5, &[2])], 90), 60_000);
    assert_eq!(uid(&pods, 2, 60_001).as_deref(), Ok("1"));
    assert_eq!(uid(&pods, 4, 60_001), Err(Unknown::Unassigned));
    assert_eq!(uid(&pods, 4, 10_001), Err(Unknown::Unassigned));
    assert_eq!(uid(&pods, 4, 9_999).as_deref(), Ok("2"));
}

#[test]
fn an_old_list_neither_revives_nor_removes_pods() {
    let mut pods = Pods::new(1, false);
    pods.apply(0, PodEvent::Seen(pod(1, 10, &[2])), 1_000);
    pods.apply(0, PodEvent::Gone(pod(1, 11, &[2])), 2_000);
    pods.apply(0, PodEvent::Seen(pod(2, 12, &[4])), 3_000);
    pods.apply(0, PodEvent::Listed(vec![pod(1, 10, &[2])], 10), 4_000);
    assert_eq!(uid(&pods, 2, 5_000), Err(Unknown::Unassigned));
    assert_eq!(uid(&pods, 4, 5_000).as_deref(), Ok("2"));
}

#[test]
fn memory_is_bounded_and_what_ended_goes() {
    let mut pods = Pods::new(1, false);
    let most = MOST_PODS as u64;
    for uid in 1..=most + 10 {
        pods.apply(0, PodEvent::Seen(pod(uid, uid, &[])), 1_000);
    }
    assert_eq!((pods.live(), pods.ignored()), (MOST_PODS, 10));
    pods.apply(0, PodEvent::Gone(pod(1, most + 20, &[])), 2_000);
    pods.apply(0, PodEvent::Seen(pod(most + 30, most + 30, &[2])), 3_000);
    assert_eq!(uid(&pods, 2, 3_000).as_deref(), Ok((most + 30).to_string().as_str()), "what has ended makes room");

    let mut pods = Pods::new(1, false);
    for uid in 1..=1_000 {
        pods.apply(0, PodEvent::Seen(pod(uid, 2 * uid, &[2])), uid * 10_000);
        pods.apply(0, PodEvent::Gone(pod(uid, 2 * uid + 1, &[2])), uid * 10_000 + 5_000);
    }
    assert_eq!(uid(&pods, 2, 9_990_100).as_deref(), Ok("999"));
    assert!(pods.forget(10_005_000 + KEPT_AFTER_END));
    assert!(pods.table().is_empty());
}
