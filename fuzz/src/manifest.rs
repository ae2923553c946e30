//! Mutates JSON manifests as values.
//!
//! Mutated bytes mostly break the syntax of JSON, so they hardly test the parsers of objects. A mutation here replaces
//! the value of a field, adds a field of any kind, or copies or removes an object. It does not depend on the meaning of
//! fields.

use serde_json::{Map, Value, json};

use crate::rng::Rng;

/// One object of each supported kind, with every field that is parsed.
const EVERY_FIELD: &str = include_str!("../seeds/every-field.json");

/// One in this many mutations is left to the fuzzer, which mutates bytes.
const BYTES_EVERY: usize = 16;

/// Values at the limits of what fields accept.
const TEXTS: [&str; 36] = [
    "",
    "None",
    "10.0.0.11",
    "010.0.0.011",
    "10.0.0.12",
    "::1",
    "fd00::1",
    "::ffff:10.0.0.11",
    "127.0.0.1",
    "169.254.1.1",
    "224.0.0.1",
    "0.0.0.0",
    "256.1.1.1",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "::/0",
    "fd00::/64",
    " 10.0.0.1/8 ",
    "10.0.0.1:80",
    "[fd00::1]:80",
    ":0",
    "TCP",
    "UDP",
    "SCTP",
    "tcp",
    "Local",
    "Cluster",
    "ClientIP",
    "LoadBalancer",
    "ExternalName",
    "relay",
    "-a",
    "A.b",
    "a\u{0}\u{7f}\u{85}\u{feff}",
    "0123456789012345678901234567890123456789012345678901234567890123",
    "\u{df}\u{130}\u{1f600}",
];

/// Returns a mutated text, or `None` if it is not JSON or its bytes should be mutated instead.
fn mutate(text: &str, seed: u32) -> Option<String> {
    let mut rng = Rng::new(seed);
    if rng.below(BYTES_EVERY) == 0 {
        return None;
    }
    let mut documents = documents(text)?;
    let known = documents_of(EVERY_FIELD);
    for _ in 0..=rng.below(3) {
        edit_documents(&mut documents, &known, &mut rng);
    }
    let separator = *rng.choose(&["\n", "", " "])?;
    Some(documents.iter().map(Value::to_string).collect::<Vec<_>>().join(separator))
}

/// Mutates the text in the first `size` bytes of a buffer, and returns its new size, which is at most `max_size`. Returns
/// `None` if the fuzzer should mutate the bytes instead.
pub fn mutate_buffer(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> Option<usize> {
    let mutated = mutate(&String::from_utf8_lossy(&data[..size]), seed)?;
    if mutated.len() > max_size {
        return None;
    }
    data[..mutated.len()].copy_from_slice(mutated.as_bytes());
    Some(mutated.len())
}

fn documents(text: &str) -> Option<Vec<Value>> {
    serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>().ok()
}

fn documents_of(text: &str) -> Vec<Value> {
    documents(text).expect("the seeds are JSON")
}

fn edit_documents(documents: &mut Vec<Value>, known: &[Value], rng: &mut Rng) {
    let index = rng.below(documents.len());
    match rng.below(12) {
        0 | 1 => documents.extend(rng.choose(known).cloned()),
        2 => documents.extend(documents.get(index).cloned()),
        3 if documents.len() > 1 => {
            documents.remove(index);
        }
        4 if rng.below(4) == 0 => {
            let items = std::mem::take(documents);
            documents.push(json!({ "apiVersion": "v1", "kind": "List", "items": items }));
        }
        _ => {
            if let Some(document) = documents.get_mut(index) {
                edit_inside(document, known, rng);
            }
        }
    }
}

/// Descends to a random value, and mutates it.
fn edit_inside(value: &mut Value, known: &[Value], rng: &mut Rng) {
    let stays = rng.below(6) == 0;
    match value {
        Value::Object(map) if !stays && !map.is_empty() => {
            let index = rng.below(map.len());
            if let Some(inner) = map.values_mut().nth(index) {
                edit_inside(inner, known, rng);
            }
        }
        Value::Array(list) if !stays && !list.is_empty() => {
            let index = rng.below(list.len());
            edit_inside(&mut list[index], known, rng);
        }
        Value::Object(map) if rng.below(8) > 0 => edit_map(map, known, rng),
        Value::Array(list) if rng.below(8) > 0 => edit_list(list, known, rng),
        other => *other = any_value(known, rng),
    }
}

fn edit_map(map: &mut Map<String, Value>, known: &[Value], rng: &mut Rng) {
    let own = map.keys().nth(rng.below(map.len())).cloned();
    match (own, rng.below(4)) {
        (Some(key), 0) => {
            map.remove(&key);
        }
        // The same field of another object has a value of the right type.
        (Some(key), 1) => {
            let same = fields(known).into_iter().filter(|(other, _)| **other == key).collect::<Vec<_>>();
            if let Some((_, value)) = rng.choose(&same) {
                map.insert(key, (*value).clone());
            }
        }
        _ => {
            if let Some((key, value)) = rng.choose(&fields(known)) {
                map.insert((*key).clone(), (*value).clone());
            }
        }
    }
}

fn edit_list(list: &mut Vec<Value>, known: &[Value], rng: &mut Rng) {
    let index = rng.below(list.len());
    match (list.get(index).cloned(), rng.below(4)) {
        (Some(_), 0) => {
            list.remove(index);
        }
        (Some(element), 1) => list.push(element),
        (Some(_), 2) => list.swap(0, index),
        _ => list.push(any_value(known, rng)),
    }
}

fn any_value(known: &[Value], rng: &mut Rng) -> Value {
    let numbers = [0, 1, 80, 10_250, 65_535, 65_536, 86_400, 86_401, -1, i64::MAX, i64::MIN];
    match rng.below(8) {
        0 => Value::Null,
        1 => Value::Bool(rng.below(2) == 0),
        2 => rng.choose(&numbers).copied().into(),
        3 => rng.choose(&[0.5, 80.0, 1e300, -0.0]).copied().into(),
        4 => rng.choose(&fields(known)).map(|(_, value)| (*value).clone()).into(),
        5 => json!([]),
        _ => rng.choose(&TEXTS).copied().into(),
    }
}

/// Returns all fields of all objects, including nested ones.
fn fields(values: &[Value]) -> Vec<(&String, &Value)> {
    let mut found = Vec::new();
    let mut waiting: Vec<&Value> = values.iter().collect();
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(list) => waiting.extend(list),
            Value::Object(map) => {
                found.extend(map);
                waiting.extend(map.values());
            }
            _ => {}
        }
    }
    found
}
