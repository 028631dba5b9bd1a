//! Static records, of all clients or of one view: `[[record]]`. Converts their values to wire form and checks that records do
//! not conflict.

use std::collections::HashMap;
use std::ops::Range;

use hickory_proto::rr::{RData, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use serde::Deserialize;
use toml::Spanned;

use super::diagnostic::{Diagnostics, nearest};
use super::table::TomlTable;
use super::units::{Bounds, Time};
use super::value::{self, ConfigValue};
use crate::wire::name::{Name, OWN_ZONE, suffixes};
use crate::wire::{RrType, rtype};

/// `[[record]] ttl`, in whole seconds. The ceiling is that of all TTLs (RFC 8767 section 4).
pub(crate) const RECORD_TTL: Bounds<Time> =
    Bounds { default: Time::secs(300), floor: Time::secs(0), ceiling: Time::WEEK };

/// Static record, class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordConfig {
    pub(crate) name: Name,
    pub(crate) rtype: RrType,
    pub(crate) ttl: u32,
    /// RDATA in wire form, names uncompressed.
    pub rdata: Vec<u8>,
}

/// `[[record]]` in the file.
#[derive(Debug)]
pub(crate) struct RecordTable {
    pub name: Spanned<Owner>,
    pub kind: Spanned<RecordKind>,
    /// Required; its form depends on the type.
    pub value: Spanned<String>,
    pub ttl: Spanned<Time>,
}

/// Owner of a record: a name, or a wildcard with an asterisk as its first label (RFC 4592).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Owner(pub Name);

/// Record type that the file may have.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct RecordKind(&'static RecordForm);

/// Form of the values of one type.
#[derive(Debug)]
struct RecordForm {
    name: &'static str,
    rtype: RecordType,
    /// Number of words of a value; `None`: any number.
    words: Option<usize>,
    example: &'static str,
}

/// All types that the file may have.
const FORMS: [RecordForm; 8] = [
    form("A", RecordType::A, Some(1), "10.0.3.7"),
    form("AAAA", RecordType::AAAA, Some(1), "fd00::7"),
    form("CAA", RecordType::CAA, Some(3), r#"0 issue "ca.example""#),
    form("CNAME", RecordType::CNAME, Some(1), "other.corp.example"),
    form("MX", RecordType::MX, Some(2), "10 mail.corp.example"),
    form("PTR", RecordType::PTR, Some(1), "host.corp.example"),
    form("SRV", RecordType::SRV, Some(4), "0 5 5060 sip.corp.example"),
    form("TXT", RecordType::TXT, None, "v=spf1 -all"),
];

/// Maximum length of a character-string in bytes (RFC 1035 section 3.3).
const LONGEST_STRING: usize = 255;

const fn form(name: &'static str, rtype: RecordType, words: Option<usize>, example: &'static str) -> RecordForm {
    RecordForm { name, rtype, words, example }
}

impl RecordKind {
    /// Returns the number of the type.
    pub(crate) fn rtype(self) -> RrType {
        self.0.rtype.into()
    }

    /// Parses a value into wire form, names uncompressed.
    ///
    /// The value has the syntax of a zone file (RFC 1035 section 5.1) with absolute names, with or without the final dot. A TXT
    /// value that does not start with a quote is one literal string.
    pub(crate) fn rdata(self, value: &str) -> Result<Vec<u8>, String> {
        let wrong = |what: String| {
            format!("value: {what}; expected a value such as {:?} for type {}", self.0.example, self.0.name)
        };
        self.encode(value).map_err(wrong)
    }

    fn encode(self, value: &str) -> Result<Vec<u8>, String> {
        let form = self.0;
        if value.trim().is_empty() && form.words.is_some() {
            return Err("it is empty".to_owned());
        }
        if let RecordType::CNAME | RecordType::PTR = form.rtype {
            // Parsed like every other name of the file: hickory takes \DDD as octal and rejects inner underscores.
            let name = value.trim().parse::<Name>().map_err(|error| format!("{value:?} is not a name: {error}"))?;
            return Ok(name.as_wire().to_vec());
        }
        let text = match form.words {
            None if !value.trim_start().starts_with('"') => quoted(value),
            _ => value.to_owned(),
        };
        let words = words(&text)?;
        if form.words.is_some_and(|right| right != words) {
            return Err(format!("{value:?} has {words} parts"));
        }
        let rdata = RData::try_from_str(form.rtype, &text).map_err(|error| format!("{value:?}: {error}"))?;
        if let RData::TXT(txt) = &rdata
            && let Some(long) = txt.txt_data.iter().find(|string| string.len() > LONGEST_STRING)
        {
            return Err(format!(
                "a string of {} bytes is over {LONGEST_STRING}: cut it into several in quotes",
                long.len()
            ));
        }
        let mut wire = Vec::new();
        let mut encoder = BinEncoder::new(&mut wire);
        encoder.set_name_encoding(NameEncoding::Uncompressed);
        rdata.emit(&mut encoder).map_err(|error| format!("{value:?}: {error}"))?;
        Ok(wire)
    }
}

impl RecordTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Option<Self> {
        table.read(|table| {
            let (name, kind, value) = (table.required("name"), table.required("type"), table.required("value"));
            let ttl = table.bounded("ttl", &RECORD_TTL);
            Some(Self { name: name?, kind: kind?, value: value?, ttl })
        })
    }
}

/// Converts `[[record]]` tables to their validated form. Adds an error for each record that conflicts with another.
pub(super) fn records(tables: &[RecordTable], diagnostics: &Diagnostics<'_>) -> Vec<RecordConfig> {
    let records: Vec<_> = tables.iter().map(|table| record(table, diagnostics)).collect();
    agree(&records, diagnostics);
    records.into_iter().map(|(_, record)| record).collect()
}

fn record(file: &RecordTable, diagnostics: &Diagnostics<'_>) -> (Range<usize>, RecordConfig) {
    let kind = *file.kind.get_ref();
    let name = file.name.get_ref().0.clone();
    let ttl = diagnostics.good(file.ttl.span(), seconds(*file.ttl.get_ref())).unwrap_or_default();
    let rdata = diagnostics.good(file.value.span(), kind.rdata(file.value.get_ref())).unwrap_or_default();
    (file.name.span(), RecordConfig { name, rtype: kind.rtype(), ttl, rdata })
}

/// Converts a TTL to seconds. Fails if it is not in whole seconds.
pub(super) fn seconds(time: Time) -> Result<u32, String> {
    let secs = time.whole_secs().and_then(|secs| u32::try_from(secs).ok());
    secs.ok_or_else(|| format!("ttl: {time} is not in whole seconds; expected \"5m\""))
}

/// Adds an error for each record that conflicts with another: a duplicate, a CNAME beside other data or in a loop (RFC 1034
/// section 3.6.2), an RRset with two TTLs (RFC 2181 section 5.2). Each record comes with its position. The RDATA of a record
/// whose value is invalid is empty.
fn agree(records: &[(Range<usize>, RecordConfig)], diagnostics: &Diagnostics<'_>) {
    let mut first: HashMap<&Name, Vec<usize>> = HashMap::new();
    for (index, (at, record)) in records.iter().enumerate() {
        let before = first.entry(&record.name).or_default();
        if let Some((other, clash)) = before.iter().find_map(|&other| Some((other, clash(&records[other].1, record)?)))
        {
            let line = diagnostics.line(records[other].0.clone());
            diagnostics.add(at.clone(), format!("{} has {clash} on line {line}", record.name));
        }
        before.push(index);
    }
    let alias = |name: &Name| {
        let of_name = first.get(name)?.iter().map(|&index| &records[index].1);
        of_name.filter(|record| record.rtype == rtype::CNAME).find_map(|record| Name::from_wire(&record.rdata).ok())
    };
    for (at, record) in records.iter().filter(|(_, record)| record.rtype == rtype::CNAME) {
        let parent = record.name.as_wire().strip_prefix(b"\x01*");
        let target = Name::from_wire(&record.rdata).ok();
        if let (Some(parent), Some(target)) = (parent, &target)
            && suffixes(target.as_wire()).skip(1).any(|above| above == parent)
            && !first.contains_key(target)
        {
            diagnostics.add(
                at.clone(),
                format!("the CNAME of {} leads to {target}, which it stands in for itself", record.name),
            );
        }
        let chain = std::iter::successors(alias(&record.name), alias).take(records.len());
        if chain.into_iter().any(|name| name == record.name) {
            diagnostics.add(at.clone(), format!("the CNAME of {} leads back to itself", record.name));
        }
    }
}

/// Returns the conflict between `earlier` and `later`, records of the same name, if there is one.
fn clash(earlier: &RecordConfig, later: &RecordConfig) -> Option<&'static str> {
    let aliases = [earlier, later].map(|record| record.rtype == rtype::CNAME);
    match aliases {
        [true, true] => Some("a CNAME already, and may have only one:"),
        [true, false] => Some("a CNAME, which excludes other data,"),
        [false, true] => Some("other data, which excludes a CNAME,"),
        _ if earlier.rtype != later.rtype => None,
        _ if earlier.rdata == later.rdata && !later.rdata.is_empty() => Some("this very record"),
        _ if earlier.ttl != later.ttl => Some("a record of this type with another TTL, which must be the same,"),
        _ => None,
    }
}

impl TryFrom<String> for Owner {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "*" || text == "*." {
            return Err(format!("{text:?} would match every name: add a zone, such as \"*.apps.corp.example\""));
        }
        if text.strip_prefix("*.").unwrap_or(&text).contains('*') {
            return Err(format!("{text:?}: an asterisk stands alone, as the first label"));
        }
        let name: Name = text.parse().map_err(|error| format!("{text:?} is not a name: {error}"))?;
        match name.as_wire().ends_with(OWN_ZONE) {
            true => Err(format!("{text:?}: what is below nodens.internal nodens answers itself")),
            false => Ok(Self(name)),
        }
    }
}

impl TryFrom<String> for RecordKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        let form = FORMS.iter().find(|form| form.name.eq_ignore_ascii_case(&text));
        let near = || nearest(&text, FORMS.iter().map(|form| form.name));
        let near = || near().map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        form.map(Self).ok_or_else(|| format!("{text:?} is not a type that a record may have{}", near()))
    }
}

impl ConfigValue for Owner {
    const EXPECTED: &'static str = r#""registry.corp.example""#;
}

impl ConfigValue for RecordKind {
    const EXPECTED: &'static str = r#""A", "AAAA", "CAA", "CNAME", "MX", "PTR", "SRV" or "TXT""#;
    const FORM: value::ValueForm = value::ValueForm::OneOf(&["A", "AAAA", "CAA", "CNAME", "MX", "PTR", "SRV", "TXT"]);
}

/// Returns the text as one quoted string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Counts the words of a value. A quoted string is one word.
///
/// hickory takes `;` as the start of a comment, and reads `\DDD` differently from a zone file. Both are rejected, because
/// nodens would serve another value than the file has.
fn words(text: &str) -> Result<usize, String> {
    let (mut count, mut in_word, mut in_quotes) = (0, false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let outside = !in_quotes;
        match c {
            '\\' if chars.peek().is_some_and(char::is_ascii_digit) => {
                return Err("numeric escapes are not read here: write the character itself".to_owned());
            }
            '\\' => drop(chars.next()),
            '"' => in_quotes = outside,
            ';' if outside => return Err("a comment has no place in a value: put ; in quotes".to_owned()),
            _ => {}
        }
        let word = in_quotes || !(outside && c.is_whitespace());
        count += usize::from(word && !in_word);
        in_word = word;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rdata(kind: &str, value: &str) -> Result<Vec<u8>, String> {
        RecordKind::try_from(kind.to_owned())?.rdata(value)
    }

    #[test]
    fn values_in_wire_form() {
        for (kind, value, wire) in [
            ("A", "10.0.3.7", &b"\x0a\x00\x03\x07"[..]),
            ("aaaa", "fd00::7", b"\xfd\x00\0\0\0\0\0\0\0\0\0\0\0\0\0\x07"),
            ("CNAME", "Other.example", b"\x05other\x07example\x00"),
            ("CNAME", "other.example.", b"\x05other\x07example\x00"),
            ("PTR", "under_score.example", b"\x0bunder_score\x07example\x00"),
            ("TXT", "v=spf1 -all; x", b"\x0ev=spf1 -all; x"),
            ("TXT", r"back\065slash", b"\x0dback\\065slash"),
            ("TXT", r#""one" "two""#, b"\x03one\x03two"),
            ("TXT", r#""a\"b""#, b"\x03a\"b"),
            ("TXT", "", b"\x00"),
            ("MX", "10 mail.example", b"\x00\x0a\x04mail\x07example\x00"),
            ("MX", "0 .", b"\x00\x00\x00"),
            ("SRV", "0 5 5060 sip.example.", b"\x00\x00\x00\x05\x13\xc4\x03sip\x07example\x00"),
            ("CAA", r#"0 issue "ca.example; x=y""#, b"\x00\x05issueca.example; x=y"),
            ("CAA", r#"128 issue ";""#, b"\x80\x05issue;"),
        ] {
            assert_eq!(rdata(kind, value).as_deref(), Ok(wire), "{kind} {value}");
        }
    }

    #[test]
    fn bad_values_say_what_is_right() {
        let long = "x".repeat(256);
        for (kind, value, part) in [
            ("A", "10.0.3.256", "expected a value such as \"10.0.3.7\" for type A"),
            ("A", "10.0.3.7 10.0.3.8", "has 2 parts"),
            ("A", "10.0.3.7;x", "comment"),
            ("AAAA", "10.0.3.7", "for type AAAA"),
            ("CNAME", "a..b", "a label is empty"),
            ("CNAME", "a b", "not a name"),
            ("MX", "mail.example", "has 1 parts"),
            ("MX", "70000 mail.example", "for type MX"),
            ("SRV", "0 5 sip.example", "has 3 parts"),
            ("CAA", "0 issue ca.example; x=y", "comment"),
            ("CAA", "0 issue", "has 2 parts"),
            ("TXT", "\"\\065\"", "numeric escapes"),
            ("TXT", "\"open", "for type TXT"),
            ("TXT", long.as_str(), "256 bytes"),
            ("CNANE", "x", "did you mean \"CNAME\""),
            ("SOA", "x", "not a type"),
        ] {
            let error = rdata(kind, value).expect_err(value);
            assert!(error.contains(part), "{kind} {value}: {error}");
        }
    }

    #[test]
    fn wildcards() {
        for (owner, good) in [
            ("corp.example", true),
            ("*.corp.example", true),
            ("*", false),
            ("*.", false),
            ("*.*.example", false),
            ("a*.example", false),
            ("a.*.example", false),
        ] {
            assert_eq!(Owner::try_from(owner.to_owned()).is_ok(), good, "{owner}");
        }
    }
}
