//! Explanations that clients get: `hints` of `[server]` and of `[[view]]`.

use serde::Deserialize;

use super::value::{ConfigValue, ValueForm};

/// Default of `[server] hints`, and of `[[view]] hints` unless `[server]` has `off`.
pub(crate) const HINTS: Hints = Hints::Own;

/// Explanations that a client gets in extended errors, introspection answers and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hints {
    /// All that nodens knows about a name: routes of other views, servers and the cache too.
    Full,
    /// Only the client's own routes and queries: nothing of other views, no addresses of servers, nothing of the cache.
    Own,
    /// None: extended errors without text, no introspection, no reports.
    Off,
}

impl Hints {
    /// Returns the setting of a view without one: a trusted setting of `[server]` does not extend to views.
    pub(super) fn of_views(self) -> Self {
        if self == Self::Off { Self::Off } else { HINTS }
    }
}

impl ConfigValue for Hints {
    const EXPECTED: &'static str = r#""full", "own" or "off""#;
    const FORM: ValueForm = ValueForm::OneOf(&["full", "own", "off"]);
}

impl<'de> Deserialize<'de> for Hints {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.to_ascii_lowercase().as_str() {
            "full" => Ok(Self::Full),
            "own" => Ok(Self::Own),
            "off" => Ok(Self::Off),
            _ => Err(serde::de::Error::custom(format!("{text:?} is no kind of hints"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::parse;

    #[test]
    fn views_have_the_default_unless_all_is_off() {
        for (server, view, expected) in [
            ("", "", [Hints::Own, Hints::Own]),
            ("hints = 'full'", "", [Hints::Full, Hints::Own]),
            ("hints = 'off'", "", [Hints::Off, Hints::Off]),
            ("hints = 'OFF'", "hints = 'full'", [Hints::Off, Hints::Full]),
            ("", "hints = 'off'", [Hints::Own, Hints::Off]),
        ] {
            let text = format!(
                "[server]\n{server}\n[upstreams.up]\nservers = ['192.0.2.1']\n[[route]]\nzones = ['.']\nto = 'up'\n\
                 [[view]]\nname = 'v'\nknown = true\n{view}\n"
            );
            let config = parse(&text, &[]).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"));
            assert_eq!([config.server.hints, config.views[0].hints], expected, "{server} {view}");
        }
    }
}
