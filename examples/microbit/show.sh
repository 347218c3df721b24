#!/bin/sh
# What `cargo run` does with the firmware: the host's part is in the package `ci`.
cd "$(dirname "$0")/../.." && exec cargo ci show "$1"
