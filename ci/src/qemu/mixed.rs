//! Boards and PCs on one wire: a PC that votes and one that only follows, real processes of `quorate node`, in one cluster with boards under QEMU.

use std::path::Path;
use std::time::Duration;

use quorate::NodeId;
use quorate::membership::Membership;
use quorate_flash_lab::random::Random;
use quorate_std::content::Value;
use quorate_std::image::BoardImage;

use super::board::{Cut, Rig};
use super::cluster::{Cluster, Tally};
use super::hub::{Counts, Faults, Hub};
use super::image::Firmware;
use super::mirror::{self, Mirror, Written};
use super::pc::Pc;
use super::run::{BAUD, provision};
use crate::tools::{Trouble, at, failed};

const BOARDS: usize = 3;
/// Behind the boards there are the PCs: one that votes, and one that follows.
const PLACES: usize = BOARDS + 2;
/// What every direction does while clients write.
const NOISE: Faults =
    Faults { lose: 20, damage: 10, shorten: 10, repeat: 20, delay: 20, delay_ms: 30, cut: false };
/// Keys that the voting PC sets, and nobody else does.
const KEYS: u64 = 3;
/// Longer than a frame is on its way.
const SETTLES_MS: u64 = 200;
/// Longer than an election takes.
const CUT_OFF_MS: u64 = 2000;

/// What has come of it.
pub(super) struct Report {
    pub(super) tally: Tally,
    pub(super) wire: Counts,
    pub(super) dumps: u32,
    /// Writes of the PC's that were acknowledged, and of which nobody knew.
    pub(super) done: u32,
    pub(super) unknown: u32,
    /// Changes that the follower told of, one by one.
    pub(super) mirrored: usize,
    pub(super) stack: [usize; 2],
}

/// Runs it.
pub(super) fn run(
    seed: u64,
    firmwares: &[Firmware],
    program: &Path,
    root: &Path,
    folder: &Path,
) -> Result<Report, Trouble> {
    let mut random = Random(seed);
    let hub = Hub::new(PLACES, folder, random.draw())?;
    let pages = Pages { program, folder, cluster: format!("{:08x}", random.draw() as u32 | 1) };
    pages.make("1,2,3,4", &[])?;
    pages.make("1,2,3,4,5", &["--join", "5"])?;
    let read = |id| {
        let path = pages.of(id);
        std::fs::read(&path).map_err(|error| at(&path, error))
    };
    let boards = [1, 2, 3].map(read).into_iter().collect::<Result<Vec<_>, _>>()?;
    let pc = |id: u8| {
        let wire = hub.socket(usize::from(id) - 1);
        Pc::new(id, program, root, pages.of(id), wire, folder)
    };
    let rig = Rig { firmwares, folder, hub: &hub };
    let mut it = Mixed {
        it: Cluster::new(rig, &boards, random.draw()),
        voter: pc(4)?,
        learner: pc(5)?,
        done: 0,
        unknown: 0,
        acknowledged: Vec::new(),
        mirror: None,
    };
    let ended = it.course();
    let wire = hub.counts();
    ended?;
    if let Some(wrong) = wire.wrong.first() {
        return failed(wrong);
    }
    it.judge()?;
    let lines = it.mirror.as_ref().map(Mirror::lines).unwrap_or_default();
    let mirrored = mirror::check(&lines, &it.acknowledged).map_err(Trouble::Failed)?;
    let report = Report {
        tally: it.it.tally,
        dumps: it.it.judge.dumps,
        done: it.done,
        unknown: it.unknown,
        mirrored,
        stack: it.it.stack(),
        wire,
    };
    report.check()?;
    Ok(report)
}

/// Identity pages, by the program that a person makes them with.
struct Pages<'a> {
    program: &'a Path,
    folder: &'a Path,
    cluster: String,
}

impl Pages<'_> {
    fn of(&self, id: u8) -> std::path::PathBuf {
        self.folder.join(format!("board-{id}.page"))
    }

    fn make(&self, members: &str, more: &[&str]) -> Result<(), Trouble> {
        let limits = provision(BOARDS, quorate::ClusterId([0; 4])).limits;
        let mut command = std::process::Command::new(self.program);
        command.arg("provision").arg(self.folder).args(["--members", members]).args(more);
        command.args(["--cluster", &self.cluster, "--members-max", "5", "--seed", "1"]);
        for (name, value) in [
            ("--link", BAUD),
            ("--frame-bytes", limits.frame_bytes.into()),
            ("--entry-bytes", limits.entry_bytes.into()),
            ("--log-bytes", limits.log_bytes),
            ("--snapshot-bytes", limits.snapshot_bytes),
        ] {
            command.args([name, &value.to_string()]);
        }
        match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => failed(String::from_utf8_lossy(&output.stderr)),
            Err(error) => Err(at(self.program, error)),
        }
    }
}

/// A write on the PC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Put {
    /// It took effect.
    Done,
    /// Nobody knows.
    Unknown,
}

struct Mixed<'a> {
    it: Cluster<'a>,
    voter: Pc,
    learner: Pc,
    done: u32,
    unknown: u32,
    /// Writes that the PC said are done.
    acknowledged: Vec<Written>,
    mirror: Option<Mirror>,
}

impl Mixed<'_> {
    fn course(&mut self) -> Result<(), Trouble> {
        (0..BOARDS).try_for_each(|place| self.it.switch_on(place))?;
        self.start_voter()?;
        self.agree()?;
        self.reach_each_other()?;
        self.admit()?;
        self.under_load()?;
        self.cut_off()?;
        self.without_a_majority()?;
        // Quiet, one last change, and time to say in flash what is committed.
        self.it.load.clear();
        self.it.rig.hub.set_faults(|_, _| Faults::default());
        let last = self.it.fresh();
        self.surely("last", &last)?;
        self.agree()?;
        self.replace()?;
        self.it.run(CUT_OFF_MS)?;
        self.agree_with_follower()
    }

    /// The PC that follows takes the place of the one that votes, by one change: through a joint configuration, which the boards take part in.
    fn replace(&mut self) -> Result<(), Trouble> {
        let Self { it, voter, .. } = self;
        if it.rig.hub.counts().leaders.values().any(|(id, _)| *id == 5) {
            return failed("the PC without a vote led");
        }
        it.until("the PC to lead, and give its place away", 30, |_| {
            let leads = voter.told(&["transfer", "4"])?.succeeds;
            let change = ["member", "promote", "5", "--in-place-of", "4"];
            Ok(leads && voter.told(&change)?.succeeds || voter.has_ended())
        })?;
        it.until("the PC that is no member any more to end", 30, |_| Ok(voter.has_ended()))?;
        self.agree_with_follower()
    }

    fn agree_with_follower(&mut self) -> Result<(), Trouble> {
        let Self { it, learner, .. } = self;
        it.until("boards and PC to agree", 60, |it| Ok(it.agree() && is_like(learner, it)?))
    }

    /// A change by the PC is on every board, and one by a board on the PC.
    fn reach_each_other(&mut self) -> Result<(), Trouble> {
        let on = Value::Bool(true);
        self.surely(quorate_apps::LAMP, &on)?;
        for place in 0..BOARDS {
            self.holds(place, quorate_apps::LAMP, &on)?;
        }
        let place = self.it.random.below(BOARDS as u64) as usize;
        let value = self.it.fresh();
        self.it.set(place, "k0", value.clone())?;
        // The board has been told that it took effect: a linearizable read shows it, and in a moment a local one.
        let got = self.voter.get("k0", false)?;
        if got.as_ref() != Some(&value) {
            return failed(format!("k0 on the PC is {got:?}: board {} set {value:?}", place + 1));
        }
        let Self { it, voter, .. } = self;
        it.until(
            "the PC to have it, too",
            10,
            |_| Ok(voter.get("k0", true)? == Some(value.clone())),
        )
    }

    /// The second PC gets a place without a vote, through the cluster's own admission.
    fn admit(&mut self) -> Result<(), Trouble> {
        let Self { it, voter, learner, .. } = self;
        // A change of members is the leader's, and the boards' firmware has no command for it.
        it.until("the PC to lead, and add a member", 30, |_| {
            let leads = voter.told(&["transfer", "4"])?.succeeds;
            Ok(leads && voter.told(&["member", "add", "5", "--learner"])?.succeeds)
        })?;
        learner.start()?;
        it.until("the PC that follows to answer", 20, |_| {
            learner.runs()?;
            Ok(learner.status()?.is_some())
        })?;
        self.agree_all()?;
        self.mirror = Some(Mirror::of(&self.learner)?);
        let status = self.learner.status()?.unwrap_or_default();
        let counts = &status["counts"]["snapshots_installed"];
        if status["role"] != "learner" || counts.as_u64() < Some(1) {
            return failed(format!(
                "the PC that only follows is {}, by {counts} snapshots",
                status["role"]
            ));
        }
        Ok(())
    }

    /// Boards and the PC write, on a wire with faults; the PC is killed in the middle of it, and a board loses its power.
    fn under_load(&mut self) -> Result<(), Trouble> {
        self.it.rig.hub.set_faults(|_, _| NOISE);
        self.it.load = (0..BOARDS).collect();
        for _ in 0..4 {
            self.put_any()?;
        }
        // While a write of its own is under way.
        let (key, value) = self.any();
        let asked = self.voter.ask(&["put", &key, &value.to_string()])?;
        self.it.run(30)?;
        self.voter.kill();
        self.it.judge.may_take_effect(&key, value);
        self.unknown += 1;
        drop(asked);
        self.judge_pc()?;
        let done = self.it.tally.done;
        self.it.wait("the boards to go on without the PC", 30, |it| it.tally.done > done + 3)?;
        self.start_voter()?;
        for _ in 0..3 {
            self.put_any()?;
        }
        let place = self.it.random.below(BOARDS as u64) as usize;
        self.it.tally.kills += 1;
        self.it.cut(place, Cut::InFlash, true, Some(Duration::from_millis(400)))?;
        for _ in 0..3 {
            self.put_any()?;
        }
        self.it.wait("the board to run again", 30, |it| it.boards[place].watch.state == 1)
    }

    /// The wire between boards and PCs is cut: the boards go on, and what the PC is asked for meanwhile is not acknowledged.
    fn cut_off(&mut self) -> Result<(), Trouble> {
        let is_pc = |place| place >= BOARDS;
        let cut = move |from, to| Faults { cut: is_pc(from) != is_pc(to), ..NOISE };
        self.it.rig.hub.set_faults(cut);
        // What was on its way is there by then.
        self.it.run(SETTLES_MS)?;
        let before = self.revision_of_pc()?;
        let (key, value) = self.any();
        let done = self.it.tally.done;
        self.refused(&key, &value)?;
        self.it.wait("the boards to go on alone", 30, |it| it.tally.done > done + 3)?;
        let after = self.revision_of_pc()?;
        if self.voter.get(&key, true)? == Some(value) || after != before {
            return failed(format!("cut off, the PC went from revision {before} to {after}"));
        }
        self.it.rig.hub.set_faults(|_, _| NOISE);
        self.put_any()
    }

    /// A board and the voting PC are two of four: with the follower they would be three of five.
    fn without_a_majority(&mut self) -> Result<(), Trouble> {
        self.it.load.clear();
        self.it.wait("what was asked to be decided on", 60, |it| it.is_idle())?;
        self.agree_all()?;
        let is_away = |place| place == 1 || place == 2;
        let cut = move |from, to| Faults { cut: is_away(from) != is_away(to), ..Faults::default() };
        self.it.rig.hub.set_faults(cut);
        self.it.run(SETTLES_MS)?;
        let before = self.revision_of_pc()?;
        let (key, value) = self.any();
        self.refused(&key, &value)?;
        let after = self.revision_of_pc()?;
        let follower = self.learner.get(&key, true)?;
        if after != before || follower == Some(value) {
            return failed("two of four committed a change, with one that has no vote");
        }
        Ok(())
    }

    /// Until it answers.
    fn start_voter(&mut self) -> Result<(), Trouble> {
        let Self { it, voter, .. } = self;
        voter.start()?;
        it.until("the PC to answer", 20, |_| {
            voter.runs()?;
            Ok(voter.status()?.is_some())
        })
    }

    /// A key and a value for the PC to set.
    fn any(&mut self) -> (String, Value) {
        (format!("p{}", self.it.random.below(KEYS)), self.it.fresh())
    }

    /// `quorate put`, while the boards go on.
    fn put(&mut self, key: &str, value: &Value, timeout_ms: u64) -> Result<Put, Trouble> {
        let (text, timeout) = (value.to_string(), timeout_ms.to_string());
        let mut asked = self.voter.ask(&["put", key, &text, "--timeout-ms", &timeout])?;
        self.it.wait("`quorate put` to end", 5 + timeout_ms / 1000, |_| asked.has_ended())?;
        let told = asked.told()?;
        if told.succeeds {
            self.it.judge.took_effect(key, value.clone());
            self.done += 1;
            // It is not always known: a snapshot may have come in between.
            let revision = told.out.trim().strip_prefix("revision ");
            if let Some(revision) = revision.and_then(|revision| revision.parse().ok()) {
                self.acknowledged.push((revision, key.to_owned(), value.clone()));
            }
            Ok(Put::Done)
        } else if told.err.contains("unknown") {
            self.it.judge.may_take_effect(key, value.clone());
            self.unknown += 1;
            Ok(Put::Unknown)
        } else {
            failed(format!("`quorate put {key} {text}`: {}", told.err))
        }
    }

    /// One of the PC's keys gets a new value, if it can.
    fn put_any(&mut self) -> Result<(), Trouble> {
        let (key, value) = self.any();
        self.put(&key, &value, 5000).map(|_| ())
    }

    /// The same until it has taken effect.
    fn surely(&mut self, key: &str, value: &Value) -> Result<(), Trouble> {
        for _ in 0..4 {
            if self.put(key, value, 5000)? != Put::Unknown {
                return Ok(());
            }
        }
        failed(format!("{key} could not be set by the PC"))
    }

    /// A write that can't take effect now.
    fn refused(&mut self, key: &str, value: &Value) -> Result<(), Trouble> {
        match self.put(key, value, CUT_OFF_MS)? {
            Put::Unknown => Ok(()),
            Put::Done => failed(format!("the PC has no majority, and says that {key} is set")),
        }
    }

    fn revision_of_pc(&self) -> Result<u64, Trouble> {
        let status = self.voter.status()?.unwrap_or_default();
        match status["revision"].as_u64() {
            Some(revision) => Ok(revision),
            None => failed(format!("the PC does not tell its revision: {status}")),
        }
    }

    /// A board's flash holds this value, in a moment.
    fn holds(&mut self, place: usize, key: &str, value: &Value) -> Result<(), Trouble> {
        self.it.until("a board's flash to hold a change", 20, |it| {
            let (id, flash) = (it.boards[place].id(), it.boards[place].dump()?);
            let board = it.judge.look(id, &flash).map_err(Trouble::Failed)?;
            Ok(board.is_some_and(|board| board.content.get(key) == Some(value)))
        })
    }

    /// Boards and the voting PC hold the same.
    fn agree(&mut self) -> Result<(), Trouble> {
        let Self { it, voter, .. } = self;
        it.until("boards and PC to agree", 60, |it| Ok(it.agree() && is_like(voter, it)?))
    }

    /// And the follower.
    fn agree_all(&mut self) -> Result<(), Trouble> {
        let Self { it, voter, learner, .. } = self;
        it.until("boards and PCs to agree", 60, |it| {
            Ok(it.agree() && is_like(voter, it)? && is_like(learner, it)?)
        })
    }

    /// The voting PC's file, while it is off.
    fn judge_pc(&mut self) -> Result<Option<BoardImage>, Trouble> {
        let image = self.voter.image()?;
        self.it.judge.look_at_log(self.voter.id, &image).map_err(Trouble::Failed)
    }

    /// Does it hold the last value of each key that the PC was told is set, or one that came later and of which nobody knew?
    fn has_last(&self, image: &BoardImage) -> Result<(), Trouble> {
        for (revision, key, value) in &self.acknowledged {
            let found = (image.revisions.get(key).copied().unwrap_or(0), image.content.get(key));
            if found.0 < *revision || found.0 == *revision && found.1 != Some(value) {
                let id = image.id();
                return failed(format!(
                    "node {id}: {key} is {found:?}, and {value:?} took effect at revision {revision}"
                ));
            }
        }
        Ok(())
    }

    /// The end: what each has on flash or disk is mounted, and all hold the same, with all that took effect.
    fn judge(&mut self) -> Result<(), Trouble> {
        self.learner.runs()?;
        self.learner.kill();
        let mut images = Vec::new();
        for place in 0..BOARDS {
            self.it.cut(place, Cut::AnyInstant, false, None)?;
            let (id, flash) = (self.it.boards[place].id(), self.it.boards[place].flash.clone());
            images.push((id, self.it.judge.look(id, &flash).map_err(Trouble::Failed)?));
        }
        for pc in [&self.voter, &self.learner] {
            let image = pc.image()?;
            let looked = self.it.judge.look_at_log(pc.id, &image).map_err(Trouble::Failed)?;
            images.push((pc.id, looked));
        }
        let gone = self.voter.id;
        let state = |image: &BoardImage| (image.revision, image.hash, image.status.membership);
        let mut first = None;
        for (id, image) in images {
            let Some(image) = image else {
                return failed(format!("node {id} has no log in the end"));
            };
            self.it.judge.is_complete(&image).map_err(Trouble::Failed)?;
            self.has_last(&image)?;
            let (mut found, expected) = (state(&image), *first.get_or_insert(state(&image)));
            if id == gone {
                // It need not know how its removal ended.
                found.2 = expected.2;
            }
            if found != expected {
                return failed(format!("node {id} holds {found:?}, board 1 {expected:?}"));
            }
            // Who founded is back from its flash or disk each time: nobody was given a place but the follower.
            let generation = image.status.generation.0;
            if (generation == 1) != (id != self.learner.id) {
                return failed(format!("node {id} is of generation {generation} in the end"));
            }
        }
        let Some((revision, _, membership)) = first else { return Ok(()) };
        let ids = |ids: &[u8]| ids.iter().copied().filter_map(NodeId::new).collect();
        if membership != Membership::of_voters(ids(&[1, 2, 3, 5])) {
            return failed(format!("these are the members in the end: {membership:?}"));
        }
        // Each value is new, so that each that took effect has a revision of its own.
        let done = u64::from(self.done + self.it.tally.done);
        let most = done + u64::from(self.unknown + self.it.tally.unknown);
        if revision < done || revision > most {
            return failed(format!(
                "revision {revision}: {done} to {most} changes took effect, each once"
            ));
        }
        Ok(())
    }
}

/// Does it hold what the boards hold?
fn is_like(pc: &Pc, it: &Cluster<'_>) -> Result<bool, Trouble> {
    let Some(board) = it.boards.first().map(|board| board.watch) else { return Ok(false) };
    let status = pc.status()?.unwrap_or_default();
    let is = |name: &str, expected: u32| status[name].as_u64() == Some(expected.into());
    Ok(is("applied", board.applied) && is("revision", board.revision))
}

impl Report {
    /// What did not happen proves nothing.
    fn check(&self) -> Result<(), Trouble> {
        let (tally, wire) = (&self.tally, &self.wire);
        for (count, what) in [
            (u64::from(self.done), "acknowledged write of the PC's"),
            (tally.done.into(), "acknowledged change of a board's"),
            (self.unknown.into(), "write of the PC's without a majority"),
            (self.mirrored as u64, "change that the follower told of"),
            (tally.reloads.into(), "start of a board from a dump"),
            (wire.lost, "lost frame"),
            (wire.damaged, "damaged frame"),
            (wire.repeated, "repeated frame"),
            (wire.cut, "frame that was cut off"),
        ] {
            if count == 0 {
                return failed(format!("there was no {what}: the run proves nothing"));
            }
        }
        if !wire.leaders.values().any(|(id, _)| *id == 4) {
            return failed("the PC never led: the run proves nothing");
        }
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let Self { tally, wire, dumps, done, unknown, mirrored, .. } = self;
        format!(
            "  {} elections, {} by a PC; {done} changes acknowledged to it, {unknown} unknown; {} to boards, {} unknown; {mirrored} told by the follower\n  \
             {dumps} flash dumps and files mounted; {} frames; each to the others: {} lost, {} damaged, {} repeated, {} cut off;",
            wire.leaders.len(),
            wire.leaders.values().filter(|(id, _)| *id == 4).count(),
            tally.done,
            tally.unknown,
            wire.frames,
            wire.lost,
            wire.damaged,
            wire.repeated,
            wire.cut,
        )
    }
}
