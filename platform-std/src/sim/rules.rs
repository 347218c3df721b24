//! The numbered invariants that are checked, and what was found. `core/docs/invariants.md` explains each.

use std::fmt;

use serde::Serialize;

macro_rules! rules {
    ($($variant:ident: $statement:literal,)*) => {
        /// A numbered invariant.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        pub enum Rule { $(#[doc = $statement] $variant,)* }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number.
            pub const fn number(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// What it says.
            pub const fn statement(self) -> &'static str {
                match self { $(Self::$variant => $statement,)* }
            }
        }
    };
}

rules! {
    I1: "Election safety: one leader in a term, and one vote of each board in a term.",
    I2: "Leader append-only: a leader never changes what it said its log holds.",
    I3: "Log matching: entries of one index and term are the same and follow the same entry.",
    I4: "Leader completeness: what was committed in a term is in the log of every later leader.",
    I5: "State machine safety: one command at an index for all, in order, none left out, none twice.",
    I6: "An acknowledged write is never lost or undone: without the flash that holds it there is no quorum.",
    I7: "Durability before speech: what a board votes or acknowledges is in its flash at that instant.",
    I8: "Membership: all put the same changes into effect, in order, none left out, and each makes of the members what it says.",
    F1: "No flash word is programmed twice, and no operation leaves the partition or its alignment.",
    F2: "No board refuses its flash or stops after faults that it is made to survive.",
    L1: "Liveness: once faults are healed there is a leader, writes succeed, and all boards agree.",
    L2: "A majority that is connected pairwise, both ways, has a leader, keeps it and commits, whatever other links do.",
    L3: "A board that lost its flash has its place back, and its vote, without help.",
    E1: "No leadership is lost without a fault; an erase is none.",
    C1: "A command takes effect once, in its place, as its client was told, and never if it was refused.",
    C2: "A board shows the writes that it acknowledged, and never goes back to an earlier revision.",
    C3: "After an index was applied, a board's content is what the commands up to it make of it.",
    C4: "A read shows all that was acknowledged, or shown by another read, before it began.",
    P1: "No call panics, every output is well-formed, and outputs come to an end.",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

/// A rule that did not hold, the first time that it did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When, in µs of virtual time.
    pub at_us: u64,
    /// At which board; 0 if it is the cluster's.
    pub board: u8,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, at_us, board, what } = self;
        let (seconds, micros) = (at_us / 1_000_000, at_us % 1_000_000);
        write!(f, "{rule} at {seconds}.{micros:06} s, board {board}: {what}")?;
        write!(f, " ({})", rule.statement())
    }
}

/// What was found so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    /// Virtual time of what is being looked at, in µs.
    pub now_us: u64,
    found: Vec<Violation>,
}

impl Verdict {
    /// `rule` did not hold.
    pub(super) fn red(&mut self, rule: Rule, board: u8, what: impl FnOnce() -> String) {
        if self.found.iter().all(|violation| violation.rule != rule) {
            self.found.push(Violation { rule, at_us: self.now_us, board, what: what() });
        }
    }

    /// The violations, the first of each rule, in the order in which they were found.
    pub(super) fn violations(&self) -> &[Violation] {
        &self.found
    }

    /// Did everything hold?
    pub(super) fn holds(&self) -> bool {
        self.found.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_violation_of_each_rule_is_kept_with_its_number() {
        let mut verdict = Verdict { now_us: 1_500_000, ..Verdict::default() };
        assert!(verdict.holds());
        verdict.red(Rule::I3, 2, || "first".into());
        verdict.red(Rule::I3, 1, || "second".into());
        verdict.red(Rule::F1, 1, || "third".into());
        assert_eq!(verdict.violations().len(), 2);
        let text = verdict.violations()[0].to_string();
        assert!(text.starts_with("I3 at 1.500000 s, board 2: first"), "{text}");
    }
}
