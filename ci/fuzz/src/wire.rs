//! Any bytes as frames. Whatever arrives, a node neither stops nor sends nonsense: a fault comes from
//! local evidence only.

use quorate::entry::Entries;
use quorate::wire::{self, Envelope};
use quorate::{EntryId, Index, Term};

use crate::board::{Board, CLUSTER};
use crate::input::Input;

/// Several frames for a board of three.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    decoded_again(data);
    let mut board = Board::founded(1, 3);
    while !input.is_empty() {
        match input.byte() {
            // As they are: almost none passes the check.
            0 => board.frame(input.bytes()),
            1 => board.pass(0),
            2 => board.pass(u32::from(input.half())),
            // Sealed, from a member of the cluster: all of them pass it.
            from => {
                let frame = sealed(from, input.bytes());
                decoded_again(&frame);
                board.frame(&frame);
            }
        }
        let fault = board.status().fault;
        assert!(fault.is_none(), "frames alone have stopped the node: {fault:?}");
    }
}

/// A frame with a good check around any message.
pub fn sealed(from: u8, message: &[u8]) -> Vec<u8> {
    let (head, fields) = message.split_at(message.len().min(2));
    let [kind, flags] = [0, 1].map(|at| head.get(at).copied().unwrap_or_default());
    let mut frame = vec![(wire::VERSION << 5) | (kind & 0x1f), (flags << 5) | (from % 4)];
    frame.extend(CLUSTER.0);
    // To all of three, in the first life of the sender.
    frame.extend([0b111, 1]);
    frame.extend(fields);
    let end = frame.len();
    frame.resize(end + 8, 0);
    let len = wire::seal(&mut frame, end).expect("there is room");
    frame.truncate(len);
    frame
}

/// What can be read can be written, and reads the same again.
fn decoded_again(bytes: &[u8]) {
    let Ok(frame) = wire::decode(bytes) else { return };
    for entry in Entries::new(EntryId::new(Index(1), Term(1)), frame.payload) {
        if entry.is_err() {
            break;
        }
    }
    let envelope: Envelope = frame.envelope;
    let mut again = vec![0; bytes.len() + 16];
    let head = wire::encode(&envelope, &mut again).expect("there is room");
    again[head..head + frame.payload.len()].copy_from_slice(frame.payload);
    let len = wire::seal(&mut again, head + frame.payload.len()).expect("there is room");
    let read = wire::decode(&again[..len]).expect("it was just written");
    assert_eq!((read.envelope, read.payload), (envelope, frame.payload));
}
