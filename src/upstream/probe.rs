//! Queries of nodens's own: probes of servers, and checks for forwarding loops, EDNS and letter case.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, timeout};

use super::connections::UpstreamConnections;
use super::failure::FailureKind;
use super::health::UnansweredAttempt;
use super::message::ResponseSummary;
use super::question::Question;
use super::race::Attempt;
use super::race_events::{AttemptEvent, RaceEvents};
use super::sender::SendContext;
use super::server::{LOOP_LABEL, LOOP_NONCE, Server};
use super::transport::Transport;
use crate::task;
use crate::wire::name::Name;
use crate::wire::{Rcode, RrType, class, rcode, rtype};

/// Interval between scans for servers whose probe or check is due.
pub const TICK: Duration = Duration::from_millis(50);
/// Time to wait for the response to such a query, probes excepted. A later one still counts, as long as the port is open.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reports whether a response code may mean that the server does not understand EDNS.
fn is_refused(code: Rcode) -> bool {
    matches!(code, rcode::FORMERR | rcode::NOTIMP | rcode::BADVERS)
}

/// Copies of a query with EDNS that must all get no response, while one without EDNS is answered, before a check counts
/// as failed.
const COPIES: usize = 3;

/// Asks a server for the SOA record of `zone`, or for the question `well`, which was answered a short time ago. Any
/// response counts for the server's health, silence counts against it.
pub fn probe(links: &Rc<UpstreamConnections>, server: &Arc<Server>, zone: &Name, well: Option<Question>) {
    let (links, server) = (Rc::clone(links), Arc::clone(server));
    let question = server.probe_question(zone, well);
    task::spawn_local(async move {
        let (at, candidate) = (Instant::now(), server.candidate());
        // The link itself records a response in the server's health.
        match ask(&links, &server, &question, candidate.transport, candidate.edns).await {
            ProbeOutcome::Replied(verdict) => {
                if candidate.edns && is_refused(verdict.rcode) {
                    server.edns_is_doubted();
                }
                let error = match verdict.truncated {
                    // Over TCP there has to be an answer.
                    true => match ask(&links, &server, &question, Transport::Tcp, candidate.edns).await {
                        ProbeOutcome::Replied(verdict) => FailureKind::of_verdict(&verdict),
                        ProbeOutcome::Other => None,
                        ProbeOutcome::Failed(kind) if !kind.is_servers() => None,
                        // A server that responds over UDP only is of no use for this answer.
                        other => {
                            let kind = if let ProbeOutcome::Failed(kind) = other { kind } else { FailureKind::Timeout };
                            server.failed(kind, candidate.transport, UnansweredAttempt::Probe);
                            Some(kind)
                        }
                    },
                    false => FailureKind::of_verdict(&verdict),
                };
                server.answered_probe(&question, error);
            }
            ProbeOutcome::Other => server.was_not_probed(),
            ProbeOutcome::Failed(kind) => {
                if !kind.is_servers() {
                    server.was_not_probed();
                }
                server.failed(kind, candidate.transport, UnansweredAttempt::Probe);
            }
            // Sent before the server recovered, so its loss must not count afterwards.
            ProbeOutcome::Silence if server.has_answered_since(at) && !server.is_losing() => {}
            ProbeOutcome::Silence => server.failed(FailureKind::Timeout, candidate.transport, UnansweredAttempt::Probe),
        }
    });
}

/// Asks a server for a unique name below `zone`: if that query comes back to nodens, the server is a forwarding loop. The
/// loop is cleared when the query is answered without coming back.
pub fn check_loop(links: &Rc<UpstreamConnections>, server: &Arc<Server>, zone: &[u8]) {
    // No cache on the way has seen it before.
    let mut nonce = [8; LOOP_NONCE];
    nonce[1..].fill_with(|| rand::rng().random_range(b'a'..=b'z'));
    let name = [&server.loop_token()[..], &nonce, LOOP_LABEL, zone].concat();
    let Ok(name) = Name::from_wire(&name) else { return };
    let (links, server) = (Rc::clone(links), Arc::clone(server));
    task::spawn_local(async move {
        let (seen, candidate) = (server.loops_seen(), server.candidate());
        let question = Question { name, ..question(rtype::TXT) };
        let asked = ask(&links, &server, &question, candidate.transport, candidate.edns).await;
        if matches!(asked, ProbeOutcome::Replied(_)) && server.loops_seen() == seen {
            server.clear_loop("a query of the loop check was answered, and did not come back");
        }
    });
}

/// Asks a server the question of [`probe`], with EDNS and without, to check whether it answers queries with EDNS.
pub fn check_edns(links: &Rc<UpstreamConnections>, server: &Arc<Server>, zone: &Name, well: Option<Question>) {
    let (links, server) = (Rc::clone(links), Arc::clone(server));
    let question = server.probe_question(zone, well);
    task::spawn_local(async move {
        let asked = async |edns| ask(&links, &server, &question, Transport::Udp, edns).await;
        let mut with = None;
        for _ in 0..COPIES {
            match asked(true).await {
                ProbeOutcome::Replied(verdict) if FailureKind::of_verdict(&verdict).is_some() => {
                    with = Some(verdict);
                    break;
                }
                ProbeOutcome::Replied(_) => return server.edns_was_checked(false, Instant::now()),
                ProbeOutcome::Silence => {}
                ProbeOutcome::Other | ProbeOutcome::Failed(_) => return,
            }
        }
        // If the query without EDNS gets no response either, EDNS is not the reason; nor if it gets the same error.
        if let ProbeOutcome::Replied(without) = asked(false).await {
            let is_better = |with: &ResponseSummary| {
                is_refused(with.rcode)
                    || FailureKind::of_verdict(with).is_some() && FailureKind::of_verdict(&without).is_none()
            };
            let lacks = !is_refused(without.rcode) && with.as_ref().is_none_or(is_better);
            server.edns_was_checked(lacks, Instant::now());
        }
    });
}

/// Asks a server for a unique name of many random letters in random letter case, over ports without clients' queries, and
/// checks whether the letters come back unchanged. A response in other letters counts only if the true one does not
/// arrive in time.
pub fn check_case(links: &Rc<UpstreamConnections>, server: &Arc<Server>, below: &[u8]) {
    const LETTERS: u8 = 32;
    let mut name = vec![LETTERS];
    name.extend((0..LETTERS).map(|_| rand::rng().random_range(b'a'..=b'z')));
    name.extend_from_slice(below);
    let Ok(name) = Name::from_wire(&name) else { return };
    let (links, server) = (Rc::clone(links), Arc::clone(server));
    task::spawn_local(async move {
        let (at, race_events) = (Instant::now(), Rc::new(RaceEvents::of_probe()));
        let context = SendContext { random_case: true, ..context(&race_events, at) };
        let candidate = server.candidate();
        let attempt = Attempt { candidate: 0, transport: Transport::Udp, edns: candidate.edns, hedge: false };
        links.to(&server).send(&Question { name, ..question(rtype::A) }, attempt, &context);
        let mut is_folded = false;
        let responded = async {
            loop {
                match race_events.next().await.1 {
                    AttemptEvent::Reply(..) => return true,
                    AttemptEvent::Doubtful { folded, .. } => is_folded |= folded,
                    AttemptEvent::Failed(_) => return false,
                    AttemptEvent::Written(_) => {}
                }
            }
        };
        let responded = timeout(PATIENCE, responded).await.unwrap_or(false);
        if responded || is_folded {
            server.case_was_checked(!responded, Instant::now());
        }
    });
}

/// Returns the parameters of a query of nodens's own.
fn context(race_events: &Rc<RaceEvents>, at: Instant) -> SendContext<'_> {
    let until = at + PATIENCE;
    SendContext { number: 0, race_events, at, until, random_case: false, connections: 1, again: false, client: None }
}

fn question(qtype: RrType) -> Question {
    Question { name: Name::root(), qtype, qclass: class::IN, rd: true, cd: false, dnssec_ok: false, z: false }
}

/// Outcome of a query of nodens's own.
enum ProbeOutcome {
    /// A response with this summary.
    Replied(ResponseSummary),
    /// A message that may be the response or a forgery.
    Other,
    Failed(FailureKind),
    Silence,
}

/// Asks a server in lower case for a name that it denied in random letter case, and then in random letter case. A server
/// that answers only the former, twice, finds names in lower case only.
pub fn check_lower_case(links: &Rc<UpstreamConnections>, server: &Arc<Server>, question: Question) {
    let (links, server) = (Rc::clone(links), Arc::clone(server));
    task::spawn_local(async move {
        let edns = server.candidate().edns;
        let answers = async |random_case| {
            let asked = ask_in(random_case, &links, &server, &question, Transport::Udp, edns).await;
            matches!(asked, ProbeOutcome::Replied(ResponseSummary { rcode: rcode::NOERROR, fault: None, .. }))
        };
        for _ in 0..2 {
            if !answers(false).await || answers(true).await {
                return;
            }
        }
        server.needs_lower_case(Instant::now());
    });
}

async fn ask(
    links: &Rc<UpstreamConnections>,
    server: &Arc<Server>,
    question: &Question,
    transport: Transport,
    edns: bool,
) -> ProbeOutcome {
    ask_in(false, links, server, question, transport, edns).await
}

async fn ask_in(
    random_case: bool,
    links: &Rc<UpstreamConnections>,
    server: &Arc<Server>,
    question: &Question,
    transport: Transport,
    edns: bool,
) -> ProbeOutcome {
    let first = server.transport();
    let transport = if first.is_encrypted() { first } else { transport };
    let attempt = Attempt { candidate: 0, transport, edns, hedge: false };
    let race_events = Rc::new(RaceEvents::of_probe());
    let context = SendContext { random_case, ..context(&race_events, Instant::now()) };
    links.to(server).send(question, attempt, &context);
    let end = async {
        loop {
            match race_events.next().await.1 {
                AttemptEvent::Written(_) => {}
                AttemptEvent::Reply(_, verdict) => return ProbeOutcome::Replied(verdict),
                AttemptEvent::Doubtful { .. } => return ProbeOutcome::Other,
                AttemptEvent::Failed(kind) => return ProbeOutcome::Failed(kind),
            }
        }
    };
    timeout(server.probe_timeout(), end).await.unwrap_or(ProbeOutcome::Silence)
}
