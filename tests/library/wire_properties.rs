//! Properties of the wire format for arbitrary bytes and messages, compared with hickory's parser and writer.
//!
//! The seed is fixed: a run never fails by chance. `PROPTEST_RNG_SEED` sets another one.
#![allow(clippy::unwrap_used)]

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NULL, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

use nodens::cache::entry::{CacheScope, Entry, EntryLimits};
use nodens::effective_view::EffectiveViewId;
use nodens::wire::cache_key::CacheKey;
use nodens::wire::compose::{Composer, in_order};
use nodens::wire::fit::{Age, CachedMessage, fit};
use nodens::wire::name::{self, MAX_NAME};
use nodens::wire::query::{Query, Reject};
use nodens::wire::response::{ResponseMessage, Section};
use nodens::wire::store::{CacheableMessage, store};
use nodens::wire::{flag, rcode, write};

const SECTIONS: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];
const EDE: u16 = 15;

fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    match default.rng_seed {
        RngSeed::Random => ProptestConfig { rng_seed: RngSeed::Fixed(1), ..default },
        RngSeed::Fixed(_) => default,
    }
}

fn label() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => "[a-cA-C]{1,3}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..=8),
        1 => "[!-~]{1,4}".prop_map(String::into_bytes),
        1 => vec(Just(b'x'), 60..=63),
    ]
}

/// Generates names from few labels and few suffixes: names repeat and are compressed.
fn domain() -> impl Strategy<Value = Name> {
    let tail = select(vec!["", "example", "EXAMPLE", "svc.cluster.local"]);
    (vec(label(), 0..=2), tail).prop_map(|(head, tail)| {
        let tail = tail.split('.').filter(|label| !label.is_empty()).map(|label| label.as_bytes().to_vec());
        let mut name = Name::from_labels(head.into_iter().chain(tail)).unwrap();
        name.set_fqdn(true);
        name
    })
}

fn rdata() -> impl Strategy<Value = RData> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| RData::A(A(octets.into()))),
        any::<[u8; 16]>().prop_map(|octets| RData::AAAA(AAAA(octets.into()))),
        domain().prop_map(|name| RData::CNAME(CNAME(name))),
        (any::<u16>(), domain()).prop_map(|(preference, name)| RData::MX(MX::new(preference, name))),
        (any::<u16>(), domain()).prop_map(|(port, name)| RData::SRV(SRV::new(1, 2, port, name))),
        vec("[ -~]{0,20}", 1..=3).prop_map(|texts| RData::TXT(TXT::new(texts))),
        (domain(), domain(), any::<u32>()).prop_map(|(m, r, n)| RData::SOA(SOA::new(m, r, n, 1, 2, 3, n / 2))),
        (65280u16..65290, vec(any::<u8>(), 1..=40))
            .prop_map(|(code, rdata)| RData::Unknown { code: code.into(), rdata: NULL::with(rdata) }),
    ]
}

fn ttl() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0u32..1000, 1 => any::<u32>()]
}

/// Generates up to `most` records, half of them owned by `asked`.
fn records(asked: Name, most: usize) -> impl Strategy<Value = Vec<Record>> {
    let owner = prop_oneof![Just(asked), domain()];
    vec((owner, ttl(), rdata()).prop_map(|(owner, ttl, rdata)| Record::from_rdata(owner, ttl, rdata)), 0..=most)
}

fn edns() -> impl Strategy<Value = Edns> {
    let option = (select(vec![EDE, EDE, 10, 12, 65001]), vec(any::<u8>(), 0..=20));
    (any::<u16>(), any::<bool>(), vec(option, 0..=3)).prop_map(|(size, dnssec_ok, options)| {
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_dnssec_ok(dnssec_ok).set_version(0);
        edns.options_mut().options =
            options.into_iter().map(|(code, data)| (code.into(), EdnsOption::Unknown(code, data))).collect();
        edns
    })
}

fn question() -> impl Strategy<Value = Question> {
    let qtype = select(vec![RecordType::A, RecordType::CNAME, RecordType::TXT, RecordType::SOA, RecordType::ANY]);
    (domain(), qtype).prop_map(|(name, qtype)| Question::query(name, qtype))
}

/// Generates an upstream's response: the message and its bytes, with OPT at any position in the additional section.
fn response() -> impl Strategy<Value = (Message, Vec<u8>)> {
    (message(), any::<Index>()).prop_map(|(message, place)| {
        let mut moved = message.clone();
        if let Some(mut edns) = moved.edns.take() {
            edns.set_rcode_high((u16::from(message.metadata.response_code) >> 4) as u8);
            moved.additionals.insert(place.index(message.additionals.len() + 1), Record::from(&edns));
        }
        (message, moved.to_vec().unwrap())
    })
}

fn message() -> impl Strategy<Value = Message> {
    let rcode = select(vec![0u16, 0, 0, 2, 3, 3, 5, 16, 23]);
    question().prop_flat_map(move |question| {
        let asked = question.name().clone();
        let sections = (records(asked.clone(), 12), records(asked.clone(), 3), records(asked, 4));
        let flags = any::<[bool; 6]>();
        (Just(question), sections, option::of(edns()), rcode.clone(), any::<u16>(), flags).prop_map(
            |(question, (answers, authorities, additionals), edns, rcode, id, flags)| {
                let mut message = Message::response(id, OpCode::Query);
                let [authoritative, recursion_desired, available, authentic, checking_disabled, _] = flags;
                message.metadata.authoritative = authoritative;
                message.metadata.recursion_desired = recursion_desired;
                message.metadata.recursion_available = available;
                message.metadata.authentic_data = authentic;
                message.metadata.checking_disabled = checking_disabled;
                // The upper bits of a response code exist only in OPT.
                let rcode = if edns.is_some() { rcode } else { rcode & flag::RCODE };
                message.metadata.response_code = ResponseCode::from((rcode >> 4) as u8, (rcode & 15) as u8);
                message.add_query(question);
                message.add_answers(answers).add_authorities(authorities).add_additionals(additionals);
                message.edns = edns;
                message
            },
        )
    })
}

/// Generates a query for `question`, in its letter case or in capitals.
fn query_of(question: Question) -> impl Strategy<Value = Message> {
    (option::of(edns()), any::<u16>(), any::<[bool; 3]>(), any::<bool>()).prop_map(move |(edns, id, flags, upper)| {
        let mut question = question.clone();
        let change = |label: &[u8]| if upper { label.to_ascii_uppercase() } else { label.to_vec() };
        let mut name = Name::from_labels(question.name().iter().map(change)).unwrap();
        name.set_fqdn(true);
        question.set_name(name);
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        [message.metadata.recursion_desired, message.metadata.authentic_data, message.metadata.checking_disabled] =
            flags;
        message.add_query(question);
        message.edns = edns;
        message
    })
}

fn sections(message: &Message) -> [&Vec<Record>; 3] {
    [&message.answers, &message.authorities, &message.additionals]
}

/// Returns the extended errors of an OPT record as complete options.
fn extended_errors(edns: &Option<Edns>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (_, option) in edns.iter().flat_map(|edns| &edns.options().options) {
        match option {
            EdnsOption::Unknown(EDE, data) if data.len() >= 2 => {
                bytes.extend([&EDE.to_be_bytes(), &(data.len() as u16).to_be_bytes(), &data[..]].concat());
            }
            _ => {}
        }
    }
    bytes
}

/// Returns the least TTL of `record`'s RRset in `section`, at most `cap`.
fn rrset_ttl(section: &[Record], record: &Record, cap: u32) -> u32 {
    let same = |other: &&Record| {
        (&other.name, other.dns_class, other.record_type()) == (&record.name, record.dns_class, record.record_type())
    };
    section.iter().filter(same).map(|other| other.ttl).min().unwrap().min(cap)
}

/// Passes `packet` to all code that processes bytes from the network. Returns the response that a client would get, if any.
fn all_that_is_done_with(packet: &[u8], options: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; size];
    match Query::read(packet) {
        Ok(query) => {
            let key = CacheKey::new(&query, EffectiveViewId::of_index(1));
            assert_eq!(key.name(), query.name().to_ascii_lowercase());
            write::local(&query, rcode::NOERROR, true, &write::LocalRecords::default(), options, &mut out);
        }
        Err(Reject::Code { rcode, question_end, edns }) => {
            let len = write::rejection(packet, rcode, question_end, edns, &mut out);
            assert!(len <= packet.len() + write::OPT_SIZE);
        }
        Err(Reject::Silence(_)) => {}
    }
    let response = ResponseMessage::read(packet).ok()?;
    let scope = CacheScope::unconfirmed(0);
    let limits = EntryLimits { max_ttl: u32::MAX, negative_max_ttl: u32::MAX, rotate: true };
    let entry = Entry::from_reply(&response, limits, true, scope, 0);
    let mut composer = Composer::new(response.flags, &packet[12..response.question_end]);
    for record in &response.records {
        composer.copy(packet, record, record.section);
    }
    if let Ok(composed) = composer.finish() {
        assert!(
            ResponseMessage::read(&composed).is_ok_and(|composed| composed.records.len() <= response.records.len())
        );
    }
    let _ = (response.is_sound(), response.is_referral());
    if let Ok(Some(ordered)) = in_order(&response) {
        let ordered = ResponseMessage::read(&ordered).expect("a whole message");
        assert_eq!(in_order(&ordered), Ok(None), "in order at last");
    }

    let mut asked = packet[..response.question_end].to_vec();
    asked[2] &= 0x07;
    asked[6..12].fill(0);
    asked[11] = 1;
    asked.extend(b"\x00\0\x29\x04\xd0\0\0\x80\0\0\0");
    let query = Query::read(&asked).ok()?;
    let len = fit(entry.cached_message(), &query, Age::Seconds(7), options, &mut out);
    out.truncate(len);
    (len > 0).then_some(out)
}

/// Returns the response with 0xff in its id and TTLs, where no name can be read then. A damaged pointer may lead into these
/// fields, and the name would change with them.
fn without_names_of_numbers(packet: &[u8]) -> Vec<u8> {
    let mut changed = packet.to_vec();
    changed[..2].fill(0xff);
    for record in &ResponseMessage::read(packet).unwrap().records {
        changed[record.ttl_at()..record.ttl_at() + 4].fill(0xff);
    }
    changed
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn any_bytes_are_no_trap(
        packet in vec(prop_oneof![3 => 0u8..5, 1 => any::<u8>(), 1 => Just(0xc0u8)], 0..200),
        size in 0usize..600,
    ) {
        if let Some(out) = all_that_is_done_with(&packet, &[], size) {
            prop_assert!(out.len() <= size && ResponseMessage::read(&out).is_ok());
        }
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn a_damaged_message_is_no_trap(
        (_, mut packet) in response(),
        damage in vec((any::<Index>(), any::<u8>()), 0..4),
        end in option::weighted(0.2, any::<Index>()),
        size in 40usize..2000,
    ) {
        for (at, byte) in damage {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if let Some(end) = end {
            packet.truncate(end.index(packet.len()));
        }
        if let Some(out) = all_that_is_done_with(&packet, &[0, 15, 0, 2, 0, 3], size) {
            prop_assert!(out.len() <= size && ResponseMessage::read(&out).is_ok());
            if Message::from_vec(&without_names_of_numbers(&packet)).is_ok() {
                prop_assert!(Message::from_vec(&out).is_ok(), "{packet:02x?} became {out:02x?}");
            }
        }
    }

    #[test]
    fn a_reply_is_read_alike((_, packet) in response()) {
        let message = Message::from_vec(&packet).unwrap();
        let response = ResponseMessage::read(&packet).unwrap();
        prop_assert_eq!(u16::from(response.rcode), u16::from(message.metadata.response_code));
        prop_assert_eq!(response.opt.is_some(), message.edns.is_some());
        prop_assert_eq!(&response.extended_errors, &extended_errors(&message.edns));
        prop_assert_eq!(response.qtype(), message.queries[0].query_type().into());
        prop_assert_eq!(response.qclass(), u16::from(message.queries[0].query_class()));
        for (section, theirs) in SECTIONS.into_iter().zip(sections(&message)) {
            let ours: Vec<_> = response.section(section).collect();
            prop_assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                let theirs_are = (theirs.record_type().into(), u16::from(theirs.dns_class), theirs.ttl);
                prop_assert_eq!((ours.rtype, ours.class(&packet), ours.ttl(&packet)), theirs_are);
                let mut owner = [0; MAX_NAME];
                let len = name::expand(&packet, ours.start, &mut owner).unwrap();
                prop_assert_eq!(&owner[..len], theirs.name.to_bytes().unwrap());
                if let RData::Unknown { rdata, .. } = &theirs.data {
                    prop_assert_eq!(ours.rdata(&packet), &rdata.anything[..]);
                }
            }
        }
    }

    #[test]
    fn a_reply_kept_and_fitted_says_the_same(
        ((message, packet), query) in response().prop_flat_map(|response| {
            let question = response.0.queries[0].clone();
            (Just(response), query_of(question))
        }),
        cap in prop_oneof![Just(i32::MAX as u32), 0u32..500],
        age in 0u32..600,
        stale in any::<bool>(),
        tcp in any::<bool>(),
    ) {
        let asked = query.to_vec().unwrap();
        let (response, asked) = (ResponseMessage::read(&packet).unwrap(), Query::read(&asked).unwrap());
        let CacheableMessage { wire, ttls, least_ttl, spells, .. } = store(&response, cap);
        let ttls: Vec<u8> = ttls.iter().flat_map(|at| at.to_be_bytes()).collect();
        let errors = extended_errors(&message.edns);
        let kept = CachedMessage { wire: &wire, ttls: &ttls, extended_errors: &errors, rcode: response.rcode, authentic: true, rotation: 0, spells };
        let size = if tcp { 65535 } else { usize::from(asked.udp_size()) };
        let mut out = vec![0xff; size];
        let age_of = if stale { Age::Stale(30) } else { Age::Seconds(age) };
        let len = fit(kept, &asked, age_of, &[], &mut out);
        let got = Message::from_vec(&out[..len]).unwrap();

        prop_assert_eq!(got.metadata.id, query.metadata.id);
        prop_assert!(got.queries.len() == 1 && got.queries[0].name().eq_case(query.queries[0].name()));
        prop_assert_eq!(got.edns.is_some(), query.edns.is_some());
        if let (Some(ours), Some(theirs)) = (&got.edns, &query.edns) {
            prop_assert_eq!((ours.flags().dnssec_ok, ours.version(), ours.max_payload()), (theirs.flags().dnssec_ok, 0, 1232));
            let left = ours.options().options.len();
            prop_assert!(left == 0 || extended_errors(&got.edns) == errors);
        }
        let code = if query.edns.is_none() && response.rcode.opt_bits() != 0 { rcode::SERVFAIL } else { response.rcode };
        prop_assert_eq!(u16::from(got.metadata.response_code), u16::from(code));
        prop_assert_eq!(got.metadata.recursion_desired, query.metadata.recursion_desired);
        prop_assert_eq!(got.metadata.checking_disabled, query.metadata.checking_disabled);
        prop_assert!(got.metadata.recursion_available && !got.metadata.authoritative);
        let wants_ad = query.metadata.authentic_data || query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        prop_assert_eq!(got.metadata.authentic_data, wants_ad);

        let mut least = None;
        for (section, (got, all)) in sections(&got).into_iter().zip(sections(&message)).enumerate() {
            // Additional records do not affect the least TTL.
            for record in all.iter().filter(|_| section < 2) {
                let ttl = rrset_ttl(all, record, cap);
                least = Some(least.unwrap_or(ttl).min(ttl));
            }
            prop_assert!(got.len() <= all.len());
            for (got, record) in got.iter().zip(all) {
                prop_assert_eq!((&got.name, got.dns_class, &got.data), (&record.name, DNSClass::IN, &record.data));
                let ttl = if stale { 30 } else { rrset_ttl(all, record, cap).saturating_sub(age) };
                prop_assert_eq!(got.ttl, ttl);
            }
        }
        prop_assert_eq!(least_ttl, least);

        let counts = sections(&got).map(Vec::len);
        let all = sections(&message).map(Vec::len);
        let negative = all[0] == 0 || message.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
        let truncated = counts[0] < all[0] || (counts[1] < all[1] && negative);
        prop_assert_eq!(got.metadata.truncation, truncated);
        let opt = if query.edns.is_some() { write::OPT_SIZE } else { 0 };
        prop_assert_eq!(counts == all, wire.len() + opt <= size);
        if wire.len() + opt + errors.len() <= size && query.edns.is_some() {
            prop_assert_eq!(extended_errors(&got.edns), errors);
        }
    }

    #[test]
    fn composed_records_are_the_same_records((message, packet) in response()) {
        let response = ResponseMessage::read(&packet).unwrap();
        let mut composer = Composer::new(response.flags & !flag::RCODE, &packet[12..response.question_end]);
        for record in &response.records {
            composer.copy(&packet, record, record.section);
        }
        let composed = Message::from_vec(&composer.finish().unwrap()).unwrap();
        prop_assert_eq!(sections(&composed), sections(&message));
    }

    #[test]
    fn a_query_is_read_alike(message in question().prop_flat_map(query_of)) {
        let packet = message.to_vec().unwrap();
        let query = Query::read(&packet).unwrap();
        let question = &message.queries[0];
        prop_assert_eq!(query.id, message.metadata.id);
        prop_assert_eq!(query.qtype, question.query_type().into());
        prop_assert_eq!(query.qclass, u16::from(question.query_class()));
        prop_assert_eq!(query.name(), &question.name().to_bytes().unwrap()[..]);
        let edns = query.edns.map(|edns| (edns.size, edns.dnssec_ok));
        prop_assert_eq!(edns, message.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)));
        let key = CacheKey::new(&query, EffectiveViewId::COMMON);
        prop_assert_eq!(key.rd(), message.metadata.recursion_desired);
        prop_assert_eq!(key.cd(), message.metadata.checking_disabled);
        prop_assert_eq!(key.dnssec_ok(), message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok));
    }

    #[test]
    fn a_name_is_shown_and_parsed_alike(theirs in domain()) {
        let wire = theirs.to_bytes().unwrap();
        let ours = name::Name::from_wire(&wire).unwrap();
        prop_assert_eq!(ours.as_wire(), &wire.to_ascii_lowercase()[..]);
        prop_assert_eq!(ours.label_count(), theirs.iter().count());
        prop_assert_eq!(&ours.to_string().parse::<name::Name>().unwrap(), &ours);
        // hickory reads and writes \DDD in octal (decimal in RFC 1035 section 5.1), and refuses some characters.
        if theirs.iter().flatten().all(u8::is_ascii_graphic) {
            prop_assert_eq!(&theirs.to_ascii().parse::<name::Name>().unwrap(), &ours);
        }
        if theirs.iter().flatten().all(u8::is_ascii_alphanumeric) {
            prop_assert_eq!(&Name::from_ascii(ours.to_string()).unwrap(), &theirs);
        }
    }
}
