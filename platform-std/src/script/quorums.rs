//! Quorum scripts: `vote cfg=(…) [cfgj=(…)|zero] votes=(y,n,_)`, `committed cfg=(…) [cfgj=…] idx=(…)`.

use std::collections::BTreeSet;

use quorate::membership::{MEMBERS_MAX, Membership, VoteResult};
use quorate::{Index, NodeId, NodeSet};
use serde::{Serialize, Serializer};

use super::format::{Directive, Misread};

/// What voters have decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result of a vote, in the words of the scripts.
    Vote(&'static str),
    /// What is committed; all there is if nobody votes.
    Committed(Option<u64>),
    /// The voters and what they are said to have answered do not fit.
    Mismatch,
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Vote(word) => to.serialize_str(word),
            Self::Committed(Some(index)) => to.serialize_u64(*index),
            Self::Committed(None) => to.serialize_str("∞"),
            Self::Mismatch => to.serialize_str("error: there is not one answer for each voter"),
        }
    }
}

pub(super) fn answer(directive: &Directive) -> Result<Outcome, Misread> {
    let wrong = |what: String| directive.misread(what);
    let (mut halves, mut answers) = ([Vec::new(), Vec::new()], Vec::new());
    let given = match directive.name.as_str() {
        "vote" => "votes",
        "committed" => "idx",
        _ => return Err(wrong("no such command".into())),
    };
    for arg in &directive.args {
        let values = arg.values.as_deref().unwrap_or_default();
        match arg.key.as_str() {
            "cfg" => halves[0] = ids(values).map_err(wrong)?,
            "cfgj" if values == ["zero"] => {}
            "cfgj" => halves[1] = ids(values).map_err(wrong)?,
            key if key == given => answers = values.to_vec(),
            key => return Err(wrong(format!("no argument `{key}`"))),
        }
    }
    // Each voter answers once, in the order in which the voters are named.
    let mut voters: Vec<u64> = Vec::new();
    for id in halves.iter().flatten() {
        if !voters.contains(id) {
            voters.push(*id);
        }
    }
    if voters.len() != answers.len() {
        return Ok(Outcome::Mismatch);
    }
    // Voters of any number, by their place: the core has numbers up to 31.
    let ordered: Vec<u64> = voters.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let number = |id: &u64| {
        let place = ordered.binary_search(id).unwrap_or_default();
        u8::try_from(place + 1).ok().and_then(NodeId::new)
    };
    let set = |half: &[u64]| -> Option<NodeSet> { half.iter().map(number).collect() };
    let too_many = || wrong(format!("there are {MEMBERS_MAX} voters at most"));
    if halves.iter().any(|half| half.len() > MEMBERS_MAX) {
        return Err(too_many());
    }
    let membership = Membership {
        outgoing: set(&halves[1]).ok_or_else(too_many)?,
        ..Membership::of_voters(set(&halves[0]).ok_or_else(too_many)?)
    };
    let by_voter = |id: NodeId| {
        let place = voters.iter().position(|voter| number(voter) == Some(id));
        place.and_then(|place| answers.get(place)).map(String::as_str)
    };
    for answer in &answers {
        let known = match given {
            "votes" => matches!(answer.as_str(), "y" | "n" | "_"),
            _ => answer == "_" || answer.parse::<u64>().is_ok(),
        };
        if !known {
            return Err(wrong(format!("`{answer}` is no answer")));
        }
    }
    if given == "votes" {
        let who =
            |word| membership.voters().iter().filter(|id| by_voter(*id) == Some(word)).collect();
        return Ok(Outcome::Vote(match membership.vote_result(who("y"), who("n")) {
            VoteResult::Won => "VoteWon",
            VoteResult::Lost => "VoteLost",
            VoteResult::Pending => "VotePending",
        }));
    }
    // Who has said nothing holds nothing.
    let matched = |id| Index(by_voter(id).and_then(|word| word.parse().ok()).unwrap_or_default());
    Ok(Outcome::Committed(membership.committed(matched).map(|index| index.0)))
}

fn ids(values: &[String]) -> Result<Vec<u64>, String> {
    values.iter().map(|id| id.parse().map_err(|_| format!("`{id}` is no voter"))).collect()
}

impl Outcome {
    /// Does the file say the same? Its last line is the outcome; what is drawn above it is for the eye.
    pub(super) fn agrees(&self, expected: &str) -> bool {
        let last = expected.trim_end().lines().last().unwrap_or_default();
        // Of nobody's quorum no picture is drawn, and the words for that stand on the same line.
        let last = last.rsplit_once('>').map_or(last, |(_, outcome)| outcome).trim();
        match self {
            Self::Vote(word) => last == *word,
            Self::Committed(Some(index)) => last == index.to_string(),
            Self::Committed(None) => last == "∞",
            Self::Mismatch => expected.starts_with("error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::format;

    fn one(text: &str) -> Result<Outcome, Misread> {
        answer(&format::parse(&format!("{text}\n----\n")).unwrap()[0])
    }

    #[test]
    fn both_halves_have_to_agree_and_voters_of_both_answer_once() {
        let vote = |word| Ok(Outcome::Vote(word));
        assert_eq!(one("vote cfg=(7,300,9) votes=(y,_,y)"), vote("VoteWon"));
        assert_eq!(one("vote cfg=(1,2) cfgj=(2,3) votes=(y,y,_)"), vote("VotePending"));
        assert_eq!(one("vote cfg=(1,2) cfgj=(2,3) votes=(y,n,y)"), vote("VoteLost"));
        assert_eq!(one("vote"), vote("VoteWon"));
        assert_eq!(one("committed cfg=(9,3) cfgj=(3) idx=(4,_)"), Ok(Outcome::Committed(Some(0))));
        assert_eq!(one("committed cfg=(9,3,1) idx=(4,7,5)"), Ok(Outcome::Committed(Some(5))));
        assert_eq!(one("committed cfgj=zero"), Ok(Outcome::Committed(None)));
        assert_eq!(one("vote cfg=(1,2) votes=(y)"), Ok(Outcome::Mismatch));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "vote cfg=(x)",
            "vote cfg=(1) votes=(z)",
            "committed cfg=(1) idx=(y)",
            "simple",
            "vote who=(1)",
            "committed cfg=(1,2,3,4,5,6,7,8,9) idx=(1,1,1,1,1,1,1,1,1)",
        ] {
            assert!(one(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_line_is_what_counts() {
        assert!(Outcome::Committed(Some(12)).agrees("  idx\n>  12\n12"));
        assert!(!Outcome::Committed(Some(1)).agrees("12"));
        assert!(Outcome::Committed(None).agrees("<nobody votes>∞"));
        assert!(Outcome::Committed(None).agrees("∞") && !Outcome::Committed(Some(0)).agrees("∞"));
        assert!(!Outcome::Vote("VoteWon").agrees("VoteLost"));
        assert!(Outcome::Mismatch.agrees("error: something") && !Outcome::Mismatch.agrees("0"));
    }
}
