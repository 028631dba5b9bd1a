//! Zone data of a scripted server: records, and the answers that a resolver would give from them.
//!
//! An answer follows RFC 1034 section 4.3.2 as a resolver presents it to its clients. CNAMEs are followed within the zone's
//! origins, and wildcards apply to names that do not exist. A name without the type gets NODATA and a name that does not
//! exist NXDOMAIN, both with the SOA of the nearest origin (RFC 2308). Names outside the origins get REFUSED.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::str::FromStr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, NULL, SOA};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::txt::{Parser, parse_ttl};

use super::seen::{ExtendedError, Seen};
use crate::wire::{ADVERTISED_SIZE, Rcode};

/// Negative TTL of an origin in seconds, unless [`LabZone::negative_ttl`] sets another.
pub const NEGATIVE_TTL: u32 = 30;

/// TTL of an address that is computed from its name, in seconds.
const COMPUTED_TTL: u32 = 60;

/// Limit on the length of a CNAME chain; a longer chain gives SERVFAIL.
const LONGEST_CHAIN: usize = 32;

/// Records by name, and the peculiarities of the server that serves them. Built once, then given to a server.
///
/// A mistake of the builder does not panic: mistakes are collected, and
/// [`Upstream::start`](super::upstream::LabUpstream::start) fails with all of them.
#[derive(Clone, Debug, Default)]
pub struct LabZone {
    records: HashMap<LowerName, Vec<Record>>,
    existing: HashSet<LowerName>,
    rcodes: HashMap<LowerName, ResponseCode>,
    denied: HashSet<LowerName>,
    errors: HashMap<LowerName, ExtendedError>,
    error: Option<ExtendedError>,
    without_soa: bool,
    authentic: bool,
    signed: bool,
    computed: bool,
    diagnostics: Vec<String>,
}

/// Returns the address of a name in a zone with [`LabZone::addresses_from_names`]: in 198.18.0.0/15, which is reserved for
/// benchmarks (RFC 2544). Letter case and a last dot make no difference.
pub fn address_of(name: &str) -> Ipv4Addr {
    // FNV-1a: neighbouring names get unrelated addresses.
    let bare = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let hash = bare
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    Ipv4Addr::from_bits(0xc612_0000 | ((hash >> 40) as u32 & 0x0001_ffff))
}

impl LabZone {
    /// Creates a zone without names below `origin`; `"."` is for a server that answers for every name.
    pub fn new(origin: &str) -> Self {
        Self::default().origin(origin)
    }

    /// Adds an origin with an SOA record of its own; the zone then answers for the names below it too.
    pub fn origin(mut self, origin: &str) -> Self {
        let Some(name) = self.name(origin) else { return self };
        let host = |label: &str| name.prepend_label(label).unwrap_or_else(|_| name.clone());
        let soa = SOA::new(host("ns"), host("hostmaster"), 1, 3600, 600, 86_400, NEGATIVE_TTL);
        self.insert(Record::from_rdata(name, NEGATIVE_TTL, RData::SOA(soa)));
        self
    }

    /// Adds a record, written as a line of a zone file with an absolute name and a TTL: `www.example. 300 A 192.0.2.1`.
    ///
    /// Any type and data can be given as in RFC 3597: `odd.example. 60 TYPE65280 \# 3 010203`. A wildcard is a record
    /// of `*.example.`; an SOA record makes its name an origin.
    pub fn record(mut self, line: &str) -> Self {
        match parse_line(line) {
            Ok(records) => records.into_iter().for_each(|record| self.insert(record)),
            Err(diagnostic) => self.diagnostics.push(format!("{line:?}: {diagnostic}")),
        }
        self
    }

    /// Adds a record for each line of `text`.
    pub fn records(self, text: &str) -> Self {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).fold(self, Self::record)
    }

    /// Answers every query for `name` with `rcode` and no records.
    pub fn rcode(mut self, name: &str, rcode: impl Into<Rcode>) -> Self {
        if let Some(name) = self.name(name) {
            self.rcodes.insert(LowerName::new(&name), u16::from(rcode.into()).into());
        }
        self
    }

    /// Denies the existence of `name`, even if names below it exist, as kube-dns does with namespaces (against RFC 8020).
    pub fn denied(mut self, name: &str) -> Self {
        if let Some(name) = self.name(name) {
            self.denied.insert(LowerName::new(&name));
        }
        self
    }

    /// Adds an extended error (RFC 8914) to all responses for `name`.
    pub fn extended_error(mut self, name: &str, code: u16, text: &str) -> Self {
        if let Some(name) = self.name(name) {
            self.errors.insert(LowerName::new(&name), ExtendedError { code, text: text.to_owned() });
        }
        self
    }

    /// Adds an extended error to the responses for all names that have none of their own.
    pub fn extended_error_everywhere(mut self, code: u16, text: &str) -> Self {
        self.error = Some(ExtendedError { code, text: text.to_owned() });
        self
    }

    /// Sets the TTL and the minimum of all SOA records so far, which makes negative answers cacheable for `seconds`.
    pub fn negative_ttl(mut self, seconds: u32) -> Self {
        for record in self.records.values_mut().flatten() {
            if let RData::SOA(soa) = &mut record.data {
                soa.minimum = seconds;
                record.ttl = seconds;
            }
        }
        self
    }

    /// Omits the SOA record from negative answers, which then have no negative TTL.
    pub fn without_soa(mut self) -> Self {
        self.without_soa = true;
        self
    }

    /// Sets the AD flag in responses to queries with AD or DO, as a validating resolver does.
    pub fn authentic(mut self) -> Self {
        self.authentic = true;
        self
    }

    /// Adds an RRSIG record to each RRset in responses to queries with DO; it is well-formed, its signature is not valid.
    pub fn signed(mut self) -> Self {
        self.signed = true;
        self
    }

    /// Gives every name without records of its own an A record, the [`address_of`] it: a client can check the answer from the
    /// name alone, and names never run out.
    pub fn addresses_from_names(mut self) -> Self {
        self.computed = true;
        self
    }

    /// Returns the mistakes that were made while the zone was built.
    pub fn diagnostics(&self) -> &[String] {
        &self.diagnostics
    }

    /// Returns the response to a query, complete whatever its size; if `with_opt` is false, ignores the query's OPT record.
    pub(super) fn response(&self, seen: &Seen, query: &Message, with_opt: bool) -> Message {
        let mut response = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
        response.metadata.recursion_desired = query.metadata.recursion_desired;
        response.metadata.checking_disabled = query.metadata.checking_disabled;
        response.metadata.recursion_available = true;
        let asked_edns = query.edns.as_ref().filter(|_| with_opt);
        let dnssec_ok = asked_edns.is_some_and(|edns| edns.flags().dnssec_ok);
        let mut error = None;
        match query.queries.as_slice() {
            _ if query.metadata.op_code != OpCode::Query => response.metadata.response_code = ResponseCode::NotImp,
            [question] => {
                response.add_query(question.clone());
                response.metadata.response_code =
                    self.answer(question.name(), question.query_type(), question.query_class(), &mut response);
                response.metadata.authentic_data = self.authentic && (dnssec_ok || seen.ad());
                error = self.errors.get(&LowerName::new(question.name())).or(self.error.as_ref());
            }
            _ => response.metadata.response_code = ResponseCode::FormErr,
        }
        if self.signed && dnssec_ok {
            sign(&mut response.answers);
            sign(&mut response.authorities);
        }
        if asked_edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(ADVERTISED_SIZE).set_dnssec_ok(dnssec_ok);
            if let Some(error) = error {
                edns.options_mut().insert(EdnsOption::Unknown(ExtendedError::OPTION, error.data()));
            }
            response.set_edns(edns);
        }
        response
    }

    /// Adds the records of an answer to `response` and returns the response code.
    fn answer(&self, name: &Name, qtype: RecordType, class: DNSClass, response: &mut Message) -> ResponseCode {
        if let Some(&rcode) = self.rcodes.get(&LowerName::new(name)) {
            return rcode;
        }
        if self.denied.contains(&LowerName::new(name)) {
            response.authorities.extend(self.soa(name).filter(|_| !self.without_soa).cloned());
            return ResponseCode::NXDomain;
        }
        let mut owner = name.clone();
        for step in 0..LONGEST_CHAIN {
            let Some(soa) = self.soa(&owner) else {
                // The chain leaves the zone here; the client follows it further.
                return if step == 0 { ResponseCode::Refused } else { ResponseCode::NoError };
            };
            let negative = (!self.without_soa).then(|| soa.clone());
            if self.computed && self.node(&owner).is_none() {
                if class == DNSClass::IN && matches!(qtype, RecordType::A | RecordType::ANY) {
                    let address = RData::A(A(address_of(&owner.to_ascii())));
                    response.answers.push(Record::from_rdata(owner, COMPUTED_TTL, address));
                } else {
                    response.authorities.extend(negative);
                }
                return ResponseCode::NoError;
            }
            let Some(records) = self.node(&owner) else {
                response.authorities.extend(negative);
                return ResponseCode::NXDomain;
            };
            let of_class = || records.iter().filter(|record| record.dns_class == class);
            let wanted: Vec<_> =
                of_class().filter(|r| r.record_type() == qtype || qtype == RecordType::ANY).cloned().collect();
            let target = of_class().find_map(|record| match &record.data {
                RData::CNAME(target) => Some((record.clone(), target.0.clone())),
                _ => None,
            });
            match (wanted.is_empty(), target) {
                (false, _) => {
                    response.answers.extend(wanted);
                    return ResponseCode::NoError;
                }
                (true, Some((cname, target))) => {
                    response.answers.push(cname);
                    owner = target;
                }
                (true, None) if class != DNSClass::IN => return ResponseCode::Refused,
                (true, None) => {
                    response.authorities.extend(negative);
                    return ResponseCode::NoError;
                }
            }
        }
        ResponseCode::ServFail
    }

    /// Returns the records of `owner`, from a wildcard if one applies; `None` if the name does not exist.
    fn node(&self, owner: &Name) -> Option<Vec<Record>> {
        let key = LowerName::new(owner);
        if self.existing.contains(&key) {
            return Some(self.owned_by(&key, owner));
        }
        // RFC 4592: only the wildcard below the closest existing name applies.
        let mut child = owner.clone();
        while !child.is_root() {
            let parent = child.base_name();
            if self.existing.contains(&LowerName::new(&parent)) {
                let wildcard = LowerName::new(&child.into_wildcard());
                return self.records.contains_key(&wildcard).then(|| self.owned_by(&wildcard, owner));
            }
            child = parent;
        }
        None
    }

    fn owned_by(&self, key: &LowerName, owner: &Name) -> Vec<Record> {
        let mut records = self.records.get(key).cloned().unwrap_or_default();
        for record in &mut records {
            record.name = owner.clone();
        }
        records
    }

    /// Returns the SOA record of the nearest origin; `None` if no origin encloses `name`.
    fn soa(&self, name: &Name) -> Option<&Record> {
        let mut zone = name.clone();
        loop {
            let records = self.records.get(&LowerName::new(&zone)).map(Vec::as_slice).unwrap_or_default();
            if let Some(soa) = records.iter().find(|record| record.record_type() == RecordType::SOA) {
                return Some(soa);
            }
            if zone.is_root() {
                return None;
            }
            zone = zone.base_name();
        }
    }

    fn insert(&mut self, record: Record) {
        let mut name = record.name.clone();
        let records = self.records.entry(LowerName::new(&name)).or_default();
        if record.record_type() == RecordType::SOA {
            records.retain(|other| other.record_type() != RecordType::SOA);
        }
        records.push(record);
        while self.existing.insert(LowerName::new(&name)) && !name.is_root() {
            name = name.base_name();
        }
    }

    fn name(&mut self, text: &str) -> Option<Name> {
        parse_name(text).map_err(|diagnostic| self.diagnostics.push(format!("{text:?}: {diagnostic}"))).ok()
    }
}

fn parse_name(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| error.to_string())?;
    name.set_fqdn(true);
    Ok(name)
}

fn parse_line(line: &str) -> Result<Vec<Record>, String> {
    if let Some((head, data)) = line.split_once("\\#") {
        return parse_raw(head, data).map(|record| vec![record]);
    }
    let (_, sets) = Parser::new(line, None, Some(Name::root())).parse().map_err(|error| error.to_string())?;
    let records: Vec<_> = sets.values().flat_map(|set| set.records_without_rrsigs().cloned()).collect();
    if records.is_empty() { Err("no record".to_owned()) } else { Ok(records) }
}

/// Parses a record in the form of RFC 3597 section 5. The data is stored as raw bytes, even for a known type.
fn parse_raw(head: &str, data: &str) -> Result<Record, String> {
    let words: Vec<_> = head.split_whitespace().collect();
    let [owner, ttl, middle @ .., rtype] = words.as_slice() else {
        return Err("expected: name ttl [class] type \\# length hex".to_owned());
    };
    let class = match middle {
        [] => DNSClass::IN,
        [class] => DNSClass::from_str(class).map_err(|error| error.to_string())?,
        _ => return Err("more before the type than a class".to_owned()),
    };
    let code = match rtype.strip_prefix("TYPE").map(str::parse::<u16>) {
        Some(Ok(number)) => RecordType::from(number),
        _ => RecordType::from_str(rtype).map_err(|error| error.to_string())?,
    };
    let mut parts = data.split_whitespace();
    let length: usize = parts.next().and_then(|part| part.parse().ok()).ok_or("no length after \\#")?;
    let digits: Option<Vec<u8>> =
        parts.flat_map(str::chars).map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let bytes: Vec<u8> = digits.ok_or("not hexadecimal")?.chunks(2).map(|pair| pair.iter().fold(0, join)).collect();
    if bytes.len() != length {
        return Err(format!("{length} bytes promised, {} given", bytes.len()));
    }
    let ttl = parse_ttl(ttl).map_err(|error| error.to_string())?;
    let mut record = Record::from_rdata(parse_name(owner)?, ttl, RData::Unknown { code, rdata: NULL::with(bytes) });
    record.dns_class = class;
    Ok(record)
}

fn join(high: u8, low: &u8) -> u8 {
    high << 4 | low
}

/// Appends an RRSIG record (RFC 4034 section 3) for each RRset to the section.
fn sign(section: &mut Vec<Record>) {
    let mut signatures: Vec<Record> = Vec::new();
    let mut covered = HashSet::new();
    for record in section.iter() {
        if !covered.insert((LowerName::new(&record.name), record.record_type())) {
            continue;
        }
        let mut rdata = u16::from(record.record_type()).to_be_bytes().to_vec();
        rdata.extend([13, record.name.num_labels()]);
        rdata.extend(record.ttl.to_be_bytes());
        // Valid from 2020 to 2038, by key 4711 of the owner's parent.
        rdata.extend(2_147_483_647_u32.to_be_bytes());
        rdata.extend(1_577_836_800_u32.to_be_bytes());
        rdata.extend(4711_u16.to_be_bytes());
        for label in record.name.base_name().iter() {
            rdata.push(label.len() as u8);
            rdata.extend(label);
        }
        rdata.push(0);
        rdata.extend([0x5a; 64]);
        let data = RData::Unknown { code: RecordType::RRSIG, rdata: NULL::with(rdata) };
        signatures.push(Record::from_rdata(record.name.clone(), record.ttl, data));
    }
    section.extend(signatures);
}
