//! What happens, drawn from a seed: a list of steps that mean the same on both sides, and still mean something when
//! some of them are left out.

/// xorshift64*.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| _ = dice.roll(2));
        dice
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides.max(1)
    }

    /// One number of `1..=count`.
    pub(crate) fn node(&mut self, count: u8) -> u8 {
        1 + self.roll(u64::from(count)) as u8
    }
}

/// What becomes of the messages of a leader, and of answers to it, on a link; votes always keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    InOrder,
    Shuffled,
    Doubled,
    SomeLost,
}

/// One step. `luck` is where further chance comes from; it is drawn for each side anew, whose messages differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Everything that is on its way from one to the other arrives.
    Deliver {
        from: u8,
        to: u8,
        fate: Fate,
        votes_first: bool,
        luck: u64,
    },
    /// Everything that is on its way is lost.
    Lose {
        from: u8,
        to: u8,
    },
    /// The two talk until nothing is left to say.
    Exchange {
        a: u8,
        b: u8,
    },
    Campaign {
        node: u8,
    },
    /// Proposes at one of those that lead.
    Propose {
        pick: u8,
        bytes: u8,
    },
    /// The same, and the power is cut before it is durable there.
    ProposeAndCrash {
        pick: u8,
        bytes: u8,
    },
    Restart {
        node: u8,
    },
    Compact {
        node: u8,
        kept: u8,
    },
    /// From now on nothing arrives from or at this node.
    CutOff {
        node: u8,
    },
    CutOffLeader,
    Reconnect,
    /// All talk until they agree; then one change of membership, which some take part in.
    Change {
        luck: u64,
    },
    /// All talk until they agree.
    Settle {
        luck: u64,
    },
}

/// The steps of one schedule.
pub(crate) fn draw(dice: &mut Dice, nodes: u8, changes: bool) -> Vec<Step> {
    let count = 80 + dice.roll(240);
    let mut steps: Vec<Step> = (0..count).map(|_| step(dice, nodes, changes)).collect();
    steps.push(Step::Settle { luck: dice.roll(1 << 30) });
    steps
}

fn step(dice: &mut Dice, nodes: u8, changes: bool) -> Step {
    let (a, b) = two(dice, nodes);
    let luck = dice.roll(1 << 30);
    match dice.roll(200) {
        0..=89 => {
            let fate = match dice.roll(8) {
                0 => Fate::Shuffled,
                1 => Fate::Doubled,
                2 => Fate::SomeLost,
                _ => Fate::InOrder,
            };
            Step::Deliver { from: a, to: b, fate, votes_first: dice.roll(2) == 0, luck }
        }
        90..=99 => Step::Lose { from: a, to: b },
        100..=124 => Step::Exchange { a, b },
        125..=142 => Step::Campaign { node: a },
        143..=175 => Step::Propose { pick: a, bytes: 1 + dice.roll(40) as u8 },
        176..=177 => Step::ProposeAndCrash { pick: a, bytes: 1 + dice.roll(40) as u8 },
        178..=183 => Step::Restart { node: a },
        184..=188 => Step::Compact { node: a, kept: dice.roll(4) as u8 },
        189 => Step::CutOff { node: a },
        190..=191 => Step::CutOffLeader,
        192..=193 => Step::Reconnect,
        194..=197 if changes => Step::Change { luck },
        _ => Step::Settle { luck },
    }
}

fn two(dice: &mut Dice, nodes: u8) -> (u8, u8) {
    let a = dice.node(nodes);
    let b = dice.node(nodes - 1);
    (a, if b >= a { b + 1 } else { b })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_steps_and_another_seed_others() {
        let of = |seed| draw(&mut Dice::new(seed), 5, true);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn two_nodes_are_two() {
        let mut dice = Dice::new(3);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let (a, b) = two(&mut dice, 3);
            assert!(a != b && (1..=3).contains(&a) && (1..=3).contains(&b));
            seen.insert((a, b));
        }
        assert_eq!(seen.len(), 6);
    }
}
