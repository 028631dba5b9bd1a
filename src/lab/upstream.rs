//! A scripted DNS server over real sockets: UDP and TCP on one port, in the tokio runtime that starts it.
//!
//! The server answers from its [`LabZone`] and misbehaves according to its [`Behaviour`]. Both can be changed while it runs,
//! from the next query on. It runs as tasks of the runtime that called [`LabUpstream::start`], of any flavour, and ends with
//! that runtime or when it is dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::fault::{Behaviour, Outgoing, Tcp};
use super::port::LabPort;
use super::script::Script;
use super::seen::Seen;
use super::tcp;
use super::zone::LabZone;
use crate::task::boxed;
use crate::upstream::Transport;

/// A scripted DNS server.
#[derive(Debug)]
pub struct LabUpstream {
    script: Arc<Script>,
    port: Arc<LabPort>,
    tasks: Mutex<Option<Tasks>>,
}

#[derive(Debug)]
struct Tasks {
    stop: watch::Sender<bool>,
    udp: JoinHandle<()>,
    tcp: JoinHandle<()>,
}

impl LabUpstream {
    /// Starts a server that answers normally, without latency. Port 0 takes a port that is free for UDP and TCP.
    ///
    /// # Errors
    /// `InvalidInput` with every mistake of the zone; the system's error if the address cannot be bound.
    pub async fn start(address: SocketAddr, zone: LabZone) -> io::Result<Self> {
        check(&zone)?;
        let (script, port) = (Arc::new(Script::new(zone)), Arc::new(LabPort::bind(address).await?));
        let upstream = Self { script, port, tasks: Mutex::default() };
        upstream.spawn()?;
        Ok(upstream)
    }

    /// Returns the address that the server listens on; [`LabUpstream::restart`] keeps it.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Returns the received queries, oldest first; at most the last [`KEPT_QUERIES`](super::seen::KEPT_QUERIES) are kept.
    pub fn seen(&self) -> Vec<Seen> {
        self.script.seen()
    }

    /// Returns the number of received queries, including those no longer kept.
    pub fn seen_count(&self) -> u64 {
        self.script.seen_count()
    }

    /// Clears the log of received queries and their count.
    pub fn clear_seen(&self) {
        self.script.clear_seen();
    }

    /// Sets the behaviour from the next query on.
    pub fn set(&self, behaviour: Behaviour) {
        let refuse = behaviour.tcp == Tcp::Refuse;
        // The port closes or opens before this returns; the tasks follow.
        let mut sockets = self.port.sockets();
        let refused = self.script.set(behaviour).tcp == Tcp::Refuse;
        if refuse != refused && self.tasks().is_some() {
            let _ = if refuse { sockets.refuse_tcp() } else { sockets.accept_tcp() };
        }
    }

    /// Sets the response time, unless the behaviour sets another.
    pub fn set_latency(&self, latency: Duration) {
        self.script.set_latency(latency);
    }

    /// Sets the zone from the next query on.
    ///
    /// # Errors
    /// `InvalidInput` with every mistake of the zone; the previous zone then stays.
    pub fn set_zone(&self, zone: LabZone) -> io::Result<()> {
        check(&zone)?;
        self.script.set_zone(zone);
        Ok(())
    }

    /// Closes the port. When this returns, datagrams and connections are refused and pending responses are discarded. No other
    /// process can bind the port meanwhile.
    pub async fn stop(&self) {
        let Some(tasks) = self.tasks().take() else { return };
        self.port.close();
        tasks.stop.send_replace(true);
        // A task that panicked has ended too.
        let _ = tasks.udp.await;
        let _ = tasks.tcp.await;
    }

    /// Opens the port again after [`LabUpstream::stop`], with the same zone, behaviour and log of queries.
    ///
    /// # Errors
    /// The system's error if it provides no socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn restart(&self) -> io::Result<()> {
        if self.tasks().is_some() {
            return Ok(());
        }
        let mut sockets = self.port.sockets();
        sockets.open_udp(self.port.address())?;
        if self.script.behaviour().tcp != Tcp::Refuse {
            sockets.accept_tcp()?;
        }
        drop(sockets);
        self.spawn()
    }

    fn spawn(&self) -> io::Result<()> {
        let (stop, stopped) = watch::channel(false);
        let udp = self.port.udp()?;
        let udp = tokio::spawn(boxed(serve_udp(Arc::clone(&self.script), udp, stopped.clone())));
        let tcp = tokio::spawn(boxed(tcp::serve(Arc::clone(&self.script), Arc::clone(&self.port), stopped)));
        *self.tasks() = Some(Tasks { stop, udp, tcp });
        Ok(())
    }

    fn tasks(&self) -> MutexGuard<'_, Option<Tasks>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LabUpstream {
    fn drop(&mut self) {
        if let Some(tasks) = self.tasks().take() {
            tasks.udp.abort();
            tasks.tcp.abort();
        }
    }
}

async fn serve_udp(script: Arc<Script>, socket: UdpSocket, mut stopped: watch::Receiver<bool>) {
    let socket = Arc::new(socket);
    let mut late = JoinSet::new();
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let received = tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = late.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An error here belongs to an earlier response that could not be delivered.
        let Ok((length, client)) = received else { continue };
        let sends = script.take(&buffer[..length], client, Transport::Udp);
        match sends.iter().map(|send| send.after).max() {
            None => {}
            Some(Duration::ZERO) => send_udp(&socket, client, &sends).await,
            // One task for all of them keeps them in order.
            Some(after) => {
                let socket = Arc::clone(&socket);
                late.spawn(boxed(async move {
                    sleep(after).await;
                    send_udp(&socket, client, &sends).await;
                }));
            }
        }
    }
    late.shutdown().await;
}

/// Sends datagrams; like the network, loses them without an error.
async fn send_udp(socket: &UdpSocket, client: SocketAddr, sends: &[Outgoing]) {
    for send in sends {
        let other = match (send.from_other_port, socket.local_addr()) {
            (true, Ok(address)) => UdpSocket::bind(SocketAddr::new(address.ip(), 0)).await.ok(),
            _ => None,
        };
        if other.is_some() || !send.from_other_port {
            let _ = other.as_ref().unwrap_or(socket).send_to(&send.wire, client).await;
        }
    }
}

fn check(zone: &LabZone) -> io::Result<()> {
    match zone.diagnostics() {
        [] => Ok(()),
        diagnostics => Err(io::Error::new(io::ErrorKind::InvalidInput, diagnostics.join("; "))),
    }
}
