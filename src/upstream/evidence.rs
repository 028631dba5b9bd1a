//! Evidence from the responses of a server so far: the question to probe it with, and whether it gives anything but
//! errors. Pure.

use super::failure::FailureKind;
use super::question::Question;
use crate::wire::name::Name;
use crate::wire::{class, rtype};

/// Denials and errors to queries in random letter case, from a server that has never given data to one, after which it is
/// queried in lower case as well.
const DENIALS: u32 = 8;
/// Errors in a row after which a probe checks whether the server gives errors only.
const ERRORS: u32 = 8;

/// Evidence about one server.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// It has answered the probe for an SOA record.
    answers_soa: bool,
    /// Errors in a row.
    errors: u32,
    /// Error in response to the last probe; cleared by an answer.
    probe_error: Option<FailureKind>,
    /// It has given data to a query in random letter case.
    preserves_case: bool,
    /// Denials and errors to such queries before that.
    denials: u32,
    /// Question to ask in lower case.
    denied: Option<Question>,
}

impl Evidence {
    /// Records an answer to a client's query.
    pub(crate) fn answered(&mut self) {
        (self.errors, self.probe_error) = (0, None);
    }

    /// Records an error in response to a client's query.
    pub(crate) fn gave_error(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    /// Records the response to a probe, with its error if it is one.
    pub(crate) fn answered_probe(&mut self, question: &Question, error: Option<FailureKind>) {
        let is_soa = question.qtype == rtype::SOA;
        self.answers_soa |= is_soa && error.is_none();
        self.probe_error = error;
        match error {
            None => self.errors = 0,
            // Some servers refuse the root's SOA to any client: that is no evidence about clients' queries.
            Some(_) if is_soa => {}
            Some(_) => self.errors = self.errors.saturating_add(1),
        }
    }

    /// Returns the error that the server gives to everything, if it does.
    pub(crate) fn only_error(&self) -> Option<FailureKind> {
        self.probe_error.filter(|_| self.errors >= ERRORS)
    }

    /// Reports whether the server gave so many errors that a probe has to decide.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.errors >= ERRORS
    }

    /// Records the response to a query in random letter case: data, or a denial or an error for `question`.
    pub(crate) fn observe_case(&mut self, has_data: bool, question: &Question) {
        self.preserves_case |= has_data;
        if self.preserves_case {
            self.denied = None;
            return;
        }
        self.denials += 1;
        if self.denials >= DENIALS {
            (self.denials, self.denied) = (0, Some(question.clone()));
        }
    }

    /// Takes the question that checks whether the server finds names in lower case only, if that is suspected.
    pub(crate) fn lower_case_check(&mut self) -> Option<Question> {
        self.denied.take()
    }

    /// Returns the question to probe with: the SOA record of `zone`. A server that has never answered that, as some never
    /// do, or that is doubtful, is asked `well` instead, which was answered to a client recently.
    pub(crate) fn probe(&self, zone: &Name, well: Option<Question>) -> Question {
        let soa = Question {
            name: zone.clone(),
            qtype: rtype::SOA,
            qclass: class::IN,
            rd: true,
            cd: false,
            dnssec_ok: false,
            z: false,
        };
        // Some servers refuse the root's SOA, so an error in response to it is no evidence.
        well.filter(|_| !self.answers_soa || self.is_doubtful()).unwrap_or(soa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(label: u8) -> Question {
        let name = Name::from_wire(&[1, label, 0]).expect("a name");
        Question { name, qtype: rtype::A, qclass: class::IN, rd: true, cd: false, dnssec_ok: false, z: false }
    }

    #[test]
    fn a_server_is_probed_with_what_it_answers() {
        let (root, well) = (Name::root(), question(b'a'));
        let mut evidence = Evidence::default();
        let soa = evidence.probe(&root, None);
        assert_eq!((soa.qtype, &soa), (rtype::SOA, &evidence.probe(&root, None)));
        let three = [(); 3].map(|()| evidence.probe(&root, Some(well.clone())));
        assert_eq!(three, [(); 3].map(|()| well.clone()));
        evidence.answered_probe(&soa, None);
        assert_eq!([(); 2].map(|()| evidence.probe(&root, Some(well.clone()))), [soa.clone(), soa]);
    }

    #[test]
    fn nodata_in_random_case_leads_to_lower_case() {
        let mut evidence = Evidence::default();
        let denials =
            |evidence: &mut Evidence, count| (0..count).for_each(|_| evidence.observe_case(false, &question(b'a')));
        denials(&mut evidence, DENIALS - 1);
        assert_eq!(evidence.lower_case_check(), None);
        denials(&mut evidence, 1);
        assert_eq!(evidence.lower_case_check(), Some(question(b'a')));
        assert_eq!(evidence.lower_case_check(), None, "once");
        denials(&mut evidence, DENIALS);
        evidence.observe_case(true, &question(b'a'));
        assert_eq!(evidence.lower_case_check(), None);
        denials(&mut evidence, 2 * DENIALS);
        assert_eq!(evidence.lower_case_check(), None, "it has shown that it knows them");
    }

    #[test]
    fn a_refused_probe_asks_for_another_name() {
        let (root, well) = (Name::root(), question(b'a'));
        let mut evidence = Evidence::default();
        let soa = evidence.probe(&root, None);
        (0..2 * ERRORS).for_each(|_| evidence.answered_probe(&soa, Some(FailureKind::Refused)));
        assert!(!evidence.is_doubtful() && evidence.only_error().is_none());
        assert_eq!(evidence.probe(&root, Some(well.clone())), well);
    }

    #[test]
    fn errors_alone_count_once_a_probe_fails_too() {
        let error = FailureKind::Servfail;
        let mut evidence = Evidence::default();
        (0..2 * ERRORS).for_each(|_| evidence.gave_error());
        assert!(evidence.is_doubtful() && evidence.only_error().is_none());
        let soa = evidence.probe(&Name::root(), None);
        evidence.answered_probe(&soa, Some(error));
        assert_eq!(evidence.only_error(), Some(error));
        evidence.answered_probe(&soa, None);
        assert!(!evidence.is_doubtful() && evidence.only_error().is_none());
        evidence.answered_probe(&soa, Some(error));
        evidence.answered();
        (1..ERRORS).for_each(|_| evidence.gave_error());
        assert!(!evidence.is_doubtful());
    }
}
