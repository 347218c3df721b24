//! What `cargo run` in `examples/microbit` shows to a person: three boards come up, the one that leads loses its power, the others go on, it
//! comes back, and its flash holds what theirs do.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quorate::ClusterId;
use quorate_flash_lab::random::Random;
use quorate_std::content::Value;

use super::board::{Cut, Rig};
use super::cluster::Cluster;
use super::hub::{Faults, Hub};
use super::image::Firmware;
use super::logs::Decoder;
use super::{run, temporary};
use crate::tools::{Trouble, at};

/// Boards that are shown.
const BOARDS: usize = 3;
/// A little loss: a wire is a wire.
const NOISE: Faults =
    Faults { lose: 10, damage: 5, shorten: 0, repeat: 0, delay: 0, delay_ms: 0, cut: false };

/// Shows it.
pub(super) fn show(image: &Path) -> Result<(), Trouble> {
    let folder = temporary("show")?;
    let shown = in_folder(image, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    shown
}

fn in_folder(image: &Path, folder: &Path) -> Result<(), Trouble> {
    let mut drawn = [0; 8];
    // What it is like each time is of no matter: no two are the same.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    drawn.copy_from_slice(&now.map_or(0, |now| now.as_nanos() as u64).to_le_bytes());
    let mut random = Random(u64::from_le_bytes(drawn));
    let firmware = [Firmware::of(image)?];
    let hub = Hub::new(BOARDS, folder, random.draw())?;
    hub.set_faults(|_, _| NOISE);
    let provision = run::provision(BOARDS, ClusterId((random.draw() as u32).to_le_bytes()));
    let page = |id, entropy| provision.page(id, true, entropy, 0xff).to_vec();
    let pages: Vec<_> = provision.members.iter().map(|id| page(*id, random.draw())).collect();
    let rig = Rig { firmwares: &firmware, folder, hub: &hub };
    let mut it = Cluster::new(rig, &pages, random.draw());
    let paths = it.boards.iter().map(|board| board.log_path(&it.rig)).collect();
    let logs = Logs::follow(image, paths)?;
    course(&mut it)?;
    // What was printed last.
    thread::sleep(Duration::from_millis(300));
    drop(logs);
    Ok(())
}

fn say(what: &str) {
    println!("\n── {what}");
}

fn course(it: &mut Cluster<'_>) -> Result<(), Trouble> {
    say("Three boards get power. Each has an identity page, the same firmware, and blank flash.");
    (0..BOARDS).try_for_each(|place| it.switch_on(place))?;
    it.wait("the first leader", 60, |it| it.agree())?;
    let leader = it.boards.iter().position(|board| board.watch.leads).unwrap_or(0);
    let other = (leader + 1) % BOARDS;
    say(&format!("Board {} is told to switch the lamp on. All boards do.", other + 1));
    it.set(other, quorate_apps::LAMP, Value::Bool(true))?;
    it.wait("all boards to agree", 30, |it| it.agree())?;
    it.run(500)?;

    say(&format!("Board {}, the leader, loses its power inside a flash operation.", leader + 1));
    // Something has to be written meanwhile.
    it.load = vec![other];
    let hit = it.cut(leader, Cut::InFlash, true, None)?;
    it.load.clear();
    let inside = match (hit.write, hit.erase) {
        (true, _) => "in the middle of a word",
        (_, true) => "in the middle of an erase",
        _ => "between two flash operations, this time",
    };
    say(&format!(
        "It was {inside}. The two that are left elect another, and set the lamp to 40 %."
    ));
    it.set(other, quorate_apps::LEVEL, Value::Int(40))?;
    it.run(500)?;

    say(&format!("Board {} gets power again. It mounts its log, and catches up.", leader + 1));
    it.switch_on(leader)?;
    it.wait("all boards to agree", 60, |it| it.agree())?;
    it.run(2500)?;

    say("All lose their power. What does each one's flash hold?");
    for place in 0..BOARDS {
        it.cut(place, Cut::AnyInstant, false, None)?;
        let (id, flash) = (it.boards[place].id(), it.boards[place].flash.clone());
        let Some(image) = it.judge.look(id, &flash).map_err(Trouble::Failed)? else {
            return Err(Trouble::Failed(format!("board {id} has no log")));
        };
        it.judge.is_complete(&image).map_err(Trouble::Failed)?;
        let (status, value) = (&image.status, |key: &str| match image.content.get(key) {
            Some(value) => value.to_string(),
            None => "not set".to_owned(),
        });
        println!(
            "   board {id}: term {}, {} entries committed, lamp {}, level {}, hash {:016x}",
            status.term,
            status.commit,
            value(quorate_apps::LAMP),
            value(quorate_apps::LEVEL),
            image.hash
        );
    }
    Ok(())
}

/// The boards' own logs, printed as they come.
struct Logs {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Logs {
    fn follow(image: &Path, paths: Vec<PathBuf>) -> Result<Self, Trouble> {
        let bytes = std::fs::read(image).map_err(|error| at(image, error))?;
        let mut decoders = Vec::new();
        for _ in &paths {
            decoders.push(Decoder::new(&bytes).map_err(Trouble::Failed)?);
        }
        let ends = Arc::new(AtomicBool::new(false));
        let end = ends.clone();
        let colour = std::io::stdout().is_terminal();
        let thread = thread::spawn(move || {
            let mut read = vec![0u64; paths.len()];
            while !end.load(Ordering::Relaxed) {
                for (n, path) in paths.iter().enumerate() {
                    let bytes = news(path, &mut read[n]);
                    for line in decoders[n].lines(&bytes) {
                        println!("{}", told(n, &line, colour));
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a file has more than before.
fn news(path: &Path, read: &mut u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path)
        && file.seek(SeekFrom::Start(*read)).is_ok()
        && file.read_to_end(&mut bytes).is_ok()
    {
        *read += bytes.len() as u64;
    }
    bytes
}

fn told(board: usize, line: &str, colour: bool) -> String {
    let text = format!("board {} │ {line}", board + 1);
    if colour { format!("\u{1b}[3{}m{text}\u{1b}[0m", 2 + board) } else { text }
}
