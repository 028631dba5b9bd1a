//! TCP side of a scripted server: framed queries (RFC 1035 section 4.2.2), and all ways to treat them badly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::fault::{Outgoing, Tcp};
use super::port::LabPort;
use super::script::Script;
use crate::task::boxed;
use crate::upstream::Transport;

/// Longest time that [`Tcp::Reversed`] waits for further data.
const GATHER: Duration = Duration::from_millis(200);

/// Time that a closed connection is still read, so that a reset for unread bytes does not overtake the last response.
const LINGER: Duration = Duration::from_millis(100);

/// Pause after a failed `accept`, and between the pieces of [`Tcp::InPieces`].
const PAUSE: Duration = Duration::from_millis(1);

/// Accepts connections until `stopped` changes. While TCP is refused, there are no connections.
pub(super) async fn serve(script: Arc<Script>, port: Arc<LabPort>, mut stopped: watch::Receiver<bool>) {
    let mut changes = script.behaviour_changes();
    let mut connections = JoinSet::new();
    'open: loop {
        if changes.borrow_and_update().tcp == Tcp::Refuse {
            connections.shutdown().await;
            tokio::select! {
                _ = stopped.changed() => break,
                _ = changes.changed() => continue,
            }
        }
        let Ok(listener) = port.listener() else { break };
        loop {
            tokio::select! {
                _ = stopped.changed() => break 'open,
                _ = changes.changed() => continue 'open,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, client)) => {
                        connections.spawn(boxed(serve_connection(Arc::clone(&script), stream, client)));
                    }
                    Err(_) => {
                        sleep(PAUSE).await;
                        continue 'open;
                    }
                },
            }
        }
    }
    connections.shutdown().await;
}

/// Serves one connection: reads queries and sends the responses when they are due.
async fn serve_connection(script: Arc<Script>, stream: TcpStream, client: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    let mut due = JoinSet::new();
    let mut buffer = Vec::new();
    let mut gathered: Vec<Outgoing> = Vec::new();
    let mut answered = 0;
    loop {
        let mode = script.behaviour().tcp;
        if matches!(mode, Tcp::CloseAfter(responses) if answered >= responses) {
            break;
        }
        let wait = if gathered.is_empty() { Duration::MAX } else { GATHER };
        let Some(query) = take_frame(&mut buffer) else {
            match timeout(wait, reader.read_buf(&mut buffer)).await {
                Ok(Ok(read)) if read > 0 => continue,
                Ok(_) => {
                    reply_all(&mut due, &writer, gathered.drain(..).rev(), mode);
                    break;
                }
                Err(_) => reply_all(&mut due, &writer, gathered.drain(..).rev(), mode),
            }
            continue;
        };
        let sends = script.take(&query, client, Transport::Tcp);
        answered += usize::from(!sends.is_empty());
        // The mode may have changed while the query was in transit.
        match script.behaviour().tcp {
            Tcp::Silent => {}
            Tcp::StallAfter(responses) if answered > responses => {}
            Tcp::Reversed(count) => {
                gathered.extend(sends);
                if gathered.len() >= count {
                    reply_all(&mut due, &writer, gathered.drain(..).rev(), mode);
                }
            }
            mode => reply_all(&mut due, &writer, sends.into_iter(), mode),
        }
    }
    while due.join_next().await.is_some() {}
    let _ = writer.lock().await.shutdown().await;
    let _ = timeout(LINGER, async {
        while matches!(reader.read_buf(&mut buffer).await, Ok(read) if read > 0) {
            buffer.clear();
        }
    })
    .await;
}

/// Writes responses, each after its delay; those of equal delay in the given order.
fn reply_all(
    due: &mut JoinSet<()>,
    writer: &Arc<Mutex<OwnedWriteHalf>>,
    sends: impl Iterator<Item = Outgoing>,
    mode: Tcp,
) {
    while due.try_join_next().is_some() {}
    let mut groups: Vec<(Duration, Vec<u8>)> = Vec::new();
    for send in sends {
        let Ok(length) = u16::try_from(send.wire.len()) else { continue };
        let frame = [&length.to_be_bytes()[..], &send.wire].concat();
        match groups.iter_mut().find(|(after, _)| *after == send.after) {
            Some((_, frames)) => frames.extend(frame),
            None => groups.push((send.after, frame)),
        }
    }
    for (after, frames) in groups {
        let writer = Arc::clone(writer);
        due.spawn(boxed(async move {
            sleep(after).await;
            let mut writer = writer.lock().await;
            let piece = if let Tcp::InPieces(bytes) = mode { bytes.max(1) } else { frames.len().max(1) };
            for part in frames.chunks(piece) {
                if writer.write_all(part).await.is_err() {
                    return;
                }
                if piece < frames.len() {
                    sleep(PAUSE).await;
                }
            }
        }));
    }
}

/// Removes the first message from `buffer` and returns it, if it is complete.
fn take_frame(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*buffer.first_chunk()?));
    if buffer.len() < 2 + length {
        return None;
    }
    let frame = buffer[2..2 + length].to_vec();
    buffer.drain(..2 + length);
    Some(frame)
}
