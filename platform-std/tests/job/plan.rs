//! `quorate plan`.

use std::path::Path;

use crate::program::{Ran, quorate};

fn plan(args: &str) -> Ran {
    let args: Vec<_> = ["plan"].into_iter().chain(args.split_whitespace()).collect();
    quorate(Path::new("."), &args)
}

#[test]
fn a_serial_line_gets_timeouts_and_idle_air_time() {
    let ran = plan("--link 115200 --members 5 --flash nrf52840");
    assert_eq!(ran.code, 0, "{}", ran.err);
    for line in ["5 members over 115200 baud", "heartbeat", "election timeout", "idle air time"] {
        assert!(ran.out.contains(line), "{line}: {}", ran.out);
    }
}

#[test]
fn the_json_says_the_same_figures() {
    let ran = plan("--link 802.15.4 --members 5 --flash nrf52840 --json");
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let text = plan("--link 802.15.4 --members 5 --flash nrf52840").out;
    for field in ["heartbeat_ms", "election_ms", "round_ms", "failover_ms"] {
        let figure = format!(" {} ms ", json[field].as_u64().unwrap());
        assert!(text.contains(&figure), "{field}: {text}");
    }
    assert!(json["idle_air_permille"].as_u64().unwrap() <= 200);
}

#[test]
fn a_part_that_stalls_for_seconds_asks_for_three_of_its_erases() {
    let ran = plan("--link udp --members 3 --flash stm32h7 --json");
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["election_ms"], 6000);
}

#[test]
fn what_is_not_known_is_refused_with_the_choices() {
    for (args, choice) in [
        ("--link zigbee --flash nrf52840", "802.15.4"),
        ("--link 9600 --flash eeprom", "nrf52840"),
        ("--link 9600 --flash w25q --members 40", "1..=8"),
        ("--link 9600 --flash w25q --frame-bytes 40", "96"),
        ("--link 50 --flash w25q", "10000 ms would do"),
        ("--link 9600", "--flash"),
    ] {
        let ran = plan(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args}");
        assert!(ran.err.contains(choice), "{args}: {}", ran.err);
    }
}
