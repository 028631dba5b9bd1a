//! How a command ends, and the exit code that says so.

/// How a run of the command ended; `main` turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is good.
    Good,
    /// The command line is wrong (EX_USAGE).
    BadUsage,
    /// The configuration is wrong (EX_CONFIG).
    BadConfig,
    /// Something else went wrong; trying again may help.
    Failed,
}

impl Outcome {
    /// The exit code (sysexits.h).
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Failed => 1,
            Self::BadUsage => 64,
            Self::BadConfig => 78,
        }
    }

    /// What the exit code of another nodens says.
    pub(super) fn of_code(code: u8) -> Self {
        let all = [Self::Good, Self::BadUsage, Self::BadConfig];
        all.into_iter().find(|outcome| outcome.code() == code).unwrap_or(Self::Failed)
    }
}
