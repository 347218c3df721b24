//! The words of the transcripts. Boards are numbers, `*` is all of them; times are milliseconds.
//!
//! | command | what it does |
//! |---|---|
//! | `cluster N [log=BYTES] [frame=BYTES] [pre-vote=no] [check-quorum=no]` | a cluster of N boards, first of all |
//! | `logs 1,1,2 / 1,1 / …` | the boards start with logs of entries of these terms |
//! | `log-bytes N BYTES` | board N starts anew with a log of another size |
//! | `campaign N`, `timeout N`, `tick N MS` | stand for election; wait for the next deadline; let time pass |
//! | `propose N "data"`, `propose N BYTES bytes` | a command |
//! | `deliver A->B`, `drop A->B`, `repeat A->B`, `reverse A->B` | what is on its way there now: arrives, is lost, comes twice, overtakes |
//! | `cut A->B`, `isolate N`, `heal` | links that lose everything |
//! | `stabilize`, `beat N` | deliver until all is quiet; a heartbeat and all that comes of it |
//! | `storage N manual`, `storage N auto` | who says when flash has written |
//! | `persist N`, `persist N begins`, `persist N ends` | a flash write |
//! | `restart N` | a power cut and the start after it |
//! | `snapshot N`, `compact N` | a durable snapshot of what is applied; drop what it covers |
//! | `unreachable N M` | N's link to M is reported to be down |
//! | `state`, `log N`, `progress N`, `network` | look |
//! | `quietly COMMAND` | without its output |

use crate::render;
use crate::support::{Cluster, Setup, id};
use quorate::NodeId;

/// Runs a script; what came of it, each command with its output.
pub(crate) fn run(script: &str) -> String {
    let mut cluster: Option<Cluster> = None;
    let mut text = String::new();
    let lines = script.lines().map(str::trim);
    for line in lines.filter(|l| !l.is_empty() && !l.starts_with('#')) {
        text += &format!("> {line}\n");
        let words: Vec<&str> = line.split_whitespace().collect();
        let (quiet, words) = match words.split_first() {
            Some((&"quietly", rest)) => (true, rest.to_vec()),
            _ => (false, words),
        };
        if words[0] == "cluster" {
            cluster = Some(Cluster::new(setup(&words)));
            continue;
        }
        let cluster = cluster.as_mut().expect("a script begins with a cluster");
        command(cluster, line, &words);
        let out = std::mem::take(&mut cluster.out);
        if !quiet {
            out.iter().for_each(|l| text += &format!("  {l}\n"));
        }
    }
    text
}

fn setup(words: &[&str]) -> Setup {
    let mut setup = Setup::new(words[1].parse().expect("a number of boards"));
    for option in &words[2..] {
        match option.split_once('=') {
            Some(("log", bytes)) => setup.log_bytes = bytes.parse().unwrap(),
            Some(("frame", bytes)) => setup.frame_bytes = bytes.parse().unwrap(),
            Some(("pre-vote", "no")) => setup.pre_vote = false,
            Some(("check-quorum", "no")) => setup.check_quorum = false,
            _ => panic!("unknown option {option}"),
        }
    }
    setup
}

fn number(word: &str) -> u8 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no board"))
}

/// `A->B`, either of which may be `*`.
fn link(word: &str) -> (Option<u8>, Option<u8>) {
    let (from, to) = word.split_once("->").unwrap_or_else(|| panic!("{word} is no link"));
    let side = |w: &str| (w != "*").then(|| number(w));
    (side(from), side(to))
}

fn command(cluster: &mut Cluster, line: &str, words: &[&str]) {
    match *words {
        ["logs", ..] => {
            let boards = line["logs".len()..].split('/');
            let terms = |b: &str| -> Vec<u64> {
                b.split(',')
                    .map(str::trim)
                    .filter(|t| !t.is_empty())
                    .map(|t| t.parse().unwrap())
                    .collect()
            };
            let logs: Vec<Vec<u64>> = boards.map(terms).collect();
            let logs: Vec<&[u64]> = logs.iter().map(Vec::as_slice).collect();
            *cluster = Cluster::with_logs(cluster.setup, &logs);
        }
        ["log-bytes", n, bytes] => cluster.resize(number(n), bytes.parse().unwrap()),
        ["campaign", n] => cluster.campaign(number(n)),
        ["timeout", n] => cluster.timeout(number(n)),
        ["tick", "*", ms] => cluster.tick_all(ms.parse().unwrap()),
        ["tick", n, ms] => cluster.tick(number(n), ms.parse().unwrap()),
        ["propose", n, len, "bytes"] => propose(cluster, n, &vec![b'x'; len.parse().unwrap()]),
        ["propose", n, ..] => {
            let data = line.split('"').nth(1).expect("data in quotes");
            propose(cluster, n, data.as_bytes());
        }
        ["deliver", on] => {
            let (from, to) = link(on);
            if cluster.deliver(from, to) == 0 {
                cluster.note("nothing arrives".into());
            }
        }
        ["drop", on] => {
            let (from, to) = link(on);
            let lost = cluster.take(from, to);
            for sent in lost {
                cluster.note(format!("lost: {}", describe(&sent)));
            }
        }
        ["repeat", on] => {
            let (from, to) = link(on);
            let twice = cluster.take(from, to).into_iter().flat_map(|s| [s.clone(), s]);
            cluster.network.extend(twice);
        }
        ["reverse", on] => {
            let (from, to) = link(on);
            let turned = cluster.take(from, to).into_iter().rev();
            cluster.network.extend(turned);
        }
        ["cut", on] => {
            let (from, to) = link(on);
            cluster.cuts.insert((id(from.unwrap()), id(to.unwrap())));
        }
        ["isolate", n] => cluster.isolate(number(n)),
        ["heal"] => cluster.cuts.clear(),
        ["stabilize"] => cluster.stabilize(),
        ["beat", n] => {
            let ms = cluster.setup.heartbeat_ms;
            cluster.tick(number(n), u64::from(ms));
            cluster.stabilize();
        }
        ["storage", n, how] => {
            let n = number(n);
            cluster.board_mut(n).manual = how == "manual";
            cluster.pump(n);
        }
        ["persist", n] => cluster.persist(number(n)),
        ["persist", n, "begins"] => cluster.persist_begins(number(n)),
        ["persist", n, "ends"] => cluster.persist_ends(number(n)),
        ["restart", n] => cluster.restart(number(n)),
        ["snapshot", n] => {
            let id = cluster.snapshot(number(n));
            cluster.note(format!("{n} has a snapshot up to {id:?}"));
        }
        ["compact", n] => cluster.compact(number(n)),
        ["unreachable", n, to] => {
            let n = number(n);
            cluster.board_mut(n).raft.report_unreachable(id(number(to)));
            cluster.pump(n);
        }
        ["state"] => (1..=cluster.setup.boards).for_each(|n| state(cluster, n)),
        ["log", n] => log(cluster, number(n)),
        ["progress", n] => progress(cluster, number(n)),
        ["network"] => {
            let lines: Vec<String> = cluster.network.iter().map(describe).collect();
            lines.into_iter().for_each(|l| cluster.note(l));
        }
        _ => panic!("unknown command: {line}"),
    }
}

fn propose(cluster: &mut Cluster, n: &str, data: &[u8]) {
    match cluster.propose(number(n), data) {
        Ok(id) => cluster.note(format!("proposed as {id:?}")),
        Err(why) => cluster.note(format!("refused: {why}")),
    }
}

fn describe(sent: &crate::support::Sent) -> String {
    let frame = quorate::wire::decode(&sent.bytes).unwrap();
    let text = render::message(&frame.envelope.message, frame.payload);
    format!("{}->{} {text}", sent.from, sent.to)
}

fn state(cluster: &mut Cluster, n: u8) {
    let board = cluster.board(n);
    let raft = &board.raft;
    let name = |id: Option<NodeId>| id.map_or("nobody".into(), |id| id.to_string());
    let line = format!(
        "{n} {} t{}, vote {}, leader {}, last {:?}, durable {}, committed {}, applied {}",
        render::role(raft.role()),
        raft.term(),
        name(raft.vote()),
        name(raft.lead()),
        board.log.last(),
        board.log.durable(),
        raft.commit(),
        raft.applied(),
    );
    cluster.note(line);
}

fn log(cluster: &mut Cluster, n: u8) {
    let board = cluster.board_mut(n);
    let base = board.log.base();
    let entries = board.entries();
    cluster.note(format!("behind {base:?}"));
    entries.iter().for_each(|r| cluster.note(render::record(r)));
}

fn progress(cluster: &mut Cluster, n: u8) {
    for other in (1..=cluster.setup.boards).filter(|other| *other != n) {
        let p = cluster.board(n).raft.progress(id(other)).unwrap();
        let line = format!("{other} {:?}, matched {}, next {}", p.state(), p.matched(), p.next());
        cluster.note(line.to_lowercase());
    }
}
