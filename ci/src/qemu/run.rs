//! The course of a run: boards are founded, asked for changes, cut off, and lose their power, some of it all at once.

use std::path::Path;
use std::time::Duration;

use quorate::node::Limits;
use quorate::{ClusterId, NodeId, plan};
use quorate_flash_lab::random::Random;
use quorate_std::config_file::ConfigFile;
use quorate_std::image::BoardImage;
use quorate_std::provision::Provision;

use super::board::{Cut, KEPT_BYTES, LOG, Rig};
use super::cluster::{Cluster, Tally};
use super::hub::{Counts, Faults, Hub};
use super::image::Firmware;
use crate::tools::{Trouble, at, failed};

/// The wire that the firmware has.
pub(super) const BAUD: u32 = 115_200;
/// What the boards are given in the beginning, one board alone.
const CONFIG: &str = "examples/apps/lamp.toml";
/// What every direction does while the boards are tried.
const NOISE: Faults =
    Faults { lose: 30, damage: 15, shorten: 10, repeat: 20, delay: 30, delay_ms: 40, cut: false };

/// Cuts inside flash operations that a run is to have, and cuts more that it may take for that.
const INSIDE_MIN: u32 = 2;
const MORE_CUTS: u32 = 12;

/// What is run.
pub(super) struct Plan {
    pub(super) boards: usize,
    pub(super) seed: u64,
    /// Power cuts, beside those that every run has.
    pub(super) cuts: u32,
}

/// What has come of it.
pub(super) struct Report {
    pub(super) tally: Tally,
    pub(super) wire: Counts,
    pub(super) commits: u64,
    pub(super) dumps: u32,
    /// The deepest stack of the boards with the first firmware, and of those with the last.
    pub(super) stack: [usize; 2],
}

/// The cluster that boards of this firmware can make.
pub(super) fn provision(boards: usize, cluster: ClusterId) -> Provision {
    Provision {
        cluster,
        members: (1..=boards as u8).filter_map(NodeId::new).collect(),
        members_max: boards as u8,
        limits: Limits {
            frame_bytes: 112,
            entry_bytes: 59,
            log_bytes: 1800,
            snapshot_bytes: quorate_apps::MAP_BYTES as u32,
        },
        link: plan::serial(BAUD),
        heartbeat_ms: None,
        election_ms: None,
    }
}

/// Runs it.
pub(super) fn run(
    plan: &Plan,
    firmwares: &[Firmware],
    root: &Path,
    folder: &Path,
) -> Result<Report, Trouble> {
    let mut random = Random(plan.seed);
    let hub = Hub::new(plan.boards, folder, random.draw())?;
    let cluster = ClusterId((random.draw() as u32).to_le_bytes());
    let provision = provision(plan.boards, cluster);
    provision.check().map_err(|error| Trouble::Failed(error.to_string()))?;
    let page = |id: &NodeId, founds, entropy| provision.page(*id, founds, entropy, 0xff).to_vec();
    let pages: Vec<_> = provision.members.iter().map(|id| page(id, true, random.draw())).collect();
    let rig = Rig { firmwares, folder, hub: &hub };
    let mut it = Cluster::new(rig, &pages, random.draw());
    let ended = course(&mut it, plan, root, &|place| {
        page(&provision.members[place], false, plan.seed ^ 0x5a5a)
    });
    let wire = hub.counts();
    ended?;
    if let Some(wrong) = wire.wrong.first() {
        return failed(wrong);
    }
    let images = judge(&mut it)?;
    let report = Report {
        tally: it.tally,
        wire,
        commits: images.iter().map(|board| board.status.commit.0).max().unwrap_or(0),
        dumps: it.judge.dumps,
        stack: it.stack(),
    };
    report.check()?;
    Ok(report)
}

fn course(
    it: &mut Cluster<'_>,
    plan: &Plan,
    root: &Path,
    join_page: &dyn Fn(usize) -> Vec<u8>,
) -> Result<(), Trouble> {
    let boards = plan.boards;
    (0..boards).try_for_each(|place| it.switch_on(place))?;
    it.wait("the first leader", 60, |it| it.agree())?;
    // One board is given a configuration; all have it in the end.
    let path = root.join(CONFIG);
    let file = ConfigFile::read(&path).map_err(|error| at(&path, error))?;
    let given = it.random.below(boards as u64) as usize;
    for (key, value) in file.content() {
        it.set(given, key, value.clone())?;
    }
    it.wait("all boards to have the configuration", 30, |it| it.agree())?;

    it.rig.hub.set_faults(|_, _| NOISE);
    it.load = (0..boards).collect();
    it.run(1000)?;
    power_cuts(it, plan)?;
    minority(it, boards)?;
    one_way(it, boards)?;
    everybody_loses_power(it, boards)?;
    blank(it, plan, join_page)?;

    // Quiet, one last change, and time to say in flash what is committed.
    it.load.clear();
    it.rig.hub.set_faults(|_, _| Faults::default());
    it.set(0, "last", quorate_std::content::Value::Int(plan.seed as i64))?;
    it.wait("all boards to agree", 60, |it| it.agree())?;
    it.run(4 * u64::from(election_ms(boards)))?;
    it.wait("all boards to agree", 60, |it| it.agree())
}

/// Twice as long every board has stood for election.
fn election_ms(boards: usize) -> u32 {
    let Some(part) = plan::part("nrf51") else {
        return 1000;
    };
    plan::Plan::for_link(&plan::serial(BAUD), boards as u8, &part.flash).election_ms
}

/// Boards lose their power one at a time, under load: at any instant, inside flash operations, and are reset.
fn power_cuts(it: &mut Cluster<'_>, plan: &Plan) -> Result<(), Trouble> {
    for round in 0..plan.cuts.saturating_add(MORE_CUTS) {
        // On a machine that is busy otherwise no instant inside an operation may have been caught yet.
        if round >= plan.cuts && it.tally.in_writes + it.tally.in_erases >= INSIDE_MIN {
            break;
        }
        let place = it.random.below(plan.boards as u64) as usize;
        let wait = 100 + it.random.below(900);
        it.run(wait)?;
        let (cut, off) = match round % 4 {
            0 => (Cut::AnyInstant, 0),
            1 | 2 => (Cut::InFlash, 100 + it.random.below(1500)),
            _ => (Cut::InErase, 100 + it.random.below(1500)),
        };
        let tears = cut != Cut::AnyInstant && !it.random.one_in(3);
        // A reset is a cut after which power is there at once.
        if off == 0 {
            it.tally.resets += 1;
        } else {
            it.tally.kills += 1;
        }
        it.cut(place, cut, tears, Some(Duration::from_millis(off)))?;
        it.wait("the board to run again", 30, |it| it.boards[place].watch.state == 1)?;
    }
    Ok(())
}

/// A minority is cut off, and asked for a change: it must not take effect, while the others go on.
fn minority(it: &mut Cluster<'_>, boards: usize) -> Result<(), Trouble> {
    // The leader is among them, as far as that is known.
    let leader = it.boards.iter().position(|board| board.watch.leads).unwrap_or(0);
    let count = (boards - 1) / 2;
    let cut: Vec<usize> = (0..count).map(|n| (leader + n) % boards).collect();
    let others: Vec<usize> = (0..boards).filter(|place| !cut.contains(place)).collect();
    it.load.clear();
    it.wait("what was asked to be decided on", 60, |it| it.is_idle())?;
    it.run(1500)?;
    it.rig
        .hub
        .set_faults(|from, to| Faults { cut: cut.contains(&from) != cut.contains(&to), ..NOISE });
    it.run(200)?;
    // What was committed before can still reach one of the minority from another.
    let before = it.boards.iter().map(|board| board.watch.revision).max().unwrap_or(0);
    let alone = cut[0];
    it.give(alone, "alone", quorate_std::content::Value::Int(1))?;
    it.load.clone_from(&others);
    let done = it.tally.done;
    it.wait("the majority to go on", 60, |it| it.tally.done > done + 3)?;
    it.run(3 * u64::from(election_ms(boards)))?;
    for place in &cut {
        let board = &mut it.boards[*place];
        let (id, revision, flash) = (board.id(), board.watch.revision, board.dump()?);
        if revision > before {
            return failed(format!(
                "board {id}, cut off, went beyond revision {before}: {revision}"
            ));
        }
        let mounted = it.judge.look(id, &flash).map_err(Trouble::Failed)?;
        if mounted.is_none_or(|board| board.content.contains_key("alone")) {
            return failed(format!("board {id}, cut off, has applied a change, or has no log"));
        }
    }
    it.rig.hub.set_faults(|_, _| NOISE);
    it.load = (0..boards).collect();
    Ok(())
}

/// A leader that is not heard, but hears, makes way.
fn one_way(it: &mut Cluster<'_>, boards: usize) -> Result<(), Trouble> {
    let leader = it.boards.iter().position(|board| board.watch.leads).unwrap_or(0);
    it.rig.hub.set_faults(|from, _| Faults { cut: from == leader, ..NOISE });
    it.load = (0..boards).filter(|place| *place != leader).collect();
    let done = it.tally.done;
    it.wait("the others to go on", 60, |it| it.tally.done > done + 2)?;
    it.rig.hub.set_faults(|_, _| NOISE);
    it.load = (0..boards).collect();
    it.run(500)
}

/// All at once.
fn everybody_loses_power(it: &mut Cluster<'_>, boards: usize) -> Result<(), Trouble> {
    for place in 0..boards {
        it.tally.kills += 1;
        let tears = it.random.one_in(2);
        it.cut(place, Cut::AnyInstant, tears, Some(Duration::from_millis(300)))?;
    }
    let done = it.tally.done;
    it.wait("the boards to go on", 60, |it| it.tally.done > done)
}

/// A board comes back with blank flash: under its old number, by its old page or by one that was made for that.
fn blank(
    it: &mut Cluster<'_>,
    plan: &Plan,
    join_page: &dyn Fn(usize) -> Vec<u8>,
) -> Result<(), Trouble> {
    let place = it.random.below(plan.boards as u64) as usize;
    it.tally.kills += 1;
    it.cut(place, Cut::AnyInstant, false, None)?;
    it.load.retain(|other| *other != place);
    // It has to be away for longer than it is still thought of as being there.
    it.run(2 * u64::from(election_ms(plan.boards)))?;
    let flash = &mut it.boards[place].flash;
    flash[LOG..KEPT_BYTES].fill(0xff);
    if it.random.one_in(2) {
        let page = join_page(place);
        flash[..LOG].fill(0xff);
        flash[..page.len()].copy_from_slice(&page);
    }
    let id = it.boards[place].id();
    it.judge.wiped(id);
    it.switch_on(place)?;
    it.wait("the blank board to be admitted", 60, |it| {
        let others = it.boards.iter().map(|board| board.watch.revision).max().unwrap_or(0);
        it.boards[place].watch.revision + 3 > others && others > 0
    })?;
    it.load = (0..plan.boards).collect();
    let done = it.tally.done;
    it.wait("changes with the board that came back", 60, |it| it.tally.done > done + 3)
}

/// The end: each board's flash is mounted, and all hold the same, with all that took effect.
fn judge(it: &mut Cluster<'_>) -> Result<Vec<BoardImage>, Trouble> {
    let mut images = Vec::new();
    for place in 0..it.boards.len() {
        it.cut(place, Cut::AnyInstant, false, None)?;
        let (id, flash) = (it.boards[place].id(), it.boards[place].flash.clone());
        let Some(image) = it.judge.look(id, &flash).map_err(Trouble::Failed)? else {
            return failed(format!("board {id} has no log in the end"));
        };
        it.judge.is_complete(&image).map_err(Trouble::Failed)?;
        images.push(image);
    }
    let state = |image: &BoardImage| (image.revision, image.hash, image.status.membership);
    let first = images.first().map(state);
    if let Some(other) = images.iter().find(|image| Some(state(image)) != first) {
        return failed(format!("board {} holds {:?}, board 1 {first:?}", other.id(), state(other)));
    }
    let membership = images.first().map(|image| image.status.membership);
    let all_vote = membership.is_some_and(|it| it.voters().len() == images.len() && !it.is_joint());
    let again = images.iter().filter(|image| image.status.generation.0 > 1).count();
    if !all_vote || again != 1 {
        return failed(format!("{again} boards were admitted again; members: {membership:?}"));
    }
    Ok(images)
}

impl Report {
    /// What did not happen proves nothing.
    fn check(&self) -> Result<(), Trouble> {
        let (tally, wire) = (&self.tally, &self.wire);
        let inside = tally.in_writes + tally.in_erases;
        for (count, what) in [
            (wire.leaders.len() as u64, "election"),
            (self.commits, "commit"),
            (tally.resets.into(), "reset"),
            (tally.reloads.into(), "start from a dump"),
            (inside.into(), "power cut inside a flash operation"),
            (wire.lost, "lost frame"),
            (wire.damaged, "damaged frame"),
            (wire.shortened, "shortened frame"),
            (wire.delayed, "delayed frame"),
            (wire.cut, "frame that was cut off"),
        ] {
            if count == 0 {
                return failed(format!("there was no {what}: the run proves nothing"));
            }
        }
        Ok(())
    }
}
