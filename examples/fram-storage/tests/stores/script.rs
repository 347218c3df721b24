//! The words of the scripts. Boards are numbers.
//!
//! | command | what it does |
//! |---|---|
//! | `cluster N` | N boards are founded, first of all |
//! | `run MS` | time passes |
//! | `propose N "data"`, `propose N COUNT times` | commands, and all that comes of each without time passing |
//! | `cut N in the next write` | the power goes in it |
//! | `cut N once durable` | the power goes when more entries are durable, before the board says so |
//! | `cut N in operation K` | the power goes in the operation after K others |
//! | `off N`, `restart N` | a power cut while nothing happens; the start after a cut |
//! | `isolate N`, `heal` | a board that hears nobody and is not heard |
//! | `damage N`, `fill N` | a bit that matters flips; somebody else's data is all over the memory |
//! | `remember N NUMBER`, `remembered N` | a number of the board's own, which it keeps; what it has kept |
//! | `found N` | the founding once more |
//! | `kept`, `state`, `commands` | look: at what is stored, at everything, at what was applied |
//! | `quietly COMMAND` | without its output |
//!
//! A script that begins with `for K in 0..N` is run N times, until the power does not go any more. Only what the last
//! command tells is looked at, and has to be the same each time.

use crate::cluster::{Cluster, When, commands, id, role};
use crate::media::Medium;
use quorate::NodeSet;

/// Runs a script; what came of it, each command with its output.
pub(crate) fn run<M: Medium>(script: &str) -> String {
    let lines = script.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let Some(count) = lines[0].strip_prefix("for K in 0..") else {
        return told(&outputs::<M>(&lines, None));
    };
    let mut outputs = (0..count.parse().unwrap()).map(|k| (k, outputs::<M>(&lines[1..], Some(k))));
    let (_, mut first) = outputs.next().unwrap();
    let (last, rest) = first.split_last_mut().unwrap();
    let mut cut = false;
    for (k, other) in outputs {
        assert_eq!(*last, other[rest.len()], "with K = {k}");
        cut = told(&other).contains("loses its power");
    }
    assert!(!cut, "there are more than {count} operations");
    rest.iter_mut().for_each(|(_, out)| out.clear());
    told(&[&[(lines[0].to_owned(), vec![])], &*first].concat())
}

type Told = (String, Vec<String>);

fn told(outputs: &[Told]) -> String {
    let text = |(line, out): &Told| {
        let out: String = out.iter().map(|line| format!("  {line}\n")).collect();
        format!("> {line}\n{out}")
    };
    outputs.iter().map(text).collect()
}

fn outputs<M: Medium>(lines: &[&str], k: Option<u32>) -> Vec<Told> {
    let mut cluster: Option<Cluster<M>> = None;
    let run = |line: &&str| {
        let k = k.map_or("K".to_owned(), |k| k.to_string());
        let words: Vec<&str> = line.split(' ').map(|w| if w == "K" { &k } else { w }).collect();
        let (quiet, words) = match words.split_first() {
            Some((&"quietly", rest)) => (true, rest.to_vec()),
            _ => (false, words),
        };
        match (&mut cluster, words[0]) {
            (_, "cluster") => cluster = Some(Cluster::new(words[1].parse().unwrap())),
            (Some(cluster), _) => command(cluster, line, &words),
            (None, _) => panic!("a script begins with a cluster"),
        }
        let out = cluster.as_mut().map(|cluster| std::mem::take(&mut cluster.out));
        ((*line).to_owned(), out.filter(|_| !quiet).unwrap_or_default())
    };
    lines.iter().map(run).collect()
}

fn command<M: Medium>(cluster: &mut Cluster<M>, line: &str, words: &[&str]) {
    let board = |n: &str| n.parse().unwrap_or_else(|_| panic!("{n} is no board"));
    match *words {
        ["run", ms] => cluster.run(ms.parse().unwrap()),
        ["propose", n, count, "times"] => {
            for i in 0..count.parse::<u32>().unwrap() {
                propose(cluster, board(n), &format!("no. {i}"));
            }
        }
        ["propose", n, ..] => {
            propose(cluster, board(n), line.split('"').nth(1).expect("data in quotes"));
        }
        ["cut", n, "in", "the", "next", "write"] => {
            cluster.host(board(n)).when = When::NextWrite;
        }
        ["cut", n, "once", "durable"] => {
            let durable = cluster.node(board(n)).status().durable.0;
            cluster.host(board(n)).when = When::Durable(durable);
        }
        ["cut", n, "in", "operation", k] => {
            cluster.host(board(n)).when = When::Operation(k.parse().unwrap());
        }
        ["off", n] => cluster.power_goes(board(n)),
        ["restart", n] => {
            cluster.restart(board(n));
            cluster.settle();
        }
        ["remember", n, number] => {
            cluster.node(board(n)).remember(number.parse().unwrap());
            cluster.settle();
        }
        ["remembered", n] => {
            let own = cluster.node(board(n)).status().note.own();
            cluster.note(board(n), &format!("remembers {own}"));
        }
        ["found", n] => cluster.found(board(n)),
        ["isolate", n] => cluster.isolated.insert(id(board(n))),
        ["heal"] => cluster.isolated = NodeSet::EMPTY,
        ["damage", n] => cluster.host(board(n)).medium.damage(),
        ["fill", n] => cluster.host(board(n)).medium.fill(),
        ["kept" | "state" | "commands"] => {
            (1..=cluster.hosts.len() as u8).for_each(|n| look(cluster, n, words[0]));
        }
        _ => panic!("unknown command: {line}"),
    }
}

fn propose<M: Medium>(cluster: &mut Cluster<M>, n: u8, data: &str) {
    let Some(node) = &mut cluster.host(n).node else {
        return cluster.note(n, "has no power");
    };
    match node.propose(data.as_bytes()) {
        Ok(id) => cluster.note(n, &format!("proposes {data:?} as {id:?}")),
        Err(why) => cluster.note(n, &format!("refuses {data:?}: {why}")),
    }
    cluster.settle();
}

fn look<M: Medium>(cluster: &mut Cluster<M>, n: u8, what: &str) {
    let all = commands(&cluster.host(n).state);
    let Some(node) = &cluster.host(n).node else {
        return cluster.note(n, "has no power");
    };
    let status = node.status();
    if status.fault.is_some() {
        return cluster.note(n, "has stopped");
    }
    let commands = match all.len() {
        0..=6 => format!("{all:?}"),
        count => format!("{count} commands, the last {:?}", all[count - 1]),
    };
    let vote = node.raft().vote().map_or("nobody".into(), |id| id.to_string());
    let (term, last, snapshot) = (status.term, status.last, status.snapshot);
    let kept = format!("t{term}, vote {vote}, snapshot {snapshot:?}, log up to {last:?}");
    let commit = status.commit;
    let text = match what {
        "kept" => kept,
        "commands" => commands,
        _ => format!("{} {kept}, committed {commit}: {commands}", role(status.role)),
    };
    cluster.note(n, &text);
}
