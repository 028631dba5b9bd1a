//! Many queries at once or at a pace, and the counts of their responses.

use std::collections::BTreeMap;
use std::time::Duration;

use hickory_proto::op::Message;

use super::client::Client;
use super::expect::Judge;
use super::script::range;

/// Response codes and latencies.
#[derive(Default)]
pub(crate) struct Tally {
    codes: BTreeMap<String, u64>,
    took: Vec<Duration>,
}

impl Tally {
    /// Counts the responses that have come and removes their clients from `waiting`.
    pub(crate) fn take_from(&mut self, waiting: &mut Vec<Client>) {
        waiting.retain_mut(|client| {
            let Some(response) = client.response() else { return true };
            assert_eq!(response[..2], client.query[..2], "another id");
            let code = Message::from_vec(&response).expect("a message").metadata.response_code;
            *self.codes.entry(code.to_str().to_uppercase().replace(' ', "")).or_default() += 1;
            self.took.push(client.sent.elapsed());
            false
        });
    }

    /// Panics if the counts do not match the lines of a block.
    pub(crate) fn check(&self, block: &[String], judge: Judge) {
        let millis = |took: &Duration| took.as_millis() as u64;
        let slowest = self.took.iter().max().map(millis).unwrap_or_default();
        let told = format!("{:?}, the slowest took {slowest} ms", self.codes);
        let mut codes = self.codes.clone();
        for line in block {
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["slowest", bounds] => assert!(judge.times(bounds).contains(&slowest), "{told}"),
                ["took", bounds, count] => {
                    let bounds = judge.times(bounds);
                    let within = self.took.iter().map(millis).filter(|took| bounds.contains(took)).count() as u64;
                    assert!(range(count).contains(&within), "{within} took {bounds:?}: {told}");
                }
                [code, count] => {
                    let long = if *code == "SERVFAIL" { "SERVERFAILURE" } else { code };
                    let found = codes.remove(long).unwrap_or_default();
                    assert!(range(count).contains(&found), "{line}: {told}");
                }
                _ => panic!("{line}: unknown"),
            }
        }
        assert!(codes.is_empty(), "{codes:?} were not expected: {told}");
    }
}
