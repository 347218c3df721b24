//! The words of interaction scripts, as commands with typed arguments.

use std::str::FromStr;

use quorate::change::{ChangeError, Step, Transition, What};
use quorate::membership::MEMBERS_MAX;
use quorate::{NodeId, NodeSet};

use super::format::{Directive, Misread};

/// One command of an interaction script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Nodes join the script, numbered on from the last one.
    AddNodes(AddNodes),
    /// A node stands for election.
    Campaign(NodeId),
    /// A node's storage drops the entries up to an index.
    Compact(NodeId, u64),
    /// Messages in flight to these nodes arrive, or are lost.
    Deliver {
        /// To whom, in this order; true if they are lost.
        to: Vec<(NodeId, bool)>,
        /// Only messages of this type.
        kind: Option<String>,
    },
    /// What nodes owe is written, sent and applied.
    ProcessReady(Vec<NodeId>),
    /// The next write of a node's append thread is done.
    ProcessAppend(Vec<NodeId>),
    /// The next entries of a node's apply thread are applied.
    ProcessApply(Vec<NodeId>),
    /// A node's election timeout until the next one is drawn.
    SetElectionTimeout(NodeId, u32),
    /// Everything that nodes owe is done, until nothing is left; all of them if none is named.
    Stabilize(Vec<NodeId>),
    /// An election timeout passes on a node.
    TickElection(NodeId),
    /// A heartbeat interval passes on a node.
    TickHeartbeat(NodeId),
    /// So many ticks pass on a node.
    Tick(NodeId, u16),
    /// A node is asked to have another one lead.
    TransferLeadership {
        /// Who is asked.
        from: NodeId,
        /// Who shall lead.
        to: NodeId,
    },
    /// A node gives up its leader.
    ForgetLeader(NodeId),
    /// A node sends its newest snapshot, needed or not.
    SendSnapshot {
        /// Who sends.
        from: NodeId,
        /// To whom.
        to: NodeId,
    },
    /// A command of the application.
    Propose(NodeId, String),
    /// A change of membership.
    ProposeChange(NodeId, ConfChange),
    /// A leader hears that a node can't be reached.
    ReportUnreachable {
        /// The leader.
        from: NodeId,
        /// The node.
        to: NodeId,
    },
    /// The states of all nodes, in a line each.
    RaftState,
    /// The log that a node's storage holds.
    RaftLog(NodeId),
    /// Asks for what is printed anyway, or for how much the original's text tells.
    Look,
}

/// How nodes are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AddNodes {
    /// How many.
    pub count: u8,
    /// Who votes in the snapshot that they start with.
    pub voters: Vec<NodeId>,
    /// Who learns in it.
    pub learners: Vec<NodeId>,
    /// The index of that snapshot; 0 for none.
    pub index: u64,
    /// The application's state in it.
    pub content: String,
    /// Writing and applying are steps of their own.
    pub async_writes: bool,
    /// Ask before standing for election.
    pub pre_vote: bool,
    /// A leader without a quorum steps down.
    pub check_quorum: bool,
    /// The most bytes of entries to apply at once; 0 for no limit.
    pub committed_bytes_max: u64,
    /// Changes of membership are not looked at when they are proposed.
    pub changes_unchecked: bool,
    /// Reads rely on the leader's lease.
    pub lease_reads: bool,
    /// A leader that is no member any more steps down.
    pub step_down_on_removal: bool,
    /// With writes of their own: what is committed is applied even where it is not written yet.
    pub applies_unwritten: bool,
    /// Ticks of a heartbeat interval.
    pub heartbeat_ticks: u16,
    /// Ticks of an election timeout.
    pub election_ticks: u16,
}

/// What the original's scripts have where they don't say.
const HEARTBEAT_TICKS: u16 = 1;
const ELECTION_TICKS: u16 = 3;

/// A change of membership, as a script writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ConfChange {
    /// In the first form, of one step.
    pub v1: bool,
    /// How it is gone about.
    pub transition: Transition,
    /// What becomes of whom.
    pub steps: Vec<Step>,
}

impl Command {
    /// Reads a command and those that stand below it, where it takes no other input.
    ///
    /// # Errors
    /// One is not known, or its arguments make no sense.
    pub(super) fn parse_all(directive: &Directive) -> Result<Vec<(Directive, Self)>, Misread> {
        let all = match directive.name.as_str() {
            "propose-conf-change" => vec![directive.clone()],
            _ => directive.commands()?,
        };
        let read = |one: Directive| Self::parse(&one).map(|command| (one, command));
        all.into_iter().map(read).collect()
    }

    /// Does a script tell what it answers, and nothing else?
    pub(super) const fn is_answered(&self) -> bool {
        matches!(self, Self::Look | Self::RaftState | Self::RaftLog(_))
    }

    /// Reads one command.
    ///
    /// # Errors
    /// It is not known, or its arguments make no sense.
    pub(super) fn parse(directive: &Directive) -> Result<Self, Misread> {
        let read = Reader { directive };
        let command = match directive.name.as_str() {
            "_breakpoint" | "log-level" | "status" => return Ok(Self::Look),
            "raft-state" => Self::RaftState,
            "raft-log" => Self::RaftLog(read.node(0)?),
            "add-nodes" => Self::AddNodes(read.add_nodes()?),
            "campaign" => Self::Campaign(read.node(0)?),
            "compact" => Self::Compact(read.node(0)?, read.word(1)?),
            "deliver-msgs" => read.deliver()?,
            "process-ready" => Self::ProcessReady(read.nodes()?),
            "process-append-thread" => Self::ProcessAppend(read.nodes()?),
            "process-apply-thread" => Self::ProcessApply(read.nodes()?),
            "set-randomized-election-timeout" => {
                Self::SetElectionTimeout(read.node(0)?, read.required("timeout")?)
            }
            "stabilize" => {
                read.only(&["log-level"])?;
                return Ok(Self::Stabilize(read.nodes()?));
            }
            "tick-election" => Self::TickElection(read.node(0)?),
            "tick-heartbeat" => Self::TickHeartbeat(read.node(0)?),
            "tick" => {
                read.words(2)?;
                Self::Tick(read.node(0)?, read.word(1)?)
            }
            "transfer-leadership" => Self::TransferLeadership {
                from: read.to_node(&read.required::<String>("from")?)?,
                to: read.to_node(&read.required::<String>("to")?)?,
            },
            "forget-leader" => Self::ForgetLeader(read.node(0)?),
            "send-snapshot" => {
                read.words(2)?;
                match (read.node(0)?, read.node(1)?) {
                    (from, to) if from == to => {
                        return Err(read.wrong("a node sends itself nothing"));
                    }
                    (from, to) => Self::SendSnapshot { from, to },
                }
            }
            "propose" => {
                read.words(2)?;
                Self::Propose(read.node(0)?, read.word(1)?)
            }
            "propose-conf-change" => Self::ProposeChange(read.node(0)?, read.change()?),
            "report-unreachable" => {
                read.words(2)?;
                Self::ReportUnreachable { from: read.node(0)?, to: read.node(1)? }
            }
            _ => return Err(directive.misread("no such command")),
        };
        read.only(match command {
            Self::AddNodes(_) => ADD_NODES,
            Self::Deliver { .. } => &["drop", "type"],
            Self::SetElectionTimeout(..) => &["timeout"],
            Self::TransferLeadership { .. } => &["from", "to"],
            Self::ProposeChange(..) => &["v1", "transition"],
            _ => &[],
        })?;
        Ok(command)
    }
}

/// What `add-nodes` can be told. How many messages may be in flight is fixed in this core.
const ADD_NODES: &[&str] = &[
    "voters",
    "learners",
    "index",
    "content",
    "inflight",
    "async-storage-writes",
    "prevote",
    "checkquorum",
    "max-committed-size-per-ready",
    "disable-conf-change-validation",
    "read-only",
    "step-down-on-removal",
    "async-storage-writes-nonlocal-quorum",
    "heartbeat-tick",
    "election-tick",
];

/// All that the original calls a message.
const MESSAGES: &[&str] = &[
    "MsgHup",
    "MsgBeat",
    "MsgProp",
    "MsgApp",
    "MsgAppResp",
    "MsgVote",
    "MsgVoteResp",
    "MsgSnap",
    "MsgHeartbeat",
    "MsgHeartbeatResp",
    "MsgUnreachable",
    "MsgSnapStatus",
    "MsgCheckQuorum",
    "MsgTransferLeader",
    "MsgTimeoutNow",
    "MsgReadIndex",
    "MsgReadIndexResp",
    "MsgPreVote",
    "MsgPreVoteResp",
    "MsgStorageAppend",
    "MsgStorageAppendResp",
    "MsgStorageApply",
    "MsgStorageApplyResp",
    "MsgForgetLeader",
];

/// Takes arguments out of a directive.
struct Reader<'a> {
    directive: &'a Directive,
}

impl Reader<'_> {
    fn wrong(&self, what: impl std::fmt::Display) -> Misread {
        self.directive.misread(what)
    }

    /// Refuses keys that the command does not know.
    fn only(&self, keys: &[&str]) -> Result<(), Misread> {
        let known = |key: &str| keys.contains(&key);
        let mut named = self.directive.args.iter().filter(|arg| arg.values.is_some());
        match named.find(|arg| !known(&arg.key)) {
            Some(arg) => Err(self.wrong(format!("no argument `{}=`", arg.key))),
            None => Ok(()),
        }
    }

    fn to<T: FromStr>(&self, word: &str) -> Result<T, Misread> {
        word.parse().map_err(|_| self.wrong(format!("`{word}` makes no sense here")))
    }

    fn to_node(&self, word: &str) -> Result<NodeId, Misread> {
        NodeId::new(self.to(word)?)
            .ok_or_else(|| self.wrong(format!("a node is 1 to {}, not {word}", NodeId::MAX)))
    }

    /// The `n`th word without a value.
    fn word<T: FromStr>(&self, n: usize) -> Result<T, Misread> {
        let word = self.directive.plain().nth(n);
        self.to(word.ok_or_else(|| self.wrong(format!("word {} is missing", n + 1)))?)
    }

    /// Refuses more words than the command has.
    fn words(&self, count: usize) -> Result<(), Misread> {
        match self.directive.plain().nth(count) {
            Some(word) => Err(self.wrong(format!("`{word}` is one word too many"))),
            None => Ok(()),
        }
    }

    fn node(&self, n: usize) -> Result<NodeId, Misread> {
        self.to_node(&self.word::<String>(n)?)
    }

    fn nodes(&self) -> Result<Vec<NodeId>, Misread> {
        self.directive.plain().map(|word| self.to_node(word)).collect()
    }

    fn list(&self, key: &str) -> &[String] {
        let named = self.directive.args.iter().find(|arg| arg.key == key);
        named.and_then(|arg| arg.values.as_deref()).unwrap_or_default()
    }

    fn node_list(&self, key: &str) -> Result<Vec<NodeId>, Misread> {
        self.list(key).iter().map(|word| self.to_node(word)).collect()
    }

    fn optional<T: FromStr + Default>(&self, key: &str) -> Result<T, Misread> {
        match self.list(key) {
            [] => Ok(T::default()),
            [value] => self.to(value),
            _ => Err(self.wrong(format!("`{key}` has more than one value"))),
        }
    }

    /// As the original reads it: also in one letter, and as a number.
    fn flag(&self, key: &str) -> Result<bool, Misread> {
        match self.optional::<String>(key)?.as_str() {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
            "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
            other => Err(self.wrong(format!("`{other}` is neither true nor false"))),
        }
    }

    /// A number of ticks.
    fn ticks(&self, key: &str, otherwise: u16) -> Result<u16, Misread> {
        if self.list(key).is_empty() { Ok(otherwise) } else { self.optional(key) }
    }

    fn required<T: FromStr + Default>(&self, key: &str) -> Result<T, Misread> {
        if self.list(key).is_empty() {
            return Err(self.wrong(format!("`{key}=` is missing")));
        }
        self.optional(key)
    }

    fn add_nodes(&self) -> Result<AddNodes, Misread> {
        let nodes = AddNodes {
            count: self.word(0)?,
            voters: self.node_list("voters")?,
            learners: self.node_list("learners")?,
            index: self.optional("index")?,
            content: self.optional("content")?,
            async_writes: self.flag("async-storage-writes")?,
            pre_vote: self.flag("prevote")?,
            check_quorum: self.flag("checkquorum")?,
            committed_bytes_max: self.optional("max-committed-size-per-ready")?,
            changes_unchecked: self.flag("disable-conf-change-validation")?,
            lease_reads: match self.optional::<String>("read-only")?.as_str() {
                "" | "safe" => false,
                "lease-based" => true,
                other => return Err(self.wrong(format!("no reads are `{other}`"))),
            },
            step_down_on_removal: self.flag("step-down-on-removal")?,
            applies_unwritten: self.flag("async-storage-writes-nonlocal-quorum")?,
            heartbeat_ticks: self.ticks("heartbeat-tick", HEARTBEAT_TICKS)?,
            election_ticks: self.ticks("election-tick", ELECTION_TICKS)?,
        };
        if nodes.heartbeat_ticks == 0 || nodes.election_ticks <= nodes.heartbeat_ticks {
            return Err(self.wrong("an election timeout is longer than a heartbeat interval"));
        }
        let _: u32 = self.optional("inflight")?;
        if let Some(both) = nodes.voters.iter().find(|id| nodes.learners.contains(id)) {
            return Err(self.wrong(format!("{both} can't both vote and learn")));
        }
        let members: NodeSet = nodes.voters.iter().chain(&nodes.learners).copied().collect();
        if members.len() > MEMBERS_MAX {
            return Err(self.wrong(ChangeError::TooManyMembers { max: MEMBERS_MAX }));
        }
        let starts_with =
            !nodes.voters.is_empty() || !nodes.learners.is_empty() || !nodes.content.is_empty();
        if nodes.index < 2 && (nodes.index != 0 || starts_with) {
            return Err(self.wrong("a snapshot to start with has an index of 2 at least"));
        }
        Ok(nodes)
    }

    fn deliver(&self) -> Result<Command, Misread> {
        let mut to: Vec<(NodeId, bool)> = self.nodes()?.into_iter().map(|id| (id, false)).collect();
        for id in self.node_list("drop")? {
            if to.contains(&(id, false)) {
                return Err(self.wrong(format!("messages to {id} can't both arrive and be lost")));
            }
            to.push((id, true));
        }
        let kind = Some(self.optional::<String>("type")?).filter(|kind| !kind.is_empty());
        if let Some(kind) = kind.as_deref().filter(|kind| !MESSAGES.contains(kind)) {
            return Err(self.wrong(format!("no message is a `{kind}`")));
        }
        Ok(Command::Deliver { to, kind })
    }

    fn change(&self) -> Result<ConfChange, Misread> {
        let transition = match self.optional::<String>("transition")?.as_str() {
            "" | "auto" => Transition::Auto,
            "implicit" => Transition::Implicit,
            "explicit" => Transition::Explicit,
            other => return Err(self.wrong(format!("no transition is `{other}`"))),
        };
        let v1 = self.flag("v1")?;
        let steps = self.steps()?;
        if v1 && (steps.len() != 1 || transition != Transition::Auto) {
            return Err(self.wrong("the first form has one step, and no transition"));
        }
        Ok(ConfChange { v1, transition, steps })
    }

    fn steps(&self) -> Result<Vec<Step>, Misread> {
        steps(&self.directive.input).map_err(|what| self.wrong(what))
    }
}

/// Reads `v1 l2 r3 u4`. Node 0 is nobody.
pub(super) fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for word in text.split_whitespace() {
        let wrong = || format!("`{word}` is no step of a change");
        let what = match word.chars().next() {
            Some('v') => What::AddVoter,
            Some('l') => What::AddLearner,
            Some('r') => What::Remove,
            Some('u') => What::Update,
            _ => return Err(wrong()),
        };
        match word.get(1..).unwrap_or_default().parse().map_err(|_| wrong())? {
            0 => {}
            id => steps.push(Step::new(what, NodeId::new(id).ok_or_else(wrong)?)),
        }
    }
    Ok(steps)
}

/// Writes steps as [`steps`] reads them.
pub(super) fn steps_text(steps: impl Iterator<Item = Step>) -> String {
    let words: Vec<String> = steps
        .map(|Step { id, what, .. }| match what {
            What::AddVoter => format!("v{id}"),
            What::AddLearner | What::Admit { .. } => format!("l{id}"),
            What::Remove => format!("r{id}"),
            What::Update => format!("u{id}"),
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::format;

    fn parse(text: &str) -> Result<Command, Misread> {
        Command::parse(&format::parse(&format!("{text}\n----\n")).unwrap()[0])
    }

    fn id(id: u8) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn commands_are_read_with_their_arguments() {
        assert_eq!(
            parse(
                "add-nodes 3 voters=(1, 2) learners=(3) index=10 prevote=1 inflight=5 read-only=lease-based"
            ),
            Ok(Command::AddNodes(AddNodes {
                count: 3,
                voters: vec![id(1), id(2)],
                learners: vec![id(3)],
                index: 10,
                pre_vote: true,
                lease_reads: true,
                heartbeat_ticks: 1,
                election_ticks: 3,
                ..AddNodes::default()
            }))
        );
        assert_eq!(
            parse("deliver-msgs 2 1 drop=3 type=MsgApp"),
            Ok(Command::Deliver {
                to: vec![(id(2), false), (id(1), false), (id(3), true)],
                kind: Some("MsgApp".into())
            })
        );
        assert_eq!(parse("propose 1 \"foo\""), Ok(Command::Propose(id(1), "\"foo\"".into())));
        assert_eq!(parse("stabilize log-level=none"), Ok(Command::Stabilize(Vec::new())));
        assert_eq!(parse("tick 2 7"), Ok(Command::Tick(id(2), 7)));
        let Ok(Command::AddNodes(made)) = parse("add-nodes 1 heartbeat-tick=2 election-tick=7")
        else {
            panic!("not read");
        };
        assert_eq!((made.heartbeat_ticks, made.election_ticks), (2, 7));
    }

    #[test]
    fn a_command_can_have_others_below_it() {
        let all =
            |text: &str| Command::parse_all(&format::parse(&format!("{text}\n----\n")).unwrap()[0]);
        let got = all("campaign 1\nprocess-ready 1\nraft-state").unwrap();
        let got: Vec<_> = got.into_iter().map(|(_, command)| command).collect();
        let ready = Command::ProcessReady(vec![id(1)]);
        assert_eq!(got, [Command::Campaign(id(1)), ready, Command::RaftState]);
        assert_eq!(all("log-level none\nraft-log 1\nfly 2").map_err(|wrong| wrong.line), Err(3));
        // The steps of a change are none.
        assert_eq!(all("propose-conf-change 1\nv1\nl2").unwrap().len(), 1);
    }

    #[test]
    fn a_change_is_read_and_written_alike() {
        let Ok(Command::ProposeChange(_, change)) =
            parse("propose-conf-change 1 transition=explicit\nv1 l2\nr3 u4 v0")
        else {
            panic!("not read");
        };
        assert_eq!(change.transition, Transition::Explicit);
        assert_eq!(steps_text(change.steps.into_iter()), "v1 l2 r3 u4");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "fly 1",
            "campaign",
            "campaign x",
            "campaign 32",
            "campaign 1 now=true",
            "add-nodes 1 voters=(1)",
            "add-nodes 1 voters=(1) index=1",
            "add-nodes 1 prevote=perhaps",
            "add-nodes 1 inflight=some",
            "add-nodes 3 voters=(1,2,3) learners=(3) index=2",
            "add-nodes 9 voters=(1,2,3,4,5) learners=(6,7,8,9) index=2",
            "propose 1 a b",
            "send-snapshot 1 2 3",
            "report-unreachable 1 2 3",
            "deliver-msgs 1 type=MsgNone",
            "add-nodes 1 read-only=never",
            "deliver-msgs 1 drop=(1)",
            "propose-conf-change 1 v1=true\nv1 v2",
            "propose-conf-change 1\nx1",
            "set-randomized-election-timeout 1",
            "add-nodes 1 election-tick=1",
            "add-nodes 1 heartbeat-tick=3",
            "add-nodes 1 heartbeat-tick=0",
            "tick 1",
            "tick 1 2 3",
            "send-snapshot 1 1",
        ] {
            assert_eq!(parse(text).map_err(|e| e.line), Err(1), "{text}");
        }
    }
}
