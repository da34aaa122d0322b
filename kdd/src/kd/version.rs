//! GetVersion: who is there.

use super::guest::Guest;
use introspect::windows::Arch;
use protocol::packet::PACKET_TYPE_MAX;
use protocol::version::{MAX_MANIPULATE, MAX_STATE_CHANGE, PROTOCOL_VERSION, Version, flags};

/// MajorVersion of a free build of NT.
const FREE_BUILD: u16 = 0xf;
const CHECKED_BUILD: u16 = 0xc;

/// The answer: the kernel's own version block where that can be read, with what this session answers.
pub(super) fn version(guest: &mut Guest) -> Version {
    let arch = guest.arch();
    let block = guest
        .kernel
        .as_ref()
        .and_then(|kernel| kernel.version_block(&guest.target));
    let list_head = guest.debugger_data().and_then(|data| data.list_head);
    let (build, image, modules) = match &guest.kernel {
        Some(kernel) => (
            kernel.build(),
            Some(kernel.image().0),
            kernel.loaded_module_list(),
        ),
        None => (None, None, None),
    };
    let wire =
        |address: Option<hv_core::GuestVirtAddr>| address.map_or(0, |address| arch.sign_extend(address));
    let machine_flags = match arch {
        Arch::X64 => flags::PTR64,
        Arch::X86 => 0,
    };
    let own_flags = block.as_ref().map_or(0, |block| block.flags & flags::HAL_IN_NTOS);
    let several = if guest.domain().vcpu_count() > 1 || arch == Arch::X64 {
        flags::MP
    } else {
        0
    };
    let multiprocessor = block.as_ref().map_or(several, |block| block.flags & flags::MP);
    let data = if list_head.is_some() { flags::DATA } else { 0 };
    Version {
        major: match block.as_ref().map(|block| block.major & 0xff) {
            Some(CHECKED_BUILD) => CHECKED_BUILD.into(),
            _ => FREE_BUILD.into(),
        },
        minor: block
            .as_ref()
            .map_or(build.unwrap_or(0) as u16, |block| block.minor)
            .into(),
        protocol: PROTOCOL_VERSION,
        secondary: match arch {
            Arch::X64 => 2,
            Arch::X86 => 0,
        },
        flags: (machine_flags | own_flags | multiprocessor | data).into(),
        machine: arch.machine().into(),
        max_packet_type: PACKET_TYPE_MAX,
        max_state_change: MAX_STATE_CHANGE,
        max_manipulate: MAX_MANIPULATE,
        simulation: 0,
        unused: 0.into(),
        kernel_base: wire(image).into(),
        loaded_module_list: wire(modules).into(),
        debugger_data_list: wire(list_head).into(),
    }
}
