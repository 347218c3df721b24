//! Scripts in etcd-io/raft's data-driven format, run on the `raft` layer of the core.
//!
//! An *interaction* script drives whole nodes: [`run`](Script::run) tells their states after each command. A *quorum*
//! script asks for the outcome of votes and acknowledgements, a *confchange* script for the configuration after changes.
//! What differs from the original in how a node works is told in the modules.

mod changes;
pub mod check;
mod command;
mod format;
mod message;
mod node;
mod quorums;
pub mod states;
mod storage;
mod world;

use serde::Serialize;

pub use changes::Changed;
pub use format::Misread;
pub use quorums::Outcome;

use command::Command;
use format::Directive;
use states::{Line, State};
use world::World;

/// A script that has been read.
pub struct Script {
    directives: Vec<Directive>,
    kind: Kind,
}

/// What a script is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nodes that exchange messages.
    Interaction,
    /// Votes and acknowledgements.
    Quorum,
    /// Changes of a configuration.
    ConfChange,
}

/// What came of a script's commands.
pub enum Results {
    /// The states of the nodes.
    States(Vec<Line>),
    /// The outcome of each vote, the index committed by each set of acknowledgements.
    Outcomes(Vec<Answer<Outcome>>),
    /// The configuration after each change.
    Changes(Vec<Answer<Changed>>),
}

/// The answer to one command.
#[derive(Clone, Debug, Serialize)]
pub struct Answer<T> {
    /// The line of the script.
    pub line: usize,
    /// The command.
    pub cmd: String,
    /// What it led to.
    pub result: T,
    /// What the file expects.
    #[serde(skip)]
    pub expected: String,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first line that makes no sense.
    pub fn parse(text: &str) -> Result<Self, Misread> {
        let directives = format::parse(text)?;
        let first = directives.first().ok_or_else(|| Misread::new(1, "there is no command"))?;
        let kind = match first.name.as_str() {
            "vote" | "committed" => Kind::Quorum,
            "simple" | "enter-joint" | "leave-joint" => Kind::ConfChange,
            _ => Kind::Interaction,
        };
        Ok(Self { directives, kind })
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Follows all commands.
    ///
    /// # Errors
    /// A command that is not known, or asks for what isn't there.
    pub fn run(&self) -> Result<Results, Misread> {
        match self.kind {
            Kind::Interaction => self.interact().map(Results::States),
            Kind::Quorum => self.answers(quorums::answer).map(Results::Outcomes),
            Kind::ConfChange => {
                let mut changes = changes::Changes::default();
                self.answers(|directive| changes.follow(directive)).map(Results::Changes)
            }
        }
    }

    fn interact(&self) -> Result<Vec<Line>, Misread> {
        // All of it is read before anything is done.
        let blocks: Vec<Vec<(Directive, Command)>> =
            self.directives.iter().map(Command::parse_all).collect::<Result<_, _>>()?;
        let mut world = World::default();
        let mut lines = Vec::new();
        for (directive, block) in self.directives.iter().zip(&blocks) {
            let mut result = Vec::new();
            for (directive, command) in block {
                result.extend(world.follow(command).map_err(|what| directive.misread(what))?);
            }
            // The rest of what the original says is in its own words.
            let answers = block.iter().all(|(_, command)| command.is_answered())
                && block.iter().any(|(_, command)| *command != Command::Look);
            let quiescent = world.is_quiescent();
            let nodes = world.nodes.iter_mut().map(State::of).collect();
            let (line, cmd, expected) =
                (directive.line, directive.name.clone(), directive.expected.clone());
            lines.push(Line { line, cmd, result, answers, quiescent, nodes, expected });
        }
        Ok(lines)
    }

    fn answers<T>(
        &self,
        mut answer: impl FnMut(&Directive) -> Result<T, Misread>,
    ) -> Result<Vec<Answer<T>>, Misread> {
        let all = self.directives.iter().map(|directive| {
            Ok(Answer {
                line: directive.line,
                cmd: directive.name.clone(),
                result: answer(directive)?,
                expected: directive.expected.clone(),
            })
        });
        all.collect()
    }
}

impl Results {
    /// Leaves the nodes out where they are not quiescent.
    pub fn leave_out_unrest(&mut self) {
        if let Self::States(lines) = self {
            lines.iter_mut().filter(|line| !line.quiescent).for_each(|line| line.nodes.clear());
        }
    }

    /// One JSON object for each command.
    pub fn to_json_lines(&self) -> Vec<String> {
        fn json<T: Serialize>(all: &[T]) -> Vec<String> {
            // Nothing in it that JSON could not say.
            all.iter().map(|one| serde_json::to_string(one).unwrap_or_default()).collect()
        }
        match self {
            Self::States(lines) => json(lines),
            Self::Outcomes(answers) => json(answers),
            Self::Changes(answers) => json(answers),
        }
    }
}
