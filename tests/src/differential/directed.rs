//! Cases written by hand: what the engine once did otherwise than the host, and instructions whose results have parts that
//! aren't compared.

use super::case::{Case, Line, Memory};
use super::known;
use super::layout::{CODE, DATA, STACK, selector};
use super::state::State;
use iced_x86::{Decoder, DecoderOptions};

/// A case in short form: an empty state but for what is said.
struct Directed {
    name: &'static str,
    bits: u32,
    code: &'static [u8],
    gpr: &'static [(usize, u64)],
    rflags: u64,
    memory: &'static [(u64, &'static [u8])],
    /// Memory that isn't compared: start and bytes.
    ignored: &'static [(u64, u64)],
}

const PLAIN: Directed = Directed {
    name: "",
    bits: 64,
    code: &[],
    gpr: &[],
    rflags: 2,
    memory: &[],
    ignored: &[],
};

const RAX: usize = 0;
const RCX: usize = 1;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;
/// The last two bytes of the lower half of the address space.
const BORDER: u64 = (1 << 47) - 2;
const AREA: u64 = DATA.start + 0x800;
const AC: u64 = 1 << 18;

/// FOP, FIP, FDP and the MXCSR mask, which differ between Intel and AMD, in an FXSAVE or XSAVE area.
const POINTERS: &[(u64, u64)] = &[(AREA + 6, 18), (AREA + 28, 4)];
/// As before, with what software may use, and with the header, whose XSTATE_BV tells of states that only the host has.
const POINTERS_AND_HEADER: &[(u64, u64)] = &[(AREA + 6, 18), (AREA + 28, 4), (AREA + 416, 0xc00)];

const CASES: &[Directed] = &[
    Directed {
        name: "a read across the end of the lower half is #GP, and no #PF of its first bytes",
        code: &[0x8b, 0x03],
        gpr: &[(RBX, BORDER)],
        ..PLAIN
    },
    Directed {
        name: "a read-modify-write across the end of the lower half is #GP",
        code: &[0xf0, 0x01, 0x03],
        gpr: &[(RBX, BORDER)],
        ..PLAIN
    },
    Directed {
        name: "64-bit mode ignores an SS prefix: #GP, not #SS",
        code: &[0x36, 0x8b, 0x03],
        gpr: &[(RBX, 1 << 63)],
        ..PLAIN
    },
    Directed {
        name: "64-bit mode ignores a DS prefix: #SS through RBP",
        code: &[0x3e, 0x8b, 0x45, 0x00],
        gpr: &[(RBP, 1 << 63)],
        ..PLAIN
    },
    Directed {
        name: "an FS prefix makes it #GP through RBP too",
        code: &[0x64, 0x8b, 0x45, 0x00],
        gpr: &[(RBP, 1 << 63)],
        ..PLAIN
    },
    Directed {
        name: "a misaligned SSE operand is #GP also where the address is a bad stack address",
        code: &[0x0f, 0x28, 0x45, 0x01],
        gpr: &[(RBP, 1 << 63)],
        ..PLAIN
    },
    Directed {
        name: "an aligned SSE operand at a bad stack address is #SS",
        code: &[0x0f, 0x28, 0x45, 0x00],
        gpr: &[(RBP, 1 << 63)],
        ..PLAIN
    },
    Directed {
        name: "AC checks the alignment of a read",
        code: &[0x8b, 0x03],
        gpr: &[(RBX, AREA + 1)],
        rflags: AC | 2,
        ..PLAIN
    },
    Directed {
        name: "AC lets an aligned read through",
        code: &[0x8b, 0x03],
        gpr: &[(RBX, AREA + 4)],
        rflags: AC | 2,
        ..PLAIN
    },
    Directed {
        name: "AC checks an x87 store",
        code: &[0xdd, 0x13],
        gpr: &[(RBX, AREA + 4)],
        rflags: AC | 2,
        ..PLAIN
    },
    Directed {
        name: "AC checks CMPXCHG8B as 8 bytes",
        code: &[0x0f, 0xc7, 0x0b],
        gpr: &[(RBX, AREA + 4)],
        rflags: AC | 2,
        ..PLAIN
    },
    Directed {
        name: "POPF that sets AC checks the next access",
        code: &[0x9d, 0x8b, 0x03],
        gpr: &[(RBX, AREA + 1)],
        memory: &[(STACK.start + 0x1000, &[2, 0, 4, 0, 0, 0, 0, 0])],
        ..PLAIN
    },
    Directed {
        name: "INT3 isn't followed by a single-step trap",
        code: &[0x9d],
        memory: &[(STACK.start + 0x1000, &[2, 1, 0, 0, 0, 0, 0, 0])],
        ..PLAIN
    },
    Directed {
        name: "TF traps after the next instruction",
        code: &[0x9d, 0x90, 0x90],
        memory: &[(STACK.start + 0x1000, &[2, 1, 0, 0, 0, 0, 0, 0])],
        ..PLAIN
    },
    Directed {
        name: "REP STOS with ECX 0 leaves RCX as it is",
        code: &[0x67, 0xf3, 0xab],
        gpr: &[(RCX, 1 << 32), (RDI, AREA)],
        ..PLAIN
    },
    Directed {
        name: "LAR gives bits 16 to 19 too",
        code: &[0x0f, 0x02, 0xc3],
        gpr: &[(RBX, 0x2b)],
        ..PLAIN
    },
    Directed {
        name: "ARPL raises an RPL",
        bits: 32,
        code: &[0x63, 0xd8],
        gpr: &[(RAX, 0x1234_0020), (RBX, 3)],
        ..PLAIN
    },
    Directed {
        name: "ARPL writes nothing where it raises nothing",
        bits: 32,
        code: &[0x63, 0x0b],
        gpr: &[(RBX, DATA.end())],
        ..PLAIN
    },
    Directed {
        name: "CVTPS2PI enters MMX mode before its #XM",
        // LDMXCSR [RBX]; CVTPS2PI MM0, [RBX+8]
        code: &[0x0f, 0xae, 0x13, 0x0f, 0x2d, 0x43, 0x08],
        gpr: &[(RBX, AREA)],
        memory: &[(AREA, &[0, 0, 0, 0]), (AREA + 8, &[0, 0, 0xc0, 0xff])],
        ..PLAIN
    },
    Directed {
        name: "FXSAVE64 and FXRSTOR64",
        // FLD1; FXSAVE64 [RBX]; FNINIT; PXOR XMM0, XMM0; FXRSTOR64 [RBX]
        code: &[
            0xd9, 0xe8, 0x48, 0x0f, 0xae, 0x03, 0xdb, 0xe3, 0x66, 0x0f, 0xef, 0xc0, 0x48, 0x0f, 0xae, 0x0b,
        ],
        gpr: &[(RBX, AREA)],
        ignored: POINTERS,
        ..PLAIN
    },
    Directed {
        name: "FXSAVE and FXRSTOR in compatibility mode",
        bits: 32,
        code: &[
            0xd9, 0xe8, 0x0f, 0xae, 0x03, 0xdb, 0xe3, 0x66, 0x0f, 0xef, 0xc0, 0x0f, 0xae, 0x0b,
        ],
        gpr: &[(RBX, AREA)],
        ignored: POINTERS,
        ..PLAIN
    },
    Directed {
        name: "a misaligned FXSAVE",
        code: &[0x48, 0x0f, 0xae, 0x03],
        gpr: &[(RBX, AREA + 8)],
        ..PLAIN
    },
    Directed {
        name: "FXRSTOR of reserved MXCSR bits",
        code: &[0x48, 0x0f, 0xae, 0x0b],
        gpr: &[(RBX, AREA)],
        memory: &[(AREA + 24, &[0x80, 0x1f, 0x10, 0])],
        ..PLAIN
    },
    Directed {
        name: "XSAVE64 and XRSTOR64",
        // FLD1; XSAVE64 [RBX]; FNINIT; PXOR XMM0, XMM0; XRSTOR64 [RBX]
        code: &[
            0xd9, 0xe8, 0x48, 0x0f, 0xae, 0x23, 0xdb, 0xe3, 0x66, 0x0f, 0xef, 0xc0, 0x48, 0x0f, 0xae, 0x2b,
        ],
        gpr: &[(RAX, 3), (RBX, AREA)],
        ignored: POINTERS_AND_HEADER,
        ..PLAIN
    },
    Directed {
        name: "XSAVEOPT64 and XRSTOR64",
        code: &[
            0xd9, 0xe8, 0x48, 0x0f, 0xae, 0x33, 0xdb, 0xe3, 0x66, 0x0f, 0xef, 0xc0, 0x48, 0x0f, 0xae, 0x2b,
        ],
        gpr: &[(RAX, 3), (RBX, AREA)],
        ignored: POINTERS_AND_HEADER,
        ..PLAIN
    },
    Directed {
        name: "XSAVEC64 and XRSTOR64",
        code: &[
            0xd9, 0xe8, 0x48, 0x0f, 0xc7, 0x23, 0xdb, 0xe3, 0x66, 0x0f, 0xef, 0xc0, 0x48, 0x0f, 0xae, 0x2b,
        ],
        gpr: &[(RAX, 3), (RBX, AREA)],
        ignored: POINTERS_AND_HEADER,
        ..PLAIN
    },
    Directed {
        name: "XSAVE64 of the SSE state alone leaves the x87 part",
        code: &[0xd9, 0xe8, 0x48, 0x0f, 0xae, 0x23],
        gpr: &[(RAX, 2), (RBX, AREA)],
        ignored: POINTERS_AND_HEADER,
        ..PLAIN
    },
    Directed {
        name: "XRSTOR64 without XSTATE_BV puts both states into their first form",
        code: &[0xd9, 0xe8, 0x48, 0x0f, 0xae, 0x2b],
        gpr: &[(RAX, 3), (RBX, AREA)],
        ..PLAIN
    },
    Directed {
        name: "a misaligned XSAVE64",
        code: &[0x48, 0x0f, 0xae, 0x23],
        gpr: &[(RAX, 3), (RBX, AREA + 16)],
        ..PLAIN
    },
    Directed {
        name: "XRSTOR64 of a reserved header bit",
        code: &[0x48, 0x0f, 0xae, 0x2b],
        gpr: &[(RAX, 3), (RBX, AREA)],
        memory: &[(AREA + 512, &[0, 0, 0, 0, 0, 0, 0, 0x80])],
        ..PLAIN
    },
    Directed {
        name: "XSETBV in ring 3",
        code: &[0x0f, 0x01, 0xd1],
        gpr: &[(RAX, 3)],
        ..PLAIN
    },
    Directed {
        name: "REP MOVS over overlapping ranges goes element by element",
        code: &[0xf3, 0xa4],
        gpr: &[(RSI, AREA), (RDI, AREA + 1), (RCX, 300)],
        memory: &[(AREA, &[0x5a])],
        ..PLAIN
    },
    Directed {
        name: "REP STOS stops at a page that isn't there, with what is done in RCX and RDI",
        code: &[0xf3, 0xaa],
        gpr: &[(RAX, 0xa5), (RDI, STACK.end() - 100), (RCX, 300)],
        ..PLAIN
    },
    Directed {
        name: "more than 15 bytes are #GP",
        // LOCK XOR DWORD [GS:R11D+R12D*4+disp32], imm32 with an ES prefix
        code: &[
            0x26, 0x65, 0xf0, 0x67, 0x43, 0x81, 0xb4, 0xa3, 0, 0, 0, 0, 1, 2, 3, 4,
        ],
        ..PLAIN
    },
    Directed {
        name: "F3 41 90 is an exchange and no PAUSE",
        code: &[0xf3, 0x41, 0x90],
        gpr: &[(RAX, 1), (8, 2)],
        ..PLAIN
    },
    Directed {
        name: "a loop",
        // ADD RAX, RCX; LOOP -5
        code: &[0x48, 0x01, 0xc8, 0xe2, 0xfb],
        gpr: &[(RCX, 1000)],
        ..PLAIN
    },
    Directed {
        name: "a nested loop through memory",
        // MOV ECX, 20; L: PUSH RCX; MOV ECX, 30; M: ADD [RBX+RCX*4], ECX; LOOP M; POP RCX; LOOP L
        code: &[
            0xb9, 20, 0, 0, 0, 0x51, 0xb9, 30, 0, 0, 0, 0x01, 0x0c, 0x8b, 0xe2, 0xfb, 0x59, 0xe2, 0xf2,
        ],
        gpr: &[(RBX, AREA)],
        ..PLAIN
    },
];

/// All of them: name, case and the memory that isn't compared.
pub fn cases() -> Vec<(Case, &'static [(u64, u64)])> {
    CASES
        .iter()
        .map(|directed| (case(directed), directed.ignored))
        .collect()
}

fn case(directed: &Directed) -> Case {
    let start = start_state(directed);
    let mut lines = Vec::new();
    let mut decoder = Decoder::with_ip(directed.bits, directed.code, start.rip, DecoderOptions::NONE);
    while decoder.can_decode() {
        let from = decoder.position();
        let instruction = decoder.decode();
        let bytes = directed.code[from..decoder.position()].to_vec();
        let effect = known::flag_effect(&instruction, known::shift_count(&instruction, start.gpr[RCX]));
        lines.push(Line {
            bytes,
            instruction,
            effect,
        });
    }
    let patches = directed
        .memory
        .iter()
        .map(|(at, bytes)| (*at, bytes.to_vec()))
        .collect();
    Case {
        id: directed.name.to_string(),
        bits: directed.bits,
        start,
        memory: Memory {
            pool_offset: None,
            patches,
        },
        lines,
    }
}

fn start_state(directed: &Directed) -> State {
    let mut gpr = [0; 16];
    gpr[RSP] = STACK.start + 0x1000;
    for (register, value) in directed.gpr {
        gpr[*register] = *value;
    }
    let data = selector::USER_DATA;
    let (code, fs) = if directed.bits == 64 {
        (selector::USER_CODE_64, 0)
    } else {
        (selector::USER_CODE_32, data)
    };
    State {
        gpr,
        rip: CODE.start + 0x100,
        rflags: directed.rflags,
        selectors: [data, code, data, data, fs, fs],
        fs_base: 0,
        gs_base: 0,
        xmm: std::array::from_fn(|index| 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10 * (index as u128 + 1)),
        mxcsr: 0x1f80,
        fcw: 0x37f,
        fsw: 0,
        ftw: 0,
        st: [0; 8],
    }
}
