//! Hosts that mean harm, or are out of their minds: nothing panics, nothing is left behind.

use crate::guest::{BASE, TestGuest};
use crate::host::Host;
use hv_core::introspect::{DomainState, Introspect};
use proptest::prelude::*;
use protocol::api::Api;
use protocol::manipulate::Manipulate;
use protocol::packet::{INITIAL_ID, PacketType, write_control, write_data};
use zerocopy::IntoBytes;

/// A request with whatever in it; addresses are often near something.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        any::<u64>(),
        0u64..64,
        (0u64..0x7000).prop_map(|offset| BASE.wrapping_add(offset)),
        Just(u64::MAX),
    ];
    let union = proptest::collection::vec(word, 5);
    let data = proptest::collection::vec(any::<u8>(), 0..1300);
    (0x3130u32..0x3165, any::<bool>(), 0u16..3, union, data).prop_map(|(api, odd, processor, union, data)| {
        let mut header = Manipulate::request(Api::GetVersion, processor);
        // A reset would only make the machine smaller.
        header.api = if api == Api::Reboot.number() { 0x3130 } else { api }.into();
        let words: Vec<u8> = union.iter().flat_map(|word| word.to_le_bytes()).collect();
        header.union.copy_from_slice(&words);
        let mut bytes = Vec::new();
        let payload = [header.as_bytes(), &data].concat();
        let id = INITIAL_ID | u32::from(odd);
        write_data(&mut bytes, PacketType::StateManipulate, id, &payload);
        bytes
    })
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let reset = || {
        let mut bytes = Vec::new();
        write_control(&mut bytes, PacketType::Reset, 0);
        bytes
    };
    prop_oneof![
        8 => request(),
        1 => Just(b"b".to_vec()),
        1 => Just(reset()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_host_sends_the_guest_runs_when_it_is_gone(pieces in proptest::collection::vec(piece(), 1..30)) {
        let guest = TestGuest::running(2);
        let mut host = Host::attach(&guest);
        for bytes in pieces {
            host.raw(&bytes);
            host.turn();
        }
        drop(host);
        prop_assert!(guest.target.sessions().is_empty());
        prop_assert!(!matches!(guest.domain.state(), DomainState::Paused(_)), "{:?}", guest.domain.state());
    }
}
