//! `serve` carries what a node asks of its application to it, and the answers back.

use quorate::node::{Node, Output};
use quorate::typed::{NewerSchema, RestoreError, StateMachine, serve};
use quorate::{EntryId, Index, Instant, Term};

/// Notes what it is given, and answers as it is told to.
#[derive(Default)]
struct Notes {
    calls: Vec<String>,
    newer: bool,
    malformed: bool,
}

impl StateMachine for Notes {
    fn apply(&mut self, id: EntryId, command: &[u8]) -> Result<(), NewerSchema> {
        self.calls.push(format!("apply {id:?} {command:?}"));
        if self.newer { Err(NewerSchema { found: 7 }) } else { Ok(()) }
    }

    fn snapshot(&self, offset: u32, out: &mut [u8]) -> usize {
        out.fill(offset as u8);
        out.len()
    }

    fn restore(&mut self, offset: u32, bytes: &[u8], last: bool) -> Result<(), RestoreError> {
        self.calls.push(format!("restore {offset} {bytes:?} {last}"));
        if self.malformed { Err(RestoreError::Malformed) } else { Ok(()) }
    }
}

fn serve_with(app: &mut Notes, output: Output) -> (bool, [u8; 8], Option<u16>) {
    let mut node = Node::<[u8; 256]>::new();
    let node: &mut Node = &mut node;
    let mut flash = [1, 2, 3, 4, 5, 6, 7, 8];
    let served = serve(node, app, &output, &[10, 20, 30], &mut flash);
    (served, flash, node.status().newer_schema)
}

#[test]
fn a_command_is_applied_and_a_newer_one_is_refused_with_its_schema() {
    let mut app = Notes::default();
    let output = Output::Apply { id: EntryId::new(Index(5), Term(2)), len: 2 };
    let (served, _, newer) = serve_with(&mut app, output);
    assert_eq!((served, newer, app.calls.pop()), (true, None, Some("apply 2/5 [10, 20]".into())));
    app.newer = true;
    assert_eq!(serve_with(&mut app, output).2, Some(7));
}

#[test]
fn a_snapshot_is_put_where_it_was_asked_for_and_nowhere_else() {
    let output = Output::TakeSnapshot { offset: 9, at: 2, len_max: 3 };
    let (served, flash, newer) = serve_with(&mut Notes::default(), output);
    assert_eq!((served, flash, newer), (true, [1, 2, 9, 9, 9, 6, 7, 8], None));
}

#[test]
fn a_state_is_restored_from_where_it_is_and_one_that_cannot_be_is_refused_as_schema_0() {
    let mut app = Notes::default();
    let output = Output::RestoreSnapshot { offset: 4, at: 1, len: 2, last: true };
    let (served, _, newer) = serve_with(&mut app, output);
    assert_eq!(
        (served, newer, app.calls.pop()),
        (true, None, Some("restore 4 [2, 3] true".into()))
    );
    app.malformed = true;
    assert_eq!(serve_with(&mut app, output).2, Some(0));
}

#[test]
fn what_is_not_for_the_application_is_left_to_the_driver() {
    let mut app = Notes::default();
    let (served, flash, _) = serve_with(&mut app, Output::Wait { until: Instant::FOREVER });
    assert_eq!((served, flash[0], app.calls.len()), (false, 1, 0));
}
