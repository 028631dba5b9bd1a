//! Asking servers that take no clients' queries whether they are back, and new ones whether they lead back to nodens.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, timeout};

use super::failure::FailureKind;
use super::inbox::{Event, Inbox};
use super::links::Links;
use super::question::Question;
use super::race::Attempt;
use super::send_context::SendContext;
use super::server::Server;
use super::transport::Transport;
use crate::wire::name::Name;
use crate::wire::{RrType, class, rtype};

/// How often the servers are looked through for one whose probe is due.
pub const TICK: Duration = Duration::from_millis(50);
/// How long a probe's reply is waited for. A later one still counts, as long as the port lives.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks a server for the SOA record of `zone`. Whatever it replies counts for it, silence against it.
pub fn probe(links: &Rc<Links>, server: &Arc<Server>, zone: &Name) {
    ask(links, server, Question { name: zone.clone(), ..question(rtype::SOA) });
}

/// Asks a server for a name that nobody else knows: if that query comes back to nodens, the server leads back here.
pub fn check_loop(links: &Rc<Links>, server: &Arc<Server>, below: &[u8]) {
    let name = [&server.loop_token(), below].concat();
    if let Ok(name) = Name::from_wire(&name) {
        ask(links, server, Question { name, ..question(rtype::TXT) });
    }
}

/// Asks a server for a name of many random letters that nobody else knows, over ports that nobody else uses, and finds out
/// whether they come back as they were. A reply in other letters counts when no other one has come in time.
pub fn check_case(links: &Rc<Links>, server: &Arc<Server>, below: &[u8]) {
    const LETTERS: u8 = 32;
    let mut name = vec![LETTERS];
    name.extend((0..LETTERS).map(|_| rand::rng().random_range(b'a'..=b'z')));
    name.extend_from_slice(below);
    let Ok(name) = Name::from_wire(&name) else { return };
    let (links, server) = (Rc::clone(links), Arc::clone(server));
    tokio::task::spawn_local(async move {
        let (at, inbox) = (Instant::now(), Rc::new(Inbox::of_probe()));
        let context = SendContext { random_case: true, ..context(&inbox, at) };
        let candidate = server.candidate();
        let attempt = Attempt { candidate: 0, transport: Transport::Udp, edns: candidate.edns, hedge: false };
        links.to(&server).send(&Question { name, ..question(rtype::A) }, attempt, &context);
        let mut is_folded = false;
        let replied = async {
            loop {
                match inbox.next().await.1 {
                    Event::Reply(..) => return true,
                    Event::Doubtful { folded } => is_folded |= folded,
                    Event::Failed(_) => return false,
                    Event::Written(_) => {}
                }
            }
        };
        let replied = timeout(PATIENCE, replied).await.unwrap_or(false);
        if replied || is_folded {
            server.case_was_checked(!replied, Instant::now());
        }
    });
}

/// How a query of nodens's own is sent.
fn context(inbox: &Rc<Inbox>, at: Instant) -> SendContext<'_> {
    let until = at + PATIENCE;
    SendContext { number: 0, inbox, at, until, random_case: false, connections: 1, again: false, client: None }
}

fn question(qtype: RrType) -> Question {
    Question { name: Name::root(), qtype, qclass: class::IN, rd: true, cd: false, dnssec_ok: false, z: false }
}

fn ask(links: &Rc<Links>, server: &Arc<Server>, question: Question) {
    let (links, server) = (Rc::clone(links), Arc::clone(server));
    tokio::task::spawn_local(async move {
        let candidate = server.candidate();
        let attempt = Attempt { candidate: 0, transport: candidate.transport, edns: candidate.edns, hedge: false };
        let inbox = Rc::new(Inbox::of_probe());
        let at = Instant::now();
        links.to(&server).send(&question, attempt, &context(&inbox, at));
        // The link itself tells the server's health of a reply.
        let end = async {
            loop {
                let (_, event) = inbox.next().await;
                if !matches!(event, Event::Written(_)) {
                    return event;
                }
            }
        };
        match timeout(PATIENCE, end).await {
            Ok(Event::Reply(..) | Event::Doubtful { .. } | Event::Written(_)) => {}
            Ok(Event::Failed(kind)) => {
                if !kind.is_servers() {
                    server.was_not_probed();
                }
                server.failed(kind);
            }
            // One of before its return must not count against it after that.
            Err(_) if server.has_answered_since(at) => {}
            Err(_) => server.failed(FailureKind::Timeout),
        }
    });
}
