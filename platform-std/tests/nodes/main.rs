//! Real nodes on loopback: in this process by their handles, and as processes of their own.

mod crashes;
mod datagrams;
mod deaths;
mod handles;
mod linear;
mod load;
mod people;
mod process;
mod proxy;
mod table;
mod wires;
