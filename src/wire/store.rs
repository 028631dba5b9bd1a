//! An upstream's reply made ready to be kept: its OPT record taken out, random letter case undone, one TTL per RRset.

use super::name::{self, MAX_NAME};
use super::reply::{Record, Reply};
use super::{HEADER, u16_at};

/// Above this many records the TTLs are not told apart by RRset: all get the least, so that the work stays bounded.
const MANY_RECORDS: usize = 128;

/// A message ready to be fitted to queries, and where its TTLs lie.
#[derive(Debug)]
pub struct Stored {
    /// The message without OPT; id zero.
    pub wire: Vec<u8>,
    /// The offset of each TTL in `wire`.
    pub ttls: Vec<u16>,
    /// The least TTL in it, after capping; none if it has no records.
    pub least_ttl: Option<u32>,
}

/// Makes `reply` ready to be kept; no TTL will be above `cap` seconds.
pub fn store(reply: &Reply<'_>, cap: u32) -> Stored {
    let (mut wire, gap) = without_opt(reply);
    // A record's offset once the OPT record is gone.
    let moved = |at: usize| if at >= gap.1 { at - (gap.1 - gap.0) } else { at };

    if let Some(id) = wire.get_mut(..2) {
        id.fill(0);
    }
    let qname_end = reply.question_end - 4;
    wire[HEADER..qname_end].make_ascii_lowercase();
    let qname = wire[HEADER..qname_end].to_vec();
    for record in reply.records.iter().filter(|record| reply.owner_is(record, &qname)) {
        lowercase_plain_labels(&mut wire, moved(record.start));
    }

    let mut ttls = Vec::with_capacity(reply.records.len());
    let mut least = None;
    for (at, ttl) in rrset_ttls(reply) {
        let ttl = ttl.min(cap);
        least = Some(least.map_or(ttl, |least: u32| least.min(ttl)));
        let at = moved(at);
        if let (Some(place), Ok(offset)) = (wire.get_mut(at..at + 4), u16::try_from(at)) {
            place.copy_from_slice(&ttl.to_be_bytes());
            ttls.push(offset);
        }
    }
    Stored { wire, ttls, least_ttl: least }
}

/// The message without its OPT record, and the gap that it left (empty at the end where there was none).
fn without_opt(reply: &Reply<'_>) -> (Vec<u8>, (usize, usize)) {
    // What trails the last record belongs to nobody.
    let end = reply.records.iter().map(|record| record.end).chain(reply.opt.map(|opt| opt.1)).max();
    let end = end.unwrap_or(reply.question_end);
    let mut wire = reply.message[..end].to_vec();
    let Some((start, stop)) = reply.opt else { return (wire, (end, end)) };
    for record in reply.records.iter().filter(|record| record.start >= stop) {
        let (mut at, names) = record.rdata_names(reply.message).unwrap_or((record.end, 0));
        pull_pointer(&mut wire, record.start, (start, stop));
        for _ in 0..names {
            pull_pointer(&mut wire, at, (start, stop));
            let Some(next) = name::skip(reply.message, at) else { break };
            at = next;
        }
    }
    wire.drain(start..stop);
    let additional = u16_at(&wire, 10).unwrap_or(1).saturating_sub(1);
    wire[10..12].copy_from_slice(&additional.to_be_bytes());
    (wire, (start, stop))
}

/// Corrects the pointer that ends the name at `at`, if it points behind the gap.
fn pull_pointer(wire: &mut [u8], mut at: usize, gap: (usize, usize)) {
    while let Some(&length) = wire.get(at) {
        match length {
            1..=63 => at += 1 + usize::from(length),
            0xc0.. => {
                let target = usize::from(u16_at(wire, at).unwrap_or(0) & 0x3fff);
                if target >= gap.1 {
                    let pointer = 0xc000 | (target - (gap.1 - gap.0)) as u16;
                    wire[at..at + 2].copy_from_slice(&pointer.to_be_bytes());
                }
                return;
            }
            _ => return,
        }
    }
}

/// Lower-cases the labels of the name at `at` as far as no pointer is followed.
fn lowercase_plain_labels(wire: &mut [u8], mut at: usize) {
    while let Some(length @ 1..=63) = wire.get(at).copied() {
        let end = at + 1 + usize::from(length);
        if let Some(label) = wire.get_mut(at + 1..end) {
            label.make_ascii_lowercase();
        }
        at = end;
    }
}

/// The offset of each TTL with the least TTL of its RRset (RFC 2181 section 5.2).
fn rrset_ttls(reply: &Reply<'_>) -> Vec<(usize, u32)> {
    let message = reply.message;
    let mut ttls: Vec<(usize, u32)> =
        reply.records.iter().map(|record| (record.ttl_at(), record.ttl(message))).collect();
    if reply.records.len() > MANY_RECORDS {
        let least = ttls.iter().map(|(_, ttl)| *ttl).min().unwrap_or(0);
        ttls.iter_mut().for_each(|(_, ttl)| *ttl = least);
        return ttls;
    }
    let owners: Vec<Vec<u8>> = reply.records.iter().map(|record| owner(message, record)).collect();
    for i in 0..owners.len() {
        let same = |j: &usize| {
            let (a, b) = (&reply.records[i], &reply.records[*j]);
            (a.section, a.rtype, a.class(message)) == (b.section, b.rtype, b.class(message)) && owners[i] == owners[*j]
        };
        let least = (0..owners.len()).filter(same).map(|j| reply.records[j].ttl(message)).min();
        ttls[i].1 = least.unwrap_or(ttls[i].1);
    }
    ttls
}

fn owner(message: &[u8], record: &Record) -> Vec<u8> {
    let mut buffer = [0; MAX_NAME];
    let len = name::expand(message, record.start, &mut buffer).unwrap_or(0);
    buffer[..len].to_ascii_lowercase()
}
