//! The flash log under power cuts: a small share of the campaign of `cargo ci cuts`.

use crate::flash::{EraseFault, Faults};
use crate::image::geometry;
use crate::life::{Session, Tally};

fn campaign(word: u8) {
    let mut tally = Tally::default();
    for seed in 0..20 {
        for erase in [
            EraseFault::Prefix,
            EraseFault::RandomBits,
            EraseFault::Marginal,
            EraseFault::PreProgrammed,
        ] {
            for (decay, ecc) in [(false, false), (true, false), (true, true)] {
                let segments = [3, 4, 6][seed as usize % 3];
                let mut geometry = geometry(word, segments);
                if seed % 5 == 4 {
                    // As on a SPI NOR, where a page is programmed at once.
                    geometry.page_bytes = 64;
                }
                if seed % 4 == 3 {
                    geometry.erased = 0;
                }
                let faults = Faults { erase, decay, ecc, flicker: false };
                let (buffer, crash_loops) = (512, seed % 2 == 0);
                let session =
                    Session { geometry, buffer, faults, crash_loops, cuts: 8, lies: 0, seed };
                tally.add(&session.run(false));
            }
        }
    }
    assert!(tally.cuts_in_write > 500 && tally.cuts_in_erase > 50, "{tally:?}");
    assert!(tally.snapshots > 500 && tally.torn_tails > 100, "{tally:?}");
}

#[test]
fn nothing_acknowledged_or_shown_is_lost_with_words_of_one_byte() {
    campaign(1);
}

#[test]
fn nothing_acknowledged_or_shown_is_lost_with_words_of_four_bytes() {
    campaign(4);
}

#[test]
fn nothing_acknowledged_or_shown_is_lost_with_words_of_eight_bytes() {
    campaign(8);
}

#[test]
fn nothing_acknowledged_or_shown_is_lost_with_words_of_32_bytes() {
    campaign(32);
}
