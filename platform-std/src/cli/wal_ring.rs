//! A picture of the ring of segments, as wide as the terminal.

use console::{Style, Term};

use crate::wal_image::{RecordState, Segment, SegmentState, Verdict, WalImage};

/// Without a terminal the picture is as wide as this.
const COLUMNS: usize = 80;
/// A segment is shown no wider and no narrower.
const CELL: (usize, usize) = (3, 10);

/// What one character of the picture stands for; of several, the last one here is shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Empty,
    Rubbish,
    Dead,
    Live,
    Retired,
    Torn,
    Damaged,
}

impl Mark {
    const ALL: [(Self, char, &'static str); 7] = [
        (Self::Live, '█', "live"),
        (Self::Dead, '▒', "not needed any more"),
        (Self::Empty, '·', "free"),
        (Self::Rubbish, '?', "an erase that was cut short"),
        (Self::Torn, '~', "torn write"),
        (Self::Damaged, '!', "damaged"),
        (Self::Retired, '×', "out of use"),
    ];

    fn character(self) -> char {
        Self::ALL
            .iter()
            .find(|(mark, ..)| *mark == self)
            .map_or(' ', |(_, character, _)| *character)
    }

    fn style(self) -> Style {
        match self {
            Self::Live => Style::new().green(),
            Self::Dead | Self::Empty | Self::Retired => Style::new().dim(),
            Self::Rubbish | Self::Torn => Style::new().yellow(),
            Self::Damaged => Style::new().red().bold(),
        }
    }
}

/// The ring, used clockwise, with a line that explains it.
pub(super) fn draw(image: &WalImage) -> String {
    let width = Term::stdout().size_checked().map_or(COLUMNS, |(_, columns)| columns.into());
    draw_within(image, width)
}

fn draw_within(image: &WalImage, width: usize) -> String {
    let all: Vec<_> = image.segments.iter().collect();
    let columns = all.len().div_ceil(2);
    let cell = (width.saturating_sub(8) / columns.max(1)).saturating_sub(1).clamp(CELL.0, CELL.1);
    let (top, bottom) = all.split_at(columns);
    let bars =
        |row: &[&Segment]| row.iter().map(|it| bar(image, it, cell)).collect::<Vec<_>>().join(" ");
    let names = |row: &[&Segment]| {
        row.iter().map(|it| name(it, cell)).collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    let mut below: Vec<_> = bottom.iter().rev().copied().collect();
    // With an odd number the line goes on where a segment would be.
    let gap = " ".repeat((columns - bottom.len()) * (cell + 1));
    let line = "─".repeat((columns - bottom.len()) * (cell + 1));
    let text = format!(
        "   {}\n╭▶ {} ─╮\n╰─{line} {} ◀╯\n   {gap}{}\n",
        names(top),
        bars(top),
        bars(&below),
        names(&below),
    );
    below.extend(top);
    let shown: Vec<Mark> = below.iter().flat_map(|it| marks(image, it, cell)).collect();
    let legend: Vec<_> = (Mark::ALL.iter())
        .filter(|(mark, ..)| shown.contains(mark))
        .map(|(mark, character, what)| format!("{} {what}", mark.style().apply_to(character)))
        .chain(["* written to".to_owned()])
        .collect();
    format!("{text}   {}\n", legend.join("   "))
}

fn name(segment: &Segment, cell: usize) -> String {
    let newest = if segment.is_newest { "*" } else { "" };
    let name = format!("{:<cell$}", format!("{}{newest}", segment.number));
    let style = if segment.is_newest { Style::new().bold() } else { Style::new() };
    style.apply_to(name).to_string()
}

fn bar(image: &WalImage, segment: &Segment, cell: usize) -> String {
    let styled = |mark: Mark| mark.style().apply_to(mark.character()).to_string();
    marks(image, segment, cell).into_iter().map(styled).collect()
}

fn marks(image: &WalImage, segment: &Segment, cell: usize) -> Vec<Mark> {
    let bytes = image.geometry.segment_bytes();
    let nothing = match segment.state {
        SegmentState::Retired => Mark::Retired,
        SegmentState::Unreadable => Mark::Rubbish,
        _ => Mark::Empty,
    };
    let mut marks = vec![nothing; cell];
    let mut put = |from: u32, to: u32, mark: Mark| {
        let column = |at: u32| (u64::from(at) * cell as u64 / u64::from(bytes.max(1))) as usize;
        let last = column(to.saturating_sub(1).max(from)).min(cell - 1);
        for place in &mut marks[column(from).min(last)..=last] {
            *place = (*place).max(mark);
        }
    };
    for record in image.records.iter().filter(|record| record.segment == segment.number) {
        let mark = if record.state == RecordState::Live { Mark::Live } else { Mark::Dead };
        put(record.offset, record.offset + record.bytes, mark);
    }
    let here = |at: u32| at / bytes.max(1) == u32::from(segment.number);
    match &image.verdict {
        Verdict::Torn { offset } if here(*offset) => {
            put(offset % bytes, offset % bytes, Mark::Torn)
        }
        Verdict::Damaged(damage) => {
            for it in damage.iter().filter(|it| here(it.offset)) {
                put(it.offset % bytes, it.offset % bytes, Mark::Damaged);
            }
        }
        _ => {}
    }
    marks
}
