//! The plainest store: memory outside of the node, replaced as a whole when its one operation is confirmed.

use quorate::entry::Entries;
use quorate::flash::{FlashDone, FlashOp, Geometry};
use quorate::log::Log;
use quorate::storage::Storage;
use quorate::wal::{
    GeometryError, HardState, MountError, Mounted, Progress, SNAP_DATA_AT, SnapshotInfo, Status,
    Tail, Want,
};
use quorate::{EntryId, Identity, Index, Term};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What a board's memory holds.
#[derive(Clone, Debug, Default)]
pub(crate) enum Content {
    #[default]
    Blank,
    Foreign,
    Damaged,
    Log(Kept),
}

#[derive(Clone, Debug)]
pub(crate) struct Kept {
    identity: Identity,
    hard_state: HardState,
    note: u32,
    id: EntryId,
    pieces: Vec<Vec<u8>>,
    entries: Vec<u8>,
}

thread_local! {
    /// By board, which the geometry tells: `segments` is its number.
    pub(crate) static MEMORY: RefCell<BTreeMap<u8, Content>> = const { RefCell::new(BTreeMap::new()) };
}

pub(crate) struct Ram {
    board: u8,
    identity: Option<Identity>,
    kept: Option<Kept>,
    /// What the operation that is out leads to, and what is to be told then.
    out: Option<(Option<Kept>, Progress)>,
    ended: bool,
    /// To be told at the next poll.
    next: Option<Progress>,
    note: u32,
    mounting: bool,
    begun: Option<(EntryId, Vec<Vec<u8>>)>,
    put: Option<usize>,
    ending: Option<bool>,
    read: Option<(u32, usize)>,
}

fn info(kept: &Kept) -> SnapshotInfo {
    let bytes = kept.pieces.concat();
    SnapshotInfo { id: kept.id, bytes: bytes.len() as u32, crc: check(&bytes) }
}

fn check(bytes: &[u8]) -> u32 {
    crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(bytes)
}

/// The entries behind `after` that are durable, or about to be.
fn entries(log: &mut Log, after: Index, last: Index) -> Vec<u8> {
    let (_, bytes) = log.fit(after, last, usize::MAX);
    let mut raw = vec![0; bytes];
    log.copy(after, last, &mut raw);
    raw
}

impl Ram {
    fn load(&mut self, log: &mut Log) -> Progress {
        let content = MEMORY.with_borrow(|memory| memory.get(&self.board).cloned());
        let kept = match content.unwrap_or_default() {
            Content::Log(kept) => kept,
            Content::Blank => return Progress::Refused(MountError::Unformatted),
            Content::Foreign => return Progress::Refused(MountError::Foreign),
            Content::Damaged => {
                return Progress::Refused(MountError::Corrupt { segment: 0, offset: 0 });
            }
        };
        log.reset(kept.id);
        log.append_entries(Entries::new(kept.id, &kept.entries), Index::ZERO);
        log.write_begins(log.last().index);
        log.write_ends();
        let mounted = Mounted {
            identity: kept.identity,
            hard_state: kept.hard_state,
            snapshot: info(&kept),
            tail: Tail::Clean,
        };
        self.note = kept.note;
        self.kept = Some(kept);
        Progress::Mounted(mounted)
    }

    fn begin_write(&mut self, kept: Option<Kept>, then: Progress) -> Progress {
        self.out = Some((kept, then));
        Progress::Op(FlashOp::Write { offset: 0, len: 1 })
    }

    fn ends(&mut self, log: &mut Log) -> Progress {
        self.ended = false;
        let (kept, then) = self.out.take().unwrap();
        if let Some(kept) = kept {
            let content = Content::Log(kept.clone());
            MEMORY.with_borrow_mut(|memory| memory.insert(self.board, content));
            self.kept = Some(kept);
        }
        if then == Progress::Durable {
            log.write_ends();
        }
        then
    }

    fn read_piece(&self, offset: u32, len_max: usize, buffer: &mut [u8]) -> Progress {
        let mut start = 0;
        for piece in &self.kept.as_ref().unwrap().pieces {
            let skipped = offset as usize - start;
            if skipped < piece.len() {
                let len = (piece.len() - skipped).min(len_max);
                buffer[..len].copy_from_slice(&piece[skipped..skipped + len]);
                return Progress::ChunkRead { at: 0, len, offset };
            }
            start += piece.len();
        }
        Progress::ChunkRead { at: 0, len: 0, offset }
    }
}

impl Storage for Ram {
    const OFF: Self = Self {
        board: 0,
        identity: None,
        kept: None,
        out: None,
        ended: false,
        next: None,
        note: 0,
        mounting: false,
        begun: None,
        put: None,
        ending: None,
        read: None,
    };

    fn mount(&mut self, geometry: Geometry, _: usize) -> Result<(), GeometryError> {
        (self.board, self.mounting) = (geometry.segments, true);
        Ok(())
    }

    fn format(
        &mut self,
        geometry: Geometry,
        _: usize,
        identity: Identity,
        erase_anyway: bool,
    ) -> Result<(), GeometryError> {
        (self.board, self.identity) = (geometry.segments, Some(identity));
        let content = MEMORY.with_borrow(|memory| memory.get(&self.board).cloned());
        let blank = matches!(content.unwrap_or_default(), Content::Blank);
        self.next = Some(match blank || erase_anyway {
            true => Progress::Formatted,
            false => Progress::Refused(MountError::NotBlank),
        });
        Ok(())
    }

    fn poll(&mut self, want: &Want, log: &mut Log, buffer: &mut [u8]) -> Progress {
        if self.out.is_some() {
            return if self.ended { self.ends(log) } else { Progress::Idle };
        }
        if std::mem::take(&mut self.mounting) {
            return self.load(log);
        }
        if let Some(next) = self.next.take() {
            return next;
        }
        if let Some(len) = self.put.take() {
            let (_, pieces) = self.begun.as_mut().unwrap();
            pieces.push(buffer[SNAP_DATA_AT..SNAP_DATA_AT + len].to_vec());
            return self.begin_write(None, Progress::ChunkWritten);
        }
        if let Some(kept) = &self.kept {
            let (old, hard_state) = (kept.hard_state, want.hard_state);
            let news = (hard_state.term, hard_state.vote) != (old.term, old.vote);
            let news = news || self.note != kept.note;
            let last = log.due();
            if news || log.durable() < last || want.commit_needed > old.commit {
                let entries = entries(log, kept.id.index, last);
                log.write_begins(last);
                let kept = Kept { hard_state, note: self.note, entries, ..kept.clone() };
                return self.begin_write(Some(kept), Progress::Durable);
            }
        }
        if let Some(installed) = self.ending.take() {
            let (id, pieces) = self.begun.take().unwrap();
            let durable = log.durable();
            let entries = if installed { vec![] } else { entries(log, id.index, durable) };
            let hard_state = HardState { commit: want.hard_state.commit, ..self.durable() };
            let identity = self.kept.as_ref().map_or(self.identity, |kept| Some(kept.identity));
            let (identity, note) = (identity.unwrap(), self.note);
            let kept = Kept { identity, hard_state, note, id, pieces, entries };
            return self.begin_write(Some(kept), Progress::SnapshotDurable(id));
        }
        match self.read.take() {
            Some((offset, len_max)) => self.read_piece(offset, len_max, buffer),
            None => Progress::Idle,
        }
    }

    fn handle(&mut self, done: FlashDone) {
        self.ended = done == FlashDone::Ok;
    }

    fn is_busy(&self) -> bool {
        self.out.is_some()
    }

    fn durable(&self) -> HardState {
        let nothing = HardState { term: Term::ZERO, vote: None, commit: Index::ZERO };
        self.kept.as_ref().map_or(nothing, |kept| kept.hard_state)
    }

    fn snapshot(&self) -> Option<SnapshotInfo> {
        self.kept.as_ref().map(info)
    }

    fn begin_snapshot(&mut self, id: EntryId) {
        self.begun = Some((id, vec![]));
    }

    fn put_chunk(&mut self, offset: u32, len: usize) -> bool {
        let put = self.begun.as_ref().map(|(_, pieces)| pieces.iter().map(Vec::len).sum());
        let fits = put == Some(offset as usize) && self.out.is_none();
        if fits {
            self.put = Some(len);
        }
        fits
    }

    fn begun_crc(&self) -> u32 {
        self.begun.as_ref().map_or(0, |(_, pieces)| check(&pieces.concat()))
    }

    fn end_snapshot(&mut self, installed: bool) {
        self.ending = Some(installed);
    }

    fn abort_snapshot(&mut self) {
        self.begun = None;
        self.put = None;
    }

    fn read_snapshot(&mut self, offset: u32, len_max: usize) {
        self.read = Some((offset, len_max));
    }

    fn wants_snapshot(&self) -> bool {
        false
    }

    fn note(&self) -> u32 {
        self.note
    }

    fn set_note(&mut self, note: u32) {
        self.note = note;
    }

    fn is_noted(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.note == self.note)
    }

    fn status(&self) -> Status {
        Status::default()
    }
}
