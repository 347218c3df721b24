//! What a follower hands to the leader, and what the leader says.

use quorate::change::{Step, Transition, What};
use quorate::node::{ChangeMembersError, Node, ProposeError};
use quorate::{EntryId, NodeId};
use serde::{Deserialize, Serialize};

/// What becomes an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// A command of the application.
    Command(Vec<u8>),
    /// A change of membership: several steps lead through a joint configuration, which is left by itself.
    Change {
        /// What becomes of whom.
        steps: Vec<Step>,
        /// A vote also for a member that has not caught up.
        force: bool,
    },
}

/// What becomes of it at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is in the leader's log, under this id.
    Placed(EntryId),
    /// It is not, and may be asked again: no leader here, or no room now.
    NotNow,
    /// It is not, and never will be.
    TooLarge {
        /// The longest command.
        bytes_max: u32,
    },
    /// It is not: a change that can't be made, in words.
    Refused(String),
}

impl Question {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // A value that serde can write fits a vector.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// Puts it into the log, on a leader.
    pub(crate) fn place(&self, node: &mut Node) -> Answer {
        match self {
            Self::Command(command) => match node.propose(command) {
                Ok(id) => Answer::Placed(id),
                Err(error) => refused(error),
            },
            Self::Change { steps, force } => {
                if let Some(why) = steps.iter().find_map(|step| is_mistaken(step, node)) {
                    return Answer::Refused(why);
                }
                match node.change_members(Transition::Auto, steps, *force) {
                    Ok(id) => Answer::Placed(id),
                    Err(ChangeMembersError::Propose(error)) => refused(error),
                    Err(error) => Answer::Refused(error.to_string()),
                }
            }
        }
    }
}

/// What the core does as it is told, and nobody here means: a vote for a node that nobody knows counts in every quorum from then on, and a
/// voter that is added once more loses its vote.
fn is_mistaken(step: &Step, node: &Node) -> Option<String> {
    let id = step.id;
    let is_member = node.members().iter().any(|member| member.id == id);
    match step.what {
        What::AddVoter if !is_member => {
            Some(format!("node {id} is no member: it has to be added before"))
        }
        What::AddLearner if node.status().membership.voters().contains(id) => {
            Some(format!("node {id} is a member already, with a vote"))
        }
        _ => None,
    }
}

fn refused(error: ProposeError) -> Answer {
    match error {
        ProposeError::TooLarge { bytes_max } => Answer::TooLarge { bytes_max },
        _ => Answer::NotNow,
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Who can take a question now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// This node.
    Here,
    /// That one.
    There(NodeId),
    /// Nobody is known.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::{Index, Term};

    #[test]
    fn both_are_read_as_they_were_written_and_nonsense_is_neither() {
        let steps = vec![Step::new(What::AddLearner, NodeId::new(4).unwrap())];
        for question in [Question::Command(b"x".to_vec()), Question::Change { steps, force: true }]
        {
            assert_eq!(Question::decode(&question.encode()), Some(question));
        }
        let id = EntryId::new(Index(300), Term(2));
        for answer in [
            Answer::Placed(id),
            Answer::NotNow,
            Answer::TooLarge { bytes_max: 9 },
            Answer::Refused("no".into()),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        assert_eq!(Question::decode(&[7; 40]), None);
        assert_eq!(Answer::decode(&[]), None);
    }
}
