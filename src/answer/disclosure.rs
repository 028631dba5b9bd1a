//! Limits on what a client learns from extended errors (`hints`). The cache and the statistics keep whole texts, for operators;
//! each response gets the part that its client may see. An answer without extended errors costs nothing here.

use crate::config::Hints;
use crate::wire::fit::{Age, CachedMessage, fit};
use crate::wire::query::Query;
use crate::wire::redact::{Keep, extended_errors};

/// Room for the extended errors of one response, in bytes.
const ROOM: usize = 512;

/// Returns a text that nodens writes without addresses, or nothing if the client gets no texts.
pub(super) fn text(hints: Hints, text: &str) -> &str {
    if hints == Hints::Off { "" } else { text }
}

/// Calls `write` with the part of extended errors (whole options) that a client may see. Does not allocate.
pub(super) fn disclose<R>(hints: Hints, errors: &[u8], write: impl FnOnce(&[u8]) -> R) -> R {
    let keep = match hints {
        _ if errors.is_empty() => return write(errors),
        Hints::Full => return write(errors),
        Hints::Own => Keep::Texts,
        Hints::Off => Keep::Codes,
    };
    write(extended_errors(errors, keep, &mut [0; ROOM]))
}

/// Calls `write` with the part of extended errors (whole options) of nodens itself that a client may see: they name no server.
pub(super) fn disclose_own<R>(hints: Hints, errors: &[u8], write: impl FnOnce(&[u8]) -> R) -> R {
    if hints == Hints::Off { disclose(hints, errors, write) } else { write(errors) }
}

/// Does what [`fit`] does, with the part of the extended errors that the client may see.
#[inline]
pub(super) fn fit_disclosed(
    hints: Hints,
    cached_message: CachedMessage<'_>,
    query: &Query<'_>,
    age: Age,
    options: &[u8],
    out: &mut [u8],
) -> usize {
    match cached_message.extended_errors.is_empty() {
        true => fit(cached_message, query, age, options, out),
        false => fit_explained(hints, cached_message, query, age, options, out),
    }
}

/// Does the same for a response that has extended errors.
#[cold]
#[inline(never)]
pub(super) fn fit_explained(
    hints: Hints,
    cached_message: CachedMessage<'_>,
    query: &Query<'_>,
    age: Age,
    options: &[u8],
    out: &mut [u8],
) -> usize {
    disclose(hints, cached_message.extended_errors, |extended_errors| {
        fit(CachedMessage { extended_errors, ..cached_message }, query, age, options, out)
    })
}
