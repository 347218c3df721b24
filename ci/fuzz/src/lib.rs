//! What the fuzz targets do with their input. Plain functions, so that a crash is debugged, and the
//! corpus run, without a fuzzer.

pub mod board;
pub mod input;
pub mod node;
pub mod wal_image;
pub mod wal_ops;
pub mod wire;
