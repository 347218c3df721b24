//! Any sequence of inputs: frames, time, proposals, flash that is slow or fails, power cuts. Nothing
//! panics, nothing goes on without end, the flash is used as flash has to be.

use crate::board::{Board, Temper};
use crate::input::Input;
use crate::wire::sealed;

/// The life of a board, alone or one of three.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let members = if input.byte() & 1 == 0 { 1 } else { 3 };
    let mut board = Board::founded(1, members);
    while !input.is_empty() {
        match input.byte() % 12 {
            0 => board.frame(input.bytes()),
            1 => board.frame(&sealed(input.byte(), input.bytes())),
            2 => echo(&mut board, input.byte()),
            3 => board.pass(0),
            4 => board.pass(u32::from(input.half())),
            5 => _ = board.propose(input.bytes()),
            6 => board.answer(),
            7 => board.prompt = !board.prompt,
            8 => board.temper = Temper::Fails,
            9 => board.reboot(usize::from(input.half())),
            10 => board.misuse(input.byte(), input.half()),
            _ => (1..=30).for_each(|at| _ = board.propose(&[at; 40])),
        }
    }
}

/// A frame that the board itself has sent comes back to it.
fn echo(board: &mut Board, which: u8) {
    let at = usize::from(which) % board.sent.len().max(1);
    if let Some((_, frame)) = board.sent.get(at).cloned() {
        board.frame(&frame);
    }
}
