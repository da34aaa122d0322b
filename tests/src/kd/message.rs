//! What the payloads of packets mean.

use super::packet::{long, quad, word};

/// Success.
pub const SUCCESS: u32 = 0;
/// The failure that says no more.
pub const UNSUCCESSFUL: u32 = 0xc000_0001;
/// The exception of a break-in and of an execution breakpoint.
pub const BREAKPOINT: u32 = 0x8000_0003;
/// The exception of a step and of a hardware breakpoint.
pub const SINGLE_STEP: u32 = 0x8000_0004;

/// A request's number and whether a kernel answers it; DBGKD_MANIPULATE_STATE64.ApiNumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// Whether a manipulate packet comes back.
    pub replies: bool,
}

macro_rules! apis {
    ($($name:ident = $number:literal $text:literal $replies:literal;)*) => {
        /// The requests, by name.
        #[allow(missing_docs)]
        pub mod api {
            use super::Api;
            $(pub const $name: Api = Api { number: $number, name: $text, replies: $replies };)*
            /// All of them.
            pub const ALL: &[Api] = &[$($name),*];
        }
    };
}

apis! {
    READ_VIRTUAL = 0x3130 "ReadVirtualMemory" true;
    WRITE_VIRTUAL = 0x3131 "WriteVirtualMemory" true;
    GET_CONTEXT = 0x3132 "GetContext" true;
    SET_CONTEXT = 0x3133 "SetContext" true;
    WRITE_BREAKPOINT = 0x3134 "WriteBreakPoint" true;
    RESTORE_BREAKPOINT = 0x3135 "RestoreBreakPoint" true;
    CONTINUE = 0x3136 "Continue" false;
    READ_CONTROL_SPACE = 0x3137 "ReadControlSpace" true;
    WRITE_CONTROL_SPACE = 0x3138 "WriteControlSpace" true;
    READ_IO_SPACE = 0x3139 "ReadIoSpace" true;
    WRITE_IO_SPACE = 0x313a "WriteIoSpace" true;
    REBOOT = 0x313b "Reboot" false;
    CONTINUE2 = 0x313c "Continue2" false;
    READ_PHYSICAL = 0x313d "ReadPhysicalMemory" true;
    WRITE_PHYSICAL = 0x313e "WritePhysicalMemory" true;
    QUERY_SPECIAL_CALLS = 0x313f "QuerySpecialCalls" true;
    SET_SPECIAL_CALL = 0x3140 "SetSpecialCall" false;
    CLEAR_SPECIAL_CALLS = 0x3141 "ClearSpecialCalls" false;
    SET_INTERNAL_BREAKPOINT = 0x3142 "SetInternalBreakPoint" false;
    GET_INTERNAL_BREAKPOINT = 0x3143 "GetInternalBreakPoint" true;
    READ_IO_SPACE_EXTENDED = 0x3144 "ReadIoSpaceExtended" true;
    WRITE_IO_SPACE_EXTENDED = 0x3145 "WriteIoSpaceExtended" true;
    GET_VERSION = 0x3146 "GetVersion" true;
    WRITE_BREAKPOINT_EX = 0x3147 "WriteBreakPointEx" true;
    RESTORE_BREAKPOINT_EX = 0x3148 "RestoreBreakPointEx" true;
    CAUSE_BUG_CHECK = 0x3149 "CauseBugCheck" false;
    SWITCH_PROCESSOR = 0x3150 "SwitchProcessor" false;
    PAGE_IN = 0x3151 "PageIn" true;
    READ_MSR = 0x3152 "ReadMSR" true;
    WRITE_MSR = 0x3153 "WriteMSR" true;
    OLD_VLM1 = 0x3154 "OldVlm1" true;
    OLD_VLM2 = 0x3155 "OldVlm2" true;
    SEARCH_MEMORY = 0x3156 "SearchMemory" true;
    GET_BUS_DATA = 0x3157 "GetBusData" true;
    SET_BUS_DATA = 0x3158 "SetBusData" true;
    CHECK_LOW_MEMORY = 0x3159 "CheckLowMemory" true;
    CLEAR_ALL_INTERNAL = 0x315a "ClearAllInternalBreakpoints" false;
    FILL_MEMORY = 0x315b "FillMemory" true;
    QUERY_MEMORY = 0x315c "QueryMemory" true;
    SWITCH_PARTITION = 0x315d "SwitchPartition" true;
    MIDORI = 0x315e "Midori" true;
    GET_CONTEXT_EX = 0x315f "GetContextEx" true;
    SET_CONTEXT_EX = 0x3160 "SetContextEx" true;
    WRITE_CUSTOM_BREAKPOINT = 0x3161 "WriteCustomBreakpoint" true;
    READ_PHYSICAL_LONG = 0x3162 "ReadPhysicalMemoryLong" true;
}

/// A request or its answer: DBGKD_MANIPULATE_STATE64, 56 bytes, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manipulate {
    /// [`Api::number`].
    pub api: u32,
    /// The CPU's family.
    pub level: u16,
    /// Which CPU.
    pub processor: u16,
    /// NTSTATUS.
    pub status: u32,
    /// The API's own fields.
    pub fields: [u8; 40],
    /// What follows.
    pub data: Vec<u8>,
}

impl Manipulate {
    /// A request with zeros everywhere.
    pub fn new(api: Api) -> Manipulate {
        Manipulate {
            api: api.number,
            level: 0,
            processor: 0,
            status: 0,
            fields: [0; 40],
            data: Vec::new(),
        }
    }

    /// With 32 bits of the API's own fields.
    #[must_use]
    pub fn long(mut self, at: usize, value: u32) -> Manipulate {
        self.set_long(at, value);
        self
    }

    /// Changes 32 bits of the API's own fields.
    pub fn set_long(&mut self, at: usize, value: u32) {
        self.fields[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// With 64 bits of the API's own fields.
    #[must_use]
    pub fn quad(mut self, at: usize, value: u64) -> Manipulate {
        self.fields[at..at + 8].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// With data.
    #[must_use]
    pub fn data(mut self, data: &[u8]) -> Manipulate {
        self.data = data.to_vec();
        self
    }

    /// For another CPU than 0.
    #[must_use]
    pub fn on(mut self, processor: u16) -> Manipulate {
        self.processor = processor;
        self
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.api.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.level.to_le_bytes());
        bytes.extend_from_slice(&self.processor.to_le_bytes());
        bytes.extend_from_slice(&self.status.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.fields);
        bytes.extend_from_slice(&self.data);
        bytes
    }

    /// From bytes; `None` if there are fewer than 56.
    pub fn parse(bytes: &[u8]) -> Option<Manipulate> {
        let fields = bytes.get(16..56)?;
        Some(Manipulate {
            api: long(bytes, 0),
            level: word(bytes, 4),
            processor: word(bytes, 6),
            status: long(bytes, 8),
            fields: fields.try_into().ok()?,
            data: bytes[56..].to_vec(),
        })
    }
}

/// Why the target stopped: DBGKD_ANY_WAIT_STATE_CHANGE, 240 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// 0x3030 an exception, 0x3031 a module came or went.
    pub state: u32,
    /// The CPU's family.
    pub level: u16,
    /// The CPU that reports.
    pub processor: u16,
    /// How many there are.
    pub processors: u32,
    /// Its KTHREAD.
    pub thread: u64,
    /// Its RIP, or EIP with its sign extended.
    pub pc: u64,
    /// EXCEPTION_RECORD64, if `state` is 0x3030.
    pub code: u32,
    /// Where the exception is.
    pub address: u64,
    /// Its parameters.
    pub parameters: Vec<u64>,
    /// Whether nobody has handled it yet.
    pub first_chance: bool,
    /// The control report, 48 bytes.
    pub report: Vec<u8>,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl StateChange {
    /// From bytes; `None` if there are fewer than 240.
    pub fn parse(bytes: &[u8]) -> Option<StateChange> {
        let report = bytes.get(192..240)?.to_vec();
        let count = (long(bytes, 56) as usize).min(15);
        Some(StateChange {
            state: long(bytes, 0),
            level: word(bytes, 4),
            processor: word(bytes, 6),
            processors: long(bytes, 8),
            thread: quad(bytes, 16),
            pc: quad(bytes, 24),
            code: long(bytes, 32),
            address: quad(bytes, 48),
            parameters: (0..count).map(|n| quad(bytes, 64 + 8 * n)).collect(),
            first_chance: long(bytes, 184) != 0,
            report,
            bytes: bytes.to_vec(),
        })
    }

    /// DR6 at the stop, on a 64-bit target.
    pub fn dr6(&self) -> u64 {
        quad(&self.report, 0)
    }

    /// DR7 at the stop, on a 64-bit target.
    pub fn dr7(&self) -> u64 {
        quad(&self.report, 8)
    }

    /// EFLAGS at the stop, on a 64-bit target.
    pub fn flags(&self) -> u32 {
        long(&self.report, 16)
    }

    /// The code at the stop, on a 64-bit target.
    pub fn code_bytes(&self) -> &[u8] {
        let count = usize::from(word(&self.report, 20)).min(16);
        &self.report[24..24 + count]
    }
}

/// DBGKD_GET_VERSION64.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
    pub protocol: u8,
    pub secondary: u8,
    pub flags: u16,
    pub machine: u16,
    pub max_packet: u8,
    pub max_state_change: u8,
    pub max_manipulate: u8,
    pub simulation: u8,
    pub kernel_base: u64,
    pub module_list: u64,
    pub debugger_data_list: u64,
}

impl Version {
    /// From a reply's fields.
    pub fn parse(fields: &[u8; 40]) -> Version {
        Version {
            major: word(fields, 0),
            minor: word(fields, 2),
            protocol: fields[4],
            secondary: fields[5],
            flags: word(fields, 6),
            machine: word(fields, 8),
            max_packet: fields[10],
            max_state_change: fields[11],
            max_manipulate: fields[12],
            simulation: fields[13],
            kernel_base: quad(fields, 16),
            module_list: quad(fields, 24),
            debugger_data_list: quad(fields, 32),
        }
    }
}
