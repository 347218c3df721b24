//! One hash over everything: FNV-1a of 64 bits, which shares no code with the checksums of the core.

use core::fmt::{self, Write};

/// The hash so far.
#[derive(Clone, Copy)]
pub(crate) struct Trace(pub(crate) u64);

impl Trace {
    pub(crate) const NEW: Self = Self(0xcbf2_9ce4_8422_2325);

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Whatever can be told in words: all of its fields count.
    pub(crate) fn told(&mut self, what: fmt::Arguments<'_>) {
        // Hashing does not fail.
        let _ = self.write_fmt(what);
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_are_the_published_ones() {
        let of = |bytes: &[u8]| {
            let mut trace = Trace::NEW;
            trace.bytes(bytes);
            trace.0
        };
        assert_eq!(of(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(of(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
