//! One variable of each type that a board keeps or hands about: their sizes are read off the image.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use quorate::event::{Event, Events};
use quorate::log::Log;
use quorate::node::{Node, Output, Status};
use quorate::raft::Raft;
use quorate::typed::ConfigMap;
use quorate::wal::{Mounted, Progress, Wal, Want};
use quorate::wire::Envelope;

macro_rules! measured {
    ($($name:ident: $type:ty),* $(,)?) => {
        $(#[unsafe(no_mangle)] static $name: MaybeUninit<$type> = MaybeUninit::uninit();)*
        size::keep![$(&raw const $name),*];
    };
}

measured! {
    NODE_0: Node<[u8; 0]>,
    WAL: Wal,
    RAFT: Raft,
    EVENTS: Events,
    LOG_0: Log<[u8; 0]>,
    CONFIG_MAP_0: ConfigMap<[u8; 0]>,
    EVENT: Event,
    OUTPUT: Output,
    PROGRESS: Progress,
    WANT: Want,
    MOUNTED: Mounted,
    STATUS: Status,
    ENVELOPE: Envelope,
}
