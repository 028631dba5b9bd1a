//! The guided tour: queries a nodens in front of the network, step by step, and shows and checks each answer.
//!
//! The servers that were asked are not guessed: they are those that have logged a query since the question was sent. Times
//! are for the reader; only limits far beyond the usual can fail a step.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;
use tokio::time::{Instant, sleep};

use super::client::{LabQuery, LabResponse, ask};
use super::fault::Behaviour;
use super::{HORIZONS, LabNetwork, STATIC_RECORD};
use crate::upstream::Transport;
use crate::wire::ede;

/// Longest response time while one server of a group is dead.
const FAILOVER_LIMIT: Duration = Duration::from_millis(1500);
/// Longest time that a recovered server may go without queries.
const RECOVERY_LIMIT: Duration = Duration::from_secs(4);
/// Pause that is longer than the TTL of `db.corp.example`.
const STALE_AFTER: Duration = Duration::from_millis(1300);
/// Pause between questions to a recovering group.
const PAUSE: Duration = Duration::from_millis(100);
/// Zones that no public server may be asked for.
const PRIVATE_ZONES: [&str; 3] = ["corp.example", "cluster.local", "10.in-addr.arpa"];

/// Result of the tour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Score {
    pub steps: u32,
    pub failed: u32,
}

type StepResult = Result<(), String>;

struct Tour<'a, W> {
    network: &'a LabNetwork,
    nodens: SocketAddr,
    out: W,
    score: Score,
    fresh: u32,
}

/// Runs the tour: queries the nodens at `nodens`, whose upstreams are those of `network`, and writes a table to `out`.
///
/// The tour expects an empty cache and takes about ten seconds. At its end, all servers behave normally.
///
/// # Errors
/// The error of `out`. A step that fails is no error: the score counts it.
pub(crate) async fn tour(network: &LabNetwork, nodens: SocketAddr, out: impl Write) -> io::Result<Score> {
    let start = Instant::now();
    let score = Score { steps: 0, failed: 0 };
    let mut tour = Tour { network, nodens, out, score, fresh: 0 };
    let head = row("question", "answer", "asked of", "time");
    writeln!(tour.out, "    {head}")?;
    tour.horizons().await?;
    tour.cache().await?;
    tour.transports().await?;
    tour.one_dead_server().await?;
    tour.a_dead_group().await?;
    tour.privacy(start)?;
    let Score { steps, failed } = tour.score;
    let took = start.elapsed().as_secs_f32();
    writeln!(tour.out, "\n{} of {steps} steps passed, in {took:.1} s", steps - failed)?;
    Ok(tour.score)
}

impl<W: Write> Tour<'_, W> {
    async fn horizons(&mut self) -> io::Result<()> {
        self.title("Split DNS: each name is answered by the upstream of its route")?;
        for (name, qtype, data, group) in [
            ("kubernetes.default.svc.cluster.local", "A", "10.96.0.1", "kube-dns"),
            ("registry.gitlab.svc.cluster.local", "A", "10.96.14.20", "kube-dns"),
            ("1.0.96.10.in-addr.arpa", "PTR", "kubernetes.default.svc.cluster.local.", "kube-dns"),
            ("artifacts.corp.example", "A", "10.0.3.8", "vpc"),
            ("7.3.0.10.in-addr.arpa", "PTR", "registry.corp.example.", "vpc"),
            ("registry.example.com", "AAAA", "2001:db8::10", "public"),
            ("pypi.example.org", "A", "198.51.100.7", "public"),
        ] {
            self.ask(name, qtype, |response, asked| holds(response, data).and(groups(asked, &[group]))).await?;
        }
        self.title("A public name has a CNAME into the private zone: each part is asked of its own upstream")?;
        let mirror = "registry-mirror.example.com";
        self.ask(mirror, "A", |response, asked| holds(response, "10.0.3.7").and(groups(asked, &["public", "vpc"])))
            .await?;
        self.title("A public name must not point at a private address")?;
        self.ask("rebind.example.com", "A", |response, asked| {
            let leaked = response.data().iter().any(|data| data == "10.0.3.7");
            check(!leaked, "a private address came through").and(groups(asked, &["public"]))
        })
        .await?;
        self.title("A static record, answered by nodens itself")?;
        let (name, address) = STATIC_RECORD;
        self.ask(name, "A", |response, asked| holds(response, &address.to_string()).and(groups(asked, &[]))).await
    }

    async fn cache(&mut self) -> io::Result<()> {
        self.title("A cached name is not asked again, in any letter case")?;
        for name in ["pypi.example.org", "PyPI.Example.ORG"] {
            self.ask(name, "A", |response, asked| holds(response, "198.51.100.7").and(groups(asked, &[]))).await?;
        }
        self.title("A name that does not exist: NXDOMAIN, cached")?;
        for expected in [&["public"][..], &[]] {
            self.ask("no-such-name.example.com", "A", |response, asked| {
                check(response.rcode() == ResponseCode::NXDomain, "not NXDOMAIN").and(groups(asked, expected))
            })
            .await?;
        }
        self.title("A name without this type: NODATA, cached")?;
        for expected in [&["public"][..], &[]] {
            self.ask("www.example.com", "AAAA", |response, asked| {
                let no_data = response.rcode() == ResponseCode::NoError && response.message.answers.is_empty();
                check(no_data, "not an empty answer").and(groups(asked, expected))
            })
            .await?;
        }
        Ok(())
    }

    async fn transports(&mut self) -> io::Result<()> {
        self.title("TCP, and an answer too large for UDP: fetched over TCP")?;
        let question = question("www.example.com", "A")?.over_tcp();
        let whole =
            |response: &LabResponse, asked: &[&str]| holds(response, "192.0.2.80").and(groups(asked, &["public"]));
        self.show("www.example.com A, over TCP", question, whole).await?;
        let name = "mirrors.example.org";
        let question = self::question(name, "AAAA")?.over_tcp();
        let upstreams: Vec<_> = self.network.group("public").map(|server| &server.upstream).collect();
        self.show("mirrors.example.org AAAA, over TCP", question, |response, asked| {
            let seen = upstreams.iter().flat_map(|upstream| upstream.seen());
            let over_tcp = seen.filter(|seen| seen.is_named(name)).any(|seen| seen.transport == Transport::Tcp);
            check(response.message.answers.len() == 60, "not all 60 records")
                .and(check(over_tcp, "no upstream was asked over TCP"))
                .and(groups(asked, &["public"]))
        })
        .await
    }

    async fn one_dead_server(&mut self) -> io::Result<()> {
        self.title("vpc-1 goes silent: vpc-2 answers, and vpc-1 soon costs no time")?;
        self.set("vpc-1", Behaviour::silent());
        for _ in 0..5 {
            let name = self.fresh_name();
            self.ask(&name, "A", |response, asked| {
                holds(response, "10.0.7.1")
                    .and(check(asked.contains(&"vpc-2"), "vpc-2 was not asked"))
                    .and(check(response.took < FAILOVER_LIMIT, "too slow"))
            })
            .await?;
        }
        self.title("vpc-1 is back: it takes queries again")?;
        self.set("vpc-1", Behaviour::normal());
        self.until_back("vpc-1 alone", |asked| asked == ["vpc-1"]).await
    }

    async fn a_dead_group(&mut self) -> io::Result<()> {
        self.title("vpc-1 and vpc-2 go silent: a cached answer is served stale, past its TTL of one second")?;
        let fresh = |response: &LabResponse, _: &[&str]| holds(response, "10.0.5.4");
        self.ask("db.corp.example", "A", fresh).await?;
        self.set("vpc-1", Behaviour::silent());
        self.set("vpc-2", Behaviour::silent());
        sleep(STALE_AFTER).await;
        self.ask("db.corp.example", "A", |response, _| {
            let told = response.extended_error() == Some(ede::STALE);
            holds(response, "10.0.5.4").and(check(told, "no extended error 3, stale answer"))
        })
        .await?;
        self.title("Both are back")?;
        self.set("vpc-1", Behaviour::normal());
        self.set("vpc-2", Behaviour::normal());
        self.until_back("an answer", |asked| !asked.is_empty()).await
    }

    /// Checks the queries that the public servers have received since the tour began.
    fn privacy(&mut self, start: Instant) -> io::Result<()> {
        self.title("No public server was asked for a private name")?;
        let public: Vec<_> = self.network.group("public").flat_map(|server| server.upstream.seen()).collect();
        let leaked: Vec<_> = public
            .iter()
            .filter(|seen| seen.at >= start && PRIVATE_ZONES.iter().any(|zone| seen.is_within(zone)))
            .map(|seen| seen.name.as_str())
            .collect();
        let verdict = check(leaked.is_empty(), &format!("asked: {}", leaked.join(", ")));
        let heard = if leaked.is_empty() { "none" } else { "asked" };
        let queries = format!("{} queries", public.len());
        self.line("corp.example, cluster.local, 10.0.0.0/8", heard, "public-1, public-2", &queries, &verdict)
    }

    /// Asks for new names until the group answers one and the servers that were asked satisfy `done`.
    async fn until_back(&mut self, what: &str, done: impl Fn(&[&str]) -> bool) -> io::Result<()> {
        let start = Instant::now();
        loop {
            let name = self.fresh_name();
            let sent = Instant::now();
            let response = ask(self.nodens, &question(&name, "A")?).await;
            let asked = self.asked(sent, &name, response.as_ref().ok());
            let good = response.as_ref().is_ok_and(|response| holds(response, "10.0.7.1").is_ok()) && done(&asked);
            let after = start.elapsed();
            if good || after > RECOVERY_LIMIT {
                let answer = response.map_or_else(|error| error.to_string(), |response| response.summary());
                let verdict = check(good, &format!("still not {what}"));
                let time = format!("after {}", milliseconds(after));
                return self.line(&format!("{name} A"), &answer, &asked.join(", "), &time, &verdict);
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask(
        &mut self,
        name: &str,
        qtype: &str,
        judge: impl Fn(&LabResponse, &[&str]) -> StepResult,
    ) -> io::Result<()> {
        self.show(&format!("{name} {qtype}"), question(name, qtype)?, judge).await
    }

    /// Asks one question; shows the answer, and the verdict of `judge` on the response and the servers that were asked.
    async fn show(
        &mut self,
        label: &str,
        question: LabQuery,
        judge: impl Fn(&LabResponse, &[&str]) -> StepResult,
    ) -> io::Result<()> {
        let name = label.split(' ').next().unwrap_or_default();
        let sent = Instant::now();
        match ask(self.nodens, &question).await {
            Ok(response) => {
                let asked = self.asked(sent, name, Some(&response));
                let verdict = judge(&response, &asked);
                let from = if asked.is_empty() { "none".to_owned() } else { asked.join(", ") };
                self.line(label, &response.summary(), &from, &milliseconds(response.took), &verdict)
            }
            Err(error) => {
                let asked = self.asked(sent, name, None).join(", ");
                let verdict = Err(error.to_string());
                self.line(label, "no answer", &asked, &milliseconds(sent.elapsed()), &verdict)
            }
        }
    }

    /// Returns the servers that have received a query for `name`, or for a CNAME target in its response, since `sent`.
    fn asked(&self, sent: Instant, name: &str, response: Option<&LabResponse>) -> Vec<&'static str> {
        let answers = response.map(|response| response.message.answers.as_slice()).unwrap_or_default();
        let targets = answers.iter().filter_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.0.to_ascii()),
            _ => None,
        });
        let names: Vec<_> = targets.chain([name.to_owned()]).collect();
        let saw = |server: &&super::LabServer| {
            server.upstream.seen().iter().any(|seen| seen.at >= sent && names.iter().any(|name| seen.is_named(name)))
        };
        self.network.servers().iter().filter(saw).map(|server| server.name).collect()
    }

    fn set(&self, name: &str, behaviour: Behaviour) {
        if let Some(upstream) = self.network.server(name) {
            upstream.set(behaviour);
        }
    }

    /// Returns a private name that was not queried before.
    fn fresh_name(&mut self) -> String {
        self.fresh += 1;
        format!("job-{}.build.corp.example", self.fresh)
    }

    fn title(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "\n{text}")
    }

    fn line(&mut self, question: &str, answer: &str, asked: &str, time: &str, verdict: &StepResult) -> io::Result<()> {
        self.score.steps += 1;
        let mark = if verdict.is_ok() { '✓' } else { '✗' };
        writeln!(self.out, "  {mark} {}", row(question, answer, asked, time))?;
        if let Err(reason) = verdict {
            self.score.failed += 1;
            writeln!(self.out, "      went wrong: {reason}")?;
        }
        self.out.flush()
    }
}

fn row(question: &str, answer: &str, asked: &str, time: &str) -> String {
    format!("{question:<40}  {answer:<40}  {asked:<18}  {time:>12}")
}

fn question(name: &str, qtype: &str) -> io::Result<LabQuery> {
    LabQuery::new(name, qtype)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn check(good: bool, reason: &str) -> StepResult {
    if good { Ok(()) } else { Err(reason.to_owned()) }
}

/// Checks that one record of the answer section has `data`.
fn holds(response: &LabResponse, data: &str) -> StepResult {
    check(response.data().iter().any(|have| have == data), &format!("expected {data}"))
}

/// Checks that exactly these groups were asked: one or more servers of each, and no others.
fn groups(asked: &[&str], expected: &[&str]) -> StepResult {
    let is_asked = |group: &&str| {
        let horizon = HORIZONS.iter().find(|horizon| horizon.group == *group);
        horizon.is_some_and(|horizon| horizon.servers.iter().any(|server| asked.contains(server)))
    };
    let found: Vec<_> = HORIZONS.iter().map(|horizon| horizon.group).filter(is_asked).collect();
    let same = found.len() == expected.len() && expected.iter().all(|group| found.contains(group));
    let listed = |groups: &[&str]| if groups.is_empty() { "none".to_owned() } else { groups.join(" and ") };
    check(same, &format!("asked {}, expected {}", listed(&found), listed(expected)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_passes_by_answer_and_upstreams() {
        let network = LabNetwork::start().await.unwrap();
        let nodens = network.server("public-2").unwrap().address();
        let mut out = Vec::new();
        let score = Score { steps: 0, failed: 0 };
        let mut tour = Tour { network: &network, nodens, out: &mut out, score, fresh: 0 };
        let judge =
            |response: &LabResponse, asked: &[&str]| holds(response, "192.0.2.80").and(groups(asked, &["public"]));
        tour.ask("www.example.com", "A", judge).await.unwrap();
        tour.ask("www.example.com", "A", |_, asked| groups(asked, &[])).await.unwrap();
        tour.ask("www.example.com", "AAAA", judge).await.unwrap();
        network.server("public-2").unwrap().stop().await;
        tour.ask("www.example.com", "A", judge).await.unwrap();
        assert_eq!(tour.score, Score { steps: 4, failed: 3 });
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('✓').count(), 1);
        assert!(text.contains("asked public, expected none") && text.contains("expected 192.0.2.80"));
        assert!(text.contains("no answer"));
    }

    #[test]
    fn groups_are_compared_whole() {
        assert!(groups(&["vpc-2", "public-1"], &["public", "vpc"]).is_ok());
        assert!(groups(&["vpc-1", "vpc-2"], &["vpc"]).is_ok());
        assert!(groups(&["vpc-1", "public-2"], &["vpc"]).is_err());
        assert!(groups(&[], &["vpc"]).is_err());
    }
}
