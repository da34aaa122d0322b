//! How recognition went: one line a step, for `kdd info -v` and the log.

use std::fmt;

/// The steps of recognition, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    steps: Vec<Step>,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What was looked for: `kernel base`, `symbols`, `layout`, `debugger data` …
    pub what: &'static str,
    /// It was found.
    pub found: bool,
    /// Where and how, or why not.
    pub how: String,
}

impl Report {
    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn found(&mut self, what: &'static str, how: impl Into<String>) {
        self.add(what, true, how.into());
    }

    pub(crate) fn missing(&mut self, what: &'static str, why: impl Into<String>) {
        self.add(what, false, why.into());
    }

    fn add(&mut self, what: &'static str, found: bool, how: String) {
        tracing::debug!(what, found, how, "recognition");
        self.steps.push(Step { what, found, how });
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = if self.found { "" } else { "not found: " };
        write!(f, "{}: {found}{}", self.what, self.how)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}
