//! A bugcheck: the guest stops at the entry of KeBugCheckEx, as one that is debugged stops inside it.
//!
//! There the kernel is just about to write the code and its parameters to KiBugCheckData, where hosts read them
//! (`.bugcheck`): for the length of this stop they find them there already.

use super::guest::Guest;
use introspect::windows::Bugcheck;

/// The kernel's function.
pub(super) const SYMBOL: &str = "KeBugCheckEx";
/// Its five words for debuggers.
const DATA: &str = "KiBugCheckData";

/// What a kernel prints before it stops for its debugger; the current vCPU is at KeBugCheckEx.
pub(super) fn text(guest: &mut Guest) -> String {
    let arch = guest.arch();
    let bugcheck = guest.registers(guest.current).ok().and_then(|registers| {
        let read = |address, buffer: &mut [u8]| guest.read_virtual(address, buffer) == buffer.len();
        Bugcheck::at_entry(arch, &registers, read)
    });
    let Some(bugcheck) = bugcheck else {
        return "\n*** Fatal System Error\n".into();
    };
    if let Some(at) = guest.kernel.as_ref().and_then(|kernel| kernel.symbol(DATA)) {
        guest.shown = Some((at, bugcheck.data(arch)));
    }
    let (code, [p1, p2, p3, p4]) = (bugcheck.code, bugcheck.parameters);
    let width = 2 * arch.pointer_size();
    format!(
        "\n*** Fatal System Error: 0x{code:08x}\n                       \
         (0x{p1:0width$X},0x{p2:0width$X},0x{p3:0width$X},0x{p4:0width$X})\n\n"
    )
}
