//! Records on disk: they are read as they were written, different keys never share a file, and a corrupt or abandoned
//! file does not affect other records.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use agent_ipc::{Attachment, AttachmentKey, ProgrammedBy, Record, Records};
use test_support::temp_dir::TempDir;

fn names(state: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(state.join("attachments")).expect("the directory exists");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

fn key(network: &str, container_id: &str, interface: &str) -> AttachmentKey {
    let [network, container_id, interface] = [network, container_id, interface].map(str::to_owned);
    AttachmentKey { network, container_id, interface }
}

fn record(key: AttachmentKey) -> Record {
    let attachment = Attachment {
        key,
        netns: "/run/netns/a".into(),
        pod: None,
        addresses: Vec::new(),
        annotations: [].into(),
        dns: None,
        notes: Vec::new(),
    };
    let netns_id = serde_json::from_str(r#"{"dev":4,"inode":4026532000,"cookie":18446744073709551615}"#);
    Record { attachment, netns_id: netns_id.expect("an identity"), programmed_by: ProgrammedBy::Plugin }
}

#[test]
fn written_record_is_read_until_it_is_removed() {
    let state = TempDir::new("written");
    let records = Records::new(state.path());
    assert!(records.read_all().expect("a missing directory is empty").0.is_empty());
    let mut made = record(key("net", "c1", "eth0"));
    records.write(&made).expect("write");
    made.programmed_by = ProgrammedBy::Agent;
    records.write(&made).expect("write again");
    assert_eq!(records.read(&made.attachment.key).expect("read"), made);
    let (found, corrupt) = records.read_all().expect("read");
    assert!(found == [made.clone()] && corrupt.is_empty(), "{found:?} {corrupt:?}");
    assert!(records.remove(&made.attachment.key).expect("remove"));
    assert!(!records.remove(&made.attachment.key).expect("nothing to remove"));
    assert!(records.read_all().expect("read").0.is_empty());
}

#[test]
fn different_keys_have_different_files_in_the_directory() {
    let state = TempDir::new("keys");
    let keys = [
        key("a", "b", "c"),
        key("a,b", "", "c"),
        key("a", "b,", "c"),
        key("a%2Cb", "", "c"),
        key("A", "b", "c"),
        key("..", "..", ".."),
        key("../../x", "/etc/passwd", "c"),
        key("a", "b", "eth0.100"),
        key("a", "b", "\u{1}ä\0 \n"),
        key("a", "b", "c.json"),
        key("", "", ""),
    ];
    for key in &keys {
        Records::new(state.path()).write(&record(key.clone())).expect("write");
    }
    let (found, corrupt) = Records::new(state.path()).read_all().expect("read");
    assert!(corrupt.is_empty(), "{corrupt:?}");
    let mut found: Vec<_> = found.into_iter().map(|record| record.attachment.key).collect();
    found.sort();
    let mut expected = keys.to_vec();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(names(&state).len(), keys.len());
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "no other file");
}

#[test]
fn corrupt_record_is_moved_aside_and_does_not_affect_others() {
    let state = TempDir::new("broken");
    let records = Records::new(state.path());
    let good = record(key("net", "good", "eth0"));
    records.write(&good).expect("write");
    let dir = state.join("attachments");
    fs::write(dir.join("net,cut,eth0.json"), "{\"attachment\":").unwrap();
    fs::write(dir.join("net,empty,eth0.json"), "").unwrap();
    fs::copy(dir.join("net,good,eth0.json"), dir.join("net,copied,eth0.json")).unwrap();
    let (found, corrupt) = records.read_all().expect("read");
    assert_eq!(found, [good]);
    let aside: Vec<_> = corrupt.iter().map(|corrupt| corrupt.path.file_name().unwrap()).collect();
    assert_eq!(
        aside,
        ["net,copied,eth0.json.broken", "net,cut,eth0.json.broken", "net,empty,eth0.json.broken"]
    );
    assert!(corrupt[0].reason.contains("contains the record of net/good/eth0"), "{}", corrupt[0].reason);
    assert!(corrupt.iter().all(|corrupt| corrupt.path.exists()));
    assert!(records.read_all().expect("read").1.is_empty(), "they are reported once");
}

#[test]
fn old_temporary_files_are_removed_and_recent_ones_are_kept() {
    let state = TempDir::new("temporary");
    Records::new(state.path()).write(&record(key("net", "c1", "eth0"))).expect("write");
    assert_eq!(names(&state), ["net,c1,eth0.json"], "none is left after a write");
    let temporary = |name: &str, age: Duration| {
        let file = File::create(state.join("attachments").join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    };
    temporary("net,c2,eth0.17-0.tmp", Duration::from_secs(3_600));
    temporary("net,c3,eth0.18-0.tmp", Duration::ZERO);
    Records::new(state.path()).read_all().expect("read");
    assert_eq!(names(&state), ["net,c1,eth0.json", "net,c3,eth0.18-0.tmp"]);
}

#[test]
fn concurrent_writers_of_one_key_all_succeed() {
    let state = TempDir::new("writers");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    Records::new(state.path()).write(&record(key("net", "c1", "eth0"))).expect("write");
                }
            });
        }
    });
    assert_eq!(names(&state), ["net,c1,eth0.json"]);
}

#[test]
fn write_fails_if_the_directory_cannot_be_created() {
    assert!(Records::new(Path::new("/proc/portico")).write(&record(key("net", "c1", "eth0"))).is_err());
}

#[test]
fn records_have_the_same_form_as_in_0_1_0() {
    let text = r#"{"attachment":{"key":{"network":"net","containerId":"c1","interface":"eth0"},"netns":"/run/netns/a","pod":{"namespace":"shop","name":"web-0","uid":"u-1"},"addresses":["10.1.0.5","fd00::5"],"annotations":{"portals":"all"},"notes":["a note"]},"netnsId":{"dev":4,"inode":4026532000,"cookie":18446744073709551615},"programmer":"agent"}"#;
    let state = TempDir::new("earlier");
    let path = state.join("attachments").join("net,c1,eth0.json");
    fs::create_dir_all(state.join("attachments")).expect("create the directory");
    fs::write(&path, text).expect("write the record");
    let records = Records::new(state.path());
    let (found, corrupt) = records.read_all().expect("read");
    assert!(corrupt.is_empty(), "{corrupt:?}");
    let [found] = &found[..] else { panic!("{found:?}") };
    assert_eq!(found.attachment.pod.as_ref().map(ToString::to_string).as_deref(), Some("shop/web-0"));
    assert_eq!((found.netns_id.inode, found.programmed_by), (4_026_532_000, ProgrammedBy::Agent));
    records.write(found).expect("write it again");
    assert_eq!(fs::read_to_string(&path).expect("read"), text);
}
