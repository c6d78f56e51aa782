//! Named cursors: how far a reader has come, durable, so that it goes on there. One small text file each in the data folder.
//!
//! ```text
//! cursor.<name>     eventstream cursor 1
//!                   <node> <sequence of the next record>
//! ```

use std::collections::BTreeMap;
use std::io;

use super::log_file::{LogFile, LogFolder, read_full};

const PREFIX: &str = "cursor.";
const FIRST_LINE: &str = "eventstream cursor 1";
/// The longest name, and far more than a cursor of 256 nodes takes.
const NAME_BYTES_MAX: usize = 64;
const FILE_BYTES_MAX: usize = 16 << 10;

/// Whether a cursor can have this name: small letters, digits, `-` and `_`, at most 64.
pub fn is_cursor_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain)
}

/// How far a reader has come, by node: the sequence of the next record.
pub type Cursor = BTreeMap<u32, u64>;

/// Reads a cursor; `None` if there is none of this name.
///
/// # Errors
/// Whatever reading says; `InvalidData`: the file is no cursor.
pub fn read_cursor(folder: &impl LogFolder, name: &str) -> io::Result<Option<Cursor>> {
    let Some(file) = folder.open_if_there(&format!("{PREFIX}{name}"))? else { return Ok(None) };
    let mut bytes = vec![0; FILE_BYTES_MAX];
    let read = read_full(&file, &mut bytes, 0)?;
    let text = std::str::from_utf8(&bytes[..read]).ok();
    let cursor =
        text.and_then(parse).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{PREFIX}{name} is no cursor")))?;
    Ok(Some(cursor))
}

fn parse(text: &str) -> Option<Cursor> {
    let lines = text.strip_suffix('\n')?.strip_prefix(FIRST_LINE)?;
    let position =
        |line: &str| line.split_once(' ').and_then(|(node, sequence)| Some((node.parse().ok()?, sequence.parse().ok()?)));
    lines.lines().filter(|line| !line.is_empty()).map(position).collect()
}

/// Keeps a cursor, durably: after a crash it is there as it was, or as it is.
///
/// # Errors
/// Whatever the folder says.
pub fn write_cursor(folder: &impl LogFolder, name: &str, cursor: &Cursor) -> io::Result<()> {
    let mut text = format!("{FIRST_LINE}\n");
    cursor.iter().for_each(|(node, sequence)| text.push_str(&format!("{node} {sequence}\n")));
    let making = format!("{PREFIX}{name}.new");
    let file = folder.create(&making)?;
    file.set_len(0)?;
    file.write_at(text.as_bytes(), 0)?;
    file.sync()?;
    folder.rename(&making, &format!("{PREFIX}{name}"))?;
    folder.sync()
}

/// The lowest position of all cursors in a node's log; `None`: there is no cursor for it. One that can't be read stands at 0.
///
/// # Errors
/// Whatever listing says.
pub fn lowest_cursor(folder: &impl LogFolder, node: u32) -> io::Result<Option<u64>> {
    let names = folder.list()?;
    let names = names.iter().filter_map(|name| name.strip_prefix(PREFIX)).filter(|name| is_cursor_name(name));
    let positions = names.filter_map(|name| match read_cursor(folder, name) {
        Ok(cursor) => cursor.and_then(|cursor| cursor.get(&node).copied()),
        Err(_) => Some(0),
    });
    Ok(positions.min())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sim::disk::{Left, SimDisk};

    #[test]
    fn a_cursor_comes_back_as_it_went_whatever_a_crash_leaves() {
        let (old, new) = (Cursor::from([(0, 5), (3, u64::MAX)]), Cursor::from([(0, 6)]));
        let disk = SimDisk::new();
        assert_eq!(read_cursor(&disk, "a").unwrap(), None);
        write_cursor(&disk, "a", &old).unwrap();
        assert_eq!(read_cursor(&disk, "a").unwrap(), Some(old.clone()));
        for changes in 0..6 {
            let interrupted = disk.after_crash(Left::ALL);
            interrupted.stop_after(changes);
            let done = write_cursor(&interrupted, "a", &new).is_ok();
            for left in Left::WAYS {
                let found = read_cursor(&interrupted.after_crash(left), "a").unwrap().unwrap();
                assert!(found == new || (found == old && !done), "{changes}, {left:?}: {found:?}");
            }
        }
    }

    #[test]
    fn the_lowest_of_all_cursors_counts_and_an_unreadable_one_stands_at_the_beginning() {
        let disk = SimDisk::new();
        assert_eq!(lowest_cursor(&disk, 0).unwrap(), None);
        write_cursor(&disk, "a", &Cursor::from([(0, 50), (1, 7)])).unwrap();
        write_cursor(&disk, "b", &Cursor::from([(0, 40)])).unwrap();
        assert_eq!((lowest_cursor(&disk, 0).unwrap(), lowest_cursor(&disk, 1).unwrap()), (Some(40), Some(7)));
        disk.put("cursor.c", b"nonsense");
        assert_eq!(lowest_cursor(&disk, 0).unwrap(), Some(0));
        assert!(read_cursor(&disk, "c").is_err());
    }

    #[test]
    fn names_are_plain() {
        assert!(is_cursor_name("billing-2") && !is_cursor_name("") && !is_cursor_name("a.new") && !is_cursor_name("../x"));
    }
}
