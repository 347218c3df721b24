//! The storage by itself, on memory whose power goes at any byte: it keeps what it has confirmed or shown, and tells
//! damage.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod board;
mod cuts;
mod damage;
mod founding;
mod medium;
