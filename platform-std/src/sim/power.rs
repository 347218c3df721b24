//! Power that goes and comes, flash that is lost, and sleep.

use quorate::Generation;
use quorate::wal::MountError;

use super::board::Start;
use super::durability::{Unmounted, inspect};
use super::rules::Rule;
use super::world::{What, World};

impl World {
    /// Power on, if it was off.
    pub fn power_on(&mut self, at: usize) {
        if self.boards[at].live.is_none() {
            self.boot(at);
        }
    }

    pub(super) fn boot(&mut self, at: usize) {
        let now_us = self.now_us;
        let board = &mut self.boards[at];
        board.life += 1;
        self.counters.restarts += u64::from(board.cuts > 0);
        self.counters.words_decayed += u64::from(board.chip.boot());
        // A person sees that the board has not been founded, and knows whether the cluster has been.
        let blank = !board.founded
            && inspect(&board.chip) == Err(Unmounted::Refused(MountError::Unformatted));
        let nonce = self.dice.boards.bits() as u32 | 1;
        let start = match (blank, board.joins) {
            (false, _) => Start::Mount,
            (true, false) => Start::Found,
            (true, true) => Start::Join { nonce },
        };
        let mut config = self.profile.config(at, board.draw_seed(&mut self.dice.boards));
        config.pre_vote = self.options.pre_vote;
        let number = board.number();
        let seed = config.seed;
        self.trace.line(format_args!("{now_us} {number} < boot {start:?} {seed:016x}"));
        let booted = board.boot(now_us, start, &self.cluster, &config, &mut self.dice.boards);
        self.checks.booted(number);
        if let Err(error) = booted {
            self.checks.verdict.red(Rule::F2, number, || format!("does not start: {error}"));
        } else if self.boards[at].brown_outs > 0 {
            self.boards[at].brown_outs -= 1;
            self.boards[at].armed = true;
        }
        self.pump(at);
    }

    /// Cuts the power of a board for so long; with `u64::MAX` until [`World::power_on`].
    pub fn cut(&mut self, at: usize, off_us: u64) {
        let now_us = self.now_us;
        let board = &mut self.boards[at];
        let number = board.number();
        self.counters.drift_ms += board.drift_ms(now_us);
        let Some(live) = board.live.take() else {
            return;
        };
        if let Some(spec) = &mut self.spec {
            spec.cut(number);
        }
        let faults = self.flash_faults;
        let done = board.chip.cut(now_us, faults, &mut self.dice.flash);
        board.life += 1;
        board.cuts += 1;
        board.armed = false;
        let life = board.life;
        self.air.silence(at, now_us);
        self.trace.line(format_args!("{now_us} {number} < cut {done:?}"));
        let counters = &mut self.counters;
        counters.power_cuts_all += 1;
        counters.power_cuts += u64::from(done.in_operation);
        counters.torn_writes += u64::from(done.torn_write);
        counters.torn_erases += u64::from(done.torn_erase);
        counters.brown_outs += u64::from(!live.is_running);
        let leads = self.checks.protocol.leader().is_some_and(|(_, leader)| leader == number);
        let lately = 2 * self.profile.election_us();
        let led = self.led_us[at].is_some_and(|led_us| led_us + lately >= now_us);
        self.counters.leader_crashes += u64::from(leads && led);
        if self.boards[at].founded {
            self.checks.image(number, &self.boards[at].chip);
        }
        if off_us != u64::MAX {
            self.plan(now_us.saturating_add(off_us), What::Boot { board: at, life });
        }
    }

    /// Cuts the power of all boards at this instant; each comes back within that time.
    pub fn cut_all(&mut self, off_us: u64) {
        self.blackout_armed = None;
        let had_power = self.boards.iter().filter(|board| board.live.is_some()).count();
        if had_power == self.boards.len() {
            self.counters.blackouts += 1;
        }
        for at in 0..self.boards.len() {
            let off_us = 1 + self.dice.boards.below(off_us.max(1));
            self.cut(at, off_us);
        }
        self.look_for_acknowledged();
    }

    /// A board's flash is lost, as when it is replaced: it comes back blank under its old number, and asks for its place.
    pub fn wipe(&mut self, at: usize, off_us: u64) {
        let lately = 2 * self.profile.election_us();
        let leads = self.leader() == Some(at)
            && self.led_us[at].is_some_and(|led_us| led_us + lately >= self.now_us);
        self.cut(at, u64::MAX);
        let now_us = self.now_us;
        let board = &mut self.boards[at];
        let (id, number) = (board.id, board.number());
        board.chip.replace();
        (board.founded, board.joins, board.generation) = (false, true, Generation(0));
        (board.brown_outs, board.life) = (0, board.life + 1);
        let life = board.life;
        self.trace.line(format_args!("{now_us} {number} < wiped"));
        if self.checks.members.latest().members().contains(id) {
            self.counters.boards_wiped += 1;
            self.counters.leaders_wiped += u64::from(leads);
        }
        self.checks.wiped(number);
        self.plan(now_us.saturating_add(off_us), What::Boot { board: at, life });
    }

    /// A board sleeps for so long: it hears nothing, and its clock stands still.
    pub fn sleep(&mut self, at: usize, for_us: u64) {
        let now_us = self.now_us;
        let board = &mut self.boards[at];
        let (number, life, wakes_us) = (board.number(), board.life, now_us + for_us);
        if board.is_deaf() {
            return;
        }
        let Some(live) = &mut board.live else {
            return;
        };
        live.asleep_us = Some((now_us, wakes_us));
        self.trace.line(format_args!("{now_us} {number} < sleep {for_us}"));
        self.plan(wakes_us, What::Wake { board: at, life });
    }

    /// The board goes on where its clock stood.
    pub(super) fn wake(&mut self, at: usize) {
        let now_us = self.now_us;
        let board = &mut self.boards[at];
        let number = board.number();
        let Some(live) = &mut board.live else {
            return;
        };
        let Some((since_us, _)) = live.asleep_us.take() else {
            return;
        };
        live.booted_us += now_us - since_us;
        self.trace.line(format_args!("{now_us} {number} < wake"));
        live.node.handle_clock_stopped();
        self.counters.clocks_stopped += 1;
        // What it believed before it slept is what it is asked for first.
        if self.client.is_some() {
            self.begin_read(at, true);
        }
        self.pump(at);
    }

    /// Looks for all acknowledged writes on all flash, unless a board is yet to be founded.
    pub(super) fn look_for_acknowledged(&mut self) {
        if self.boards.iter().all(|board| board.founded || board.joins) {
            let founded = self.boards.iter().filter(|board| board.founded);
            self.checks.majority(founded.map(|board| (board.id, &board.chip)));
        }
    }
}
