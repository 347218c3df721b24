//! A stranger on the air: it sends random bytes, and repeats what it has heard, whole or changed.

use quorate::NodeSet;

use super::dice::Dice;
use super::options::Fault;
use super::world::{What, World};

/// Frames heard longer ago than this many election timeouts are not repeated any more, but for a few:
/// who goes on repeating a dead leader's heartbeats keeps it alive for all who can't tell them apart.
const FRESH_ELECTIONS: u64 = 2;

/// A stranger.
#[derive(Debug)]
pub(super) struct Babbler {
    dice: Dice,
    /// Its share of the air, ‰.
    share: u64,
    /// Old frames that it has kept.
    kept: Vec<std::rc::Rc<[u8]>>,
}

impl Babbler {
    pub(super) fn start(world: &mut World) {
        if !world.options.faults.has(Fault::Babble) {
            return;
        }
        let mut dice = world.dice.boards.fork();
        let share = dice.pick(&[5, 20, 60]);
        world.babbler = Some(Box::new(Self { dice, share, kept: Vec::new() }));
        world.plan(0, What::Babble);
    }

    pub(super) fn act(world: &mut World) {
        let Some(mut babbler) = world.babbler.take() else {
            return;
        };
        let place = world.boards.len();
        let frame = babbler.compose(world);
        let air_us = u64::from(world.profile.link.air_us(frame.len() as u16));
        if !frame.is_empty() && !world.air.is_sending(place) {
            let everybody: NodeSet = world.boards.iter().map(|board| board.id).collect();
            world.send(place, everybody, &frame);
        }
        let pause_us = air_us.max(100) * 1000 / babbler.share;
        let next_us = world.now_us + 1 + babbler.dice.below(2 * pause_us);
        world.babbler = Some(babbler);
        world.plan(next_us, What::Babble);
    }

    fn compose(&mut self, world: &World) -> Vec<u8> {
        let since_us = world.now_us.saturating_sub(FRESH_ELECTIONS * world.profile.election_us());
        let fresh: Vec<_> = world.heard().iter().filter(|(at_us, _)| *at_us >= since_us).collect();
        if let Some((_, frame)) = fresh.first()
            && world.amid_faults
            && self.dice.chance(50)
        {
            if self.kept.len() == 8 {
                self.kept.remove(0);
            }
            self.kept.push(frame.clone());
        }
        let choice = self.dice.below(10);
        if choice < 5 && !fresh.is_empty() {
            let at = self.dice.below(fresh.len() as u64) as usize;
            return fresh[at].1.to_vec();
        }
        if choice < 7 && world.amid_faults && !self.kept.is_empty() {
            let at = self.dice.below(self.kept.len() as u64) as usize;
            return self.kept[at].to_vec();
        }
        let len = self.dice.within(1, u64::from(world.profile.link.frame_bytes));
        let mut noise = vec![0; len as usize];
        self.dice.fill(&mut noise);
        noise
    }
}
