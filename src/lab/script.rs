//! State of a scripted server for all transports: its zone, its behaviour, and the queries it has seen.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::fault::{Behaviour, Outgoing, bare};
use super::seen::{Log, Seen};
use super::zone::LabZone;
use crate::upstream::Transport;
use crate::wire::{PLAIN_SIZE, flag, rcode};

/// Settings of a server, and its log of queries. A change of settings applies from the next query on.
#[derive(Debug)]
pub(super) struct Script {
    zone: Mutex<Arc<LabZone>>,
    latency: Mutex<Duration>,
    behaviour: watch::Sender<Arc<Behaviour>>,
    udp_queries: AtomicU64,
    log: Mutex<Log>,
}

impl Script {
    /// Creates a script that answers normally, without latency.
    pub(super) fn new(zone: LabZone) -> Self {
        Self {
            zone: Mutex::new(Arc::new(zone)),
            latency: Mutex::default(),
            behaviour: watch::Sender::new(Arc::new(Behaviour::normal())),
            udp_queries: AtomicU64::new(0),
            log: Mutex::default(),
        }
    }

    /// Sets the behaviour from the next query on and returns the previous one.
    pub(super) fn set(&self, behaviour: Behaviour) -> Arc<Behaviour> {
        self.udp_queries.store(0, Ordering::Relaxed);
        self.behaviour.send_replace(Arc::new(behaviour))
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        *lock(&self.latency) = latency;
    }

    pub(super) fn set_zone(&self, zone: LabZone) {
        *lock(&self.zone) = Arc::new(zone);
    }

    pub(super) fn behaviour(&self) -> Arc<Behaviour> {
        self.behaviour.borrow().clone()
    }

    pub(super) fn behaviour_changes(&self) -> watch::Receiver<Arc<Behaviour>> {
        self.behaviour.subscribe()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        lock(&self.log).all()
    }

    pub(super) fn seen_count(&self) -> u64 {
        lock(&self.log).count()
    }

    pub(super) fn clear_seen(&self) {
        lock(&self.log).clear();
    }

    /// Logs a query and returns the messages to send for it.
    pub(super) fn take(&self, wire: &[u8], client: SocketAddr, transport: Transport) -> Vec<Outgoing> {
        let behaviour = self.behaviour();
        let number = match transport {
            Transport::Udp => self.udp_queries.fetch_add(1, Ordering::Relaxed) + 1,
            Transport::Tcp | Transport::Tls => 0,
        };
        let (seen, query) = Seen::read(wire, client, transport);
        let zone = lock(&self.zone).clone();
        let with_opt = !behaviour.ignores_opt;
        let honest = match query {
            // A response must not be answered: two servers could keep each other busy.
            _ if seen.flags & flag::QR != 0 || wire.len() < crate::wire::HEADER => None,
            None => Some(bare(&seen, rcode::FORMERR, 0, &[], false, None)),
            Some(query) => zone.response(&seen, &query, with_opt).to_vec().ok(),
        };
        let size = seen.edns.as_ref().filter(|_| with_opt).map_or(PLAIN_SIZE, |edns| edns.size.max(PLAIN_SIZE));
        let honest = honest.map(|whole| match transport {
            Transport::Udp if whole.len() > usize::from(size) => {
                bare(&seen, rcode::NOERROR, flag::TC, seen.question(), with_opt, None)
            }
            _ => whole,
        });
        let own = *lock(&self.latency);
        let sends = behaviour.sends(&seen, honest, number, own);
        lock(&self.log).push(seen);
        sends
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
