//! One UDP socket: take a batch, answer what is known in place, hand over the rest, send a batch.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::mmsg::{BATCH, Batch};
use super::socket::is_wildcard;
use super::{Worker, stopped};
use crate::answer::{Response, Turn, Wanted};
use crate::upstream::Ask;

/// Batches answered in a row before other tasks of the worker get their turn.
const BATCHES_IN_A_ROW: usize = 4;

/// Serves a socket until the server stops. The batch's buffers are the worker's, shared by its sockets.
///
/// # Errors
/// The socket cannot be watched.
pub async fn serve<U: Ask + 'static>(
    worker: Rc<Worker<U>>,
    socket: std::net::UdpSocket,
    batch: Rc<RefCell<Batch>>,
) -> io::Result<()> {
    let with_destination = is_wildcard(&socket);
    let socket = Rc::new(UdpSocket::from_std(socket)?);
    let stop = stopped(worker.stop.clone());
    tokio::pin!(stop);
    loop {
        tokio::select! {
            ready = socket.readable() => ready?,
            () = &mut stop => break,
        }
        let mut full = 0;
        while full < BATCHES_IN_A_ROW && take_batch(&worker, &socket, &batch, with_destination) == BATCH {
            full += 1;
        }
        if full == BATCHES_IN_A_ROW {
            tokio::task::yield_now().await;
        }
    }
    // What has arrived by now is answered too.
    while turn(&worker, &socket, &batch, with_destination).is_ok_and(|count| count > 0) {}
    Ok(())
}

/// Takes one batch, if the socket has any. Returns how many packets it had.
fn take_batch<U: Ask + 'static>(
    worker: &Rc<Worker<U>>,
    socket: &Rc<UdpSocket>,
    batch: &RefCell<Batch>,
    with_destination: bool,
) -> usize {
    let mut taken = 0;
    // A batch that is not full has emptied the socket: saying so saves the call that would find it empty.
    let _ = socket.try_io(Interest::READABLE, || {
        taken = turn(worker, socket, batch, with_destination)?;
        if taken < BATCH { Err(io::Error::from(io::ErrorKind::WouldBlock)) } else { Ok(()) }
    });
    taken
}

/// Takes one batch and answers it. Returns how many packets it had.
fn turn<U: Ask + 'static>(
    worker: &Rc<Worker<U>>,
    socket: &Rc<UdpSocket>,
    batch: &RefCell<Batch>,
    with_destination: bool,
) -> io::Result<usize> {
    let mut batch = batch.borrow_mut();
    let count = batch.receive(socket.as_fd(), with_destination)?;
    let started = Instant::now();
    let resolver = &worker.resolver;
    let snapshot = resolver.snapshot.load();
    worker.follow(&snapshot);
    let mut tally = worker.tally.borrow_mut();
    let mut turn = Turn { snapshot: &snapshot, now: resolver.millis(started), tally: &mut tally };
    for at in 0..count {
        let Some((packet, client, out)) = batch.packet(at) else { continue };
        match resolver.respond(&mut turn, packet, client.ip(), false, out) {
            Response::Silence => {}
            Response::Reply(len) => batch.reply(at, len),
            Response::ReplyAndRefresh(len, wanted) => {
                batch.reply(at, len);
                worker.refresh(*wanted);
            }
            Response::Later(wanted) => later(worker, socket, &batch, at, wanted),
        }
    }
    let refused = batch.send(socket.as_fd());
    if refused > 0 {
        resolver.metrics.dropped.with_label_values(&["unsendable"]).inc_by(refused as u64);
    }
    tally.flush(&resolver.metrics, started.elapsed().as_secs_f64());
    Ok(count)
}

/// Answers a packet in a task of its own.
fn later<U: Ask + 'static>(
    worker: &Rc<Worker<U>>,
    socket: &Rc<UdpSocket>,
    batch: &Batch,
    at: usize,
    wanted: Box<Wanted>,
) {
    let Some((packet, peer)) = batch.keep(at) else { return };
    let (worker, socket, guard) = (Rc::clone(worker), Rc::clone(socket), worker.depart());
    tokio::task::spawn_local(async move {
        let finished = worker.finish(wanted, &packet, false).await;
        if !finished.wire.is_empty() && peer.send(socket.as_fd(), &finished.wire).is_err() {
            worker.resolver.metrics.dropped.with_label_values(&["unsendable"]).inc();
        }
        drop(guard);
    });
}
