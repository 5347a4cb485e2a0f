//! What is wrong with a configuration, said so that it can be mended.

use std::fmt;

/// A place in the document: `["pools", "app", "endpoints", "0"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPath(pub Vec<String>);

impl KeyPath {
    pub fn root() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn key(&self, key: impl ToString) -> Self {
        let mut path = self.clone();
        path.0.push(key.to_string());
        path
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, key) in self.0.iter().enumerate() {
            if key.parse::<usize>().is_ok() {
                write!(f, "[{key}]")?;
            } else {
                let dot = if at == 0 { "" } else { "." };
                write!(f, "{dot}{key}")?;
            }
        }
        Ok(())
    }
}

/// Whether the gateway can still run with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub severity: Severity,
    pub at: KeyPath,
    /// Lower case, no full stop: "no pool named `ap`".
    pub what: String,
    /// What to write instead; empty when the sentence above already says it.
    pub fix: String,
}

/// Collects faults: checking goes on after the first one.
#[derive(Debug, Default)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    pub fn error(&mut self, at: KeyPath, what: impl ToString, fix: impl ToString) {
        self.add(Severity::Error, at, what.to_string(), fix.to_string());
    }

    pub fn warning(&mut self, at: KeyPath, what: impl ToString, fix: impl ToString) {
        self.add(Severity::Warning, at, what.to_string(), fix.to_string());
    }

    fn add(&mut self, severity: Severity, at: KeyPath, what: String, fix: String) {
        self.0.push(Fault {
            severity,
            at,
            what,
            fix,
        });
    }

    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|fault| fault.severity == Severity::Error)
    }
}
