//! The flash log, with the log in RAM that it writes from and loads into.

#![no_std]
#![no_main]

use quorate::wal::Wal;

size::keep_log!();
size::keep![
    Wal::mount,
    Wal::format,
    Wal::poll,
    Wal::handle,
    Wal::is_busy,
    Wal::durable,
    Wal::snapshot,
    Wal::begin_snapshot,
    Wal::put_chunk,
    Wal::end_snapshot,
    Wal::abort_snapshot,
    Wal::read_snapshot,
    Wal::wants_snapshot,
    Wal::status,
    Wal::reserve,
];
