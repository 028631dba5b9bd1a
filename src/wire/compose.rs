//! A new reply from the records of others: where a CNAME leads into another route, and where records are left out.
//!
//! Names that a record holds may be compressed against the message they came from, so they are written out and
//! compressed anew. RDATA that nodens does not know cannot hold compressed names (RFC 3597) and is copied as it is.

use super::name::{self, MAX_NAME};
use super::reply::{Record, Section};
use super::{HEADER, LONGEST_MESSAGE};

/// Names remembered for compression: enough for a chain of CNAMEs and its end.
const REMEMBERED: usize = 16;

/// Builds one message, section after section.
pub struct Composer {
    wire: Vec<u8>,
    names: Vec<(u16, Vec<u8>)>,
    counts: [u16; 3],
}

impl Composer {
    /// Starts a message with these flags and this question (name, type and class in wire form).
    pub fn new(flags: u16, question: &[u8]) -> Self {
        let mut wire = Vec::with_capacity(512);
        wire.extend_from_slice(&[0, 0]);
        wire.extend_from_slice(&flags.to_be_bytes());
        wire.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        wire.extend_from_slice(question);
        let mut composer = Self { wire, names: Vec::new(), counts: [0; 3] };
        composer.remember(HEADER, question.get(..question.len().saturating_sub(4)).unwrap_or_default());
        composer
    }

    /// Copies one record of `message` into `section`; sections come in order. One that is malformed, or for which the
    /// message has no room left, is left out.
    pub fn copy(&mut self, message: &[u8], record: &Record, section: Section) {
        let before = self.wire.len();
        if self.try_copy(message, record).is_none() || self.wire.len() > LONGEST_MESSAGE {
            self.wire.truncate(before);
            self.names.retain(|(at, _)| usize::from(*at) < before);
            return;
        }
        let count = &mut self.counts[section as usize];
        *count = count.saturating_add(1);
    }

    /// The message.
    pub fn finish(mut self) -> Vec<u8> {
        for (at, count) in [6, 8, 10].into_iter().zip(self.counts) {
            self.wire[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        self.wire
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
            for _ in 0..names {
                // Written out in full: only the types of RFC 1035 may be compressed, and not all readers cope.
                at = self.name(message, at, false)?;
            }
        }
        self.wire.extend_from_slice(message.get(at..record.end)?);
        let length = u16::try_from(self.wire.len() - length_at - 2).ok()?;
        self.wire[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    /// Writes the name at `at` of `message`, as a pointer if it may be, and returns where the name ends there.
    fn name(&mut self, message: &[u8], at: usize, compress: bool) -> Option<usize> {
        let mut buffer = [0; MAX_NAME];
        let len = name::expand(message, at, &mut buffer)?;
        let name = &buffer[..len];
        let known = self.names.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        match known {
            Some((offset, _)) if compress => self.wire.extend_from_slice(&(0xc000 | offset).to_be_bytes()),
            Some(_) => self.wire.extend_from_slice(name),
            None => {
                self.remember(self.wire.len(), name);
                self.wire.extend_from_slice(name);
            }
        }
        name::skip(message, at)
    }

    fn remember(&mut self, at: usize, name: &[u8]) {
        if let (Ok(at @ 0..=0x3fff), true) = (u16::try_from(at), self.names.len() < REMEMBERED && name.len() > 2) {
            self.names.push((at, name.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::flag;
    use super::super::reply::Reply;
    use super::*;

    /// A reply to `a.b. A`: an alias with a compressed target, its address, and a NAPTR record with a compressed name.
    const REPLY: &[u8] = b"\0\0\x80\0\0\x01\0\x03\0\0\0\0\x01a\x01b\x00\0\x01\0\x01\
        \xc0\x0c\0\x05\0\x01\0\0\0\x09\0\x04\x01c\xc0\x0e\
        \x01c\xc0\x0e\0\x01\0\x01\0\0\0\x09\0\x04\x01\x02\x03\x04\
        \xc0\x0c\0\x23\0\x01\0\0\0\x09\0\x09\0\x01\0\x02\x00\x00\x00\xc0\x0e";

    #[test]
    fn names_in_rdata_are_written_out() {
        let reply = Reply::read(REPLY).expect("a reply");
        let mut composer = Composer::new(flag::QR, b"\x01x\x00\0\x01\0\x01");
        for record in &reply.records {
            composer.copy(REPLY, record, Section::Answer);
        }
        let message = composer.finish();
        let copied = Reply::read(&message).expect("a message");
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
        assert_eq!(rdata, [&b"\x01c\x01b\x00"[..], &[1, 2, 3, 4], naptr]);
    }

    #[test]
    fn what_is_malformed_or_too_much_is_left_out() {
        let reply = Reply::read(REPLY).expect("a reply");
        let mut composer = Composer::new(flag::QR, b"\x01x\x00\0\x01\0\x01");
        // An alias whose name runs past its RDATA.
        let short = Record { end: reply.records[0].end - 2, ..reply.records[0] };
        composer.copy(REPLY, &short, Section::Answer);
        composer.copy(&REPLY[..40], &reply.records[1], Section::Answer);
        for _ in 0..5000 {
            composer.copy(REPLY, &reply.records[1], Section::Additional);
        }
        let message = composer.finish();
        assert!(message.len() <= LONGEST_MESSAGE && message.len() > LONGEST_MESSAGE - 16);
        let copied = Reply::read(&message).expect("a message");
        assert_eq!(copied.section(Section::Answer).count(), 0);
        assert_eq!(copied.section(Section::Additional).count(), copied.records.len());
    }
}
