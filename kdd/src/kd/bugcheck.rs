//! A bugcheck: the guest stops at the entry of KeBugCheckEx, as one that is debugged stops inside it.
//!
//! There the kernel is just about to write the code and its parameters to KiBugCheckData, where hosts read them
//! (`.bugcheck`): for the length of this stop they find them there already.

use super::guest::Guest;
use hv_core::GuestVirtAddr;
use hv_core::regs::gpr;
use introspect::windows::Arch;

/// The kernel's function.
pub(super) const SYMBOL: &str = "KeBugCheckEx";
/// Its five words for debuggers.
const DATA: &str = "KiBugCheckData";

/// What a kernel prints before it stops for its debugger; the current vCPU is at KeBugCheckEx.
pub(super) fn text(guest: &mut Guest) -> String {
    let Some(arguments) = arguments(guest) else {
        return "\n*** Fatal System Error\n".into();
    };
    let [code, p1, p2, p3, p4] = arguments;
    let size = guest.arch().pointer_size();
    let width = 2 * size;
    if let Some(at) = guest.kernel.as_ref().and_then(|kernel| kernel.symbol(DATA)) {
        let words = arguments
            .iter()
            .flat_map(|word| word.to_le_bytes().into_iter().take(size));
        guest.shown = Some((at, words.collect()));
    }
    format!(
        "\n*** Fatal System Error: 0x{code:08x}\n                       \
         (0x{p1:0width$X},0x{p2:0width$X},0x{p3:0width$X},0x{p4:0width$X})\n\n"
    )
}

/// The code and its four parameters.
fn arguments(guest: &mut Guest) -> Option<[u64; 5]> {
    let registers = guest.registers(guest.current).ok()?;
    let stack = registers.gpr[gpr::RSP];
    match guest.arch() {
        Arch::X64 => {
            // Behind the return address and the home of four registers.
            let mut fifth = [0; 8];
            let at = GuestVirtAddr(stack.wrapping_add(0x28));
            if guest.read_virtual(at, &mut fifth) < fifth.len() {
                return None;
            }
            let register = |index: usize| registers.gpr[index];
            Some([
                register(gpr::RCX) & 0xffff_ffff,
                register(gpr::RDX),
                register(8),
                register(9),
                u64::from_le_bytes(fifth),
            ])
        }
        Arch::X86 => {
            let mut bytes = [0; 20];
            let at = GuestVirtAddr(stack.wrapping_add(4) & 0xffff_ffff);
            if guest.read_virtual(at, &mut bytes) < bytes.len() {
                return None;
            }
            let word = |n: usize| {
                bytes[4 * n..4 * n + 4]
                    .iter()
                    .rev()
                    .fold(0, |v, b| v << 8 | u64::from(*b))
            };
            Some(std::array::from_fn(word))
        }
    }
}
