//! What is said about a config file.

use std::fmt;

/// A reason to refuse the file, as `file:line:column: key: what is wrong, and what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; 0 where the problem is the file itself.
    pub line: usize,
    /// Column in characters, from 1; 0 where the problem is the file itself.
    pub column: usize,
    /// Which key, as `services.delta.endpoints[1]`; empty for the whole file.
    pub path: String,
    /// What is wrong, and what would be right; one line.
    pub message: String,
}

/// Something that is allowed but worth a thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Problem);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, "warning: ")
    }
}

impl Problem {
    fn write(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        let Problem { file, line, column, path, message } = self;
        write!(f, "{file}:")?;
        if *line > 0 {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {kind}")?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        f.write_str(message)
    }
}
