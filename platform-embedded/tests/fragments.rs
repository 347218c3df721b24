//! Fragments: lost, repeated, reordered, of several senders at once.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use core::task::Poll;
use proptest::prelude::*;
use quorate::{Instant, NodeId, NodeSet};
use quorate_embedded::link::{
    Dest, FRAGMENT_HEAD_BYTES, FragmentLink, Link, PARTS_MAX, PacketLink, Radio,
};
use std::collections::{HashMap, VecDeque};

const FRAME_BYTES: usize = 96;

/// A radio that is a list of packets each way.
struct Packets {
    packet_bytes: usize,
    sent: Vec<(Dest, Vec<u8>)>,
    comes: VecDeque<Vec<u8>>,
    /// Each second call finds it busy.
    busy: bool,
}

impl Packets {
    fn new(packet_bytes: usize) -> Self {
        Self { packet_bytes, sent: vec![], comes: VecDeque::new(), busy: false }
    }
}

impl Radio for Packets {
    fn packet_bytes(&self) -> usize {
        self.packet_bytes
    }

    fn transmit(&mut self, to: Dest, packet: &[u8]) -> Poll<()> {
        self.busy = !self.busy;
        if self.busy {
            return Poll::Pending;
        }
        self.sent.push((to, packet.to_vec()));
        Poll::Ready(())
    }

    fn receive(&mut self, packet: &mut [u8]) -> Option<usize> {
        let next = self.comes.pop_front()?;
        packet[..next.len()].copy_from_slice(&next);
        Some(next.len())
    }
}

/// The same, where each packet is for one board.
struct Unicast(Packets);

impl Radio for Unicast {
    const BROADCAST: bool = false;

    fn packet_bytes(&self) -> usize {
        self.0.packet_bytes()
    }

    fn transmit(&mut self, to: Dest, packet: &[u8]) -> Poll<()> {
        self.0.transmit(to, packet)
    }

    fn receive(&mut self, packet: &mut [u8]) -> Option<usize> {
        self.0.receive(packet)
    }
}

fn id(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

fn send(link: &mut impl Link, to: NodeSet, frame: &[u8]) {
    let mut calls = 0;
    while link.send(Instant::ZERO, to, frame).is_pending() {
        calls += 1;
        assert!(calls < 1000, "never sent");
    }
}

/// What each of the senders sends, in packets: each frame says whose it is and which.
fn packets(sender: u8, seed: u16, lens: &[usize], packet_bytes: usize) -> Vec<Vec<Vec<u8>>> {
    let mut memory = vec![0; packet_bytes + FRAME_BYTES];
    let radio = Packets::new(packet_bytes);
    let mut link = FragmentLink::new(radio, id(sender), seed, FRAME_BYTES, &mut memory);
    let mut all = vec![];
    for (n, len) in lens.iter().enumerate() {
        send(&mut link, NodeSet::ALL, &frame(sender, n, *len));
        all.push(link.radio().sent.drain(..).map(|(_, packet)| packet).collect());
    }
    all
}

fn frame(sender: u8, n: usize, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + n * 13) as u8 ^ sender).collect();
    let head = [sender, n as u8];
    let some = len.min(2);
    bytes[..some].copy_from_slice(&head[..some]);
    bytes
}

/// What happens to a packet on its way.
#[derive(Clone, Debug)]
enum Fate {
    Comes,
    Lost,
    Twice,
    /// So many others overtake it.
    Late(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Comes),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        2 => (1usize..12).prop_map(Fate::Late),
    ]
}

proptest! {
    #[test]
    fn whole_frames_come_out_or_nothing(
        packet_bytes in 8usize..60,
        senders in 1u8..5,
        places in 1usize..5,
        seed in any::<u16>(),
        lens in prop::collection::vec(1usize..=FRAME_BYTES, 1..8),
        fates in prop::collection::vec(fate(), 1..200),
        picks in prop::collection::vec(0usize..100, 1..200),
    ) {
        let mut queues: Vec<VecDeque<Vec<u8>>> = (1..=senders)
            .map(|sender| packets(sender, seed, &lens, packet_bytes).into_iter().flatten().collect())
            .collect();
        // Interleaved.
        let mut order = vec![];
        let mut picks = picks.into_iter().cycle();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let from = picks.next().unwrap() % queues.len();
            order.extend(queues[from].pop_front());
            if queues[from].is_empty() && queues.len() > 1 {
                queues.remove(from);
            }
        }
        let mut comes: Vec<(usize, Vec<u8>)> = vec![];
        for ((at, packet), fate) in order.into_iter().enumerate().zip(fates.into_iter().cycle()) {
            match fate {
                Fate::Comes => comes.push((at, packet)),
                Fate::Lost => {}
                Fate::Twice => comes.extend([(at, packet.clone()), (at + 3, packet)]),
                Fate::Late(by) => comes.push((at + by, packet)),
            }
        }
        comes.sort_by_key(|(at, _)| *at);
        let mut memory = vec![0; packet_bytes + FRAME_BYTES * places];
        let mut radio = Packets::new(packet_bytes);
        radio.comes = comes.into_iter().map(|(_, packet)| packet).collect();
        let mut link = FragmentLink::new(radio, id(31), 0, FRAME_BYTES, &mut memory);
        let mut times: HashMap<Vec<u8>, usize> = HashMap::new();
        while let Some(frame) = link.receive(Instant::ZERO) {
            *times.entry(frame.to_vec()).or_default() += 1;
        }
        for (got, times) in times {
            let (sender, n) = (got[0], usize::from(*got.get(1).unwrap_or(&0)));
            if got.len() > 1 {
                prop_assert_eq!(&got, &frame(sender, n, lens[n]), "not what was sent");
                // With a place for each sender, also those that come twice come out once.
                prop_assert!(times == 1 || places < usize::from(senders), "{} times", times);
            }
        }
    }

    #[test]
    fn frames_whose_parts_all_come_in_any_order_come_out(
        packet_bytes in 6usize..60,
        senders in 1u8..=4,
        seed in any::<u16>(),
        lens in prop::collection::vec(1usize..=FRAME_BYTES, 1..30),
        keys in prop::collection::vec(any::<u32>(), 1..200),
    ) {
        let mut memory = vec![0; packet_bytes + FRAME_BYTES * 4];
        let radio = Packets::new(packet_bytes);
        let mut link = FragmentLink::new(radio, id(31), 0, FRAME_BYTES, &mut memory);
        let sent: Vec<_> = (1..=senders).map(|s| packets(s, seed, &lens, packet_bytes)).collect();
        let mut keys = keys.into_iter().cycle();
        for n in 0..lens.len() {
            if lens[n].div_ceil(packet_bytes - FRAGMENT_HEAD_BYTES) > PARTS_MAX {
                prop_assert!(sent[0][n].is_empty());
                continue;
            }
            // One frame of each, all parts of all in any order.
            let parts = sent.iter().flat_map(|frames| frames[n].iter().cloned());
            let mut parts: Vec<_> = parts.map(|part| (keys.next().unwrap(), part)).collect();
            parts.sort_by_key(|(key, _)| *key);
            link.radio().comes.extend(parts.into_iter().map(|(_, part)| part));
            let mut got = vec![];
            while let Some(frame) = link.receive(Instant::ZERO) {
                got.push(frame.to_vec());
            }
            got.sort_by_key(|frame| frame[0]);
            let expected: Vec<_> = (1..=senders).map(|s| frame(s, n, lens[n])).collect();
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn any_bytes_are_taken(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..51), 0..300),
    ) {
        let mut memory = vec![0; 51 + FRAME_BYTES * 3];
        let mut radio = Packets::new(51);
        radio.comes = packets.into();
        let mut link = FragmentLink::new(radio, id(31), 0, FRAME_BYTES, &mut memory);
        while let Some(frame) = link.receive(Instant::ZERO) {
            prop_assert!(!frame.is_empty() && frame.len() <= FRAME_BYTES);
        }
        prop_assert!(link.radio().comes.is_empty());
    }
}

#[test]
fn a_sender_that_starts_again_is_heard_at_once_unless_its_numbers_seem_late() {
    let mut memory = vec![0; 51 + FRAME_BYTES];
    let mut link = FragmentLink::new(Packets::new(51), id(31), 0, FRAME_BYTES, &mut memory);
    let mut heard = |seed: u16, n: usize| {
        let frames = packets(1, seed, &vec![90; n], 51);
        link.radio().comes.extend(frames.into_iter().flatten());
        let mut count = 0;
        while link.receive(Instant::ZERO).is_some() {
            count += 1;
        }
        count
    };
    assert_eq!(heard(8000, 300), 300, "numbers go round");
    assert_eq!(heard(5000, 3), 3);
    assert_eq!(heard(4900, 3), 3);
    // 20 before the last one: the first 19 and the last one itself seem late.
    assert_eq!(heard(4883, 25), 5);
}

#[test]
fn of_more_senders_than_places_the_one_not_heard_for_longest_gives_way() {
    let mut memory = vec![0; 51 + FRAME_BYTES * 2];
    let mut link = FragmentLink::new(Packets::new(51), id(31), 0, FRAME_BYTES, &mut memory);
    let parts: Vec<_> = (1..=3).map(|sender| packets(sender, 0, &[90], 51).remove(0)).collect();
    let mut take = |sender: usize, part: usize| {
        link.radio().comes.push_back(parts[sender - 1][part].clone());
        link.receive(Instant::ZERO).map(|frame| frame[0])
    };
    assert_eq!((take(1, 0), take(2, 0), take(3, 0)), (None, None, None));
    // The first one has lost its place, the other two have not.
    assert_eq!(take(2, 1), Some(2));
    // What is done gives way before what is not, though it was heard later.
    assert_eq!((take(1, 0), take(3, 1), take(1, 1)), (None, Some(3), Some(1)));
}

#[test]
fn timeouts_are_planned_for_what_fragments_leave_of_packets() {
    // BLE without a negotiated MTU; LoRa at its slowest in Europe; CAN-FD with a byte for the length.
    for (name, packet_bytes) in [("ble", 20), ("lora-sf12", 51), ("can-fd", 63)] {
        let link = quorate::plan::link(name).unwrap();
        assert_eq!(usize::from(link.fragment_bytes) + FRAGMENT_HEAD_BYTES, packet_bytes);
        assert!(link.frame_bytes.div_ceil(link.fragment_bytes) as usize <= PARTS_MAX);
    }
}

#[test]
fn a_frame_for_several_is_sent_once_and_one_for_one_board_is_addressed() {
    let several: NodeSet = [id(2), id(5)].into_iter().collect();
    let mut memory = [0; 100];
    let mut link = PacketLink::new(Packets::new(100), &mut memory);
    send(&mut link, several, &[1; 50]);
    send(&mut link, NodeSet::one(id(2)), &[2; 50]);
    send(&mut link, several, &[3; 101]);
    let sent = core::mem::take(&mut link.radio().sent);
    assert_eq!(sent, [(Dest::All, vec![1; 50]), (Dest::One(id(2)), vec![2; 50])]);
    let mut link = PacketLink::new(Unicast(Packets::new(100)), &mut memory);
    send(&mut link, several, &[1; 50]);
    let sent = core::mem::take(&mut link.radio().0.sent);
    assert_eq!(sent, [(Dest::One(id(2)), vec![1; 50]), (Dest::One(id(5)), vec![1; 50])]);
    let mut memory = vec![0; 51 + FRAME_BYTES];
    let radio = Unicast(Packets::new(51));
    let mut link = FragmentLink::new(radio, id(1), 0, FRAME_BYTES, &mut memory);
    send(&mut link, several, &[1; 50]);
    let to: Vec<_> = link.radio().0.sent.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [id(2), id(2), id(5), id(5)].map(Dest::One));
}
