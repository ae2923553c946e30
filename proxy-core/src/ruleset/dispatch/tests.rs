//! Codes of dispatch keys: each represents one key, and other numbers represent none.

use proptest::prelude::*;

use super::*;

fn dispatch(action: Action, guarded: bool) -> DispatchKey {
    DispatchKey { action, guarded }
}

fn any_key() -> impl Strategy<Value = DispatchKey> {
    let count = 1_u16..=u16::try_from(crate::routing::portal::BACKENDS_MAX).unwrap();
    // The API accepts time-outs up to a day.
    let forward =
        (count, 0_u32..=86_400).prop_map(|(count, affinity_s)| Action::Forward { count, affinity_s });
    let turn = (0..ROUND_ROBIN_CHAINS_MAX, 1..=u16::try_from(crate::routing::portal::BACKENDS_MAX).unwrap());
    let turn = turn.prop_map(|(number, count)| Action::RoundRobin { number, count });
    let action = prop_oneof![
        Just(Action::Reject),
        Just(Action::Relay),
        Just(Action::Drop),
        forward.clone(),
        forward,
        turn.clone(),
        turn,
    ];
    (action, any::<bool>()).prop_map(|(action, guarded)| dispatch(action, guarded))
}

proptest! {
    #[test]
    fn code_of_a_key_is_parsed_to_that_key(dispatch in any_key()) {
        prop_assert_eq!(DispatchKey::from_code(dispatch.code()), Some(dispatch));
    }

    #[test]
    fn different_keys_have_different_codes_and_chains(one in any_key(), other in any_key()) {
        prop_assert_eq!(one == other, one.code() == other.code());
        prop_assert_eq!(one == other, one.to_string() == other.to_string());
    }

    #[test]
    fn parsed_code_is_that_of_its_key(code in any::<u32>()) {
        if let Some(dispatch) = DispatchKey::from_code(code) {
            prop_assert_eq!(dispatch.code(), code);
        }
    }
}

#[test]
fn codes_that_no_ruleset_contains_are_not_parsed() {
    // A time-out without backends, backends beside the marks of relay and drop, a turn above all.
    let above = (86_401 + u32::from(ROUND_ROBIN_CHAINS_MAX)) << 15 | 3;
    for code in [600 << 15, 600 << 15 | 1 << 14, (0x1_fffe << 15) | 3, (0x1_ffff << 15) | 3, above] {
        assert_eq!(DispatchKey::from_code(code), None, "{code:#x}");
    }
}

#[test]
fn reject_has_code_zero() {
    assert_eq!(dispatch(Action::Reject, false).code(), 0);
    assert_eq!(dispatch(Action::Forward { count: 3, affinity_s: 0 }, false).code(), 3);
}
