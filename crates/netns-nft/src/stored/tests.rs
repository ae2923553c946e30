//! What comes out of a file is what went in, or an error that says what and where.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use super::*;
use proptest::prelude::*;

fn stored() -> RulesetSnapshot {
    let ranges = ["10.96.0.0/12", "2001:db8:96::/108"].map(|net| net.parse().expect("a network"));
    RulesetSnapshot {
        revision: 7,
        ranges: ranges.to_vec(),
        batch: Batch::from_bytes(b"transaction".to_vec()),
    }
}

fn refusal(bytes: &[u8]) -> SnapshotError {
    RulesetSnapshot::decode(bytes).expect_err("it is not what was written")
}

/// A folder that goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portico-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("make a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_cut_short_anywhere_is_refused() {
    let bytes = stored().encode();
    for length in 0..bytes.len() {
        let refused = refusal(&bytes[..length]);
        assert!(matches!(refused, SnapshotError::CutShort { at, .. } if at <= length), "{refused}");
    }
    assert_eq!(refusal(&[]).to_string(), "stored ruleset, byte 0: the mark is cut short");
}

#[test]
fn every_altered_bit_is_noticed() {
    let bytes = stored().encode();
    for bit in 0..8 * bytes.len() {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        refusal(&altered);
    }
}

#[test]
fn another_layout_is_refused_by_name() {
    let mut bytes = stored().encode();
    bytes[MARK.len()..][..4].copy_from_slice(&77_u32.to_le_bytes());
    let expected = format!("stored ruleset: it has layout 77, and this version layout {LAYOUT}");
    assert_eq!(refusal(&bytes).to_string(), expected);
    bytes[0] = b'P';
    assert!(matches!(refusal(&bytes), SnapshotError::Unmarked));
}

#[test]
fn a_huge_length_takes_no_memory_and_is_named() {
    let mut bytes = stored().encode();
    bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(refusal(&bytes).to_string(), "stored ruleset, byte 48: what stands there is no service range");
    let mut bytes = stored().encode();
    bytes[48..56].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(refusal(&bytes).to_string(), "stored ruleset, byte 56: the transaction is cut short");
}

#[test]
fn what_goes_on_behind_the_end_is_refused() {
    let mut bytes = stored().encode();
    let at = bytes.len();
    bytes.push(0);
    assert!(matches!(refusal(&bytes), SnapshotError::TooLong { at: found } if found == at));
}

#[test]
fn a_file_is_replaced_whole_and_is_for_its_owner_alone() {
    let folder = Folder::new("stored");
    let path = folder.0.join("ruleset");
    assert!(matches!(RulesetSnapshot::read(&path), Err(SnapshotError::Read { .. })));
    stored().write(&path).expect("write");
    let mut old = fs::File::open(&path).expect("open the first");
    fs::write(folder.0.join("ruleset.new"), b"what a crash has left").expect("write");
    let next = RulesetSnapshot { revision: 8, ..stored() };
    next.write(&path).expect("write again");
    assert_eq!(RulesetSnapshot::read(&path).expect("read"), next);
    let mut first = Vec::new();
    old.read_to_end(&mut first).expect("read on");
    assert_eq!(RulesetSnapshot::decode(&first).expect("the first is whole"), stored());
    let names = fs::read_dir(&folder.0).expect("list").map(|entry| entry.expect("an entry").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["ruleset"]);
    assert_eq!(fs::metadata(&path).expect("look").permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_cannot_be_replaced_stays() {
    let folder = Folder::new("unwritable");
    let path = folder.0.join("ruleset");
    fs::create_dir(&path).expect("a folder where the file should be");
    fs::write(path.join("inside"), b"x").expect("write");
    stored().write(&path).expect_err("a folder is no file");
    let names = fs::read_dir(&folder.0).expect("list").map(|entry| entry.expect("an entry").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["ruleset"]);
}

fn any_range() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0..=32_u8).prop_map(|(address, length)| IpNet::new(address, length).expect("short"))
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        revision: u64,
        ranges in proptest::collection::vec(any_range(), 0..5),
        transaction in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let stored = RulesetSnapshot { revision, ranges, batch: Batch::from_bytes(transaction) };
        prop_assert_eq!(RulesetSnapshot::decode(&stored.encode()).expect("just written"), stored);
    }

    #[test]
    fn nothing_that_is_read_panics(bytes: Vec<u8>, cut in 0..60_usize) {
        prop_assert!(RulesetSnapshot::decode(&bytes).is_err());
        let mut bytes = bytes;
        bytes.splice(..0, stored().encode().into_iter().take(cut));
        prop_assert!(RulesetSnapshot::decode(&bytes).is_err());
    }
}
