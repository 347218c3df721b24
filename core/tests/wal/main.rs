//! The flash log on flash that is sound, cut short, worn or rotten.

mod basic;
mod board;
mod cuts;
mod flash;
mod random;
