#![no_std]
//! What a board needs around a [`Node`](quorate::node::Node): links, flash, clocks, and the loop that drives it. All of it over
//! traits; no HAL, no allocator, no unsafe code.
//!
//! | module | what it is |
//! |---|---|
//! | [`link`] | serial lines over `embedded-io` and `embedded-io-async`; packet radios, also those with packets smaller than a frame |
//! | [`flash`] | the log's partition over `embedded-storage` and `embedded-storage-async`, apart from the program |
//! | [`clock`] | plain hardware timers, embassy-time |
//! | [`identity`] | the page that tells a board who it is, from `quorate provision` |
//! | [`power`] | the brown-out warning, reasons of a reset |
//! | [`runner`] | [`SuperLoop`](runner::SuperLoop) for loops and RTIC, [`Runner`](runner::Runner) with [`Handle`](runner::Handle)s for async |
//! | [`faulty`] | links and flash that misbehave by a seed, on a board as in a test |
//!
//! Features: `async` (on by default), `embassy-time`, `defmt`.
//!
//! # A board in a super-loop
//!
//! A lamp that all boards agree on, and a button on each that switches it. What `hal` stands for is the board's own: a UART with
//! `embedded-io`, a timer, flash with `embedded-storage`, two pins, and what this board was told when it was set up.
//!
//! ```no_run
//! # mod hal {
//! #     use core::convert::Infallible;
//! #     pub struct Uart;
//! #     impl embedded_io::ErrorType for Uart { type Error = Infallible; }
//! #     impl embedded_io::Read for Uart { fn read(&mut self, _: &mut [u8]) -> Result<usize, Infallible> { Ok(0) } }
//! #     impl embedded_io::ReadReady for Uart { fn read_ready(&mut self) -> Result<bool, Infallible> { Ok(false) } }
//! #     impl embedded_io::Write for Uart {
//! #         fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> { Ok(bytes.len()) }
//! #         fn flush(&mut self) -> Result<(), Infallible> { Ok(()) }
//! #     }
//! #     impl embedded_io::WriteReady for Uart { fn write_ready(&mut self) -> Result<bool, Infallible> { Ok(true) } }
//! #     pub struct Nvmc;
//! #     impl embedded_storage::nor_flash::ErrorType for Nvmc { type Error = Infallible; }
//! #     impl embedded_storage::nor_flash::ReadNorFlash for Nvmc {
//! #         const READ_SIZE: usize = 1;
//! #         fn read(&mut self, _: u32, _: &mut [u8]) -> Result<(), Infallible> { Ok(()) }
//! #         fn capacity(&self) -> usize { 256 * 1024 }
//! #     }
//! #     impl embedded_storage::nor_flash::NorFlash for Nvmc {
//! #         const WRITE_SIZE: usize = 4;
//! #         const ERASE_SIZE: usize = 1024;
//! #         fn erase(&mut self, _: u32, _: u32) -> Result<(), Infallible> { Ok(()) }
//! #         fn write(&mut self, _: u32, _: &[u8]) -> Result<(), Infallible> { Ok(()) }
//! #     }
//! #     pub fn timer() -> u32 { 0 }
//! #     pub fn button_pressed() -> bool { false }
//! #     pub fn lamp(_: bool) {}
//! #     pub fn entropy() -> u64 { 1 }
//! #     pub fn reset_reason() -> u16 { 1 }
//! #     pub fn boot() -> quorate::node::Boot<'static> { quorate::node::Boot::Mount }
//! #     pub fn program_end() -> u32 { 0x8000 }
//! # }
//! use quorate::config::{Config, Flash};
//! use quorate::flash::Geometry;
//! use quorate::node::Node;
//! use quorate::plan;
//! use quorate::typed::{Command, ConfigMap, MapLimits, Value};
//! use quorate_embedded::clock::CounterClock;
//! use quorate_embedded::flash::Partition;
//! use quorate_embedded::link::Serial;
//! use quorate_embedded::runner::{News, Parts, SuperLoop};
//! use static_cell::ConstStaticCell;
//!
//! const SCHEMA: u16 = 1;
//! const MAP: MapLimits = MapLimits { keys: 8, key_bytes: 12, value_bytes: 16, bytes: 256 };
//! const PARTITION: u32 = 0x3_8000;
//! const GEOMETRY: Geometry = Geometry {
//!     word_bytes: 4,
//!     erased: 0xff,
//!     page_bytes: 4,
//!     block_bytes: 1024,
//!     blocks_per_segment: 4,
//!     segments: 8,
//! };
//! const FLASH: Flash = Flash { geometry: GEOMETRY, word_us: 46, erase_ms_max: 22, stalls: true };
//!
//! static NODE: ConstStaticCell<Node<[u8; 2048]>> = ConstStaticCell::new(Node::new());
//! static APP: ConstStaticCell<ConfigMap<[u8; 300]>> = ConstStaticCell::new(ConfigMap::new());
//! const LINE_BYTES: usize = Serial::<hal::Uart>::memory_bytes(128);
//! static LINE: ConstStaticCell<[u8; LINE_BYTES]> = ConstStaticCell::new([0; LINE_BYTES]);
//! static FRAME: ConstStaticCell<[u8; 128]> = ConstStaticCell::new([0; 128]);
//! static BUFFER: ConstStaticCell<[u8; 256]> = ConstStaticCell::new([0; 256]);
//!
//! fn main() {
//!     let app: &'static mut ConfigMap = APP.take();
//!     app.start(MAP, SCHEMA, None).unwrap();
//!     let entropy = hal::entropy();
//!     let mut board = SuperLoop::new(Parts {
//!         node: NODE.take(),
//!         app,
//!         link: Serial::new_shared(hal::Uart, LINE.take(), entropy as u32),
//!         // On a Cortex-M: `program_end!(0)`, which asks the linker.
//!         flash: Partition::new(hal::Nvmc, PARTITION, 0..hal::program_end(), &GEOMETRY).unwrap(),
//!         // 24 bits at 16 MHz / 512.
//!         clock: CounterClock::new(hal::timer, 24, 16_000_000, 512).unwrap(),
//!         frame: FRAME.take(),
//!         buffer: BUFFER.take(),
//!         power: None,
//!     });
//!     let config = Config::new(plan::serial(115_200), FLASH, 5, entropy);
//!     board.start(&config, hal::boot()).unwrap();
//!     board.node().remember(hal::reset_reason());
//!     loop {
//!         if let News::Event(event) = board.poll() {
//!             println!("{event:?}"); // Or defmt.
//!         }
//!         if board.app().poll_change().is_some() {
//!             hal::lamp(board.app().get("lamp") == Some(Value::Bool(true)));
//!         }
//!         if hal::button_pressed() {
//!             let on = board.app().get("lamp") != Some(Value::Bool(true));
//!             let command = Command::Set { key: "lamp", value: Value::Bool(on), expected: None };
//!             let (mut bytes, until) = ([0; 48], board.now().after(5_000));
//!             let len = command.encode(SCHEMA, &mut bytes).unwrap();
//!             // Whichever board leads; a refusal tells why, and the button can be pressed again.
//!             let _ = board.node().forward(&bytes[..len], until);
//!         }
//!     }
//! }
//! ```
//!
//! # Async
//!
//! The same parts, with an async link, flash and clock, make a [`Runner`](runner::Runner). One task runs it for ever; any other asks
//! through a [`Handle`](runner::Handle): `handle.forward(command, ms).await`, `handle.read(false).await`, and looks at the application through a
//! [`Shared`](runner::Shared).
//!
//! # What it costs
//!
//! The runners add the state of one frame and one flash operation to the node. RAM is in what they are given: the node's log, two buffers, the
//! link's memory. A [`Desk`](runner::Desk) has [`REQUESTS_MAX`](runner::REQUESTS_MAX) commands and one `Status`.

pub mod clock;
pub mod faulty;
pub mod flash;
pub mod identity;
pub mod link;
pub mod power;
pub mod runner;
