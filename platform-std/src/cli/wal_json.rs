//! `quorate wal --json`.

use quorate::EntryId;
use quorate::event::Note;
use quorate::wal::inspect::{Checkpoint, Kind};
use serde_json::{Value, json};

use crate::image::ImageError;
use crate::wal_image::{Found, RecordState, Segment, SegmentState, Verdict, WalImage};

/// All that is known of an image.
pub(super) fn image(image: &WalImage, cycles: Option<u32>, records: bool) -> Value {
    let geometry = &image.geometry;
    let mut object = json!({
        "geometry": {
            "bytes": geometry.bytes(),
            "segments": geometry.segments,
            "segment_bytes": geometry.segment_bytes(),
            "word_bytes": geometry.word_bytes,
            "erased": geometry.erased,
        },
        "identity": image.identity.map(|it| json!({
            "board": it.node.get(),
            "generation": it.generation.0,
            "cluster": format!("{:?}", it.cluster),
        })),
        "hard_state": {
            "term": image.hard_state.term.0,
            "vote": image.hard_state.vote.map(|vote| vote.get()),
            "commit": image.hard_state.commit.0,
        },
        "snapshot": image.snapshot.map(|it| snapshot(image, &it)),
        "log": image.log.map(|(last, bytes)| json!({ "last": id(last), "bytes": bytes })),
        "life_left_percent": cycles.map(|cycles| image.life_left_percent(cycles)),
        "last_fault": Note(image.note).fault(),
        "note": Note(image.note).own(),
        "segments": image.segments.iter().map(|it| segment(image, it)).collect::<Vec<_>>(),
        "cuts": image.cuts,
        "record_count": image.records.len(),
    });
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), judged(image)) {
        object.extend(more);
        if records {
            let all = image.records.iter().map(|it| record(image, it)).collect();
            object.insert("records".into(), Value::Array(all));
        }
    }
    object
}

/// Whether it is sound.
pub(super) fn verdict(image: &Result<WalImage, ImageError>) -> Value {
    match image {
        Ok(image) => judged(image),
        Err(error) => json!({
            "verdict": "no log",
            "sound": false,
            "torn_at": null,
            "damage": [],
            "fault": error.to_string(),
        }),
    }
}

fn judged(image: &WalImage) -> Value {
    let (name, torn_at, damage) = match &image.verdict {
        Verdict::Sound => ("sound", None, vec![]),
        Verdict::Torn { offset } => ("torn", Some(*offset), vec![]),
        Verdict::Damaged(damage) => ("damaged", None, damage.clone()),
        Verdict::Stopped(_) => ("stopped", None, vec![]),
    };
    let damage: Vec<_> = (damage.iter())
        .map(|it| json!({ "segment": it.segment, "offset": it.offset, "what": it.what }))
        .collect();
    json!({
        "verdict": name,
        "sound": matches!(name, "sound" | "torn"),
        "torn_at": torn_at,
        "damage": damage,
        "fault": image.refused.map(|refused| refused.to_string()),
    })
}

fn id(id: EntryId) -> Value {
    json!({ "index": id.index.0, "term": id.term.0 })
}

fn snapshot(image: &WalImage, it: &Checkpoint) -> Value {
    json!({
        "id": id(it.id),
        "bytes": it.bytes,
        "crc": format!("{:08x}", it.crc),
        "segment": it.first.segment,
        "offset": image.place(it.first.segment, it.first.offset),
        "installed": it.installed != 0,
    })
}

fn segment(image: &WalImage, it: &Segment) -> Value {
    json!({
        "segment": it.number,
        "state": state_name(it.state),
        "newest": it.is_newest,
        "order": it.order,
        "erases": it.erases,
        "bytes_used": it.bytes_used,
        "bytes_live": it.bytes_live,
        "records": it.records,
        "follows": it.link.map(|(segment, end)| {
            json!({ "segment": segment, "end": image.place(segment, end) })
        }),
    })
}

fn record(image: &WalImage, it: &Found) -> Value {
    let says = &it.says;
    let mut object = json!({
        "segment": it.segment,
        "offset": image.place(it.segment, it.offset),
        "bytes": it.bytes,
        "kind": kind_name(it.kind),
        "state": record_state_name(it.state),
    });
    let mut tell = |name: &str, value: Value| object[name] = value;
    if it.tells_vote() {
        tell("term", says.all.hard_state.term.0.into());
        tell("vote", says.all.hard_state.vote.map(|vote| vote.get()).into());
    }
    if it.tells_commit() {
        tell("commit", says.all.hard_state.commit.0.into());
    }
    if let Some((prev, last)) = it.entries {
        tell(
            "entries",
            json!({ "first": prev.index.0 + 1, "last": last.index.0, "term": last.term.0 }),
        );
    }
    match it.kind {
        Kind::Chunk => tell(
            "chunk",
            json!({ "of": id(says.snap), "from": says.snap_at, "bytes": it.data_bytes }),
        ),
        Kind::Checkpoint => tell("snapshot", snapshot(image, &says.all.checkpoint)),
        Kind::Boot => tell("voids_from", image.place(it.segment, says.from).into()),
        Kind::Open => {
            tell("order", says.seq.into());
            tell("erases", says.erases.into());
        }
        Kind::Note => tell("note", says.all.note.into()),
        _ => {}
    }
    object
}

/// A segment's state in one word.
pub(super) const fn state_name(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Live => "live",
        SegmentState::Free => "free",
        SegmentState::Erased => "erased",
        SegmentState::Unreadable => "unreadable",
        SegmentState::Retired => "retired",
    }
}

/// A record's kind in one word.
pub(super) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Group => "group",
        Kind::Chunk => "chunk",
        Kind::Seal => "seal",
        Kind::Checkpoint => "checkpoint",
        Kind::Boot => "boot",
        Kind::Open => "open",
        Kind::Note => "note",
    }
}

/// A record's state in one word.
pub(super) const fn record_state_name(state: RecordState) -> &'static str {
    match state {
        RecordState::Live => "live",
        RecordState::Dead => "dead",
        RecordState::Void => "void",
    }
}
