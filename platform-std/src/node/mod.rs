//! A real node: the core on a PC, with files for flash and sockets for radio.

pub mod link;
