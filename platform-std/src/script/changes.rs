//! Confchange scripts: `simple`, `enter-joint [autoleave=true]`, `leave-joint`, each with steps such as `v1 l2 r3 u4`.

use quorate::change::{Step, Transition};
use quorate::entry::Kind;
use quorate::log::Log;
use quorate::membership::Membership;
use quorate::raft::{Progress, Raft};
use quorate::{NodeId, NodeSet, Term};
use serde::Serialize;

use super::command::steps;
use super::format::{Directive, Misread};
use super::states::state_word;

/// What a change has led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Changed {
    /// The configuration, and what is kept of each member.
    Configuration {
        /// As the scripts write it.
        config: String,
        /// In the order of the ids.
        progress: Vec<Kept>,
    },
    /// It can't be made.
    Refused {
        /// Why.
        refused: String,
    },
}

/// What is kept of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its number.
    pub id: u8,
    /// How it is sent entries.
    pub state: &'static str,
    /// What it is known to hold.
    #[serde(rename = "match")]
    pub matched: u64,
    /// It has no vote.
    pub learner: bool,
}

/// A configuration that changes, and the protocol's progress with it.
pub(super) struct Changes {
    raft: Raft,
    log: Box<Log>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { raft: Raft::new(), log: Box::new(Log::<[u8; 1 << 12]>::new()) }
    }
}

impl Changes {
    pub(super) fn follow(&mut self, directive: &Directive) -> Result<Changed, Misread> {
        let changed = self.change(directive)?;
        let result = match changed {
            Err(refused) => Changed::Refused { refused: refused.to_string() },
            Ok(membership) => {
                self.raft.set_membership(membership, &mut self.log);
                Changed::Configuration { config: text(&membership), progress: self.kept() }
            }
        };
        // The log grows by an entry with each command, refused or not.
        let _ = self.log.append(Term(1), Kind::Empty, &[]);
        Ok(result)
    }

    fn change(
        &self,
        directive: &Directive,
    ) -> Result<Result<Membership, quorate::change::ChangeError>, Misread> {
        let wrong = |what: String| directive.misread(what);
        let mut auto_leave = false;
        for arg in &directive.args {
            match (directive.name.as_str(), arg.key.as_str(), arg.values.as_deref()) {
                ("enter-joint", "autoleave", Some([value])) if value == "true" => auto_leave = true,
                ("enter-joint", "autoleave", Some([value])) if value == "false" => {}
                _ => return Err(wrong(format!("`{}` makes no sense here", arg.key))),
            }
        }
        let steps = steps(&directive.input).map_err(wrong)?;
        let steps = steps.iter().map(|Step { what, id, .. }| (*what, *id));
        let now = self.raft.membership();
        Ok(match directive.name.as_str() {
            "simple" => now.changed_at_once(steps),
            "enter-joint" if auto_leave => now.changed(Transition::Implicit, steps),
            "enter-joint" => now.changed(Transition::Explicit, steps),
            "leave-joint" if steps.len() == 0 => now.changed(Transition::Auto, steps),
            "leave-joint" => return Err(wrong("it takes no steps".into())),
            _ => return Err(wrong("no such command".into())),
        })
    }

    fn kept(&self) -> Vec<Kept> {
        let membership = self.raft.membership();
        // Whoever is no member any more must not be remembered. Nobody is this node: there may be one more other than it has room for.
        let one_more = |id| membership.members().contains(id).then(Progress::default);
        let known = NodeSet::ALL
            .iter()
            .filter_map(|id| Some((id, self.raft.progress(id).copied().or_else(|| one_more(id))?)));
        known
            .map(|(id, progress)| Kept {
                id: id.get(),
                state: state_word(progress.state()),
                matched: progress.matched().0,
                learner: membership.learners.contains(id),
            })
            .collect()
    }
}

/// A configuration as the scripts write it.
fn text(membership: &Membership) -> String {
    let list = |set: NodeSet| {
        let ids: Vec<String> = set.iter().map(|id: NodeId| id.to_string()).collect();
        format!("({})", ids.join(" "))
    };
    let mut text = format!("voters={}", list(membership.voters));
    if membership.is_joint() {
        text += &format!("&&{}", list(membership.outgoing));
    }
    if !membership.learners.is_empty() {
        text += &format!(" learners={}", list(membership.learners));
    }
    if !membership.learners_next.is_empty() {
        text += &format!(" learners_next={}", list(membership.learners_next));
    }
    if membership.auto_leave {
        text += " autoleave";
    }
    text
}

impl Changed {
    /// Does the file say the same? Configuration, members, their state, what they hold and who is a learner are
    /// compared; of a refusal only that it is one, since its words are the original's. `next`, where sending would
    /// begin, is not: the original begins a new member one entry earlier.
    pub(super) fn agrees(&self, expected: &str) -> bool {
        let mut lines = expected.lines();
        let first = lines.next().unwrap_or_default();
        match self {
            Self::Refused { .. } => !first.is_empty() && !first.starts_with("voters="),
            Self::Configuration { config, progress } => {
                let theirs: Option<Vec<_>> = lines.map(member).collect();
                let ours = |kept: &Kept| {
                    (kept.id, format!("State{}", kept.state), kept.matched, kept.learner)
                };
                first == config && theirs == Some(progress.iter().map(ours).collect())
            }
        }
    }
}

/// Reads `2: StateProbe match=0 next=1 learner`, and what else may stand between.
fn member(line: &str) -> Option<(u8, String, u64, bool)> {
    let (id, rest) = line.split_once(':')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let state = (*words.first()?).to_owned();
    let matched = words.iter().find_map(|word| word.strip_prefix("match="))?.parse().ok()?;
    Some((id.parse().ok()?, state, matched, words.contains(&"learner")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::format;

    fn run(text: &str) -> Vec<Changed> {
        let mut changes = Changes::default();
        format::parse(text).unwrap().iter().map(|d| changes.follow(d).unwrap()).collect()
    }

    #[test]
    fn a_joint_change_is_entered_and_left() {
        let got = run(
            "simple\nv4\n----\n\nenter-joint autoleave=true\nl4 v5 v6\n----\n\nsimple\nr5\n----\n\nleave-joint\n----\n",
        );
        let joint = "voters=(5 6)&&(4) learners_next=(4) autoleave\n4: StateProbe match=0 next=9\n\
            5: StateProbe match=0 next=9\n6: StateProbe match=0 next=9";
        assert!(got[1].agrees(joint), "{:?}", got[1]);
        for wrong in [
            ("(4)", "(5)"),
            (" autoleave", ""),
            ("6: ", "7: "),
            ("match=0", "match=1"),
            ("Probe", "Replicate"),
        ] {
            assert!(!got[1].agrees(&joint.replacen(wrong.0, wrong.1, 1)), "{wrong:?}");
        }
        assert!(!got[1].agrees("no") && got[2].agrees("any words") && !got[2].agrees(joint));
        let left = "voters=(5 6) learners=(4)\n4: StateProbe match=0 next=1 learner\n\
            5: StateProbe match=0 next=1\n6: StateProbe match=0 next=1";
        // Some versions of the original tell more of a member.
        assert!(got[3].agrees(&left.replace("next", "commit=3 next")));
        assert!(!got[3].agrees(&left.replace("match=0 ", "")));
        assert!(got[3].agrees(left) && !got[3].agrees(&left.replace(" learner\n", "\n")));
    }
}
