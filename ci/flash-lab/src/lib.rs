//! NOR flash at its worst, a board on it that knows what it must not forget, and the lives that it leads.
//!
//! The tests of the core and the campaigns of `cargo ci` share it. It uses the public API of the flash log alone:
//! whoever has another fault model can put it under the same log in the same way
//! (`core/examples/own_fault_model.rs`).
//!
//! What must never happen is a panic, whose text begins with the number of the rule in `core/docs/invariants.md`:
//! `F1` for a word programmed twice or an operation out of bounds, `F2` for a log that refuses or stops, `I7` for
//! something acknowledged or shown that is gone.

/// Panics, with the number of the rule that does not hold.
macro_rules! ensure {
    ($holds:expr, $rule:literal, $($text:tt)+) => {
        if !$holds {
            panic!("{}: {}", $rule, format_args!($($text)+));
        }
    };
}

pub mod board;
pub mod flash;
pub mod history;
pub mod image;
pub mod lies;
pub mod life;
pub mod load;
pub mod random;
pub mod rot;
