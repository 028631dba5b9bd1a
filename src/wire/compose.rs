//! A new reply from the records of others: where a CNAME leads into another route, and where records are left out.
//!
//! Names that a record holds may be compressed against the message they came from, so they are written out and
//! compressed anew. RDATA that nodens does not know cannot hold compressed names (RFC 3597) and is copied as it is.

use super::HEADER;
use super::name::{self, MAX_NAME};
use super::reply::{Record, Section, rdata_names};

/// Names remembered for compression: enough for a chain of CNAMEs and its end.
const REMEMBERED: usize = 16;

/// The most that a message holds.
const MAX_MESSAGE: usize = 65_535;

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
        if self.try_copy(message, record).is_none() || self.wire.len() > MAX_MESSAGE {
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
        if let Some((before, names)) = rdata_names(record.rtype) {
            self.wire.extend_from_slice(message.get(at..at + before)?);
            at += before;
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
        match known.filter(|_| compress) {
            Some((offset, _)) => self.wire.extend_from_slice(&(0xc000 | offset).to_be_bytes()),
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
