//! Reads SQLite's write-ahead log before SQLite does.
//!
//! SQLite replays the log up to the first frame whose checksum does not fit, and takes that for the end: a flipped bit in the middle
//! opens as "ok", with fewer rows. Checksums are cumulative, each over the one before it, so what follows a damaged frame can still be
//! told from garbage: the next frame fits the checksum that the damaged one *says*. Frames that fit behind one that does not are
//! committed work that was cut off; an end behind which nothing fits is that of a transaction which was never finished, and normal.
//!
//! The format is documented: a header of 32 bytes (magic, version, page size, sequence, two salts, checksum over these), then frames
//! of 24 bytes and a page (page number, size of the database after a commit or 0, the salts, checksum over the first eight bytes and
//! the page). Frames with other salts are left over from an earlier round of the log.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use crate::heal;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;
const VERSION: u32 = 3_007_000;

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Log {
    /// There is none, or nothing was ever written to it.
    Nothing,
    /// One that SQLite reads.
    Frames(Frames),
    /// One whose header SQLite does not believe, so that it reads none of it.
    NoHeader {
        /// Frames of it that fit their neighbours.
        frames: u32,
        /// Transactions that end in them.
        commits: u32,
        /// Whose they are.
        salts: [u32; 2],
    },
}

/// The frames of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frames {
    /// They tell this round of the log from others.
    pub(crate) salts: [u32; 2],
    /// Of the store.
    pub(crate) page_bytes: u32,
    /// Up to the end of the last whole transaction.
    pub(crate) committed: u32,
    /// The store's pages after it; 0 if there is none.
    pub(crate) pages_after: u32,
    /// The pages that these frames bring, with the CRC of each one's last content.
    pub(crate) pages: HashMap<u32, u32>,
    /// What lies behind.
    pub(crate) tail: Tail,
}

/// What lies behind the last whole transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing of this round.
    Nothing,
    /// The beginning of a transaction that was not finished.
    Unfinished,
    /// Work behind a frame that does not fit.
    Cut {
        /// The frame, counted from 1.
        frame: u32,
        /// Frames behind it that do fit.
        frames: u32,
        /// Transactions that end in them, or in the damaged frame.
        commits: u32,
        /// One of them was followed by more: it was safe on the disk, since the next is begun only then.
        is_certain: bool,
    },
}

/// Reads the log at `path`.
///
/// # Errors
///
/// Those of the file; what stands in it is never one.
pub(crate) fn scan(path: &Path) -> io::Result<Log> {
    match File::open(path) {
        Ok(file) => read(BufReader::with_capacity(1 << 16, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Log::Nothing),
        Err(error) => Err(error),
    }
}

/// SQLite's checksum, in one of its two byte orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum([u32; 2]);

impl Sum {
    fn over(self, bytes: &[u8], is_big: bool) -> Self {
        let [mut one, mut two] = self.0;
        let (words, _) = bytes.as_chunks::<4>();
        let (pairs, _) = words.as_chunks::<2>();
        if is_big {
            for [first, second] in pairs {
                one = one.wrapping_add(u32::from_be_bytes(*first)).wrapping_add(two);
                two = two.wrapping_add(u32::from_be_bytes(*second)).wrapping_add(one);
            }
        } else {
            for [first, second] in pairs {
                one = one.wrapping_add(u32::from_le_bytes(*first)).wrapping_add(two);
                two = two.wrapping_add(u32::from_le_bytes(*second)).wrapping_add(one);
            }
        }
        Self([one, two])
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Fills `buffer`, or says that the file ended before.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The header, as far as it can be believed.
struct Header {
    is_big: bool,
    page_bytes: u32,
    salts: [u32; 2],
    sum: Sum,
    is_valid: bool,
}

impl Header {
    fn of(bytes: &[u8; HEADER]) -> Self {
        let magic = word(bytes, 0);
        let is_big = magic & 1 == 1;
        let page_bytes = word(bytes, 8);
        let sum = Sum([word(bytes, 24), word(bytes, 28)]);
        let is_known = matches!(magic, MAGIC_LITTLE | MAGIC_BIG) && word(bytes, 4) == VERSION;
        let is_page = page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes);
        let is_valid = is_known && is_page && Sum([0, 0]).over(&bytes[..24], is_big) == sum;
        Self { is_big, page_bytes, salts: [word(bytes, 16), word(bytes, 20)], sum, is_valid }
    }
}

fn read(mut from: impl Read) -> io::Result<Log> {
    let mut bytes = [0; HEADER];
    if !fill(&mut from, &mut bytes)? {
        return Ok(Log::Nothing);
    }
    let header = Header::of(&bytes);
    if !header.is_valid {
        return headless(&header, &bytes, from);
    }
    let mut frames = Frames { salts: header.salts, page_bytes: header.page_bytes, committed: 0, pages_after: 0, pages: HashMap::new(), tail: Tail::Nothing };
    let mut frame = vec![0; FRAME_HEADER + header.page_bytes as usize];
    let mut sum = header.sum;
    let mut number = 0u32;
    let mut pending: Vec<(u32, u32)> = Vec::new();
    while fill(&mut from, &mut frame)? {
        number = number.saturating_add(1);
        let seen = Seen::of(&frame, &[sum], header.is_big);
        // Exactly what SQLite asks.
        if seen.salts != header.salts || !seen.fits || seen.page == 0 {
            frames.tail = behind(&header, number, &seen, &mut from, &mut frame, !pending.is_empty())?;
            return Ok(Log::Frames(frames));
        }
        sum = seen.said;
        pending.push((seen.page, crc32fast::hash(&frame[FRAME_HEADER..])));
        if seen.pages_after != 0 {
            frames.committed = number;
            frames.pages_after = seen.pages_after;
            frames.pages.extend(pending.drain(..));
        }
    }
    if !pending.is_empty() {
        frames.tail = Tail::Unfinished;
    }
    Ok(Log::Frames(frames))
}

/// A frame as it is read.
struct Seen {
    page: u32,
    pages_after: u32,
    salts: [u32; 2],
    said: Sum,
    /// By each of the seeds.
    computed: Vec<Sum>,
    fits: bool,
}

impl Seen {
    fn of(frame: &[u8], seeds: &[Sum], is_big: bool) -> Self {
        let said = Sum([word(frame, 16), word(frame, 20)]);
        let computed: Vec<Sum> = seeds.iter().map(|seed| seed.over(&frame[..8], is_big).over(&frame[FRAME_HEADER..], is_big)).collect();
        let fits = computed.contains(&said);
        Self { page: word(frame, 0), pages_after: word(frame, 4), salts: [word(frame, 8), word(frame, 12)], said, computed, fits }
    }

    /// What the next frame's checksum may build on: what this one says, if its content is damaged, or what it comes to, if its checksum is.
    fn seeds(&self) -> Vec<Sum> {
        let mut seeds = self.computed.clone();
        seeds.push(self.said);
        seeds.dedup();
        // The first is the one that followed from what was right, the last what the frame says.
        match seeds.as_slice() {
            [first, .., last] => vec![*first, *last],
            _ => seeds,
        }
    }
}

/// Looks at everything behind a frame that does not fit.
fn behind(header: &Header, number: u32, damaged: &Seen, from: &mut impl Read, frame: &mut [u8], has_begun: bool) -> io::Result<Tail> {
    let (mut frames, mut commits, mut is_certain) = (0u32, 0u32, false);
    // The frame before ended a transaction. What fits it was begun behind it; what only fits something further on may be left from a
    // commit that failed with the disk, over whose beginning others were written since.
    let mut is_over = damaged.pages_after != 0 && damaged.salts == header.salts;
    let ended = u32::from(is_over);
    if damaged.fits && damaged.salts != header.salts {
        // The checksum of a leftover builds on those of its own round: only the salts of this one were changed.
        frames = 1;
        commits = u32::from(damaged.pages_after != 0);
        is_over = commits > 0;
    }
    let mut seeds = damaged.seeds();
    while fill(from, frame)? {
        let seen = Seen::of(frame, &seeds, header.is_big);
        let is_of_this_round = seen.salts == header.salts && seen.page != 0;
        if seen.fits && is_of_this_round {
            frames = frames.saturating_add(1);
            is_certain |= is_over;
            commits = commits.saturating_add(u32::from(seen.pages_after != 0));
            is_over |= seen.pages_after != 0;
        } else {
            is_over = is_of_this_round && seen.pages_after != 0;
        }
        seeds = seen.seeds();
    }
    if frames > 0 {
        // The damaged frame ended a transaction itself.
        commits = commits.saturating_add(ended);
    }
    Ok(match frames {
        0 if has_begun || damaged.salts == header.salts => Tail::Unfinished,
        0 => Tail::Nothing,
        _ => Tail::Cut { frame: number, frames, commits, is_certain },
    })
}

/// Bytes that are looked at behind a header that cannot be believed.
const HEADLESS_MAX: u64 = 64 * 1024 * 1024;

/// Counts what fits behind a header that does not. Its byte order and page size may be what is wrong with it, so all are tried.
fn headless(header: &Header, bytes: &[u8; HEADER], from: impl Read) -> io::Result<Log> {
    let mut behind = Vec::new();
    from.take(HEADLESS_MAX).read_to_end(&mut behind)?;
    let mut best = (0, 0, header.salts);
    let sizes = std::iter::once(header.page_bytes as usize).chain((9..=16).rev().map(|exponent| 1 << exponent));
    for page_bytes in sizes.filter(|bytes| bytes.is_power_of_two() && (512..=65_536).contains(bytes)) {
        for is_big in [false, true] {
            let (mut frames, mut commits, mut salts) = (0u32, 0u32, None);
            // What the header says, and what it comes to: one of them was left alone.
            let mut seeds = vec![Sum([0, 0]).over(&bytes[..24], is_big), header.sum];
            for frame in behind.chunks_exact(FRAME_HEADER + page_bytes) {
                let seen = Seen::of(frame, &seeds, is_big);
                if seen.fits && seen.page != 0 && *salts.get_or_insert(seen.salts) == seen.salts {
                    frames += 1;
                    commits += u32::from(seen.pages_after != 0);
                }
                seeds = seen.seeds();
            }
            if frames > best.0 {
                best = (frames, commits, salts.unwrap_or(header.salts));
            }
        }
        if best.0 > 0 {
            break;
        }
    }
    let (frames, commits, salts) = best;
    Ok(Log::NoHeader { frames, commits, salts })
}

/// Puts single flipped bits of a log right, as far as its checksums tell which they are. Returns a sentence for each.
pub(crate) fn mend(bytes: &mut [u8]) -> Vec<String> {
    let mut mended = Vec::new();
    let Some(head) = bytes.first_chunk::<HEADER>().copied() else { return mended };
    let mut header = Header::of(&head);
    if !header.is_valid {
        let flips = (0..HEADER * 8).filter_map(|bit| {
            let mut tried = head;
            tried[bit / 8] ^= 1 << (bit % 8);
            let header = Header::of(&tried);
            header.is_valid.then_some((tried, header, bit))
        });
        let found: Vec<_> = flips.collect();
        let [(tried, found, bit)] = found.as_slice() else { return mended };
        bytes[..HEADER].copy_from_slice(tried);
        header = Header { ..*found };
        mended.push(format!("bit {} of byte {} of the log's header", bit % 8, bit / 8));
    }
    let frame_bytes = FRAME_HEADER + header.page_bytes as usize;
    let mut sum = header.sum;
    let count = (bytes.len() - HEADER) / frame_bytes;
    for number in 0..count {
        let at = HEADER + number * frame_bytes;
        let next = bytes.get(at + frame_bytes..at + 2 * frame_bytes).map(<[u8]>::to_vec);
        let frame = &mut bytes[at..at + frame_bytes];
        let seen = Seen::of(frame, &[sum], header.is_big);
        if seen.fits && seen.salts == header.salts {
            sum = seen.said;
            continue;
        }
        if seen.fits {
            frame[8..12].copy_from_slice(&header.salts[0].to_be_bytes());
            frame[12..16].copy_from_slice(&header.salts[1].to_be_bytes());
            mended.push(format!("the salts of frame {} of the log", number + 1));
            sum = seen.said;
            continue;
        }
        let computed = seen.computed.first().copied().unwrap_or(sum);
        if seen.salts != header.salts {
            return mended;
        }
        let differing: u32 = (0..2).map(|half| (computed.0[half] ^ seen.said.0[half]).count_ones()).sum();
        let summed: Vec<u8> = frame[..8].iter().chain(&frame[FRAME_HEADER..]).copied().collect();
        let (words, _) = summed.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|word| if header.is_big { u32::from_be_bytes(*word) } else { u32::from_le_bytes(*word) }).collect();
        let in_content = heal::bit_of_sum(&words, computed.0, seen.said.0);
        // The next frame builds on what the checksum was; without one the content must be out of question.
        let in_checksum = differing == 1 && next.map_or(in_content.is_none(), |next| Seen::of(&next, &[computed], header.is_big).fits);
        if in_checksum {
            frame[16..20].copy_from_slice(&computed.0[0].to_be_bytes());
            frame[20..24].copy_from_slice(&computed.0[1].to_be_bytes());
            mended.push(format!("a bit of the checksum of frame {} of the log", number + 1));
            sum = computed;
            continue;
        }
        let Some((index, mask)) = in_content.filter(|_| differing != 1 || number + 1 < count) else { return mended };
        let word = words[index] ^ mask;
        let word = if header.is_big { word.to_be_bytes() } else { word.to_le_bytes() };
        let place = if index < 2 { index * 4 } else { FRAME_HEADER + (index - 2) * 4 };
        frame[place..place + 4].copy_from_slice(&word);
        mended.push(format!("a bit of frame {} of the log, byte {}", number + 1, place + mask.trailing_zeros() as usize / 8));
        sum = seen.said;
    }
    mended
}

#[cfg(test)]
mod tests;
