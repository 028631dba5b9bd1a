//! New responses built from copied records: where a CNAME leads into another route, where records are removed, and
//! where the order of the records confuses some stub resolvers.
//!
//! Names in a record may be compressed against the original message, so they are expanded and compressed again. RDATA
//! of unknown types cannot hold compressed names (RFC 3597) and is copied unchanged.

use foldhash::HashMap;

use super::name::{self, MAX_NAME, expanded};
use super::response::{Record, ResponseMessage, Section};
use super::{HEADER, LONGEST_MESSAGE, RrType, rtype, u16_at};

/// Error: the composed message exceeds the maximum size of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is longer than any message")]
pub struct TooLong;

/// Builder of one message, section by section.
pub struct Composer {
    wire: Vec<u8>,
    /// Offsets of the names written so far and of all their suffixes, in lower case.
    names: HashMap<Vec<u8>, u16>,
    counts: [u16; 3],
    too_long: bool,
}

impl Composer {
    /// Starts a message with `flags` and `question` (name, type and class in wire form).
    pub fn new(flags: u16, question: &[u8]) -> Self {
        let mut wire = Vec::with_capacity(512);
        wire.extend_from_slice(&[0, 0]);
        wire.extend_from_slice(&flags.to_be_bytes());
        wire.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        wire.extend_from_slice(question);
        let mut composer = Self { wire, names: HashMap::default(), counts: [0; 3], too_long: false };
        composer.remember(HEADER, question.get(..question.len().saturating_sub(4)).unwrap_or_default());
        composer
    }

    /// Copies one record of `message` into `section`. Sections must come in order. A malformed record is left out.
    pub fn copy(&mut self, message: &[u8], record: &Record, section: Section) {
        self.add(section, |composer| composer.try_copy(message, record));
    }

    /// Copies one record and the RRSIG records that cover it.
    pub fn copy_signed(&mut self, response: &ResponseMessage<'_>, record: &Record, section: Section) {
        self.copy(response.message, record, section);
        let Some(owner) = expanded(response.message, record.start) else { return };
        for signature in response.signatures(&owner, record.rtype) {
            self.copy(response.message, signature, section);
        }
    }

    /// Adds a record of class IN; `owner` is a name in wire form.
    pub fn push(&mut self, section: Section, owner: &[u8], rtype: RrType, ttl: u32, rdata: &[u8]) {
        self.add(section, |composer| {
            composer.written(owner, true);
            composer.wire.extend_from_slice(&rtype.to_be_bytes());
            composer.wire.extend_from_slice(&super::class::IN.to_be_bytes());
            composer.wire.extend_from_slice(&ttl.to_be_bytes());
            composer.wire.extend_from_slice(&u16::try_from(rdata.len()).ok()?.to_be_bytes());
            composer.wire.extend_from_slice(rdata);
            Some(())
        });
    }

    /// Returns the message.
    ///
    /// # Errors
    /// [`TooLong`]: the records of the answer or authority section exceed the maximum size of a message.
    pub fn finish(mut self) -> Result<Vec<u8>, TooLong> {
        for (at, count) in [6, 8, 10].into_iter().zip(self.counts) {
            self.wire[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        if self.too_long { Err(TooLong) } else { Ok(self.wire) }
    }

    fn add(&mut self, section: Section, write: impl FnOnce(&mut Self) -> Option<()>) {
        let before = self.wire.len();
        let done = write(self);
        let is_long = self.wire.len() > LONGEST_MESSAGE;
        if done.is_none() || is_long {
            self.wire.truncate(before);
            self.names.retain(|_, at| usize::from(*at) < before);
            // Additional records are optional.
            self.too_long |= is_long && section != Section::Additional;
            return;
        }
        let count = &mut self.counts[section as usize];
        *count = count.saturating_add(1);
    }

    fn try_copy(&mut self, message: &[u8], record: &Record) -> Option<()> {
        self.name(message, record.start, true)?;
        self.wire.extend_from_slice(message.get(record.fixed..record.fixed + 8)?);
        let length_at = self.wire.len();
        self.wire.extend_from_slice(&[0, 0]);
        let mut at = record.rdata_at();
        if let Some((names_at, names)) = record.rdata_names(message) {
            self.wire.extend_from_slice(message.get(at..names_at)?);
            at = names_at;
            // Only types of RFC 1035 may have compressed names (RFC 3597 section 4).
            let compress = matches!(record.rtype, rtype::NS | rtype::CNAME | rtype::SOA | rtype::PTR | rtype::MX);
            for _ in 0..names {
                at = self.name(message, at, compress)?;
            }
        }
        self.wire.extend_from_slice(message.get(at..record.end)?);
        let length = u16::try_from(self.wire.len() - length_at - 2).ok()?;
        self.wire[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    /// Writes the name at `at` of `message` and returns the offset of its end in `message`.
    fn name(&mut self, message: &[u8], at: usize, compress: bool) -> Option<usize> {
        let mut buffer = [0; MAX_NAME];
        let len = name::expand(message, at, &mut buffer)?;
        self.written(&buffer[..len], compress);
        name::skip(message, at)
    }

    /// Writes a name; if `compress` is set, with a pointer to the longest suffix written before.
    fn written(&mut self, name: &[u8], compress: bool) {
        let lower = name.to_ascii_lowercase();
        let known =
            name::suffixes(&lower).find_map(|suffix| Some((lower.len() - suffix.len(), *self.names.get(suffix)?)));
        self.remember(self.wire.len(), name);
        match known.filter(|_| compress) {
            Some((before, offset)) => {
                self.wire.extend_from_slice(&name[..before]);
                self.wire.extend_from_slice(&(0xc000 | offset).to_be_bytes());
            }
            None => self.wire.extend_from_slice(name),
        }
    }

    /// Records the offsets of the name at `at` and of its suffixes, except for suffixes already recorded.
    fn remember(&mut self, at: usize, name: &[u8]) {
        let lower = name.to_ascii_lowercase();
        for suffix in name::suffixes(&lower).take_while(|suffix| suffix.len() > 1) {
            let Some(at) = u16::try_from(at + lower.len() - suffix.len()).ok().filter(|at| *at <= 0x3fff) else {
                return;
            };
            if self.names.contains_key(suffix) {
                return;
            }
            self.names.insert(suffix.to_vec(), at);
        }
    }
}

/// One step of an alias chain.
enum ChainLink<'r> {
    Alias(&'r Record),
    /// A DNAME whose synthesized CNAME (RFC 6672 section 3.4) is missing: its owner and its target.
    Missing {
        dname: &'r Record,
        owner: Vec<u8>,
        target: Vec<u8>,
    },
}

/// Returns the response with its answers in chain order, each CNAME before the records of its target, and with the
/// CNAME that a DNAME requires. Some stub resolvers read the answers once, in order. `None` if nothing has to change.
///
/// # Errors
/// [`TooLong`].
pub fn in_order(response: &ResponseMessage<'_>) -> Result<Option<Vec<u8>>, TooLong> {
    let leads_on = |record: &Record| matches!(record.rtype, rtype::CNAME | rtype::DNAME);
    if !response.section(Section::Answer).any(leads_on)
        || matches!(response.qtype(), rtype::CNAME | rtype::DNAME | rtype::ANY)
    {
        return Ok(None);
    }
    let links = links(response);
    let mut expected = links.iter().map(|link| match link {
        ChainLink::Alias(record) => Some(*record),
        ChainLink::Missing { .. } => None,
    });
    let is_other = |record: &&Record| !matches!(record.rtype, rtype::RRSIG | rtype::DNAME);
    let mut found = response.section(Section::Answer).filter(is_other);
    if expected.all(|link| link.is_some() && link == found.next()) {
        return Ok(None);
    }
    let Some(question) = response.message.get(HEADER..response.question_end) else { return Ok(None) };
    let mut composer = Composer::new(response.flags, question);
    let mut taken: Vec<&Record> = Vec::new();
    for link in &links {
        match link {
            ChainLink::Alias(record) => {
                // The DNAME behind the CNAME stays before it.
                let owner = expanded(response.message, record.start).unwrap_or_default();
                if let Some(dname) = response.dname_above(&owner).filter(|dname| !taken.contains(dname)) {
                    composer.copy_signed(response, dname, Section::Answer);
                    taken.push(dname);
                }
                composer.copy_signed(response, record, Section::Answer);
                taken.push(record);
            }
            ChainLink::Missing { dname, owner, target } => {
                if !taken.contains(dname) {
                    composer.copy_signed(response, dname, Section::Answer);
                    taken.push(dname);
                }
                composer.push(Section::Answer, owner, rtype::CNAME, dname.ttl(response.message), target);
            }
        }
    }
    let signs_taken = |record: &Record| {
        let covered = u16_at(record.rdata(response.message), 0).map(RrType::from);
        record.rtype == rtype::RRSIG
            && taken.iter().any(|taken| {
                covered == Some(taken.rtype)
                    && expanded(response.message, taken.start).is_some_and(|owner| response.owner_is(record, &owner))
            })
    };
    for section in [Section::Answer, Section::Authority, Section::Additional] {
        for record in response.section(section).filter(|record| !taken.contains(record) && !signs_taken(record)) {
            composer.copy(response.message, record, section);
        }
    }
    composer.finish().map(Some)
}

/// Returns the steps from the question's name to the end of its alias chain.
fn links<'r>(response: &'r ResponseMessage<'_>) -> Vec<ChainLink<'r>> {
    let mut here = response.qname().to_ascii_lowercase();
    let mut links: Vec<ChainLink<'r>> = Vec::new();
    while links.len() < super::response::LONGEST_CHAIN {
        let taken =
            |record: &Record| links.iter().any(|link| matches!(link, ChainLink::Alias(taken) if *taken == record));
        let next = match response.alias_of(&here).filter(|record| !taken(record)) {
            Some(alias) => expanded(response.message, alias.rdata_at()).map(|target| (ChainLink::Alias(alias), target)),
            None => response.dname_above(&here).and_then(|dname| {
                let above = expanded(response.message, dname.start)?;
                let below = expanded(response.message, dname.rdata_at())?;
                let target = [here.get(..here.len().checked_sub(above.len())?)?, &below].concat();
                // RFC 6672 section 2.2: a target that is too long is YXDOMAIN, and the chain ends here.
                let owner = here.clone();
                (target.len() <= MAX_NAME)
                    .then(|| (ChainLink::Missing { dname, owner, target: target.clone() }, target))
            }),
        };
        let Some((link, target)) = next else { break };
        here = target.to_ascii_lowercase();
        links.push(link);
    }
    links
}

#[cfg(test)]
mod tests {
    use super::super::flag;
    use super::super::response::ResponseMessage;
    use super::*;

    /// A response to `a.b. A`: an alias with a compressed target, its address, and a NAPTR record with a compressed
    /// name.
    const REPLY: &[u8] = b"\0\0\x80\0\0\x01\0\x03\0\0\0\0\x01a\x01b\x00\0\x01\0\x01\
        \xc0\x0c\0\x05\0\x01\0\0\0\x09\0\x04\x01c\xc0\x0e\
        \x01c\xc0\x0e\0\x01\0\x01\0\0\0\x09\0\x04\x01\x02\x03\x04\
        \xc0\x0c\0\x23\0\x01\0\0\0\x09\0\x09\0\x01\0\x02\x00\x00\x00\xc0\x0e";

    #[test]
    fn names_in_rdata_are_written_out() {
        let response = ResponseMessage::read(REPLY).expect("a reply");
        let mut composer = Composer::new(flag::QR, b"\x01x\x00\0\x01\0\x01");
        for record in &response.records {
            composer.copy(REPLY, record, Section::Answer);
        }
        let message = composer.finish().expect("room");
        let copied = ResponseMessage::read(&message).expect("a message");
        let owners: Vec<Vec<u8>> = copied
            .records
            .iter()
            .map(|record| {
                let mut name = [0; MAX_NAME];
                let len = name::expand(&message, record.start, &mut name).expect("an owner");
                name[..len].to_vec()
            })
            .collect();
        assert_eq!(owners, [&b"\x01a\x01b\x00"[..], b"\x01c\x01b\x00", b"\x01a\x01b\x00"]);
        let rdata: Vec<&[u8]> = copied.records.iter().map(|record| record.rdata(&message)).collect();
        let naptr = &b"\0\x01\0\x02\x00\x00\x00\x01b\x00"[..];
        // The RDATA of the CNAME is compressed, because the type is of RFC 1035.
        assert_eq!(rdata, [&b"\x01c\xc0\x15"[..], &[1, 2, 3, 4], naptr]);
    }

    #[test]
    fn what_is_malformed_or_too_much_is_left_out() {
        let response = ResponseMessage::read(REPLY).expect("a reply");
        let mut composer = Composer::new(flag::QR, b"\x01x\x00\0\x01\0\x01");
        // An alias whose target extends past its RDATA.
        let short = Record { end: response.records[0].end - 2, ..response.records[0] };
        composer.copy(REPLY, &short, Section::Answer);
        composer.copy(&REPLY[..40], &response.records[1], Section::Answer);
        for _ in 0..5000 {
            composer.copy(REPLY, &response.records[1], Section::Additional);
        }
        let message = composer.finish().expect("what is missing is additional");
        assert!(message.len() <= LONGEST_MESSAGE && message.len() > LONGEST_MESSAGE - 16);
        let copied = ResponseMessage::read(&message).expect("a message");
        assert_eq!(copied.section(Section::Answer).count(), 0);
        assert_eq!(copied.section(Section::Additional).count(), copied.records.len());
    }

    #[test]
    fn an_answer_that_is_too_long_is_none() {
        let response = ResponseMessage::read(REPLY).expect("a reply");
        let mut composer = Composer::new(flag::QR, b"\x01x\x00\0\x01\0\x01");
        for _ in 0..5000 {
            composer.copy(REPLY, &response.records[1], Section::Answer);
        }
        assert_eq!(composer.finish(), Err(TooLong));
    }

    /// Returns the types and owners of the answers.
    fn answers(message: &[u8]) -> Vec<(RrType, Vec<u8>)> {
        let response = ResponseMessage::read(message).expect("a message");
        let answers = response.section(Section::Answer);
        answers.map(|record| (record.rtype, expanded(message, record.start).expect("an owner"))).collect()
    }

    #[test]
    fn cnames_come_before_what_they_lead_to() {
        assert_eq!(in_order(&ResponseMessage::read(REPLY).expect("a reply")), Ok(None));
        // The address comes first.
        let (head, records) = REPLY.split_at(21);
        let (alias, rest) = records.split_at(16);
        let (address, other) = rest.split_at(18);
        let message =
            [head, b"\x01c\xc0\x0e", &address[4..], b"\xc0\x0c\0\x05\0\x01\0\0\0\x09\0\x04\x01c\xc0\x0e", other]
                .concat();
        assert_eq!(alias.len(), 16);
        let ordered =
            in_order(&ResponseMessage::read(&message).expect("a reply")).expect("room").expect("another order");
        let [a, cname, naptr] = [rtype::A, rtype::CNAME, RrType::from(35)];
        let [asked, other] = [b"\x01a\x01b\x00".to_vec(), b"\x01c\x01b\x00".to_vec()];
        assert_eq!(answers(&ordered), [(cname, asked.clone()), (a, other), (naptr, asked)]);
    }

    #[test]
    fn a_dname_comes_with_its_cname() {
        // `b. DNAME c.d.` as the answer to `a.b. A`.
        let mut message = REPLY[..21].to_vec();
        message[7] = 1;
        message.extend(b"\xc0\x0e\0\x27\0\x01\0\0\0\x09\0\x05\x01c\x01d\x00");
        let ordered = in_order(&ResponseMessage::read(&message).expect("a reply")).expect("room").expect("one more");
        let response = ResponseMessage::read(&ordered).expect("a message");
        assert_eq!(
            answers(&ordered),
            [(rtype::DNAME, b"\x01b\x00".to_vec()), (rtype::CNAME, b"\x01a\x01b\x00".to_vec())]
        );
        assert_eq!(response.chain().1, b"\x01a\x01c\x01d\x00");
        assert_eq!(in_order(&response), Ok(None));
    }
}
