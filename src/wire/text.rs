//! Sanitizing of untrusted text in output: servers write extended errors, and users name their jobs. The text must not
//! control a terminal or disguise its content.

use std::fmt::Write as _;

/// Reports whether a character has an effect other than its glyph: it is a control character (C0, C1, DEL), changes the
/// text direction, is invisible, or separates lines (Unicode categories Cc, Cf, Zl and Zp, as far as terminals act on
/// them).
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns the text with the replacement character in place of each such character.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_command(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Returns the JSON document with such characters in strings escaped. The document keeps its meaning and cannot control
/// a terminal. JSON already escapes control characters below U+0020 in strings, and outside strings they are
/// whitespace.
pub(crate) fn plain_json(json: String) -> String {
    let is_hidden = |c: char| is_command(c) && !matches!(c, '\n' | '\r' | '\t');
    if !json.contains(is_hidden) {
        return json;
    }
    let mut plain = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match is_hidden(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(plain, "\\u{unit:04x}")), // infallible
            false => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMANDS: &str = "\u{1b}[2J \r\t\u{7f}\u{9b}\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}\u{e0041}";

    #[test]
    fn no_command_is_left() {
        assert_eq!(plain("für 中文 👩 a.b"), "für 中文 👩 a.b");
        let left = plain(COMMANDS);
        assert_eq!(left.chars().count(), COMMANDS.chars().count());
        assert!(left.chars().all(|c| "[2J \u{fffd}".contains(c)), "{left:?}");
    }

    #[test]
    fn json_stays_the_same_document() {
        let document = serde_json::json!({ "name": COMMANDS, "other": ["für", 1] });
        let json = plain_json(format!("{document:#}\n"));
        assert!(json.chars().all(|c| c == '\n' || !is_command(c)), "{json:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("JSON"), document);
    }
}
