//! A trace, run again and compared line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::Path;

use super::options::Options;
use super::report::Report;
use super::run::run;
use super::trace::{Difference, Trace};

/// How a replay went.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The run, done again.
    pub report: Report,
    /// Where it left the trace.
    pub difference: Option<Difference>,
}

/// A file that can't be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// Its first line is not that of a trace.
    #[error("is no trace of `quorate sim run`: line 1: {0}")]
    Options(serde_json::Error),
}

/// Runs the trace in `path` again.
///
/// # Errors
/// The file can't be read, or is no trace.
pub fn replay(path: &Path) -> Result<Replayed, ReplayError> {
    let mut lines = BufReader::new(File::open(path)?);
    let mut header = String::new();
    // A file that is no trace may have no line ends at all.
    io::Read::take(&mut lines, 4096).read_line(&mut header)?;
    let options: Options = serde_json::from_str(header.trim_end()).map_err(ReplayError::Options)?;
    lines.rewind()?;
    let (report, mut trace) = run(&options, Trace::against(Box::new(lines)));
    Ok(Replayed { report, difference: trace.finish()? })
}
