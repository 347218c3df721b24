//! Drives [`Node`]: every method, every output.

use quorate::change::{Step, Transition, What};
use quorate::config::{Config, Flash, Link};
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::membership::{Address, Member};
use quorate::node::{
    Boot, Founding, Limits, Node, Output, entry_bytes_max, flash_buffer_bytes_min, live_bytes,
    log_bytes_max,
};
use quorate::{ClusterId, Generation, Instant, NodeId, NodeSet};

use crate::port::{byte, fill, flag, half, show, size, some, some_mut, wide, word};

/// One input or one output, chosen from outside.
#[inline(never)]
pub fn drive(node: &mut Node, frame: &mut [u8], flash: &mut [u8]) {
    let now = instant();
    match byte() {
        0 => show(node.start(now, &config(), Boot::Mount)),
        1 => {
            let members = [member(), member(), member()];
            show(node.start(now, &config(), Boot::Found(&founding(&members))));
        }
        2 => {
            fill(frame);
            node.handle_frame(now, some(frame));
        }
        3 => node.handle_timeout(now),
        4 => node.handle_flash(now, if flag() { FlashDone::Ok } else { FlashDone::Failed }),
        5 => node.handle_snapshot(size()),
        6 => node.refuse_apply(half()),
        7 => {
            fill(frame);
            show(node.propose(some(frame)));
        }
        8 => node.handle_unreachable(id()),
        9 => show(node.status()),
        10 => show(node.limits()),
        11 => show(node.members()),
        12 => crate::layers::look(node.raft()),
        13 => show((entry_bytes_max(half()), flash_buffer_bytes_min(half()))),
        14 => show(log_bytes_max(size(), half())),
        15 => show(live_bytes(word(), &limits(), &geometry())),
        16 => {
            let cluster = ClusterId(word().to_le_bytes());
            show(node.start(now, &config(), Boot::Join { cluster, node: id(), nonce: word() }));
        }
        17 => show(node.change_members(transition(), &[step(), step()], flag())),
        18 => {
            node.remember(half());
            node.hold_erases(flag());
            let note = node.status().note;
            show((note.fault(), note.own(), node.status().flash.wear.erases(byte())));
            show(node.status().flash.wear.life_left_percent(word()));
            show(node.status().flash.wear.most());
        }
        19 => show(node.transfer_leader(now, id())),
        20 => {
            if let Ok(read) = node.read(now, flag()) {
                show(read);
                node.cancel_read(read);
            }
        }
        21 => node.handle_clock_stopped(),
        22 => {
            fill(frame);
            let until = instant();
            match node.forward(some(frame), until) {
                Ok(id) => show(node.forward_again(id, some(frame), until)),
                Err(error) => show(error),
            }
        }
        23 => {
            let cluster = ClusterId(word().to_le_bytes());
            show(node.start(now, &config(), Boot::Recover { cluster }));
        }
        _ => output(node, now, frame, flash),
    }
}

#[inline(never)]
fn output(node: &mut Node, now: Instant, frame: &mut [u8], flash: &mut [u8]) {
    let output = node.poll_output(now, some_mut(frame), some_mut(flash));
    if flag() {
        return crate::typed::drive(node, &output, frame, flash);
    }
    match output {
        Output::Flash(FlashOp::Read { offset, len }) => {
            fill(flash);
            show((offset, len));
        }
        Output::Flash(FlashOp::Write { offset, len }) => show((offset, len, &flash)),
        Output::Flash(FlashOp::Erase { offset, len }) => show((offset, len)),
        Output::Transmit { to, len } => show((to, frame.get(..len))),
        Output::Apply { id, len } => show((id, frame.get(..len))),
        Output::TakeSnapshot { offset, at, len_max } => {
            fill(flash);
            show((offset, at, len_max));
        }
        Output::RestoreSnapshot { offset, at, len, last } => {
            show((offset, at, len, last, &flash));
        }
        Output::ReadReady(id) => show(id),
        Output::Proposed { id, outcome } => show((id, outcome)),
        Output::Event(event) => show(event),
        Output::Wait { until } => show(until),
    }
}

pub fn instant() -> Instant {
    Instant::from_millis(wide())
}

pub fn id() -> NodeId {
    match NodeId::new(byte()) {
        Some(id) => id,
        None => id(),
    }
}

pub fn set() -> NodeSet {
    [id(), id()].into_iter().collect()
}

pub fn member() -> Member {
    let mut address = Address::new();
    let _ = address.extend_from_slice(&wide().to_le_bytes());
    let generation = Generation(half());
    Member {
        id: id(),
        generation,
        address,
        nonce: word(),
        returning: flag(),
        session: word(),
        commands: word(),
    }
}

fn founding<'a>(members: &'a [Member]) -> Founding<'a> {
    let limits = limits();
    let cluster = ClusterId(word().to_le_bytes());
    let members = members.get(..size()).unwrap_or(members);
    Founding { cluster, node: id(), members, limits, erase_anyway: flag() }
}

fn limits() -> Limits {
    Limits { frame_bytes: half(), entry_bytes: half(), log_bytes: word(), snapshot_bytes: word() }
}

pub fn geometry() -> Geometry {
    Geometry {
        word_bytes: byte(),
        erased: byte(),
        page_bytes: half(),
        block_bytes: word(),
        blocks_per_segment: half(),
        segments: byte(),
    }
}

pub fn config() -> Config {
    let link = Link {
        bits_per_second: word(),
        frame_bytes: half(),
        fragment_bytes: half(),
        overhead_bytes: half(),
        turnaround_us: word(),
        duty_permille: half(),
        broadcast: flag(),
    };
    let flash =
        Flash { geometry: geometry(), word_us: word(), erase_ms_max: word(), stalls: flag() };
    show((link.air_us(half()), flash.write_us(half())));
    let mut config = Config::new(link, flash, byte(), wide());
    config.election_ms = word();
    config.heartbeat_ms = word();
    config.pre_vote = flag();
    config.check_quorum = flag();
    config.lease_clock_error_permille = flag().then(half);
    show(config.check());
    config
}

/// A step of a change of membership.
pub fn step() -> Step {
    let what = match byte() {
        0 => What::AddVoter,
        1 => What::AddLearner,
        2 => What::Remove,
        3 => What::Update,
        _ => What::Admit { nonce: word() },
    };
    Step { address: Address::new(), ..Step::new(what, id()) }
}

/// How a change is gone about.
pub fn transition() -> Transition {
    match byte() {
        0 => Transition::Auto,
        1 => Transition::Implicit,
        _ => Transition::Explicit,
    }
}
