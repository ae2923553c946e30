//! Lists as servers send them, in pieces of any size.
//!
//! What must not go in here: connections.

use super::*;

/// The items and the metadata of a list that comes in pieces of this size.
fn read(text: &[u8], piece: usize) -> Result<(Vec<String>, ListMeta), String> {
    let mut reader = ListReader::default();
    let mut items = Vec::new();
    for bytes in text.chunks(piece) {
        reader.feed(bytes, &mut |item| {
            items.push(match item {
                Item::Whole(text) => String::from_utf8_lossy(text).into_owned(),
                Item::TooLarge(head) => format!("too large, {} bytes kept", head.len()),
            });
        })?;
    }
    Ok((items, reader.end()?))
}

#[test]
fn items_are_cut_out_wherever_the_answer_is_split() {
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
        for piece in [1, 2, 3, 7, 64, 10_000] {
            let (found, meta) = read(text.as_bytes(), piece).unwrap_or_else(|why| panic!("{piece}: {why}"));
            assert_eq!(found, items, "{shell} in pieces of {piece}");
            assert_eq!((meta.token.as_str(), meta.resource_version.as_str()), ("t.1", "7"));
        }
    }
}

#[test]
fn an_item_over_the_limit_is_passed_over_and_the_others_are_not() {
    let large = format!("{{\"metadata\":{{\"name\":\"huge\"}},\"x\":\"{}\"}}", "y".repeat(OBJECT_BYTES_MAX));
    let text = format!(
        "{{\"kind\":\"List\",\"metadata\":{{\"resourceVersion\":\"9\"}},\"items\":[{{\"a\":1}},{large},{{\"b\":2}}]}}"
    );
    for piece in [100, 16 << 10, 64 << 20] {
        let (found, meta) = read(text.as_bytes(), piece).unwrap();
        let passed = format!("too large, {HEAD_BYTES_MAX} bytes kept");
        assert_eq!(found, [r#"{"a":1}"#, &passed, r#"{"b":2}"#], "in pieces of {piece}");
        assert_eq!(meta.resource_version, "9");
    }
}

#[test]
fn no_more_than_one_item_is_held() {
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
fn what_is_no_list_is_refused() {
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
