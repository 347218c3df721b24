//! Flash images from a board that lived, lost power, or lies on flash that rots: what is said of them is what a
//! board would find.

use quorate::flash::Geometry;
use quorate::wal::MountError;
use quorate::wal::inspect::Kind;
use quorate::{EntryId, Index, NodeId, Term};
use quorate_flash_lab::board::{Board, Stop};
use quorate_flash_lab::flash::{Faults, Flash};
use quorate_flash_lab::image::{self, geometry, lived, shown};
use quorate_flash_lab::random::Random;
use quorate_std::image::ImageError;
use quorate_std::wal_image::{self, Damage, Found, RecordState, SegmentState, Verdict, WalImage};

const WORDS: [u8; 6] = [1, 2, 4, 8, 16, 32];

fn read(bytes: &[u8]) -> WalImage {
    wal_image::read(bytes).unwrap()
}

/// What the live records say of the entries behind the snapshot: the last one that each is in.
fn entries_told(image: &WalImage) -> Vec<u64> {
    let mut live: Vec<_> =
        image.records.iter().filter(|it| it.state == RecordState::Live).collect();
    let order = |number: u8| image.segments[usize::from(number)].order;
    live.sort_by_key(|it| (order(it.segment), it.offset));
    // Of what stands before the first chunk only the head of its segment is live, and no entries.
    let first = image.snapshot.unwrap().first;
    live.retain(|it| it.segment != first.segment || it.offset >= first.offset);
    let mut told: Vec<u64> = vec![];
    for (prev, last) in live.iter().filter_map(|it| it.entries) {
        told.retain(|index| *index <= prev.index.0);
        told.extend(prev.index.0 + 1..=last.index.0);
    }
    told.retain(|index| *index > image.snapshot.unwrap().id.index.0);
    told
}

#[test]
fn the_image_of_a_sound_board_tells_all_that_the_board_knows_at_every_word_size() {
    for word in WORDS {
        let (_, flash) = image::last_record(word, true);
        let image = read(&flash.bytes);
        let known = shown(flash.clone()).unwrap();
        assert_eq!(image.verdict, Verdict::Sound, "word {word}");
        assert_eq!(image.geometry.word_bytes, word);
        assert_eq!(image.geometry.segments, flash.geometry.segments);
        assert_eq!(image.hard_state, known.hard_state);
        assert_eq!(image.snapshot.map(|it| it.id), Some(known.snapshot));
        assert_eq!(entries_told(&image), known.log.keys().copied().collect::<Vec<_>>());
        let mut newest = image.records.iter().filter(|it| it.state == RecordState::Live);
        assert_eq!(newest.next_back().map(|it| it.kind), Some(Kind::Seal));
        let (most, least) = image.erases().unwrap();
        assert!(most >= 1 && most >= least, "{most} {least}");
        assert!(image.live().iter().all(|it| it.bytes_live > 0 && it.bytes_live <= it.bytes_used));
    }
}

#[test]
fn flash_that_is_blanked_to_zeros_is_read_as_well() {
    let geometry =
        Geometry { erased: 0, block_bytes: 128, blocks_per_segment: 16, ..geometry(4, 5) };
    let mut board = Board::new(Flash::new(geometry, Faults::MILD), 512, 1);
    board.format(false).unwrap();
    board.append(1, b"an entry");
    board.settle().unwrap();
    let image = read(&board.flash.bytes);
    assert_eq!((image.geometry.erased, image.geometry.segments), (0, 5));
    assert_eq!((image.verdict.clone(), entries_told(&image)), (Verdict::Sound, vec![1]));
    let erased = image.segments.iter().filter(|it| it.state == SegmentState::Erased).count();
    assert!(erased >= 2, "{:?}", image.segments);
}

/// An image does not tell what its flash programs at once. Bytes one by one leave room for shorter segments, and for longer records.
#[test]
fn flash_that_programs_byte_by_byte_is_read_as_well_as_one_with_pages() {
    for (page_bytes, blocks_per_segment) in [(1, 5), (1, 8), (64, 8), (256, 8)] {
        let geometry =
            Geometry { page_bytes, block_bytes: 256, blocks_per_segment, ..geometry(1, 4) };
        let mut board = Board::new(Flash::new(geometry, Faults::MILD), 2048, 1);
        board.format(false).unwrap();
        board.append(1, b"an entry");
        board.settle().unwrap();
        let image = read(&board.flash.bytes);
        assert_eq!((&image.verdict, entries_told(&image)), (&Verdict::Sound, vec![1]));
    }
}

/// A log of zeros in flash that is blanked to ones, and the other way round; then segments that an erase, which begins by
/// programming them, has left full of the same.
#[test]
fn what_is_blank_is_told_by_where_it_stands_and_not_by_how_much_of_it_there_is() {
    for (word, erased) in WORDS.into_iter().flat_map(|word| [(word, 0xff), (word, 0)]) {
        let geometry = Geometry { erased, ..geometry(word, 4) };
        let mut board = Board::new(Flash::new(geometry, Faults::MILD), 512, 1);
        board.format(false).unwrap();
        for _ in 0..8 {
            board.append(1, &[!erased; 100]);
            board.settle().unwrap();
        }
        let mut bytes = board.flash.bytes.clone();
        for segment in [0, 2, 3] {
            bytes[segment * 2048..][..2048].fill(!erased);
            let image = read(&bytes);
            assert_eq!((image.geometry.erased, &image.verdict), (erased, &Verdict::Sound));
        }
        let blank = bytes.iter().filter(|byte| **byte == erased).count();
        assert!(blank < bytes.len() / 4, "{blank}");
    }
}

/// Records that a boot has made void: how many, none of them called live.
fn void_ranges(image: &WalImage) -> usize {
    let live = |it: &&Found| it.state == RecordState::Live;
    let boots = image.records.iter().filter(live).filter(|it| it.kind == Kind::Boot);
    boots
        .flat_map(|boot| {
            let range = boot.says.from..boot.offset;
            image
                .records
                .iter()
                .filter(move |it| it.segment == boot.segment && range.contains(&it.offset))
        })
        .inspect(|it| assert_eq!(it.state, RecordState::Void, "{it:?}"))
        .count()
}

/// A step of a life.
fn step(board: &mut Board, random: &mut Random) -> Result<(), Stop> {
    board.want.idle = random.one_in(2);
    let term = board.log.last().term.0.max(board.want.hard_state.term.0).max(1);
    match random.below(9) {
        0 => board.set_hard_state(term + 1, NodeId::new(2)),
        1 => {
            let base = board.log.base().index.0.max(board.committed);
            if base < board.log.last().index.0 {
                board.overwrite(base, term + 1, b"another mind");
            }
        }
        _ => {
            let len = random.below(60) as usize;
            let data = random.bytes(len);
            board.append(term, &data);
        }
    }
    board.settle()?;
    if board.wal.wants_snapshot() || board.log.bytes_used() > 700 || random.one_in(12) {
        let index = board.log.durable();
        let id = EntryId::new(index, board.log.term(index).unwrap_or_default());
        let len = random.below(200) as usize;
        let content = random.bytes(len);
        board.take_snapshot(id, &content, false)?;
    }
    Ok(())
}

#[test]
fn a_power_cut_is_never_taken_for_damage_and_what_is_told_is_what_the_next_boot_finds() {
    let (mut torn, mut cuts_told, mut voids) = (0, 0, 0);
    for word in WORDS {
        for seed in 0..25 {
            let mut random = Random(seed * 64 + u64::from(word));
            let geometry = geometry(word, 3 + (seed % 4) as u8);
            let mut board = Board::new(Flash::new(geometry, Faults::MILD), 512, seed);
            board.format(false).unwrap();
            for _ in 0..8 {
                board.flash.cut_after(random.below(60));
                while step(&mut board, &mut random).is_ok() {}
                let bytes = board.flash.bytes.clone();
                let image = read(&bytes);
                let at = format!("word {word}, seed {seed}: {:?}", image.verdict);
                assert!(matches!(image.verdict, Verdict::Sound | Verdict::Torn { .. }), "{at}");
                assert_eq!(image.geometry.segment_bytes(), geometry.segment_bytes());
                torn += u32::from(matches!(image.verdict, Verdict::Torn { .. }));
                cuts_told += image.cuts.len();
                voids += void_ranges(&image);
                let found = {
                    let mut flash = board.flash.clone();
                    flash.fuse = None;
                    shown(flash).unwrap()
                };
                assert_eq!(image.hard_state, found.hard_state, "{at}");
                assert_eq!(image.snapshot.map(|it| it.id), Some(found.snapshot), "{at}");
                assert_eq!(
                    entries_told(&image),
                    found.log.keys().copied().collect::<Vec<_>>(),
                    "{at}"
                );
                board.flash.boot(&mut random);
                board.mount().unwrap();
            }
        }
    }
    assert!(torn > 200 && cuts_told > 200, "{torn} torn, {cuts_told} told of older cuts");
    assert!(voids > 200, "{voids} records made void by a boot");
}

#[test]
fn every_flip_of_a_live_byte_is_told_with_a_place_and_the_rest_is_still_listed() {
    let (_, flash) = image::last_record(4, true);
    let sound = read(&flash.bytes);
    let segment_bytes = sound.geometry.segment_bytes();
    let live = || sound.records.iter().filter(|it| it.state == RecordState::Live);
    let last = live().map(|it| u32::from(it.segment) * segment_bytes + it.offset).max().unwrap();
    let (mut exact, mut listed, mut all) = (0, 0, 0);
    for record in live() {
        let start = u32::from(record.segment) * segment_bytes + record.offset;
        for at in start..start + record.bytes {
            let mut bytes = flash.bytes.clone();
            bytes[at as usize] ^= 1 << (at % 8);
            let image = read(&bytes);
            match image.verdict {
                Verdict::Damaged(damage) => {
                    all += 1;
                    exact += u32::from(damage.iter().any(|it| it.offset == start));
                    listed += u32::from(image.records.len() + 2 >= sound.records.len());
                }
                // It looks like one that was cut short.
                Verdict::Torn { offset } => assert_eq!((start, offset), (last, last)),
                other => panic!("byte {at} of {record:?}: {other:?}"),
            }
        }
    }
    // Where the length of a record is lost, those behind it may be as well.
    assert_eq!(exact, all);
    assert!(listed * 100 >= all * 95, "of {all} flips {listed} leave the rest listed");
}

#[test]
fn what_is_not_needed_any_more_may_rot() {
    let (_, flash) = image::last_record(4, true);
    let sound = read(&flash.bytes);
    let mut dead = 0;
    let newest = |segment: u8| sound.segments[usize::from(segment)].is_newest;
    let is_dead = |it: &&Found| it.state == RecordState::Dead && !newest(it.segment);
    for record in sound.records.iter().filter(is_dead) {
        let mut bytes = flash.bytes.clone();
        let start = u32::from(record.segment) * sound.geometry.segment_bytes() + record.offset;
        bytes[start as usize] ^= 0x10;
        assert_eq!(read(&bytes).verdict, Verdict::Sound, "{record:?}");
        dead += 1;
    }
    assert!(dead > 3, "{dead}");
}

#[test]
fn what_holds_no_log_is_refused_by_its_kind() {
    let kind = |bytes: &[u8]| wal_image::read(bytes).map(|image| image.verdict).unwrap_err();
    assert_eq!(kind(&[]), ImageError::Length { bytes: 0 });
    assert_eq!(kind(&[0xff; 8192]), ImageError::Blank);
    assert_eq!(kind(&[0; 8192]), ImageError::Blank);
    assert_eq!(kind(&[b'x'; 8192]), ImageError::NotALog(MountError::Foreign));
    let whole = lived(4).flash.bytes;
    let partition = |bytes| ImageError::Partition { segments: 5, segment_bytes: 2048, bytes };
    assert_eq!(kind(&whole[..6000]), partition(6000));
    assert_eq!(kind(&[&whole[..], &[0xff; 2048]].concat()), partition(whole.len() + 2048));
    // A founding that was cut short: the first mark is there, and no snapshot.
    let mut board = Board::new(Flash::new(geometry(4, 4), Faults::MILD), 512, 1);
    board.flash.cut_after(1);
    assert!(board.format(false).is_err());
    assert_eq!(kind(&board.flash.bytes), ImageError::NotALog(MountError::Unformatted));
}

#[test]
fn a_snapshot_that_rots_is_told_though_the_board_falls_back_on_the_one_before() {
    let mut board = image::founded(4, 8);
    for round in 0..2u8 {
        (0..3).for_each(|i| {
            board.append(1, &[round * 8 + i; 30]);
            board.settle().unwrap();
        });
        let id = EntryId::new(Index(u64::from(round) * 3 + 2), Term(1));
        assert!(board.take_snapshot(id, &[round; 90], false).unwrap());
    }
    board.append(1, b"the last");
    board.want.idle = true;
    board.settle().unwrap();
    let sound = read(&board.flash.bytes);
    assert_eq!(sound.verdict, Verdict::Sound);
    let chunk = (sound.records.iter())
        .find(|it| it.kind == Kind::Chunk && it.state == RecordState::Live)
        .unwrap();
    let start = u32::from(chunk.segment) * sound.geometry.segment_bytes() + chunk.offset;
    let mut bytes = board.flash.bytes.clone();
    bytes[start as usize + 20] ^= 1;
    let image = read(&bytes);
    let Verdict::Damaged(damage) = &image.verdict else { panic!("{:?}", image.verdict) };
    assert!(damage.iter().all(|it| it.offset == start), "{damage:?} is not at {start}");
    let told = |it: &Damage| it.what.ends_with("the one up to 2 is used");
    assert!(damage.iter().any(told), "{damage:?}");
    assert_eq!((image.refused, image.snapshot.map(|it| it.id.index)), (None, Some(Index(2))));
}

#[test]
fn whatever_was_overwritten_an_image_is_read_to_an_end() {
    let mut random = Random(7);
    let sound = WORDS.map(|word| image::last_record(word, true).1.bytes);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..1500 {
        let mut bytes = sound[random.below(6) as usize].clone();
        for _ in 0..=random.below(4) {
            let len = 1 + random.below(300) as usize;
            let (from, to) = (random.below((bytes.len() - len) as u64) as usize, bytes.len() - len);
            let other = match random.below(3) {
                0 => random.bytes(len),
                1 => vec![0xff; len],
                // A piece of the same image in the wrong place.
                _ => {
                    let at = random.below(to as u64) as usize;
                    bytes[at..at + len].to_vec()
                }
            };
            bytes[from..from + len].copy_from_slice(&other);
        }
        match wal_image::read(&bytes) {
            Ok(image) => {
                let place = |it: &Found| (it.segment, it.offset);
                assert!(image.records.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])));
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 1000, "{read} read, {refused} refused");
}
