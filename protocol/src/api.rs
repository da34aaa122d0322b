//! The requests that a host makes of a stopped kernel: their numbers (windbgkd.h, DbgKd…Api).

macro_rules! apis {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)+) => {
        /// A request's number.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Api {
            $($(#[$doc])* $name = $number,)+
        }

        impl Api {
            /// Every one.
            pub const ALL: &'static [Api] = &[$(Api::$name,)+];

            /// The request of this number.
            pub const fn from_number(number: u32) -> Option<Api> {
                match number {
                    $($number => Some(Api::$name),)+
                    _ => None,
                }
            }
        }
    };
}

apis! {
    /// Reads virtual memory.
    ReadVirtualMemory = 0x3130,
    /// Writes it.
    WriteVirtualMemory = 0x3131,
    /// The whole CONTEXT of a processor.
    GetContext = 0x3132,
    /// Replaces it.
    SetContext = 0x3133,
    /// Sets a software breakpoint.
    WriteBreakPoint = 0x3134,
    /// Removes one.
    RestoreBreakPoint = 0x3135,
    /// Goes on, without a word about tracing.
    Continue = 0x3136,
    /// Reads the control space: special registers and per-processor pointers.
    ReadControlSpace = 0x3137,
    /// Writes it.
    WriteControlSpace = 0x3138,
    /// Reads an I/O port.
    ReadIoSpace = 0x3139,
    /// Writes one.
    WriteIoSpace = 0x313a,
    /// Resets the machine.
    Reboot = 0x313b,
    /// Goes on, perhaps for one instruction.
    Continue2 = 0x313c,
    /// Reads physical memory.
    ReadPhysicalMemory = 0x313d,
    /// Writes it.
    WritePhysicalMemory = 0x313e,
    /// Lists special calls (`wt`).
    QuerySpecialCalls = 0x313f,
    /// Adds one.
    SetSpecialCall = 0x3140,
    /// Forgets them.
    ClearSpecialCalls = 0x3141,
    /// Sets a breakpoint that counts by itself.
    SetInternalBreakPoint = 0x3142,
    /// Reads what it counted.
    GetInternalBreakPoint = 0x3143,
    /// Reads an I/O port of a bus.
    ReadIoSpaceExtended = 0x3144,
    /// Writes one.
    WriteIoSpaceExtended = 0x3145,
    /// Who is there.
    GetVersion = 0x3146,
    /// Sets several software breakpoints.
    WriteBreakPointEx = 0x3147,
    /// Removes several.
    RestoreBreakPointEx = 0x3148,
    /// Crashes the guest on purpose.
    CauseBugCheck = 0x3149,
    /// Makes another processor the current one.
    SwitchProcessor = 0x3150,
    /// Obsolete.
    PageIn = 0x3151,
    /// Reads a model-specific register.
    ReadMsr = 0x3152,
    /// Writes one.
    WriteMsr = 0x3153,
    /// Reserved.
    OldVlm1 = 0x3154,
    /// Reserved.
    OldVlm2 = 0x3155,
    /// Finds bytes in virtual memory.
    SearchMemory = 0x3156,
    /// Reads configuration data of a bus.
    GetBusData = 0x3157,
    /// Writes it.
    SetBusData = 0x3158,
    /// Looks for corruption below 4 GiB.
    CheckLowMemory = 0x3159,
    /// Forgets breakpoints that count; never answered.
    ClearAllInternalBreakpoints = 0x315a,
    /// Fills memory with a pattern.
    FillMemory = 0x315b,
    /// What kind of memory an address is.
    QueryMemory = 0x315c,
    /// Makes another partition the current one.
    SwitchPartition = 0x315d,
    /// Unused on these machines.
    WriteCustomBreakpointOld = 0x315e,
    /// A part of the CONTEXT.
    GetContextEx = 0x315f,
    /// Replaces a part.
    SetContextEx = 0x3160,
    /// A breakpoint with an instruction of the host's choice.
    WriteCustomBreakpoint = 0x3161,
    /// As ReadPhysicalMemory, longer.
    ReadPhysicalMemoryLong = 0x3162,
}

/// The number of the first request, from which GetVersion counts the others.
pub const API_MINIMUM: u32 = 0x3130;

impl Api {
    /// Its number.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Whether it names the processor that it is about. Others come with whatever the host had in that field: DbgEng
    /// 10.0.15063 puts 0 there in its MSR requests, also after `~1s`, and means the processor that stopped last.
    pub const fn is_per_processor(self) -> bool {
        matches!(
            self,
            Api::GetContext
                | Api::SetContext
                | Api::ReadControlSpace
                | Api::WriteControlSpace
                | Api::SwitchProcessor
                | Api::GetContextEx
                | Api::SetContextEx
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_have_one_gap() {
        let numbers: Vec<u32> = Api::ALL.iter().map(|api| api.number()).collect();
        let expected: Vec<u32> = (0x3130..=0x3149).chain(0x3150..=0x3162).collect();
        assert_eq!(numbers, expected);
        assert!(
            numbers
                .iter()
                .all(|n| Api::from_number(*n).map(Api::number) == Some(*n))
        );
        assert_eq!(Api::from_number(0x314a), None);
    }
}
