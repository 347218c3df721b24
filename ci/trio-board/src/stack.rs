//! How deep the stack was: the start code has painted it.

use core::ptr;

unsafe extern "C" {
    static _stack_end: u32;
    static _stack_start: u32;
}

fn ends() -> (*const u32, *const u32) {
    (&raw const _stack_end, &raw const _stack_start)
}

/// All of it.
pub fn bytes() -> usize {
    let (end, start) = ends();
    start.addr() - end.addr()
}

/// What was used at the worst, by what is left of the paint.
pub fn depth() -> usize {
    let (end, _) = ends();
    let words = bytes() / 4;
    // SAFETY: words of the stack's own memory, which nobody changes meanwhile where the paint is left.
    let painted =
        |at: &usize| unsafe { ptr::read_volatile(end.add(*at)) == cortex_m_rt::STACK_PAINT_VALUE };
    (words - (0..words).take_while(painted).count()) * 4
}
