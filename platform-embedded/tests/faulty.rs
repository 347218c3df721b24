//! Faults by a seed: what happens, how often, and the same again.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use core::task::Poll;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use quorate::{Instant, NodeSet};
use quorate_embedded::faulty::{FaultyError, FaultyFlash, FaultyLink, FlashFaults, LinkFaults};
use quorate_embedded::link::Link;
use std::convert::Infallible;

/// Frames that count.
struct Counting(u16, [u8; 20]);

impl Link for Counting {
    fn send(&mut self, _: Instant, _: NodeSet, _: &[u8]) -> Poll<()> {
        Poll::Ready(())
    }

    fn receive(&mut self, _: Instant) -> Option<&[u8]> {
        if self.0 == 2000 {
            return None;
        }
        self.1[..2].copy_from_slice(&self.0.to_le_bytes());
        self.0 += 1;
        Some(&self.1)
    }
}

fn receive_all(faults: LinkFaults, seed: u32) -> (Vec<Vec<u8>>, [u32; 5]) {
    let mut memory = [0; 40];
    let mut link = FaultyLink::new(Counting(0, [9; 20]), faults, seed, &mut memory);
    let mut got = vec![];
    while let Some(frame) = link.receive(Instant::ZERO) {
        got.push(frame.to_vec());
    }
    let c = link.counters();
    (got, [c.received, c.lost, c.duplicated, c.corrupted, c.delayed])
}

fn number(frame: &[u8]) -> u16 {
    u16::from_le_bytes([frame[0], frame[1]])
}

#[test]
fn without_faults_nothing_happens() {
    let (got, counters) = receive_all(LinkFaults::default(), 1);
    assert_eq!(counters, [2000, 0, 0, 0, 0]);
    assert!(got.iter().enumerate().all(|(n, frame)| usize::from(number(frame)) == n));
}

#[test]
fn each_fault_does_what_it_says() {
    let none = LinkFaults::default();
    let (got, [_, lost, ..]) = receive_all(LinkFaults { lose_permille: 100, ..none }, 1);
    assert!((100..300).contains(&lost) && got.len() as u32 == 2000 - lost);
    let (got, [_, _, twice, ..]) = receive_all(LinkFaults { duplicate_permille: 100, ..none }, 1);
    assert!((100..300).contains(&twice) && got.len() as u32 == 2000 + twice);
    assert_eq!(got.windows(2).filter(|pair| pair[0] == pair[1]).count() as u32, twice);
    let (got, [_, _, _, hit, _]) = receive_all(LinkFaults { corrupt_permille: 100, ..none }, 1);
    let bits = |(n, frame): (usize, &Vec<u8>)| {
        let mut sent = [9; 20];
        sent[..2].copy_from_slice(&(n as u16).to_le_bytes());
        frame.iter().zip(sent).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>()
    };
    let bits: Vec<u32> = got.iter().enumerate().map(bits).collect();
    assert!((100..300).contains(&hit) && bits.iter().all(|bits| *bits <= 1));
    assert_eq!(bits.iter().sum::<u32>(), hit);
    let delay = LinkFaults { delay_permille: 100, delay_frames: 5, ..none };
    let (got, [_, _, _, _, late]) = receive_all(delay, 1);
    let numbers: Vec<u16> = got.iter().map(|frame| number(frame)).collect();
    let overtaken = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count() as u32;
    // The last one may be held back for ever: nothing comes behind it.
    assert!((100..300).contains(&late) && late - overtaken <= 1, "{late} {overtaken}");
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert!(numbers.len() == sorted.len() && numbers.len() >= 1999);
}

#[test]
fn the_same_seed_brings_the_same_trouble() {
    let faults = LinkFaults {
        lose_permille: 100,
        duplicate_permille: 100,
        corrupt_permille: 100,
        delay_permille: 100,
        delay_frames: 4,
    };
    assert_eq!(receive_all(faults, 7), receive_all(faults, 7));
    assert_ne!(receive_all(faults, 7), receive_all(faults, 8));
}

#[derive(Clone)]
struct Memory(Vec<u8>);

impl ErrorType for Memory {
    type Error = Infallible;
}

impl ReadNorFlash for Memory {
    const READ_SIZE: usize = 1;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }
    fn capacity(&self) -> usize {
        self.0.len()
    }
}

impl NorFlash for Memory {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 64;
    fn erase(&mut self, from: u32, to: u32) -> Result<(), Infallible> {
        assert!(from.is_multiple_of(64) && to.is_multiple_of(64));
        self.0[from as usize..to as usize].fill(0xff);
        Ok(())
    }
    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Infallible> {
        assert!(offset.is_multiple_of(4) && bytes.len().is_multiple_of(4) && !bytes.is_empty());
        self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn a_torn_write_stands_up_to_a_word_and_the_flash_is_dead_behind_it() {
    let mut lens = std::collections::BTreeSet::new();
    for seed in 1..60 {
        let faults = FlashFaults { tear_after: Some(1), ..FlashFaults::default() };
        let mut flash = FaultyFlash::new(Memory(vec![0xff; 256]), faults, seed);
        assert_eq!(flash.write(0, &[1; 16]), Ok(()));
        assert!(!flash.is_torn());
        assert_eq!(flash.write(64, &[2; 64]), Err(FaultyError::Planted));
        assert!(flash.is_torn());
        assert_eq!(flash.write(128, &[3; 4]), Err(FaultyError::Planted));
        assert_eq!(flash.erase(0, 64), Err(FaultyError::Planted));
        assert_eq!(flash.read(0, &mut [0; 4]), Err(FaultyError::Planted));
        assert_eq!(flash.planted(), 2);
        let bytes = flash.into_inner().0;
        let stands = bytes[64..128].iter().take_while(|byte| **byte == 2).count();
        assert!(bytes[..16] == [1; 16] && bytes[64 + stands..].iter().all(|byte| *byte == 0xff));
        assert!(stands % 4 == 0 && stands < 64);
        lens.insert(stands);
    }
    assert!(lens.len() > 8, "{lens:?}");
}

#[test]
fn operations_fail_as_often_as_they_are_told_to() {
    let faults = FlashFaults {
        read_permille: 100,
        write_permille: 200,
        erase_permille: 300,
        tear_after: None,
    };
    let mut flash = FaultyFlash::new(Memory(vec![0; 256]), faults, 1);
    let mut failed = [0; 3];
    let mut stood = 0;
    for _ in 0..1000 {
        failed[0] += u32::from(flash.read(0, &mut [0; 4]).is_err());
        let erased = flash.erase(0, 64);
        failed[2] += u32::from(erased.is_err());
        let wrote = flash.write(0, &[7; 16]);
        failed[1] += u32::from(wrote.is_err());
        let mut plain = flash.clone().into_inner();
        let mut read = [0; 16];
        plain.read(0, &mut read).unwrap();
        stood += u32::from(wrote.is_err() && erased.is_ok() && read == [7; 16]);
    }
    assert!((60..140).contains(&failed[0]), "{failed:?}");
    assert!((140..260).contains(&failed[1]), "{failed:?}");
    assert!((230..370).contains(&failed[2]), "{failed:?}");
    assert!(failed[1] > stood, "some fail, and stand");
    assert_eq!(FaultyError::<NorFlashErrorKind>::Planted.kind(), NorFlashErrorKind::Other);
    assert_eq!(
        FaultyError::Flash(NorFlashErrorKind::OutOfBounds).kind(),
        NorFlashErrorKind::OutOfBounds
    );
}
