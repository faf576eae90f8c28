use super::*;

const PAGE: usize = 512;

/// A log as SQLite writes it: transactions of so many pages each.
fn log(is_big: bool, salts: [u32; 2], transactions: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [if is_big { MAGIC_BIG } else { MAGIC_LITTLE }, VERSION, PAGE as u32, 0, salts[0], salts[1]] {
        bytes.extend(word.to_be_bytes());
    }
    let mut sum = Sum([0, 0]).over(&bytes, is_big);
    bytes.extend(sum.0.iter().flat_map(|half| half.to_be_bytes()));
    let mut page = 0u32;
    for (index, pages) in transactions.iter().enumerate() {
        for number in 0..*pages {
            page = page % 7 + 1;
            let mut frame = page.to_be_bytes().to_vec();
            frame.extend(if number + 1 == *pages { 9u32 } else { 0 }.to_be_bytes());
            let content: Vec<u8> = (0..PAGE).map(|at| (at * 31 + number * 7 + index * 13) as u8).collect();
            sum = sum.over(&frame, is_big).over(&content, is_big);
            frame.extend(salts.iter().chain(&sum.0).flat_map(|half| half.to_be_bytes()));
            bytes.extend(frame);
            bytes.extend(content);
        }
    }
    bytes
}

fn frames(bytes: &[u8]) -> Frames {
    match read(bytes).unwrap() {
        Log::Frames(frames) => frames,
        other => panic!("{other:?}"),
    }
}

const FRAME: usize = FRAME_HEADER + PAGE;

#[test]
fn a_whole_log_is_read_to_its_end_in_either_byte_order() {
    for is_big in [false, true] {
        let frames = frames(&log(is_big, [1, 2], &[2, 1, 3]));
        assert_eq!((frames.committed, frames.pages_after, frames.tail, frames.salts), (6, 9, Tail::Nothing, [1, 2]));
        assert_eq!(frames.pages.len(), 6);
    }
    assert_eq!(read(&[][..]).unwrap(), Log::Nothing);
    assert_eq!(frames(&log(false, [1, 2], &[])).committed, 0);
}

/// The same page twice: the later content counts, and that of an unfinished transaction never does.
#[test]
fn the_last_committed_content_of_a_page_counts() {
    let bytes = log(false, [1, 2], &[7, 1, 2]);
    let whole = frames(&bytes);
    let unfinished = frames(&bytes[..bytes.len() - 1]);
    assert_eq!((unfinished.committed, unfinished.tail), (8, Tail::Unfinished));
    let content = |frame: usize| crc32fast::hash(&bytes[HEADER + frame * FRAME + FRAME_HEADER..HEADER + (frame + 1) * FRAME]);
    assert_eq!((unfinished.pages[&1], whole.pages[&1], whole.pages[&2]), (content(7), content(7), content(8)));
    assert_eq!(unfinished.pages[&2], content(1));
}

#[test]
fn every_truncation_ends_at_a_commit_and_is_no_damage() {
    let bytes = log(true, [5, 6], &[2, 1]);
    for length in 0..bytes.len() {
        match read(&bytes[..length]).unwrap() {
            Log::Nothing => assert!(length < HEADER),
            Log::Frames(frames) => {
                assert_eq!(frames.committed, if length < HEADER + 2 * FRAME { 0 } else { 2 }, "{length}");
                assert!(!matches!(frames.tail, Tail::Cut { .. }), "{length}: {:?}", frames.tail);
            }
            other => panic!("{length}: {other:?}"),
        }
    }
}

/// Every bit of the log: either what is behind it is told to be cut off, or there is nothing behind it.
#[test]
fn every_flipped_bit_that_cuts_work_off_is_told() {
    let bytes = log(false, [5, 6], &[1, 2, 1]);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let frame = at.saturating_sub(HEADER) / FRAME;
        match read(&flipped[..]).unwrap() {
            Log::NoHeader { frames, commits, .. } => {
                assert!(at < HEADER, "{at}");
                assert!(frames >= 3 && commits >= 2, "{at}: {frames} {commits}");
            }
            Log::Frames(found) => {
                assert!(at >= HEADER, "{at}");
                let committed = [0, 1, 1, 3][frame];
                assert_eq!(found.committed, committed, "{at}");
                match found.tail {
                    Tail::Cut { frame: cut, commits, is_certain, .. } => {
                        assert_eq!(cut as usize, frame + 1, "{at}");
                        // The last transaction may have been underway, and salts of its own make it certain that it was not.
                        assert!(commits >= 1 && (is_certain || frame >= 1), "{at}: {:?}", found.tail);
                    }
                    // Nothing is behind the last frame.
                    tail => assert_eq!((frame, tail), (3, Tail::Unfinished), "{at}"),
                }
            }
            Log::Nothing => panic!("{at}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_put_right_or_left_alone() {
    let bytes = log(true, [5, 6], &[1, 2, 1]);
    let mut mended = 0;
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let told = mend(&mut flipped);
        if !told.is_empty() {
            assert!(flipped == bytes, "{at}: {told:?}");
            mended += 1;
        }
    }
    assert!(mended * 10 > bytes.len() * 9, "{mended} of {}", bytes.len());
    let mut whole = bytes.clone();
    assert_eq!(mend(&mut whole), [""; 0]);
    assert!(whole == bytes);
}

#[test]
fn frames_of_an_earlier_round_are_no_damage() {
    let old = log(false, [5, 6], &[1, 1, 1, 1, 1]);
    let mut bytes = log(false, [6, 99], &[1, 1]);
    bytes.extend(&old[bytes.len()..]);
    assert_eq!((frames(&bytes).committed, frames(&bytes).tail), (2, Tail::Nothing));
    // Torn at the seam: the new round's third transaction was begun over an old frame.
    let new = log(false, [6, 99], &[1, 1, 2]);
    let mut torn = new[..HEADER + 2 * FRAME + 100].to_vec();
    torn.extend(&old[torn.len()..]);
    assert_eq!((frames(&torn).committed, frames(&torn).tail), (2, Tail::Unfinished));
}

/// A disk that fails: SQLite has written a transaction of several frames and could not sync it, so that nobody was told of it; the next one
/// begins where it did. Twice in a row, and then the process dies.
#[test]
fn what_is_left_of_commits_that_failed_with_the_disk_is_no_damage() {
    let accepted = [2, 1];
    let written = |behind: &[usize]| log(false, [5, 6], &[&accepted, behind].concat());
    let over = |new: Vec<u8>, old: &[u8]| new.iter().copied().chain(old[new.len().min(old.len())..].iter().copied()).collect::<Vec<u8>>();
    for (first, second) in [(9, 4), (9, 1), (4, 2), (2, 2), (1, 1), (3, 9)] {
        let failed = written(&[first]);
        // The probe of the file that was opened anew, then another failure, then another probe.
        let failed = over(written(&[1, second]), &failed);
        let left = over(written(&[1, 1]), &failed);
        let found = frames(&left);
        assert_eq!(found.committed, 5, "{first} {second}");
        assert!(!matches!(found.tail, Tail::Cut { is_certain: true, .. }), "{first} {second}: {:?}", found.tail);
    }
    // What was begun behind a commit says that the commit was safe, damaged or not.
    for damaged in [3, 4, 5] {
        let mut bytes = written(&[2, 1, 1]);
        bytes[HEADER + damaged * FRAME + FRAME_HEADER + 7] ^= 4;
        assert!(matches!(frames(&bytes).tail, Tail::Cut { is_certain: true, .. }), "{damaged}: {:?}", frames(&bytes).tail);
    }
}

#[test]
fn what_is_no_log_is_told_without_a_panic() {
    for length in [32, 33, 600, 5_000] {
        let bytes: Vec<u8> = (0..length).map(|at: usize| (at * 197 + length) as u8).collect();
        assert!(matches!(read(&bytes[..]).unwrap(), Log::NoHeader { frames: 0, commits: 0, .. }), "{length}");
        assert_eq!(mend(&mut bytes.clone()), [""; 0]);
    }
}
