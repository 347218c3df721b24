//! The air: one shared half-duplex medium that boards listen to before they speak, and everything that
//! can happen to a frame on its way.

use std::rc::Rc;

use quorate::NodeSet;
use quorate::config::Link;

use super::dice::Dice;

/// A position on the air: boards first, then strangers.
pub(super) type Place = usize;

/// Carrier that began this long ago is not noticed yet, in µs: two that start within it collide.
const UNNOTICED_US: u64 = 10;
/// Steps of the random wait before speaking, at first and after many busy attempts.
const SLOTS: (u64, u64) = (8, 64);

/// What an attempt to speak came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The frame is on the air until then.
    Started {
        /// µs.
        ends_us: u64,
    },
    /// Somebody else speaks: try again then.
    Busy {
        /// µs.
        retry_us: u64,
    },
    /// Nothing to send.
    Nothing,
}

/// A frame that left the air.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Who sent it.
    pub from: Place,
    /// Whom it was sent to.
    pub to: NodeSet,
    /// Its bytes.
    pub frame: Rc<[u8]>,
    /// It met another one: nobody can read it.
    pub collided: bool,
}

#[derive(Clone, Debug)]
struct Speaker {
    waiting: Option<Rc<[u8]>>,
    /// Who is still to be sent it: on a unicast link one after the other.
    to: NodeSet,
    attempts: u32,
    /// Began, ends, collided.
    speaking: Option<(u64, u64, bool)>,
}

/// Trouble that a frame may meet on its way to one receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Lost, ‰.
    pub loss: u32,
    /// Arriving twice, ‰.
    pub duplication: u32,
    /// Arriving late, ‰.
    pub reorder: u32,
    /// Changed, ‰.
    pub corruption: u32,
}

/// A frame that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// At whom.
    pub to: Place,
    /// How long after the frame left the air, in µs.
    pub delay_us: u64,
    /// What arrives.
    pub frame: Rc<[u8]>,
    /// Its bytes were changed.
    pub corrupted: bool,
    /// It is the second time.
    pub again: bool,
}

/// Frames that did not arrive, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    /// To bad weather.
    pub lost: u64,
    /// To a partition.
    pub partitioned: u64,
    /// To a link that is cut one way.
    pub one_way: u64,
    /// To one of the links that are cut between single pairs.
    pub partial: u64,
}

/// The shared medium.
#[derive(Clone, Debug)]
pub(super) struct Air {
    link: Link,
    speakers: Vec<Speaker>,
    /// When the last frame left.
    free_us: u64,
    /// Which side of the partition each place is on; all zero: no partition.
    sides: Vec<u8>,
    /// Directions that are cut: from, to.
    one_way: Vec<(Place, Place)>,
    /// The same, where links between single pairs are cut.
    partial: Vec<(Place, Place)>,
    /// What happens to frames now.
    pub weather: Weather,
}

impl Air {
    /// A quiet medium.
    pub(super) fn new(link: Link, places: usize) -> Self {
        let silent = Speaker { waiting: None, to: NodeSet::EMPTY, attempts: 0, speaking: None };
        Self {
            link,
            speakers: vec![silent; places],
            free_us: 0,
            sides: vec![0; places],
            one_way: Vec::new(),
            partial: Vec::new(),
            weather: Weather::default(),
        }
    }

    /// Takes a frame to send; when to make the first attempt.
    pub(super) fn offer(
        &mut self,
        from: Place,
        frame: &[u8],
        to: NodeSet,
        now_us: u64,
        dice: &mut Dice,
    ) -> u64 {
        let speaker = &mut self.speakers[from];
        speaker.waiting = Some(frame.into());
        speaker.to = to;
        speaker.attempts = 0;
        self.back_off(from, now_us, dice)
    }

    /// Has this place a frame that is not sent yet?
    pub(super) fn is_sending(&self, from: Place) -> bool {
        self.speakers[from].waiting.is_some()
    }

    /// Is the frame of this place on the air just now?
    pub(super) fn is_speaking(&self, from: Place) -> bool {
        self.speakers[from].speaking.is_some()
    }

    fn back_off(&mut self, from: Place, now_us: u64, dice: &mut Dice) -> u64 {
        let speaker = &mut self.speakers[from];
        let slots = (SLOTS.0 << speaker.attempts.min(8)).min(SLOTS.1);
        speaker.attempts += 1;
        let turnaround_us = u64::from(self.link.turnaround_us);
        let slot_us = (turnaround_us / 2).max(UNNOTICED_US);
        now_us.max(self.free_us + turnaround_us) + dice.below(slots) * slot_us
    }

    /// Speaks, if nobody else does.
    pub(super) fn attempt(&mut self, from: Place, now_us: u64, dice: &mut Dice) -> Attempt {
        let Some(frame) = self.speakers[from].waiting.clone() else {
            return Attempt::Nothing;
        };
        if self.is_speaking(from) {
            return Attempt::Nothing;
        }
        let ends_us = now_us + self.air_us(frame.len());
        let noticed = |began: u64| now_us >= began + UNNOTICED_US;
        let busy = self.speakers.iter().filter_map(|s| s.speaking).find(|s| noticed(s.0));
        if let Some((_, ends, _)) = busy {
            self.free_us = self.free_us.max(ends);
            return Attempt::Busy { retry_us: self.back_off(from, now_us, dice) };
        }
        let mut collided = false;
        for other in self.speakers.iter_mut().filter_map(|s| s.speaking.as_mut()) {
            other.2 = true;
            collided = true;
        }
        self.speakers[from].speaking = Some((now_us, ends_us, collided));
        Attempt::Started { ends_us }
    }

    /// Time on the air without the turnaround, which is waited for before the next frame.
    fn air_us(&self, bytes: usize) -> u64 {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        let air_us = self.link.air_us(bytes).saturating_sub(self.link.turnaround_us);
        u64::from(air_us.max(1))
    }

    /// The frame of this place has left the air; and when to attempt the next of its copies, if any.
    pub(super) fn end(
        &mut self,
        from: Place,
        now_us: u64,
        dice: &mut Dice,
    ) -> Option<(Sent, Option<u64>)> {
        let speaker = &mut self.speakers[from];
        let (_, _, collided) = speaker.speaking.take()?;
        let frame = speaker.waiting.clone()?;
        self.free_us = now_us;
        speaker.attempts = 0;
        let first = speaker.to.iter().next().map_or(NodeSet::EMPTY, NodeSet::one);
        let to = if self.link.broadcast { speaker.to } else { first };
        speaker.to = speaker.to.difference(to);
        let next = if speaker.to.is_empty() {
            speaker.waiting = None;
            None
        } else {
            Some(self.back_off(from, now_us, dice))
        };
        Some((Sent { from, to, frame, collided }, next))
    }

    /// The place falls silent: what it was sending is lost in the middle of it.
    pub(super) fn silence(&mut self, from: Place, now_us: u64) {
        let speaker = &mut self.speakers[from];
        speaker.waiting = None;
        if speaker.speaking.take().is_some() {
            self.free_us = now_us;
        }
    }

    /// Boards on different sides don't hear each other.
    pub(super) fn partition(&mut self, sides: &[u8]) {
        self.sides.fill(0);
        self.sides[..sides.len()].copy_from_slice(sides);
    }

    /// `to` does not hear `from` any more.
    pub(super) fn cut_one_way(&mut self, from: Place, to: Place) {
        self.one_way.push((from, to));
    }

    /// Cuts these links between single pairs, each one way: from, to.
    pub(super) fn cut_links(&mut self, links: Vec<(Place, Place)>) {
        self.partial = links;
    }

    /// Everybody hears everybody.
    pub(super) fn heal(&mut self) {
        self.sides.fill(0);
        self.one_way.clear();
        self.partial.clear();
    }

    /// What becomes of a frame that left the air: where, when and how it arrives.
    pub(super) fn propagate(
        &self,
        from: Place,
        frame: &Rc<[u8]>,
        receivers: impl Iterator<Item = Place>,
        dice: &mut Dice,
    ) -> (Vec<Arrival>, Missed) {
        let mut arrivals = Vec::new();
        let mut missed = Missed::default();
        for to in receivers {
            if self.sides[from] != self.sides[to] {
                missed.partitioned += 1;
                continue;
            }
            if self.one_way.contains(&(from, to)) {
                missed.one_way += 1;
                continue;
            }
            if self.partial.contains(&(from, to)) {
                missed.partial += 1;
                continue;
            }
            if dice.chance(self.weather.loss) {
                missed.lost += 1;
                continue;
            }
            let copies = 1 + u32::from(dice.chance(self.weather.duplication));
            for copy in 0..copies {
                let late = copy > 0 || dice.chance(self.weather.reorder);
                // Up to some ten frames late, and at times much more.
                let air_us = self.air_us(frame.len());
                let late_max = air_us * if dice.chance(100) { 500 } else { 20 };
                let delay_us = if late { dice.below(late_max) } else { 0 };
                let corrupted = dice.chance(self.weather.corruption);
                let frame = if corrupted { corrupt(frame, dice) } else { frame.clone() };
                arrivals.push(Arrival { to, delay_us, frame, corrupted, again: copy > 0 });
            }
        }
        (arrivals, missed)
    }
}

/// Noise: some bits turned, a burst, the end missing, or some bytes too many.
fn corrupt(frame: &[u8], dice: &mut Dice) -> Rc<[u8]> {
    let mut bytes = frame.to_vec();
    let len = bytes.len() as u64;
    match dice.below(4) {
        0 => bytes.truncate(dice.below(len) as usize),
        1 => {
            let from = dice.below(len) as usize;
            let upto = (from + 1 + dice.below(16) as usize).min(bytes.len());
            dice.fill(&mut bytes[from..upto]);
        }
        2 => bytes.extend((0..=dice.below(8)).map(|_| dice.bits() as u8)),
        _ => {
            for _ in 0..=dice.below(4) {
                let bit = dice.below(len * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
        }
    }
    // A burst may leave every byte as it was.
    if bytes == frame {
        bytes[0] ^= 1;
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::NodeId;

    fn boards(ids: &[u8]) -> NodeSet {
        ids.iter().filter_map(|id| NodeId::new(*id)).collect()
    }

    fn link(broadcast: bool) -> Link {
        Link {
            bits_per_second: 1_000_000,
            frame_bytes: 100,
            fragment_bytes: 0,
            overhead_bytes: 0,
            turnaround_us: 200,
            duty_permille: 1000,
            broadcast,
        }
    }

    #[test]
    fn a_board_waits_while_another_one_speaks() {
        let dice = &mut Dice::new(1);
        let mut air = Air::new(link(true), 3);
        air.offer(0, &[0; 100], boards(&[2, 3]), 0, dice);
        air.offer(1, &[1; 100], boards(&[1, 3]), 0, dice);
        assert_eq!(air.attempt(0, 1000, dice), Attempt::Started { ends_us: 1800 });
        let Attempt::Busy { retry_us } = air.attempt(1, 1400, dice) else { panic!() };
        assert!(retry_us >= 2000, "{retry_us}");
        let (sent, next) = air.end(0, 1800, dice).unwrap();
        assert!(!sent.collided && next.is_none() && !air.is_sending(0));
        assert_eq!(air.attempt(1, retry_us, dice), Attempt::Started { ends_us: retry_us + 800 });
    }

    #[test]
    fn two_that_start_at_the_same_moment_collide() {
        let dice = &mut Dice::new(1);
        let mut air = Air::new(link(true), 3);
        air.offer(0, &[0; 100], boards(&[2, 3]), 0, dice);
        air.offer(1, &[1; 50], boards(&[1, 3]), 0, dice);
        air.attempt(0, 1000, dice);
        assert!(matches!(air.attempt(1, 1005, dice), Attempt::Started { .. }));
        assert!(air.end(1, 1405, dice).unwrap().0.collided);
        assert!(air.end(0, 1800, dice).unwrap().0.collided);
    }

    #[test]
    fn a_link_without_broadcast_carries_one_frame_for_each_receiver() {
        let dice = &mut Dice::new(1);
        let mut air = Air::new(link(false), 4);
        air.offer(0, &[0; 10], boards(&[2, 3, 4]), 0, dice);
        let mut now_us = 0;
        let mut receivers = Vec::new();
        loop {
            now_us += 1000;
            air.attempt(0, now_us, dice);
            let (sent, next) = air.end(0, now_us + 80, dice).unwrap();
            receivers.push(sent.to);
            if next.is_none() {
                break;
            }
        }
        assert_eq!(receivers, [boards(&[2]), boards(&[3]), boards(&[4])]);
    }

    #[test]
    fn frames_cross_neither_a_partition_nor_a_cut_direction() {
        let dice = &mut Dice::new(1);
        let mut air = Air::new(link(true), 3);
        let frame: Rc<[u8]> = Rc::from([0u8; 10]);
        air.partition(&[0, 0, 1]);
        let (arrivals, missed) = air.propagate(0, &frame, 1..3, dice);
        assert_eq!((arrivals.len(), arrivals[0].to, missed.partitioned), (1, 1, 1));
        air.heal();
        air.cut_one_way(0, 1);
        let (arrivals, missed) = air.propagate(0, &frame, 1..3, dice);
        assert_eq!((arrivals.len(), arrivals[0].to, missed.one_way), (1, 2, 1));
        assert_eq!(air.propagate(1, &frame, [0].into_iter(), dice).0.len(), 1);
    }

    #[test]
    fn bad_weather_loses_repeats_delays_and_changes_frames_at_its_rates() {
        let dice = &mut Dice::new(1);
        let mut air = Air::new(link(true), 2);
        air.weather = Weather { loss: 200, duplication: 100, reorder: 100, corruption: 100 };
        let frame: Rc<[u8]> = Rc::from([7u8; 40]);
        let (mut lost, mut again, mut late, mut changed) = (0, 0, 0, 0);
        for _ in 0..10_000 {
            let (arrivals, missed) = air.propagate(0, &frame, 1..2, dice);
            lost += missed.lost;
            for arrival in arrivals {
                again += u32::from(arrival.again);
                late += u32::from(arrival.delay_us > 0 && !arrival.again);
                changed += u32::from(arrival.corrupted);
                assert_eq!(arrival.corrupted, arrival.frame != frame);
            }
        }
        assert!((1800..2200).contains(&lost), "{lost}");
        for count in [again, late, changed] {
            assert!((650..1000).contains(&count), "{again} {late} {changed}");
        }
    }

    #[test]
    fn a_board_that_loses_power_while_speaking_frees_the_air() {
        let dice = &mut Dice::new(1);
        let mut air = Air::new(link(true), 2);
        air.offer(0, &[0; 100], boards(&[2]), 0, dice);
        air.attempt(0, 1000, dice);
        air.silence(0, 1100);
        assert!(air.end(0, 1800, dice).is_none());
        air.offer(1, &[0; 100], boards(&[1]), 1100, dice);
        assert!(matches!(air.attempt(1, 1500, dice), Attempt::Started { .. }));
    }
}
