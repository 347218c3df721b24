#!/bin/sh
# What `cargo run` does with the firmware: the host's part is in the package `ci`.
image=$(realpath "$1")
cd "$(dirname "$0")/../.." && exec cargo run --quiet --release -p ci --features logs -- show "$image"
