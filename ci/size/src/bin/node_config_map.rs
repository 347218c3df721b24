//! A whole node and a replicated configuration on it.

#![no_std]
#![no_main]

use quorate::node::{Node, Output};
use quorate::typed::{Command, ConfigMap, serve};

/// What a board's loop hands on.
fn hand_on(
    node: &mut Node,
    map: &mut ConfigMap,
    output: &Output,
    frame: &[u8],
    flash: &mut [u8],
) -> bool {
    serve(node, map, output, frame, flash)
}

size::keep_node!();
size::keep![
    hand_on,
    ConfigMap::start,
    ConfigMap::get,
    ConfigMap::poll_change,
    ConfigMap::outcome,
    Command::encode,
];
