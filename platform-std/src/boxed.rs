//! Nodes, logs and maps of whatever size, on the heap: the capacity of each is a number of its type, so there are a few sizes to
//! choose from.

use quorate::log::Log;
use quorate::node::Node;
use quorate::typed::ConfigMap;

/// What each size has beyond a round number: a node keeps room for a piece of a snapshot beside its entries.
const BESIDE: usize = 66 * 1024;

const SIZES: [usize; 5] = [
    (64 << 10) + BESIDE,
    (256 << 10) + BESIDE,
    (1 << 20) + BESIDE,
    (4 << 20) + BESIDE,
    (16 << 20) + BESIDE,
];

/// The largest that there is.
pub(crate) const BYTES_MAX: usize = SIZES[4] - BESIDE;

fn size_for(bytes: usize) -> usize {
    SIZES.iter().position(|size| bytes + BESIDE <= *size).unwrap_or(4)
}

/// Bytes that [`node`] has for its log, all in all.
#[cfg(feature = "node")]
pub(crate) fn capacity(log_bytes: usize) -> usize {
    SIZES[size_for(log_bytes)]
}

/// Values of this size are made where there is room for them: some come by the stack.
fn on_large_stack<T: Send>(bytes: usize, make: fn() -> T) -> T {
    if bytes <= SIZES[1] {
        return make();
    }
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(4 * bytes + (1 << 20));
        let made = builder.spawn_scoped(scope, make).map(std::thread::ScopedJoinHandle::join);
        match made {
            Ok(Ok(made)) => made,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // The address space is used up: what can't be had can't be had.
            Err(error) => panic!("no memory for {bytes} bytes: {error}"),
        }
    })
}

macro_rules! of_size {
    ($bytes:expr, $type:ident, $kind:ty) => {{
        let bytes: usize = $bytes;
        match size_for(bytes) {
            0 => on_large_stack(SIZES[0], || -> Box<$kind> {
                Box::new($type::<[u8; SIZES[0]]>::new())
            }),
            1 => on_large_stack(SIZES[1], || -> Box<$kind> {
                Box::new($type::<[u8; SIZES[1]]>::new())
            }),
            2 => on_large_stack(SIZES[2], || -> Box<$kind> {
                Box::new($type::<[u8; SIZES[2]]>::new())
            }),
            3 => on_large_stack(SIZES[3], || -> Box<$kind> {
                Box::new($type::<[u8; SIZES[3]]>::new())
            }),
            _ => on_large_stack(SIZES[4], || -> Box<$kind> {
                Box::new($type::<[u8; SIZES[4]]>::new())
            }),
        }
    }};
}

/// A node that is off, with a log of so many bytes or more, [`BYTES_MAX`] at most.
pub(crate) fn node(log_bytes: usize) -> Box<Node> {
    of_size!(log_bytes, Node, Node)
}

/// A log of so many bytes or more.
pub(crate) fn log(bytes: usize) -> Box<Log> {
    of_size!(bytes, Log, Log)
}

/// A map with an array of so many bytes or more.
pub(crate) fn map(bytes: usize) -> Box<ConfigMap> {
    of_size!(bytes, ConfigMap, ConfigMap)
}
