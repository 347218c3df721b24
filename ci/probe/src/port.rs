//! Opaque input and output: the compiler knows neither what is read here nor that nobody looks at
//! what is written.

use core::hint::black_box;
use core::ptr;

/// Stands for a device register.
static mut REGISTER: u32 = 0;

/// A word of which nothing is known.
pub fn word() -> u32 {
    // SAFETY: an aligned word of this program's own, on its only thread.
    unsafe { ptr::read_volatile(&raw const REGISTER) }
}

pub fn byte() -> u8 {
    word() as u8
}

pub fn half() -> u16 {
    word() as u16
}

pub fn size() -> usize {
    word() as usize
}

pub fn flag() -> bool {
    word() & 1 != 0
}

pub fn wide() -> u64 {
    u64::from(word()) << 32 | u64::from(word())
}

/// Fills a buffer from outside.
pub fn fill(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|b| *b = byte());
}

/// As much of a buffer as somebody outside likes.
pub fn some(bytes: &[u8]) -> &[u8] {
    bytes.get(..size()).unwrap_or(bytes)
}

/// As [`some`], to write to.
pub fn some_mut(bytes: &mut [u8]) -> &mut [u8] {
    let len = size().min(bytes.len());
    bytes.get_mut(..len).unwrap_or_default()
}

/// Shows a result to the outside, whole.
pub fn show<T>(result: T) {
    black_box(&result);
}

/// Some text of a buffer, if it is one.
pub fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(some(bytes)).unwrap_or_default()
}
