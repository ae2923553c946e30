//! Tests of splitting lists as API servers send them, in parts of any size.

use super::*;

/// Returns the items and the metadata of a list that arrives in parts of this size.
fn read(text: &[u8], part_len: usize) -> Result<(Vec<String>, ListMeta), String> {
    let mut reader = ListReader::default();
    let mut items = Vec::new();
    for bytes in text.chunks(part_len) {
        reader.feed(bytes, &mut |item| {
            items.push(match item {
                Item::Whole(text) => String::from_utf8_lossy(text).into_owned(),
                Item::TooLarge(head) => format!("too large, {} bytes kept", head.len()),
            });
        })?;
    }
    Ok((items, reader.finish()?))
}

#[test]
fn items_are_split_regardless_of_the_part_size() {
    let items = [
        r#"{"metadata":{"name":"a","annotations":{"x":"]},{\"items\":[{}] \\"}},"items":[{"b":[1,2]}]}"#,
        "{}",
        r#"{"a":"\\"}"#,
    ];
    let shells = [
        r#"{"kind":"ServiceList","metadata":{"continue":"t.1","resourceVersion":"7","items":[{}]},"items":[@]}"#,
        r#"{"note":"items","x":[{"y":1}],"items":[@],"kind":"ServiceList","metadata":{"continue":"t.1","resourceVersion":"7"}}"#,
        "{\n \"items\" : [\n @ \n ], \"metadata\": {\"continue\":\"t.1\",\"resourceVersion\":\"7\"}, \"kind\": \"List\"}\n",
    ];
    for shell in shells {
        let text = shell.replace('@', &items.join(" ,\n"));
        for part_len in [1, 2, 3, 7, 64, 10_000] {
            let (found, meta) =
                read(text.as_bytes(), part_len).unwrap_or_else(|error| panic!("{part_len}: {error}"));
            assert_eq!(found, items, "{shell} in parts of {part_len}");
            assert_eq!((meta.token.as_str(), meta.resource_version.as_str()), ("t.1", "7"));
        }
    }
}

#[test]
fn only_an_item_over_the_limit_is_skipped() {
    let large = format!("{{\"metadata\":{{\"name\":\"huge\"}},\"x\":\"{}\"}}", "y".repeat(OBJECT_BYTES_MAX));
    let text = format!(
        "{{\"kind\":\"List\",\"metadata\":{{\"resourceVersion\":\"9\"}},\"items\":[{{\"a\":1}},{large},{{\"b\":2}}]}}"
    );
    for part_len in [100, 16 << 10, 64 << 20] {
        let (found, meta) = read(text.as_bytes(), part_len).unwrap();
        let skipped = format!("too large, {HEAD_BYTES_MAX} bytes kept");
        assert_eq!(found, [r#"{"a":1}"#, &skipped, r#"{"b":2}"#], "in parts of {part_len}");
        assert_eq!(meta.resource_version, "9");
    }
}

#[test]
fn memory_is_bounded_by_one_item() {
    let mut reader = ListReader::default();
    let item = format!("{{\"x\":\"{}\"}},", "y".repeat(1 << 20));
    reader.feed(b"{\"items\":[", &mut |_| {}).unwrap();
    for _ in 0..50 {
        reader.feed(item.as_bytes(), &mut |_| {}).unwrap();
        assert!(reader.item.capacity() + reader.shell.capacity() < 3 << 20);
    }
    assert_eq!(reader.item_count, 50);
}

#[test]
fn response_that_is_not_a_list_is_rejected() {
    for text in [
        "",
        "garbage",
        "{}",
        "[]",
        "null",
        "}}",
        r#"{"kind":"ServiceList","items":[]}"#,
        r#"{"kind":"ServiceList","metadata":{},"items":[{"metadata":{"#,
        r#"{"kind":"ServiceList","metadata":{},"items":[5]}"#,
        r#"{"kind":"ServiceList","metadata":{},"items":{}}"#,
        r#"{"kind":"Status","metadata":{},"code":200,"items":[]}"#,
        r#"{"kind":"ServiceList","metadata":{},"items":[]} more"#,
    ] {
        assert!(read(text.as_bytes(), 5).is_err(), "{text}");
    }
    let endless = format!("{{\"kind\":\"{}", "x".repeat(SHELL_BYTES_MAX));
    assert!(read(endless.as_bytes(), 1000).is_err());
}
