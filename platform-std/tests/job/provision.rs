//! `quorate provision`, and what the firmware's reader makes of its pages.

use std::fs;
use std::path::Path;

use crate::program::{Ran, quorate};
use quorate::config::Flash;
use quorate::node::{Boot, Limits};
use quorate::{ClusterId, NodeId, NodeSet, plan};
use quorate_embedded::identity::{PAGE_BYTES, Page, PageError};
use quorate_std::provision::{self, Provision};

fn provision(dir: &Path, args: &str) -> Ran {
    let args: Vec<_> = ["provision"].into_iter().chain(args.split_whitespace()).collect();
    quorate(dir, &args)
}

fn bytes(path: &Path) -> [u8; PAGE_BYTES] {
    fs::read(path).unwrap().try_into().unwrap()
}

fn page(path: &Path) -> Page {
    Page::parse(&bytes(path), 0xff).unwrap()
}

fn id(n: u8) -> NodeId {
    NodeId::new(n).unwrap()
}

#[test]
fn a_cluster_s_pages_say_the_same_but_for_who_the_board_is() {
    let temp = tempfile::tempdir().unwrap();
    let ran = provision(
        temp.path(),
        "pages --members 1,2,31 --link 115200 --frame-bytes 128 --entry-bytes 60 --log-bytes 900 \
         --snapshot-bytes 600 --members-max 5 --election-ms 2000 --cluster 0a0b0c0d",
    );
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.starts_with("cluster 0a0b0c0d of 3 members\n"), "{}", ran.out);
    let pages = [1, 2, 31].map(|n| (n, page(&temp.path().join(format!("pages/board-{n}.page")))));
    for (n, page) in &pages {
        assert_eq!((page.node, page.cluster), (id(*n), ClusterId([10, 11, 12, 13])));
        let limits =
            Limits { frame_bytes: 128, entry_bytes: 60, log_bytes: 900, snapshot_bytes: 600 };
        assert_eq!((page.limits, page.link), (limits, plan::serial(115_200)));
        let members: NodeSet = [1, 2, 31].map(id).into_iter().collect();
        assert_eq!((page.members, page.members_max), (members, 5));
        assert_eq!((page.heartbeat_ms, page.election_ms), (0, 2000));
        assert!(page.founds());
        page.boot_without_log(7, |boot| {
            let Boot::Found(founding) = boot else { panic!("{boot:?}") };
            assert_eq!((founding.node, founding.limits), (id(*n), limits));
            let given: Vec<_> = founding.members.iter().map(|member| member.id.get()).collect();
            assert_eq!((given, founding.erase_anyway), (vec![1, 2, 31], false));
        });
    }
    assert!(pages[0].1.entropy != pages[1].1.entropy && pages[1].1.entropy != pages[2].1.entropy);
    let flash: Flash = plan::part("nrf51").unwrap().flash;
    let config = pages[0].1.config(flash, 0);
    assert_eq!((config.check(), config.election_ms, config.members_max), (Ok(()), 2000, 5));
    assert_eq!(config.seed, pages[0].1.entropy);
    assert_ne!(pages[0].1.config(flash, 1).seed, config.seed);
}

#[test]
fn a_board_that_is_added_later_asks_for_its_place() {
    let temp = tempfile::tempdir().unwrap();
    let ran = provision(temp.path(), "p --members 1,2,3 --join 2 --cluster 01020304 --link ble");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let made: Vec<_> = fs::read_dir(temp.path().join("p")).unwrap().collect();
    assert_eq!(made.len(), 1);
    let page = page(&temp.path().join("p/board-2.page"));
    assert!(!page.founds() && !page.link.broadcast && page.link.fragment_bytes == 17);
    let join = Boot::Join { cluster: ClusterId([1, 2, 3, 4]), node: id(2), nonce: 7 };
    page.boot_without_log(7, |boot| assert_eq!(boot, join));
    page.boot_without_log(0, |boot| assert!(matches!(boot, Boot::Join { nonce: 1, .. })));
}

#[test]
fn the_same_seed_makes_the_same_pages_and_no_seed_draws_others() {
    let temp = tempfile::tempdir().unwrap();
    for dir in ["a --seed 5", "b --seed 5", "c --seed 6", "d", "e"] {
        let ran = provision(temp.path(), &format!("{dir} --members 1,2 --link 9600"));
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let drawn = |dir: &str| {
        let [one, two] =
            [1, 2].map(|n| page(&temp.path().join(dir).join(format!("board-{n}.page"))));
        assert_eq!(one.cluster, two.cluster);
        (one.cluster, one.entropy, two.entropy)
    };
    assert_eq!(drawn("a"), drawn("b"));
    let four = ["a", "c", "d", "e"].map(drawn);
    for (i, one) in four.iter().enumerate() {
        assert!(four.iter().skip(i + 1).all(|two| one.0 != two.0 && one.1 != two.1));
    }
}

#[test]
fn what_can_t_work_is_refused_with_what_would_and_nothing_is_written() {
    for (args, says) in [
        ("--members 1,2,2 --link 9600", "member 2 is named twice"),
        ("--members 1,2,3,4,5,6,7,8,9 --link 9600", "9 members: 1 to 8 can be"),
        ("--members 0,1 --link 9600", "a number from 1 to 31"),
        ("--members 1,32 --link 9600", "a number from 1 to 31"),
        ("--members 1,2 --link zigbee", "802.15.4"),
        ("--members 1,2", "--link"),
        ("--members 1,2,3 --members-max 2 --link 9600", "there are 3"),
        ("--members 1,2 --join 3 --cluster 01020304 --link 9600", "not among --members"),
        ("--members 1,2 --join 2 --link 9600", "--cluster"),
        ("--members 1,2 --cluster 1234 --link 9600", "eight hex digits"),
        ("--members 1,2 --cluster 00000000 --link 9600", "not all zero"),
        ("--members 1,2 --cluster +1234567 --link 9600", "eight hex digits"),
        ("--members 1,2 --link 9600 --frame-bytes 300", "96 to 256"),
        ("--members 1,2 --link 9600 --frame-bytes 90", "96 to 256"),
        ("--members 1,2 --link 9600 --frame-bytes 96 --entry-bytes 44", "1 to 43"),
        ("--members 1,2 --link 9600 --entry-bytes 0", "commands of 0 bytes"),
        ("--members 1,2 --link 9600 --entry-bytes 40 --log-bytes 600", "620 is the least"),
        ("--members 1,2 --link 9600 --election-ms 20", "too"),
        ("--members 1,2 --link 9600 --heartbeat-ms 1", "too often"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let ran = provision(temp.path(), &format!("pages {args}"));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args}: {}", ran.err);
        assert!(ran.err.contains(says), "{args}: {}", ran.err);
        assert!(!temp.path().join("pages").exists(), "{args}");
    }
}

#[test]
fn pages_that_are_there_are_not_replaced() {
    let temp = tempfile::tempdir().unwrap();
    assert_eq!(provision(temp.path(), "p --members 2 --link 9600").code, 0);
    let before = bytes(&temp.path().join("p/board-2.page"));
    let again = provision(temp.path(), "p --members 1,2 --link 9600");
    assert!(again.error(1).contains("board-2.page: is there already"), "{}", again.err);
    assert!(!temp.path().join("p/board-1.page").exists());
    assert_eq!(bytes(&temp.path().join("p/board-2.page")), before);
}

#[test]
fn what_erased_bytes_read_as_is_kept_in_mind() {
    let temp = tempfile::tempdir().unwrap();
    let ran = provision(temp.path(), "p --members 1 --link 9600 --erased 00");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let bytes = bytes(&temp.path().join("p/board-1.page"));
    assert!(Page::parse(&bytes, 0x00).unwrap().founds());
    // With the wrong value the mark seems to be set: nothing is founded.
    assert!(!Page::parse(&bytes, 0xff).unwrap().founds());
}

#[test]
fn a_page_of_every_kind_is_read_as_it_was_written() {
    let limits = Limits { frame_bytes: 240, entry_bytes: 99, log_bytes: 70_000, snapshot_bytes: 5 };
    for (name, link) in plan::LINKS {
        for (founds, erased) in [(true, 0xff), (false, 0x00)] {
            let provision = Provision {
                cluster: ClusterId(*b"test"),
                members: [3, 9, 30].map(id).to_vec(),
                members_max: 7,
                limits,
                link,
                heartbeat_ms: Some(1 << 20),
                election_ms: None,
            };
            let bytes = provision.page(id(9), founds, 0x0123_4567_89ab_cdef, erased);
            assert_eq!(bytes.len(), provision::PAGE_BYTES);
            let read = Page::parse(&bytes, erased).unwrap();
            assert_eq!((read.link, read.limits, read.founds()), (link, limits, founds), "{name}");
            assert_eq!((read.entropy, read.heartbeat_ms), (0x0123_4567_89ab_cdef, 1 << 20));
            assert_eq!(read.members, [3, 9, 30].map(id).into_iter().collect());
            for at in 0..64 {
                for bit in 0..8 {
                    let mut damaged = bytes;
                    damaged[at] ^= 1 << bit;
                    let error = Page::parse(&damaged, erased).unwrap_err();
                    let told = if at < 4 { PageError::Foreign } else { PageError::Damaged };
                    assert_eq!(error, told, "{name}: byte {at}");
                }
            }
        }
    }
}
