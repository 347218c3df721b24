//! Mounting and formatting: what is on the medium, and is it whole?

use crate::snapshot::Cursor;
use crate::state::{BANKS_AT, MARK, SLOT_BYTES, SLOTS_AT, Slot, State, VERSION, checksum, copy};
use crate::{Fram, Work};
use quorate::Index;
use quorate::entry::Entries;
use quorate::log::Log;
use quorate::wal::{MountError, Mounted, Progress, Tail, WalFault};

/// Where a mount, or a format, is. All but the first and the last two wait for what is read.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Begin,
    /// The mark and both copies of the state.
    Head,
    /// There is no mark: is anything else there? From where, and what has to stand there.
    Blank(u32, u8),
    /// The pieces of the snapshot, one after another.
    Pieces,
    /// The entries: so many bytes are loaded, and their checksum.
    Entries(u32, u32),
    /// A copy of the state is written anew.
    Mended,
    /// What is here is to be made void.
    Overwrite,
    /// The mark is written.
    Marked,
}

impl Fram {
    /// Goes on with a mount or a format.
    pub(crate) fn mount_step(
        &mut self,
        step: Step,
        ok: bool,
        log: &mut Log,
        buf: &mut [u8],
    ) -> Progress {
        if !ok {
            return self.refuse(MountError::Fault(WalFault::WornOut));
        }
        match step {
            Step::Begin => self.read(0, BANKS_AT, Work::Mount(Step::Head)),
            Step::Head => self.judge(log, buf),
            Step::Blank(from, value) => self.look_for_data(from, value, buf),
            Step::Pieces => match self.look(buf) {
                Some((len, crc)) => {
                    self.step_over(len, crc);
                    self.check_pieces(log, buf)
                }
                None => self.corrupt(self.cursor.at),
            },
            Step::Entries(at, crc) => self.load(at, crc, log, buf),
            Step::Mended => self.mounted(),
            Step::Overwrite => {
                let head = buf.get_mut(..BANKS_AT as usize).unwrap_or_default();
                head.fill(0);
                copy(head, &MARK);
                self.write(0, BANKS_AT as usize, Work::Mount(Step::Marked))
            }
            Step::Marked => {
                self.running = true;
                Progress::Formatted
            }
        }
    }

    fn refuse(&mut self, error: MountError) -> Progress {
        Progress::Refused(match error {
            MountError::Fault(_) => error,
            _ if self.founder.is_some() => MountError::NotBlank,
            _ => error,
        })
    }

    /// Damage at this byte of the bank that counts.
    fn corrupt(&mut self, at: u32) -> Progress {
        let offset = self.bank_at(self.state.bank).saturating_add(at);
        self.refuse(MountError::Corrupt { segment: 0, offset })
    }

    /// What do mark and state say?
    fn judge(&mut self, log: &mut Log, buf: &mut [u8]) -> Progress {
        let (mark, slots) = buf.split_at_checked(MARK.len()).unwrap_or_default();
        let (first, rest) = slots.split_at_checked(SLOT_BYTES).unwrap_or_default();
        let (second, unused) = rest.split_at_checked(SLOT_BYTES).unwrap_or_default();
        let unfounded = is_blank(first) || is_blank(second);
        let version = mark.last().copied().unwrap_or_default();
        // Where nothing follows, the mark was cut short.
        if !unfounded && version != VERSION && mark.get(..7) == MARK.get(..7) {
            return self.refuse(match version {
                0..VERSION => MountError::Older { version },
                _ => MountError::Newer { version },
            });
        }
        if mark != MARK {
            let blank = unused.last().copied().unwrap_or_default();
            return self.look_for_data(0, blank, buf);
        }
        let (first, second) = (State::decode(first), State::decode(second));
        let Some(state) = first.or(second) else {
            // Before a founding is told of, both copies are written.
            return match self.founder {
                Some(_) if unfounded => self.mount_step(Step::Marked, true, log, buf),
                None if unfounded => self.refuse(MountError::Unformatted),
                _ => self.refuse(MountError::Corrupt { segment: 0, offset: SLOTS_AT }),
            };
        };
        if self.founder.is_some() {
            return self.refuse(MountError::NotBlank);
        }
        let State { medium_bytes, pieces_bytes, entries_bytes, .. } = state;
        if medium_bytes != self.bytes {
            return self.refuse(MountError::OtherGeometry {
                word_bytes: 1,
                segment_bytes: medium_bytes,
                segments: 1,
            });
        }
        self.state = state;
        // A copy that differs is the older one, or is not whole.
        let broken = if first.is_some() { Slot::Second } else { Slot::First };
        self.mend = (first != second).then_some(broken);
        if pieces_bytes.saturating_add(entries_bytes) > self.bank_bytes() {
            return self.corrupt(0);
        }
        let bytes_needed = entries_bytes as usize;
        if bytes_needed > log.bytes_capacity() {
            return self.refuse(MountError::LogTooSmall { bytes_needed });
        }
        self.cursor = Cursor::START;
        self.check_pieces(log, buf)
    }

    /// There is no mark. Blank memory may be founded, and so may blank memory with the trace of a mark that was cut
    /// short: its beginning, and one byte that may be anything.
    fn look_for_data(&mut self, from: u32, blank: u8, buf: &mut [u8]) -> Progress {
        let read = self.bytes.saturating_sub(from).min(buf.len() as u32);
        let bytes = buf.get(..read as usize).unwrap_or_default();
        let mark = bytes.iter().zip(MARK).take_while(|(byte, of)| **byte == *of).count();
        let trace = if from == 0 { mark.saturating_add(1) } else { 0 };
        let is_blank = |byte: &u8| *byte == blank && matches!(blank, 0 | 0xff);
        if !bytes.iter().skip(trace).all(is_blank) {
            return self.refuse(MountError::Foreign);
        }
        let from = from.saturating_add(read);
        if from < self.bytes {
            return self.read(from, self.bytes, Work::Mount(Step::Blank(from, blank)));
        }
        if self.founder.is_none() {
            return self.refuse(MountError::Unformatted);
        }
        copy(buf, &MARK);
        self.write(0, MARK.len(), Work::Mount(Step::Marked))
    }

    fn check_pieces(&mut self, log: &mut Log, buf: &mut [u8]) -> Progress {
        let (Cursor { at, offset, crc }, snapshot) = (self.cursor, self.state.snapshot);
        if at < self.state.pieces_bytes {
            return self.read_piece(Work::Mount(Step::Pieces));
        }
        if (at, offset, crc) != (self.state.pieces_bytes, snapshot.bytes, snapshot.crc) {
            return self.corrupt(0);
        }
        self.cursor = Cursor::START;
        log.reset(snapshot.id);
        self.load_more(0, 0, log, buf)
    }

    /// `buf` holds entries from byte `at` of them on; the last of them may not be all there.
    fn load(&mut self, at: u32, crc: u32, log: &mut Log, buf: &mut [u8]) -> Progress {
        let read = self.state.entries_bytes.saturating_sub(at).min(buf.len() as u32);
        let bytes = buf.get(..read as usize).unwrap_or_default();
        let before = log.last();
        log.append_entries(Entries::new(before, bytes), Index::ZERO);
        let (_, taken) = log.fit(before.index, log.last().index, usize::MAX);
        if taken == 0 {
            return self.corrupt(self.state.pieces_bytes.saturating_add(at));
        }
        let crc = checksum(crc, bytes.get(..taken).unwrap_or_default());
        self.load_more(at.saturating_add(taken as u32), crc, log, buf)
    }

    /// Entries are loaded up to byte `at` of them.
    fn load_more(&mut self, at: u32, crc: u32, log: &mut Log, buf: &mut [u8]) -> Progress {
        let State { bank, pieces_bytes, entries_bytes, entries_crc, .. } = self.state;
        if at < entries_bytes {
            let start = self.bank_at(bank).saturating_add(pieces_bytes);
            let end = start.saturating_add(entries_bytes);
            return self.read(start.saturating_add(at), end, Work::Mount(Step::Entries(at, crc)));
        }
        if crc != entries_crc {
            return self.corrupt(pieces_bytes);
        }
        let last = log.last().index;
        log.write_begins(last);
        log.write_ends();
        self.last = last;
        match self.mend {
            Some(slot) => {
                self.next = self.state;
                self.write_copy(slot, Work::Mount(Step::Mended), buf)
            }
            None => self.mounted(),
        }
    }

    fn mounted(&mut self) -> Progress {
        let Some(identity) = self.state.owner else {
            return self.corrupt(0);
        };
        (self.running, self.note) = (true, self.state.note);
        let tail = match self.mend {
            Some(slot) => Tail::Torn { offset: slot.at() },
            None => Tail::Clean,
        };
        let State { hard_state, snapshot, .. } = self.state;
        Progress::Mounted(Mounted { identity, hard_state, snapshot, tail })
    }
}

/// All bytes 0x00, or all 0xFF.
fn is_blank(bytes: &[u8]) -> bool {
    let first = bytes.first().copied().unwrap_or_default();
    matches!(first, 0 | 0xff) && bytes.iter().all(|byte| *byte == first)
}
