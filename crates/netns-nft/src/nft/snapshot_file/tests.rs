//! Tests of ruleset snapshots.
//!
//! A snapshot is decoded exactly as it was written, or rejected with the truncated or invalid part and its offset.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use super::*;
use proptest::prelude::*;
use support::temp_dir::TempDir;

fn sample() -> RulesetSnapshot {
    let ranges = ["10.96.0.0/12", "2001:db8:96::/108"].map(|range| range.parse().expect("a CIDR"));
    RulesetSnapshot {
        revision: 7,
        ranges: ranges.to_vec(),
        batch: Batch::from_bytes(b"transaction".to_vec()),
    }
}

fn rejection(bytes: &[u8]) -> SnapshotError {
    RulesetSnapshot::decode(bytes).expect_err("not what was written")
}

#[test]
fn snapshot_truncated_at_any_offset_is_rejected() {
    let bytes = sample().encode();
    for length in 0..bytes.len() {
        let rejected = rejection(&bytes[..length]);
        assert!(matches!(rejected, SnapshotError::Truncated { at, .. } if at <= length), "{rejected}");
    }
    assert_eq!(rejection(&[]).to_string(), "offset 0: truncated magic");
}

#[test]
fn every_flipped_bit_is_detected() {
    let bytes = sample().encode();
    for bit in 0..8 * bytes.len() {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        rejection(&changed);
    }
}

#[test]
fn other_layout_is_rejected_with_its_number() {
    let mut bytes = sample().encode();
    bytes[MAGIC.len()..][..4].copy_from_slice(&77_u32.to_le_bytes());
    let expected = format!("unsupported layout 77 (expected {LAYOUT})");
    assert_eq!(rejection(&bytes).to_string(), expected);
    bytes[0] = b'P';
    assert!(matches!(rejection(&bytes), SnapshotError::BadMagic));
}

#[test]
fn huge_length_is_rejected_without_allocation() {
    let mut bytes = sample().encode();
    bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(rejection(&bytes).to_string(), "offset 48: invalid service range");
    let mut bytes = sample().encode();
    bytes[48..56].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(rejection(&bytes).to_string(), "offset 56: truncated transaction");
}

#[test]
fn trailing_data_is_rejected() {
    let mut bytes = sample().encode();
    let at = bytes.len();
    bytes.push(0);
    assert!(matches!(rejection(&bytes), SnapshotError::TrailingData { at: found } if found == at));
}

#[test]
fn file_is_replaced_atomically_and_readable_by_its_owner_only() {
    let dir = TempDir::new("snapshot");
    let path = dir.join("ruleset");
    assert!(matches!(RulesetSnapshot::read(&path), Err(SnapshotError::Read { .. })));
    sample().write(&path).expect("write");
    let mut old = fs::File::open(&path).expect("open the first");
    fs::write(dir.join("ruleset.new"), b"left by a crash").expect("write");
    let next = RulesetSnapshot { revision: 8, ..sample() };
    next.write(&path).expect("write again");
    assert_eq!(RulesetSnapshot::read(&path).expect("read"), next);
    let mut first = Vec::new();
    old.read_to_end(&mut first).expect("read on");
    assert_eq!(RulesetSnapshot::decode(&first).expect("the first is whole"), sample());
    let names = fs::read_dir(dir.path()).expect("list").map(|entry| entry.expect("an entry").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["ruleset"]);
    assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
}

#[test]
fn failed_replacement_leaves_the_old_file() {
    let dir = TempDir::new("unwritable");
    let path = dir.join("ruleset");
    fs::create_dir(&path).expect("create a directory in place of the file");
    fs::write(path.join("inside"), b"x").expect("write");
    sample().write(&path).expect_err("a directory cannot be replaced by a file");
    let names = fs::read_dir(dir.path()).expect("list").map(|entry| entry.expect("an entry").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["ruleset"]);
}

fn any_range() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0..=32_u8).prop_map(|(address, length)| IpNet::new(address, length).expect("short"))
}

proptest! {
    #[test]
    fn encoded_snapshot_is_decoded_unchanged(
        revision: u64,
        ranges in proptest::collection::vec(any_range(), 0..5),
        transaction in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let snapshot = RulesetSnapshot { revision, ranges, batch: Batch::from_bytes(transaction) };
        prop_assert_eq!(RulesetSnapshot::decode(&snapshot.encode()).expect("just encoded"), snapshot);
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(bytes: Vec<u8>, cut in 0..60_usize) {
        prop_assert!(RulesetSnapshot::decode(&bytes).is_err());
        let mut bytes = bytes;
        bytes.splice(..0, sample().encode().into_iter().take(cut));
        prop_assert!(RulesetSnapshot::decode(&bytes).is_err());
    }
}
