//! Scripted upstreams described by words: zones, behaviours, and the queries that they saw.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nodens::lab::fault::{Behaviour, Forgery, Tcp};
use nodens::lab::seen::Seen;
use nodens::lab::zone::LabZone;
use nodens::upstream::Transport;
use nodens::wire::RrType;
use nodens::wire::compose::Composer;
use nodens::wire::response::{ResponseMessage, Section};

use super::client::rtype;
use super::script::{Options, hex, range, time, words};

/// Parses a zone: records, and `$origin NAME`, `$negative-ttl N`, `$without-soa`, `$authentic`, `$signed`, `$rcode NAME N`,
/// `$denied NAME`, `$ede NAME N TEXT`. Every name is within the zone.
pub(crate) fn zone(block: &[String]) -> LabZone {
    block.iter().fold(LabZone::new("."), |zone, line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse::<u16>().unwrap_or_else(|_| panic!("{line}: {text} is no number"));
        match words.as_slice() {
            ["$origin", name] => zone.origin(name),
            ["$negative-ttl", ttl] => zone.negative_ttl(number(ttl).into()),
            ["$without-soa"] => zone.without_soa(),
            ["$authentic"] => zone.authentic(),
            ["$signed"] => zone.signed(),
            ["$rcode", name, code] => zone.rcode(name, number(code)),
            ["$denied", name] => zone.denied(name),
            ["$ede", name, code, text @ ..] => zone.extended_error(name, number(code), &text.join(" ")),
            _ => zone.record(line),
        }
    })
}

/// Parses a behaviour: one of `normal silent rcode=N formerr-on-opt silent-on-opt truncated bytes=HEX forged=HOW folded
/// flags=HEX cut=N referral reversed short-rdata answer-type=TXT denied-with-data lower-case-only
/// silent-to=AAAA|SOA|PART`, then the modifiers read below.
pub(crate) fn behaviour(words: &[String]) -> Behaviour {
    let mut options = Options::new(words);
    let mut behaviour = if options.flag("silent") {
        Behaviour::silent()
    } else if let Some(code) = options.number("rcode") {
        Behaviour::rcode(code)
    } else if options.flag("formerr-on-opt") {
        Behaviour::formerr_on_opt()
    } else if options.flag("silent-on-opt") {
        Behaviour::silent_on_opt()
    } else if options.flag("truncated") {
        Behaviour::truncated()
    } else if options.flag("folded") {
        Behaviour::folded_case()
    } else if let Some(bytes) = options.value("bytes") {
        Behaviour::bytes(hex(bytes))
    } else if let Some(how) = options.value("forged") {
        Behaviour::forged(match how {
            "wrong-id" => Forgery::WrongId,
            "wrong-question" => Forgery::WrongQuestion,
            "other-port" => Forgery::OtherPort,
            "echo" => Forgery::Echo,
            _ => panic!("{how}: no such forgery"),
        })
    } else if let Some(bits) = options.value("flags") {
        let bits = hex(bits);
        Behaviour::edited(move |_, wire| (0..2).for_each(|at| wire[2 + at] |= bits[at]))
    } else if let Some(bytes) = options.number("cut") {
        Behaviour::edited(move |_, wire| wire.truncate(wire.len() - usize::from(bytes)))
    } else if options.flag("reversed") {
        Behaviour::edited(|_, wire| reverse_answers(wire))
    } else if options.flag("short-rdata") {
        Behaviour::edited(|_, wire| shorten_answer(wire))
    } else if let Some(word) = options.value("silent-to") {
        // A type, or a part of a name.
        let kind = ["AAAA", "SOA"].contains(&word).then(|| RrType::from(rtype(word)));
        let word = word.to_owned();
        Behaviour::edited(move |seen, wire| {
            let silent = match kind {
                Some(kind) => seen.qtype == kind,
                None => seen.name.to_ascii_lowercase().contains(&word),
            };
            if silent {
                wire.clear();
            }
        })
    } else if let Some(bytes) = options.value("answer-type") {
        // A type other than the one of the question.
        let kind = rtype(bytes).to_be_bytes();
        Behaviour::edited(move |seen, wire| {
            let at = 12 + seen.question().len() + 2;
            if wire.len() > at + 2 {
                wire[at..at + 2].copy_from_slice(&kind);
            }
        })
    } else if options.flag("denied-with-data") {
        Behaviour::edited(|_, wire| wire[3] = wire[3] & 0xf0 | 3)
    } else if options.flag("lower-case-only") {
        Behaviour::edited(|seen, wire| {
            if seen.name != seen.name.to_ascii_lowercase() {
                wire.truncate(12 + seen.question().len());
                wire[3] = wire[3] & 0xf0 | 3;
                wire[6..12].fill(0);
            }
        })
    } else if options.flag("referral") {
        Behaviour::edited(|seen, wire| {
            wire.truncate(12 + seen.question().len());
            wire[6..12].copy_from_slice(&[0, 0, 0, 1, 0, 0]);
            wire.extend(b"\x03com\0\0\x02\0\x01\0\0\x0e\x10\0\x04\x02ns\0");
        })
    } else {
        options.flag("normal");
        Behaviour::normal()
    };
    type Build = fn(Behaviour) -> Behaviour;
    let builders: [(&str, Build); 5] = [
        ("then-honest", Behaviour::then_honest),
        ("without-question", Behaviour::without_question),
        ("without-opt", Behaviour::without_opt),
        ("ignoring-opt", Behaviour::ignoring_opt),
        ("only-with-opt", Behaviour::only_with_opt),
    ];
    for (word, build) in builders {
        behaviour = if options.flag(word) { build(behaviour) } else { behaviour };
    }
    if let Some((code, text)) = options.value("ede").map(|text| text.split_once(':').unwrap_or((text, ""))) {
        behaviour = behaviour.extended_error(code.parse().expect("a code"), text);
    }
    if let Some(transport) = options.value("only") {
        behaviour = behaviour.only_over(if transport == "tcp" { Transport::Tcp } else { Transport::Udp });
    }
    if let Some(latency) = options.value("latency") {
        behaviour = behaviour.latency(time(latency));
    }
    if let Some(n) = options.number("lose-every") {
        behaviour = behaviour.lose_every(n.into());
    }
    if let Some(percent) = options.value("loss") {
        let percent = percent.strip_suffix('%').and_then(|number| number.parse().ok()).expect("loss=30%");
        behaviour = behaviour.lose_percent(percent, 1);
    }
    if let Some(tcp) = options.value("tcp") {
        behaviour = behaviour.tcp(match tcp.split_once(':') {
            None if tcp == "refuse" => Tcp::Refuse,
            None if tcp == "silent" => Tcp::Silent,
            Some(("close-after", responses)) => Tcp::CloseAfter(responses.parse().expect("a number")),
            Some(("stall-after", responses)) => Tcp::StallAfter(responses.parse().expect("a number")),
            Some(("reversed", queries)) => Tcp::Reversed(queries.parse().expect("a number")),
            Some(("in-pieces", bytes)) => Tcp::InPieces(bytes.parse().expect("a number")),
            _ => panic!("tcp={tcp}: unknown"),
        });
    }
    options.close();
    behaviour
}

/// Reverses the order of the answers.
fn reverse_answers(wire: &mut Vec<u8>) {
    let Ok(response) = ResponseMessage::read(wire) else { return };
    let mut composer = Composer::new(response.flags, &wire[12..response.question_end]);
    let answers: Vec<_> = response.section(Section::Answer).collect();
    answers.into_iter().rev().for_each(|record| composer.copy(wire, record, Section::Answer));
    let composed = composer.finish().expect("room");
    // The composer does not write the id.
    wire.splice(2.., composed[2..].iter().copied());
}

/// Removes the last byte of the first address.
fn shorten_answer(wire: &mut Vec<u8>) {
    let Ok(response) = ResponseMessage::read(wire) else { return };
    let Some(record) = response.section(Section::Answer).find(|record| record.rtype == nodens::wire::rtype::A) else {
        return;
    };
    let (length_at, last) = (record.fixed + 9, record.end - 1);
    wire[length_at] -= 1;
    wire.remove(last);
}

/// Returns the address on which an upstream listens (`v6`: the IPv6 loopback) and its initial latency.
pub(crate) fn place(words: &[String]) -> (SocketAddr, Duration) {
    let mut options = Options::new(words);
    let v6 = options.flag("v6");
    let latency = options.value("latency").map(time).unwrap_or_default();
    options.close();
    let address: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    (SocketAddr::new(address, 0), latency)
}

/// Checks the queries that an upstream saw against `saw NAME nothing`, against `saw NAME COUNT [type=TYPE] [spread]
/// [connections=COUNT]`, or against one line of the block for each query.
pub(crate) fn check(seen: &[Seen], words: &[String], block: &[String]) {
    let told = || seen.iter().map(tell).collect::<Vec<_>>().join("\n  ");
    match words {
        [] => {
            assert_eq!(seen.len(), block.len(), "queries seen:\n  {}", told());
            for (seen, line) in seen.iter().zip(block) {
                check_one(seen, line);
            }
        }
        [nothing] if nothing == "nothing" => assert!(seen.is_empty(), "queries seen:\n  {}", told()),
        [count, rest @ ..] => {
            let mut options = Options::new(rest);
            let spread = options.flag("spread");
            let kind = options.value("type").map(rtype);
            let connections = options.value("connections");
            options.close();
            if let Some(count) = connections {
                let over_tcp = seen.iter().filter(|seen| seen.transport == Transport::Tcp);
                let connections: std::collections::HashSet<_> = over_tcp.map(|seen| seen.client).collect();
                assert!(range(count).contains(&(connections.len() as u64)), "connections: {connections:?}");
            }
            let of_kind: Vec<_> =
                seen.iter().filter(|seen| kind.is_none_or(|kind| kind == u16::from(seen.qtype))).collect();
            assert!(range(count).contains(&(of_kind.len() as u64)), "queries seen:\n  {}", told());
            if spread {
                let ports: std::collections::HashSet<_> = of_kind.iter().map(|seen| seen.client.port()).collect();
                let ids: std::collections::HashSet<_> = of_kind.iter().map(|seen| seen.id).collect();
                assert!(ports.len() * 3 >= of_kind.len(), "few ports: {ports:?}");
                assert!(ids.len() + 1 >= of_kind.len(), "ids come again: {ids:?}");
                let steps = of_kind.windows(2).filter(|pair| pair[0].id.wrapping_add(1) == pair[1].id).count();
                assert!(steps < 3, "ids count up: {ids:?}");
            }
        }
    }
}

fn check_one(seen: &Seen, line: &str) {
    let words = words(line);
    let [name, kind, rest @ ..] = words.as_slice() else { panic!("{line}: a name and a type") };
    let told = tell(seen);
    assert!(seen.asks(name, rtype(kind)), "not {name} {kind}: {told}");
    let edns = seen.edns.as_ref();
    for word in rest {
        let (positive, wanted) = word.strip_prefix('-').map_or((word.as_str(), true), |rest| (rest, false));
        let holds = match positive.split_once('=').unwrap_or((positive, "")) {
            ("udp", _) => seen.transport == Transport::Udp,
            ("tcp", _) => seen.transport == Transport::Tcp,
            ("rd", _) => seen.rd(),
            ("cd", _) => seen.cd(),
            ("ad", _) => seen.ad(),
            ("do", _) => seen.dnssec_ok(),
            ("z", _) => seen.flags & 0x40 != 0,
            ("edns", "") => edns.is_some(),
            ("edns", size) => edns.is_some_and(|edns| edns.size.to_string() == size && edns.version == 0),
            ("options", "none") => edns.is_none_or(|edns| edns.options.is_empty()),
            ("options", codes) => edns.is_some_and(|edns| {
                edns.options.iter().map(|(code, _)| code.to_string()).collect::<Vec<_>>().join(",") == codes
            }),
            // Of some thirty letters at least one is a capital; the probability of none is negligible.
            ("mixed", _) => seen.name.bytes().any(|byte| byte.is_ascii_uppercase()),
            _ => panic!("{word}: unknown"),
        };
        assert_eq!(holds, wanted, "{word}: {told}");
    }
}

fn tell(seen: &Seen) -> String {
    let edns = seen.edns.as_ref().map(|edns| (edns.size, &edns.options));
    format!("{} {} {:?} flags {:04x} edns {edns:?}", seen.name, seen.qtype, seen.transport, seen.flags)
}
