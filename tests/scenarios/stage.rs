//! Plays a scenario: upstreams, nodens before them, clients and the clock, all in one thread.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use nodens::app::start_here;
use nodens::bench::failover::server::TestedServer;
use nodens::config::Config;
use nodens::config::parse::parse;
use nodens::lab::seen::Seen;
use nodens::lab::upstream::LabUpstream;
use nodens::wire::rtype;
use tokio::time::Instant;

use super::burst::Tally;
use super::client::Client;
use super::clock::{Clock, FINE, MEDIUM};
use super::expect::Judge;
use super::script::{Step, time};
use super::subject::Subject;
use super::{expect, upstreams};

/// Longest wait for a response.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time in which no response may come where silence is expected.
const SILENCE: Duration = Duration::from_secs(2);

/// State of a scenario.
pub(crate) struct Stage {
    clock: Clock,
    /// Upstreams in the order of the file.
    upstreams: Vec<(String, LabUpstream)>,
    /// Server that is tested instead of nodens.
    peer: Option<TestedServer>,
    running: Option<Subject>,
    /// Queries whose response has not been read, by label.
    pending: HashMap<String, Client>,
    queries: u16,
}

impl Stage {
    /// Returns an empty stage: for nodens with the clock paused from now on, for a peer with the machine's clock.
    pub(crate) fn new(peer: Option<TestedServer>) -> Self {
        let clock = if peer.is_some() { Clock::real() } else { Clock::pause() };
        Self { clock, upstreams: Vec::new(), peer, running: None, pending: HashMap::new(), queries: 0x4000 }
    }

    /// Plays one step.
    pub(crate) async fn play(&mut self, step: &Step) {
        let words: Vec<&str> = step.words.iter().map(String::as_str).collect();
        let rest = |from: usize| step.words.get(from..).unwrap_or_default();
        match words.as_slice() {
            ["upstream", name, ..] => self.upstream(name, rest(2), &step.block).await,
            ["config"] => self.start(&step.block).await,
            ["set", name, "stop"] => self.clock.drive(self.named(name).stop()).await,
            ["set", name, "start"] => self.named(name).restart().expect("a socket"),
            ["set", name, ..] => self.named(name).set(upstreams::behaviour(rest(2))),
            ["zone", name] => self.named(name).set_zone(upstreams::zone(&step.block)).expect("a zone"),
            _ => {
                if self.running.is_none() {
                    self.start(&[]).await;
                }
                self.play_on(step, &words).await;
            }
        }
    }

    async fn play_on(&mut self, step: &Step, words: &[&str]) {
        let rest = |from: usize| step.words.get(from..).unwrap_or_default();
        match words {
            ["ask", ..] => {
                let client = self.send(rest(1));
                self.expect(client, &step.block).await;
            }
            ["ask-all", count, "of", name, kind] => self.ask_all(count, name, kind, "NOERROR").await,
            ["ask-all", count, "of", name, kind, code] => self.ask_all(count, name, kind, code).await,
            ["burst", count, "of", name, kind, ..] => {
                self.burst(count.parse().expect("a count"), name, kind, rest(5), &step.block).await;
            }
            ["begin", label, ..] => {
                let client = self.send(rest(2));
                self.pending.insert((*label).to_owned(), client);
                self.clock.settle().await;
            }
            ["reply", label] => {
                let client = self.pending.remove(*label).expect("it was begun");
                self.expect(client, &step.block).await;
            }
            ["waits", label] => {
                self.clock.settle().await;
                let response = self.pending.get_mut(*label).expect("it was begun").response();
                assert!(response.is_none(), "there is a reply");
            }
            ["advance", span] => {
                let by = (!self.pending.is_empty()).then_some(FINE);
                self.clock.advance(time(span), by).await;
            }
            ["advance", span, "by", step] => self.clock.advance(time(span), Some(time(step))).await,
            ["reload"] => {
                let config = self.config(&step.block);
                self.running().nodens().reload(config);
                self.clock.settle().await;
            }
            ["saw", name, "loop-check", zone] => {
                let seen = self.named(name).seen();
                assert!(seen.iter().any(|seen| is_loop_check(seen) && seen.is_within(zone)), "no loop check");
            }
            ["leads-back", name] => self.lead_back(name).await,
            // Peers send queries of their own, and retry differently from nodens.
            ["saw", ..] if self.peer.is_some() => {}
            ["saw", name, ..] => {
                self.clock.settle().await;
                let mut seen = self.named(name).seen();
                self.named(name).clear_seen();
                // Ignores nodens's own queries: loop checks, and probes unless the step looks for them.
                let probes = rest(2).iter().chain(&step.block).any(|word| word.contains("SOA"));
                seen.retain(|seen| !is_loop_check(seen) && (probes || seen.qtype != rtype::SOA));
                upstreams::check(&seen, rest(2), &step.block);
            }
            _ => panic!("unknown step"),
        }
    }

    async fn upstream(&mut self, name: &str, words: &[String], block: &[String]) {
        let (address, latency) = upstreams::place(words);
        let started = self.clock.drive(LabUpstream::start(address, upstreams::zone(block))).await;
        let upstream = started.expect("an upstream");
        upstream.set_latency(latency);
        self.upstreams.push((name.to_owned(), upstream));
    }

    async fn start(&mut self, block: &[String]) {
        self.running = Some(match self.peer {
            Some(peer) => {
                let upstreams: Vec<_> = self.upstreams.iter().map(|(_, upstream)| upstream.address()).collect();
                Subject::start(peer, &upstreams).await
            }
            None => Subject::Nodens(Box::new(start_here(self.config(block)).expect("nodens starts").0)),
        });
        self.clock.settle().await;
    }

    /// Returns the configuration of a block, with a listener added. If the block names no upstreams, all are in one group.
    fn config(&self, block: &[String]) -> Config {
        let mut text = format!("[server]\nlisten = [\"127.0.0.1:0\"]\n{}\n", block.join("\n"));
        if !text.contains("[upstreams.") {
            let servers: Vec<_> = self.upstreams.iter().map(|(name, _)| format!("\"{{{name}}}\"")).collect();
            text += &format!("[upstreams.public]\nservers = [{}]\n", servers.join(", "));
        }
        if !text.contains("[[route]]") {
            text += "[[route]]\nzones = [\".\"]\nto = \"public\"\n";
        }
        for (name, upstream) in &self.upstreams {
            text = text.replace(&format!("{{{name}}}"), &upstream.address().to_string());
        }
        parse(&text, &[IpAddr::V4(Ipv4Addr::LOCALHOST)])
            .unwrap_or_else(|diagnostics| panic!("{diagnostics:?} in:\n{text}"))
    }

    fn send(&mut self, words: &[String]) -> Client {
        self.queries += 1;
        Client::send(self.address(), words, self.queries)
    }

    async fn expect(&self, mut client: Client, block: &[String]) {
        let silence = block.first().is_some_and(|line| line == "silence");
        let patience = if silence { SILENCE } else { PATIENCE };
        self.clock.settle().await;
        let response = loop {
            match client.response() {
                Some(response) => break Some(response),
                None if client.sent.elapsed() >= patience => break None,
                None => self.clock.step(FINE).await,
            }
        };
        let took = client.sent.elapsed();
        match response {
            Some(response) if silence => panic!("a reply: {response:02x?}"),
            Some(response) => expect::check(&client.query, &response, took, &self.in_place(block), self.judge()),
            None => assert!(silence, "no reply within {patience:?}"),
        }
    }

    /// Replaces `{public-1}` in the lines by the address of this upstream.
    fn in_place(&self, block: &[String]) -> Vec<String> {
        let place = |line: &String| {
            self.upstreams.iter().fold(line.clone(), |line, (name, upstream)| {
                line.replace(&format!("{{{name}}}"), &upstream.address().to_string())
            })
        };
        block.iter().map(place).collect()
    }

    /// Queries `0-NAME`, `1-NAME` ... one after another and expects this code.
    async fn ask_all(&mut self, count: &str, name: &str, kind: &str, code: &str) {
        for number in 0..count.parse::<u32>().expect("a count") {
            let words = [format!("{number}-{name}"), kind.to_owned()];
            let client = self.send(&words);
            self.expect(client, &[code.to_owned(), "answers 0..9".to_owned()]).await;
        }
    }

    /// Queries `0-NAME`, `1-NAME` ... at once or `every=TIME`, and waits for all responses. Lines of the block: `CODE COUNT`,
    /// `slowest MILLISECONDS`, and `took MILLISECONDS COUNT` for the number of responses that took this long.
    async fn burst(&mut self, count: u32, name: &str, kind: &str, words: &[String], block: &[String]) {
        let pace = words.iter().find_map(|word| word.strip_prefix("every=")).map(time);
        let words: Vec<_> = words.iter().filter(|word| !word.starts_with("every=")).cloned().collect();
        let mut waiting = Vec::new();
        let mut tally = Tally::default();
        for number in 0..count {
            let next = Instant::now() + pace.unwrap_or_default();
            waiting.push(self.send(&[vec![format!("{number}-{name}"), kind.to_owned()], words.clone()].concat()));
            while Instant::now() < next {
                let size = if waiting.is_empty() { MEDIUM.min(next - Instant::now()) } else { FINE };
                self.clock.step(size).await;
                tally.take_from(&mut waiting);
            }
        }
        self.clock.settle().await;
        tally.take_from(&mut waiting);
        while !waiting.is_empty() {
            self.clock.step(FINE).await;
            tally.take_from(&mut waiting);
            let lost = waiting.iter().filter(|client| client.sent.elapsed() >= PATIENCE).count();
            assert_eq!(lost, 0, "queries without a reply");
        }
        tally.check(block, self.judge());
    }

    /// Sends to nodens the loop check that reached an upstream, as an upstream in a forwarding loop would.
    async fn lead_back(&mut self, name: &str) {
        let seen = self.named(name).seen();
        let check = seen.iter().rfind(|seen| is_loop_check(seen)).expect("a loop check");
        let words = [check.name.clone(), "TXT".to_owned()];
        let client = self.send(&words);
        self.expect(client, &["NXDOMAIN".to_owned()]).await;
    }

    fn named(&self, name: &str) -> &LabUpstream {
        let found = self.upstreams.iter().find(|(known, _)| known == name);
        found.map(|(_, upstream)| upstream).unwrap_or_else(|| panic!("{name}: no such upstream"))
    }

    fn running(&self) -> &Subject {
        self.running.as_ref().expect("it runs")
    }

    fn address(&self) -> SocketAddr {
        self.running().address()
    }

    fn judge(&self) -> Judge {
        if self.peer.is_some() { Judge::Peer } else { Judge::Nodens }
    }
}

/// Returns whether a query is a loop check of nodens.
fn is_loop_check(seen: &Seen) -> bool {
    seen.name.to_ascii_lowercase().contains(".loop-check.")
}

/// Polls a step; if it panics, prints its location.
pub(crate) async fn located(path: &str, line: usize, step: impl Future<Output = ()>) {
    tokio::pin!(step);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| step.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(panic) => {
            eprintln!("{path}:{line}: this step failed");
            resume_unwind(panic)
        }
    })
    .await;
}
