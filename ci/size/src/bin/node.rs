//! A whole node: protocol, flash log, wire, snapshots, membership; the application is the user's own.

#![no_std]
#![no_main]

use quorate::node::Node;

size::keep_node!();
