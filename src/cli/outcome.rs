//! Outcomes of commands and their exit codes.

/// Outcome of a command; `main` turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandOutcome {
    /// The command did what was asked.
    Good,
    /// An invalid command line (EX_USAGE).
    BadUsage,
    /// An invalid configuration (EX_CONFIG).
    BadConfig,
    /// Any other failure; a retry may help.
    Failed,
}

impl CommandOutcome {
    /// Returns the exit code (sysexits.h).
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Failed => 1,
            Self::BadUsage => 64,
            Self::BadConfig => 78,
        }
    }

    /// Returns the outcome behind the exit code of another nodens.
    pub(super) fn of_code(code: u8) -> Self {
        let all = [Self::Good, Self::BadUsage, Self::BadConfig];
        all.into_iter().find(|outcome| outcome.code() == code).unwrap_or(Self::Failed)
    }
}
