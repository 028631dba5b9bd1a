//! Text of others, as it leaves nodens: upstreams write extended errors, and whoever runs a job names it. None of it is to steer a
//! terminal, or to show something else than what is there.

use std::fmt::Write as _;

/// Whether a character is no text but a command: it controls (C0, C1, DEL), turns the direction of what follows, is not seen, or
/// ends a line in places where nobody expects it (the categories Cc, Cf, Zl and Zp of Unicode, as far as terminals heed them).
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One line of a text, with the replacement character in place of each command.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if is_command(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A document in JSON, with each command that stands in one of its strings as an escape: the same document, and nothing in it
/// steers a terminal. Control characters below U+0020 are escapes in JSON already, and outside of strings they are blanks.
pub fn plain_json(json: String) -> String {
    let is_hidden = |c: char| is_command(c) && !matches!(c, '\n' | '\r' | '\t');
    if !json.contains(is_hidden) {
        return json;
    }
    let mut plain = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match is_hidden(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(plain, "\\u{unit:04x}")), // a String takes all
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
