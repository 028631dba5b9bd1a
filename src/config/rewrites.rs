//! Zones whose names are looked up under another suffix: `[[rewrite]]`.

use toml::Spanned;

use super::diagnostic::Diagnostics;
use super::records::{RECORD_TTL, seconds};
use super::table::TomlTable;
use super::units::Time;
use super::zones::Domain;
use crate::wire::name::{Name, OWN_ZONE, suffixes};

/// Zones that cannot be rewritten, in wire form.
const OWN: [&[u8]; 2] = [b"\x09localhost\x00", OWN_ZONE];

/// Replacement of a suffix by another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rewrite {
    /// Zone whose names are rewritten, including its own name.
    pub zone: Name,
    /// Suffix that replaces the zone's name.
    pub to: Name,
    /// TTL of the CNAME records in responses, in seconds.
    pub ttl: u32,
}

/// `[[rewrite]]` in the file.
#[derive(Debug)]
pub(crate) struct RewriteTable {
    pub zone: Spanned<Domain>,
    pub to: Spanned<Domain>,
    pub ttl: Spanned<Time>,
}

impl RewriteTable {
    pub(super) fn read(table: TomlTable<'_, '_>) -> Option<Self> {
        table.read(|table| {
            let (zone, to) = (table.required("zone"), table.required("to"));
            let ttl = table.bounded("ttl", &RECORD_TTL);
            Some(Self { zone: zone?, to: to?, ttl })
        })
    }
}

/// Converts `[[rewrite]]` tables to their validated form. Adds errors for duplicate zones, zones that nodens answers itself,
/// and targets that are rewritten themselves.
pub(super) fn rewrites(tables: &[RewriteTable], diagnostics: &Diagnostics<'_>) -> Vec<Rewrite> {
    diagnostics.once("zone", tables.iter().map(|table| (table.zone.span(), &table.zone.get_ref().0)));
    for table in tables {
        let zone = &table.zone.get_ref().0;
        if OWN.iter().any(|own| zone.as_wire().ends_with(own)) {
            let what = format!("zone: nodens answers {zone} itself (RFC 6761), and nothing else may");
            diagnostics.add(table.zone.span(), what);
        }
        let to = &table.to.get_ref().0;
        let is_above =
            |other: &&RewriteTable| suffixes(to.as_wire()).any(|suffix| suffix == other.zone.get_ref().0.as_wire());
        if let Some(other) = tables.iter().find(is_above) {
            let line = diagnostics.line(other.zone.span());
            let what = format!("to: {to} is rewritten itself, on line {line}: name a zone that is not");
            diagnostics.add(table.to.span(), what);
        }
    }
    let rewrite = |table: &RewriteTable| Rewrite {
        zone: table.zone.get_ref().0.clone(),
        to: table.to.get_ref().0.clone(),
        ttl: diagnostics.good(table.ttl.span(), seconds(*table.ttl.get_ref())).unwrap_or_default(),
    };
    tables.iter().map(rewrite).collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;

    const REST: &str = "[upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

    fn rewrite(zone: &str, to: &str) -> String {
        format!("[[rewrite]]\nzone = \"{zone}\"\nto = \"{to}\"\n")
    }

    #[test]
    fn zones_that_lead_into_one_another_are_refused() {
        let good = rewrite("old.example", "new.example") + &rewrite("Other.example.", "new.example") + REST;
        let config = parse(&good, &[]).expect("good");
        let shown: Vec<_> = config.rewrites.iter().map(|rewrite| (rewrite.zone.to_string(), rewrite.ttl)).collect();
        assert_eq!(shown, [("old.example.".to_owned(), 300), ("other.example.".to_owned(), 300)]);
        for (bad, right) in [
            (rewrite("old.example", "a.old.example"), "3:6: to: a.old.example. is rewritten itself, on line 2"),
            (
                rewrite("a.example", "b.example") + &rewrite("b.example", "c.example"),
                "3:6: to: b.example. is rewritten itself, on line 5",
            ),
            (
                rewrite("a.example", "b.example") + &rewrite("a.example", "c.example"),
                "5:8: the same zone is on line 2 already",
            ),
            (rewrite("*.a.example", "b.example"), "2:8: zone: \"*.a.example\" has an asterisk"),
            (rewrite("x.localhost", "b.example"), "2:8: zone: nodens answers x.localhost. itself"),
            (rewrite(".", "b.example"), "2:8: zone: the root is not a domain"),
        ] {
            let diagnostics = parse(&(bad.clone() + REST), &[]).expect_err(&bad);
            assert!(diagnostics.len() == 1 && diagnostics[0].to_string().starts_with(right), "{bad}: {diagnostics:?}");
        }
    }
}
