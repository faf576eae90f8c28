//! The moments that no test on a whole store can choose: what is on its way while sessions end, and reads that overlap changes.

use bytes::Bytes;

use super::*;

fn row(id: i64, lane: Option<&str>) -> QueuedRow {
    let event = StoredEvent {
        seq: id,
        key: "k".parse().expect("a key"),
        stored_at: 0,
        hops: 0,
        redactions: 0,
        event_id: None,
        traceparent: None,
        body: Bytes::new(),
        is_intact: true,
    };
    QueuedRow { id, lane: lane.map(str::to_owned), due_at: None, attempts: 0, history: Vec::new(), direct: false, handed: false, event }
}

fn plan(queue: &RouteQueue, session: u64) -> Plan {
    match queue.next(session, 0) {
        Next::Fetch(plan) => *plan,
        other => panic!("a read was to be asked for: {other:?}"),
    }
}

fn taken(queue: &RouteQueue, session: u64) -> Delivery {
    match queue.next(session, 0) {
        Next::Delivery(delivery) => *delivery,
        other => panic!("a delivery was to come: {other:?}"),
    }
}

/// A read that found `rows` and no more.
fn found(plan: &Plan, rows: Vec<QueuedRow>) -> Fetched {
    let cursor = rows.iter().map(|row| row.id).max().unwrap_or(plan.cursor);
    Fetched { rows, cursor, due_cursor: plan.due_cursor, is_exhausted: true, ..Fetched::default() }
}

/// A session with row 1 in hand and nothing more to read.
fn one_in_hand() -> (RouteQueue, u64) {
    let queue = RouteQueue::new(7, 0);
    let session = queue.begin(2).expect("nobody consumes it");
    let plan = plan(&queue, session);
    queue.apply(&plan, found(&plan, vec![row(1, None)]));
    assert_eq!(taken(&queue, session).identity, "1");
    (queue, session)
}

#[test]
fn what_is_on_its_way_to_be_settled_is_waited_for_by_the_next_session() {
    let (queue, session) = one_in_hand();
    queue.begin_settling(session, &[1]).unwrap();
    assert_eq!(queue.begin_settling(session, &[1]), Err(NotInHand::Stranger(1)));
    assert_eq!(queue.end(session), [0i64; 0], "it is not unfinished, its fate is open");
    assert_eq!(queue.begin_settling(session, &[1]), Err(NotInHand::SessionOver));

    let next = queue.begin(2).expect("the first session has ended");
    queue.offer(0, 2, || panic!("it may be of the same lane"));
    assert!(matches!(queue.next(next, 0), Next::Wait(None)));
    queue.settled(&[1]);
    assert!(plan(&queue, next).exclude.is_empty());
}

#[test]
fn what_could_not_be_settled_for_a_session_that_ended_is_handed_out_by_the_next_one_before_what_came_later() {
    let (queue, session) = one_in_hand();
    queue.begin_settling(session, &[1]).unwrap();
    queue.end(session);
    let next = queue.begin(2).expect("the first session has ended");
    assert!(matches!(queue.next(next, 0), Next::Wait(None)), "row 2 may be of the same lane");

    queue.not_settled(session, &[1], true);
    let read = plan(&queue, next);
    assert_eq!((read.cursor, read.exclude.is_empty()), (0, true));
    queue.apply(&read, found(&read, vec![row(1, None), row(2, None)]));
    let again = taken(&queue, next);
    assert_eq!((again.identity.as_str(), again.redelivered), ("1", true));
    assert_eq!(taken(&queue, next).identity, "2");
}

#[test]
fn what_could_not_be_settled_is_in_hand_again_unless_its_taker_is_gone() {
    let (queue, session) = one_in_hand();
    queue.begin_settling(session, &[1]).unwrap();
    queue.not_settled(session, &[1], true);
    assert_eq!(queue.in_hand(), 1);
    assert!(matches!(queue.next(session, 0), Next::Wait(None)));

    queue.begin_settling(session, &[1]).unwrap();
    queue.not_settled(session, &[1], false);
    assert_eq!(queue.in_hand(), 0);
    assert_eq!(plan(&queue, session).cursor, 0);
}

#[test]
fn an_addition_during_a_read_is_read_afterwards() {
    let queue = RouteQueue::new(7, 0);
    let session = queue.begin(2).unwrap();
    let read = plan(&queue, session);
    queue.note_ready();
    queue.apply(&read, found(&read, Vec::new()));
    let read = plan(&queue, session);
    queue.apply(&read, found(&read, Vec::new()));
    assert!(matches!(queue.next(session, 0), Next::Wait(None)));
    queue.note_waiting(5);
    assert_eq!(plan(&queue, session).due_cursor, (i64::MIN, i64::MIN));
}

#[test]
fn one_that_is_due_behind_the_reading_moves_the_reading_back_even_if_a_read_is_under_way() {
    let queue = RouteQueue::new(7, 0);
    let session = queue.begin(2).unwrap();
    let read = plan(&queue, session);
    queue.note_waiting(5);
    queue.apply(&read, Fetched { due_cursor: (9, 9), is_exhausted: true, ..Fetched::default() });
    assert_eq!(plan(&queue, session).due_cursor, (5, i64::MIN));
    // The read is given up; the next one begins at the same place.
    assert_eq!(plan(&queue, session).due_cursor, (5, i64::MIN));
}

#[test]
fn a_lane_held_during_a_read_is_put_aside_and_catches_up_from_its_first_row() {
    let queue = RouteQueue::new(7, 0);
    let session = queue.begin(9).unwrap();
    let read = plan(&queue, session);
    queue.hold(session, "x");
    queue.apply(&read, found(&read, vec![row(1, Some("x")), row(2, Some("y")), row(3, Some("x"))]));
    assert_eq!(taken(&queue, session).identity, "2");
    assert!(matches!(queue.next(session, 0), Next::Wait(None)));
    queue.free(session, "x");
    let read = plan(&queue, session);
    assert_eq!((read.catch_up.get("x"), read.cursor), (Some(&1), 3));

    // Held once more while it catches up: it keeps its place.
    queue.hold(session, "x");
    let caught_up = Fetched { caught_up: vec![("x".to_owned(), None)], ..found(&read, vec![row(1, Some("x"))]) };
    queue.apply(&read, Fetched { cursor: 3, ..caught_up });
    assert!(matches!(queue.next(session, 0), Next::Wait(None)));
    queue.free(session, "x");
    assert_eq!(plan(&queue, session).catch_up.get("x"), Some(&1));
}

#[test]
fn a_lane_freed_during_a_read_that_passed_it_over_catches_up() {
    let queue = RouteQueue::new(7, 0);
    let session = queue.begin(9).unwrap();
    queue.hold(session, "x");
    let read = plan(&queue, session);
    assert!(read.held.contains("x"));
    queue.free(session, "x");
    let passed_over = Fetched { skipped: [("x".to_owned(), 4)].into(), skipped_due: [("x".to_owned(), -3)].into(), cursor: 8, ..found(&read, Vec::new()) };
    queue.apply(&read, Fetched { cursor: 8, due_cursor: (0, 0), ..passed_over });
    let read = plan(&queue, session);
    assert_eq!((read.catch_up.get("x"), read.cursor, read.due_cursor), (Some(&4), 8, (-3, i64::MIN)));
}

#[test]
fn a_read_of_an_earlier_session_changes_nothing() {
    let queue = RouteQueue::new(7, 0);
    let session = queue.begin(2).unwrap();
    let read = plan(&queue, session);
    queue.end(session);
    let next = queue.begin(2).unwrap();
    queue.apply(&read, found(&read, vec![row(1, None)]));
    assert_eq!(plan(&queue, next).cursor, 0);
    assert!(matches!(queue.next(session, 0), Next::Over));
}

/// A session that has read to the end, and its queue.
fn at_the_end() -> (RouteQueue, u64) {
    let queue = RouteQueue::new(7, 0);
    let session = queue.begin(9).expect("nobody consumes it");
    let read = plan(&queue, session);
    queue.apply(&read, found(&read, Vec::new()));
    assert!(matches!(queue.next(session, 0), Next::Wait(None)));
    (queue, session)
}

#[test]
fn what_is_committed_behind_the_end_of_the_reading_is_handed_out_without_being_read() {
    let (queue, session) = at_the_end();
    queue.offer(0, 4, || row(4, None));
    queue.offer(0, 6, || row(6, None));
    assert_eq!(queue.take(session).map(|delivery| delivery.identity), Some("4".to_owned()));
    let next = taken(&queue, session);
    assert_eq!((next.identity.as_str(), next.redelivered), ("6", false));
    assert!(matches!(queue.next(session, 0), Next::Wait(None)), "there is nothing to read");
    // What is only told of is read from behind those.
    queue.note_ready();
    queue.offer(0, 7, || panic!("what was told of before it has not been read"));
    assert_eq!((plan(&queue, session).cursor, queue.take(session).is_none()), (6, true));
}

#[test]
fn what_is_committed_during_a_read_is_read_afterwards_even_if_the_read_was_broken_off() {
    let (queue, session) = at_the_end();
    queue.note_waiting(5);
    let read = plan(&queue, session);
    queue.offer(0, 1, || panic!("the read may find it too"));
    queue.apply(&read, found(&read, Vec::new()));
    let read = plan(&queue, session);
    // Nobody gives it back.
    drop(read);
    queue.offer(0, 2, || panic!("the next read finds it"));
    let read = plan(&queue, session);
    queue.apply(&read, found(&read, vec![row(1, None), row(2, None)]));
    queue.offer(0, 3, || row(3, None));
    assert_eq!([0; 3].map(|_| taken(&queue, session).identity), ["1", "2", "3"]);
}

#[test]
fn what_a_read_found_between_its_commit_and_the_offer_is_handed_out_once() {
    let (queue, session) = at_the_end();
    queue.note_ready();
    let read = plan(&queue, session);
    // Rows 1 and 2 are committed while it reads: it finds them, and only then are they told of.
    queue.apply(&read, found(&read, vec![row(1, None), row(2, Some("x"))]));
    queue.offer(0, 1, || panic!("it was read"));
    queue.hold(session, "x");
    queue.offer(0, 2, || panic!("it was read, and its lane is held since"));
    queue.offer(0, 3, || row(3, None));
    assert_eq!([0; 2].map(|_| taken(&queue, session).identity), ["1", "3"]);
    queue.free(session, "x");
    let read = plan(&queue, session);
    assert_eq!((read.catch_up.get("x"), read.cursor), (Some(&2), 3));
}

#[test]
fn nothing_is_offered_past_a_row_that_is_due_or_a_lane_that_catches_up() {
    let (queue, session) = at_the_end();
    queue.note_waiting(5);
    let read = plan(&queue, session);
    queue.apply(&read, Fetched { next_due: Some(5), ..found(&read, Vec::new()) });
    queue.offer(4, 2, || row(2, None));
    queue.offer(5, 3, || panic!("row 1 is due"));
    assert_eq!(taken(&queue, session).identity, "2");
    let read = plan(&queue, session);
    queue.apply(&read, found(&read, vec![row(1, None), row(3, None)]));
    assert_eq!([0; 2].map(|_| taken(&queue, session).identity), ["1", "3"]);

    queue.hold(session, "x");
    queue.offer(6, 4, || row(4, Some("x")));
    queue.offer(6, 5, || row(5, Some("y")));
    assert_eq!(taken(&queue, session).identity, "5");
    queue.free(session, "x");
    queue.offer(6, 6, || panic!("row 4 of its lane stands before it"));
    let read = plan(&queue, session);
    assert_eq!((read.catch_up.get("x"), read.cursor), (Some(&4), 5));
}

#[test]
fn no_more_is_offered_than_there_is_room_for_and_what_is_left_is_read() {
    let (queue, session) = at_the_end();
    let mut accepted = 0;
    for id in 1..2_000 {
        queue.offer(0, id, || {
            accepted += 1;
            row(id, None)
        });
    }
    assert_eq!(accepted, OFFERED_MAX as i64);
    let large = |id| QueuedRow { event: StoredEvent { body: Bytes::from(vec![0; OFFERED_BYTES_MAX]), ..row(id, None).event }, ..row(id, None) };
    for id in 1..=9 {
        assert_eq!(taken(&queue, session).identity, id.to_string());
    }
    queue.settled(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    for id in 10..=OFFERED_MAX as i64 {
        assert_eq!(taken(&queue, session).identity, id.to_string());
        queue.settled(&[id]);
    }
    assert_eq!(plan(&queue, session).cursor, OFFERED_MAX as i64);

    let (queue, session) = at_the_end();
    queue.offer(0, 1, || large(1));
    queue.offer(0, 2, || panic!("that is too much"));
    assert_eq!(taken(&queue, session).identity, "1");
    let read = plan(&queue, session);
    queue.apply(&read, found(&read, vec![row(2, None)]));
    assert_eq!(taken(&queue, session).identity, "2");
    queue.offer(0, 3, || large(3));
    assert_eq!(taken(&queue, session).identity, "3");
}
