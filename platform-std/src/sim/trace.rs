//! Every input and output of every board, one line each, and the hash of exactly these bytes.
//!
//! The first line holds the options of the run. Every other line is `TIME BOARD DIRECTION WHAT`: the
//! time in µs, the board's number (0: the world itself), `<` for what a board was given and `>` for
//! what it answered.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, BufRead, Write};

/// Lines kept for the report of a violation.
const TAIL_LINES: usize = 30;
/// Bytes of a line that are kept there.
const TAIL_BYTES: usize = 180;

/// FNV-1a, 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Hashes on over `bytes`.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of `bytes` alone.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.add(bytes);
        hash.0
    }
}

/// Bytes in hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 128];
        for chunk in self.0.chunks(64) {
            for (pair, byte) in text.chunks_mut(2).zip(chunk) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
            f.write_str(std::str::from_utf8(&text[..chunk.len() * 2]).unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Where lines go besides the hash.
enum Sink {
    Nowhere,
    File(Box<dyn Write>),
    /// Lines to be the same; how many were.
    Compare(Box<dyn BufRead>),
}

/// The first line that differs in a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its number, from 1.
    pub line: u64,
    /// What the file holds; empty if it ended.
    pub expected: String,
    /// What the run said; empty if it ended.
    pub found: String,
}

/// The record of one run.
pub struct Trace {
    hash: Fnv,
    lines: u64,
    line: String,
    tail: VecDeque<String>,
    sink: Sink,
    failed: Option<io::Error>,
    difference: Option<Difference>,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            hash: Fnv::default(),
            lines: 0,
            line: String::new(),
            tail: VecDeque::new(),
            sink: Sink::Nowhere,
            failed: None,
            difference: None,
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Trace {
    /// A trace that is also written to `file`.
    pub fn to(file: Box<dyn Write>) -> Self {
        Self { sink: Sink::File(file), ..Self::default() }
    }

    /// A trace that is compared with `lines`.
    pub fn against(lines: Box<dyn BufRead>) -> Self {
        Self { sink: Sink::Compare(lines), ..Self::default() }
    }

    /// Adds a line, its end not included.
    pub fn line(&mut self, what: fmt::Arguments<'_>) {
        self.add(what, true);
    }

    /// Adds a line that would only fill the report of a violation: reading flash, waiting.
    pub fn quiet(&mut self, what: fmt::Arguments<'_>) {
        self.add(what, false);
    }

    fn add(&mut self, what: fmt::Arguments<'_>, tells: bool) {
        self.line.clear();
        // Writing into a string does not fail.
        let _ = self.line.write_fmt(what);
        if tells {
            self.keep();
        }
        self.line.push('\n');
        self.hash.add(self.line.as_bytes());
        self.lines += 1;
        match &mut self.sink {
            Sink::Nowhere => {}
            Sink::File(file) => {
                if self.failed.is_none() {
                    self.failed = file.write_all(self.line.as_bytes()).err();
                }
            }
            Sink::Compare(_) => self.compare(),
        }
    }

    fn keep(&mut self) {
        let mut kept = match self.tail.len() {
            0..TAIL_LINES => String::with_capacity(TAIL_BYTES + 8),
            _ => self.tail.pop_front().unwrap_or_default(),
        };
        kept.clear();
        match self.line.char_indices().nth(TAIL_BYTES) {
            Some((at, _)) => kept.extend([&self.line[..at], " …"]),
            None => kept.push_str(&self.line),
        }
        self.tail.push_back(kept);
    }

    fn compare(&mut self) {
        if self.difference.is_some() {
            return;
        }
        let expected = match self.next_expected() {
            Ok(line) => line,
            Err(error) => return self.failed = Some(error),
        };
        let found = self.line.trim_end_matches('\n');
        if expected.as_deref() != Some(found) {
            let (line, found) = (self.lines, found.to_owned());
            let expected = expected.unwrap_or_default();
            self.difference = Some(Difference { line, expected, found });
        }
    }

    fn next_expected(&mut self) -> io::Result<Option<String>> {
        let Sink::Compare(lines) = &mut self.sink else {
            return Ok(None);
        };
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(line.trim_end_matches('\n').to_owned()))
    }

    /// The run is over: the first difference from what it was compared with.
    ///
    /// # Errors
    /// The file could not be written or read.
    pub fn finish(&mut self) -> io::Result<Option<Difference>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Sink::File(file) = &mut self.sink {
            file.flush()?;
        }
        if self.difference.is_none()
            && let Some(expected) = self.next_expected()?
        {
            let line = self.lines + 1;
            self.difference = Some(Difference { line, expected, found: String::new() });
        }
        Ok(self.difference.clone())
    }

    /// Has the run already left the path that it was compared with?
    pub const fn differs(&self) -> bool {
        self.difference.is_some()
    }

    /// The hash of every line so far.
    pub const fn hash(&self) -> u64 {
        self.hash.0
    }

    /// The last lines, long ones cut.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_hash_is_that_of_the_bytes_in_the_file() {
        let file = Shared::default();
        let mut trace = Trace::to(Box::new(file.clone()));
        let mut silent = Trace::default();
        for i in 0..100u32 {
            for trace in [&mut trace, &mut silent] {
                trace.line(format_args!("{i} 1 < frame {}", Hex(&i.to_le_bytes().repeat(40))));
            }
        }
        assert_eq!(trace.finish().unwrap(), None);
        assert_eq!(trace.hash(), Fnv::of(&file.0.borrow()));
        assert_eq!(trace.hash(), silent.hash());
        assert_eq!(Fnv::of(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_replay_names_the_first_line_that_differs() {
        let compare = |file: &'static str, run: &[&str]| {
            let mut trace = Trace::against(Box::new(file.as_bytes()));
            run.iter().for_each(|line| trace.line(format_args!("{line}")));
            trace.finish().unwrap()
        };
        assert_eq!(compare("a\nb\n", &["a", "b"]), None);
        let differs = compare("a\nb\nc\n", &["a", "x", "c"]).unwrap();
        assert_eq!((differs.line, &*differs.expected, &*differs.found), (2, "b", "x"));
        let short = compare("a\nb\n", &["a"]).unwrap();
        assert_eq!((short.line, &*short.expected, &*short.found), (2, "b", ""));
        let long = compare("a\n", &["a", "b"]).unwrap();
        assert_eq!((long.line, &*long.expected, &*long.found), (2, "", "b"));
    }

    #[test]
    fn the_tail_keeps_the_last_lines_and_cuts_long_ones() {
        let mut trace = Trace::default();
        (0..100).for_each(|i| trace.line(format_args!("{i} {}", "é".repeat(400))));
        trace.quiet(format_args!("quiet"));
        let tail = trace.tail();
        assert_eq!(tail.len(), TAIL_LINES);
        assert!(tail[0].starts_with("70 ") && tail[29].ends_with(" …"));
    }
}
