//! What the main job refuses before anything starts: one line that names the file and the place, a non-zero exit,
//! and nothing changed.

use std::fs;
use std::path::Path;

use crate::program::quorate;

/// Runs the job on this file with a data directory, sees that it is refused and leaves nothing behind.
fn refused(text: &[u8]) -> String {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("my.toml"), text).unwrap();
    let ran = quorate(temp.path(), &["my.toml", "--data", "data"]);
    assert!(!temp.path().join("data").exists());
    ran.error(1).into()
}

#[test]
fn what_is_not_toml_is_refused_with_line_and_column() {
    assert!(refused(b"a = 1\nb = = 2\n").starts_with("error: my.toml:2:5: is not TOML: "));
    assert!(refused(b"<xml/>\n").starts_with("error: my.toml:1:7: is not TOML: "));
    assert!(refused(&[0, 159, 146, 150]).starts_with("error: my.toml:1:2: is not TOML: not UTF-8"));
}

#[test]
fn what_a_board_cannot_hold_is_refused_with_line_column_and_key() {
    let array = refused(b"[a]\nb = [1]\n");
    assert!(array.starts_with("error: my.toml:2:1: a.b is an array: "), "{array}");
    let date = refused(b"[a]\nb = 2026-11-22\n");
    assert!(date.starts_with("error: my.toml:2:1: a.b is a date or time: "), "{date}");
}

#[test]
fn too_many_keys_are_refused_at_the_first_one_too_many() {
    let text: String = (0..200).map(|i| format!("k{i:03} = true\n")).collect();
    let error = refused(text.as_bytes());
    let expected =
        "error: my.toml:129:1: k128 is one key too many: the file has 200, a board holds 128";
    assert_eq!(error, expected);
}

#[test]
fn a_value_or_key_that_is_too_long_is_refused_with_both_figures() {
    let value = refused(format!("a = 1\nb.c = \"{}\"\n", "x".repeat(121)).as_bytes());
    assert_eq!(
        value,
        "error: my.toml:2:3: the value of b.c has 121 bytes: a board holds up to 120"
    );
    let key = refused(format!("{} = 1\n", "k".repeat(49)).as_bytes());
    assert!(key.contains("has 49 bytes: a board holds keys of up to 48"), "{key}");
}

#[test]
fn more_bytes_than_a_board_holds_are_refused_where_they_end() {
    let text: String = (0..60).map(|i| format!("k{i:02} = \"{}\"\n", "x".repeat(100))).collect();
    let error = refused(text.as_bytes());
    assert!(
        error.starts_with("error: my.toml:37:1: k36 takes 113 bytes, of a board's 4096 only "),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_there_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let error = quorate(temp.path(), &["no.toml"]).error(1).to_string();
    assert!(error.starts_with("error: no.toml: can't be read: "), "{error}");
    let error = quorate(temp.path(), &["."]).error(1).to_string();
    assert!(error.starts_with("error: .: can't be read: "), "{error}");
}

#[test]
fn a_data_directory_that_cannot_be_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("my.toml"), "a = 1").unwrap();
    for data in ["no/data", "my.toml"] {
        let error = quorate(temp.path(), &["my.toml", "--data", data]).error(1).to_string();
        assert!(error.contains(data), "{error}");
    }
}

#[test]
fn images_that_are_none_are_refused_by_name_and_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("my.toml"), "a = 1").unwrap();
    let data = temp.path().join("data");
    fs::create_dir(&data).unwrap();
    for (content, complaint) in [
        (&b"short"[..], "error: data/board-1.qfl: 5 bytes are not the image"),
        (&[0xff; 36864], "error: data/board-1.qfl: this flash is blank"),
        (&[0x5a; 36864], "error: data/board-1.qfl: this is not the flash image of a board"),
    ] {
        for id in 1..=5 {
            fs::write(data.join(format!("board-{id}.qfl")), content).unwrap();
        }
        let ran = quorate(temp.path(), &["my.toml", "--data", "data"]);
        let error = ran.error(1);
        assert!(error.starts_with(complaint), "{error}");
        assert_eq!(fs::read(data.join("board-1.qfl")).unwrap(), content);
    }
    fs::remove_file(data.join("board-4.qfl")).unwrap();
    let ran = quorate(temp.path(), &["my.toml", "--data", "data"]);
    assert!(ran.error(1).contains("data/board-4.qfl: this board's image is missing"));
}

#[test]
fn wrong_usage_exits_with_2() {
    let here = Path::new(".");
    for args in [&["--seed", "x"][..], &["--nonsense"], &["config", "dump"], &["a.toml", "b.toml"]]
    {
        let ran = quorate(here, args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
    }
}
