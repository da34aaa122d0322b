//! `.debug_frame` of ORC: how to unwind from each instruction (DWARF 4, 6.4).
//!
//! What stock debuggers want: one entry for each function (lldb 14 misplaces the rows of longer ones), and nothing about
//! rsp in the common part (lldb 14 then ignores it all).

use super::orc::{Base, Frame, Orc, RBP, RSP, Row};
use super::out::Out;
use super::symtab::Symbols;

/// Bytes of `.debug_frame`. Distributions' kernels have 6 MB.
const MAX_FRAMES: usize = 128 << 20;

const RA: u8 = 16;
const DATA_ALIGN: i64 = -8;

const DW_CFA_NOP: u8 = 0x00;
const DW_CFA_ADVANCE_LOC: u8 = 0x40;
const DW_CFA_ADVANCE_LOC1: u8 = 0x02;
const DW_CFA_ADVANCE_LOC2: u8 = 0x03;
const DW_CFA_ADVANCE_LOC4: u8 = 0x04;
const DW_CFA_OFFSET: u8 = 0x80;
const DW_CFA_UNDEFINED: u8 = 0x07;
const DW_CFA_SAME_VALUE: u8 = 0x08;
const DW_CFA_DEF_CFA: u8 = 0x0c;
const DW_CFA_DEF_CFA_OFFSET: u8 = 0x0e;
const DW_CFA_DEF_CFA_EXPRESSION: u8 = 0x0f;
const DW_CFA_EXPRESSION: u8 = 0x10;
const DW_CFA_OFFSET_EXTENDED_SF: u8 = 0x11;
const DW_CFA_DEF_CFA_SF: u8 = 0x12;
const DW_CFA_VAL_OFFSET: u8 = 0x14;
const DW_OP_DEREF: u8 = 0x06;
const DW_OP_CONSTS: u8 = 0x11;
const DW_OP_PLUS: u8 = 0x22;
const DW_OP_BREG0: u8 = 0x70;

/// `struct pt_regs`: the registers by DWARF's numbers, but for rbp, rsp and rip, and where each is.
const PT_REGS: [(u8, i64); 14] = [
    (15, 0x00),
    (14, 0x08),
    (13, 0x10),
    (12, 0x18),
    (3, 0x28),
    (11, 0x30),
    (10, 0x38),
    (9, 0x40),
    (8, 0x48),
    (0, 0x50),
    (2, 0x58),
    (1, 0x60),
    (4, 0x68),
    (5, 0x70),
];
const PT_REGS_BP: i64 = 0x20;
const PT_REGS_IP: i64 = 0x80;
const PT_REGS_SP: i64 = 0x98;
/// In what an interrupt pushes.
const INTERRUPT_IP: i64 = 0x00;
const INTERRUPT_SP: i64 = 0x18;

/// The entries of exceptions and interrupts (arch/x86/entry/entry_64.S, idtentry.h; before 5.8 without `asm_`): what they
/// interrupted was at its instruction, not behind a call. The system call's entry isn't among them: debuggers show no name
/// for such frames.
fn is_interrupt_entry(name: &[u8]) -> bool {
    const STARTS: [&[u8]; 4] = [
        b"asm_exc_",
        b"asm_sysvec_",
        b"asm_common_interrupt",
        b"asm_spurious_",
    ];
    const NAMES: [&[u8]; 10] = [
        b"error_entry",
        b"error_return",
        b"common_interrupt",
        b"common_interrupt_return",
        b"ret_from_intr",
        b"paranoid_entry",
        b"paranoid_exit",
        b"page_fault",
        b"general_protection",
        b"nmi",
    ];
    STARTS.iter().any(|start| name.starts_with(start)) || NAMES.contains(&name)
}

/// `.debug_frame`.
pub(super) fn section(symbols: &Symbols<'_>, orc: &Orc) -> Out {
    let rows = orc.sorted();
    let mut out = Out::default();
    out.bytes.reserve(rows.len().min(1 << 20) * 16);
    let plain = common(&mut out, false);
    let interrupt = common(&mut out, true);

    // Where code has names, and whether it is an interrupt's entry there.
    let mut starts: Vec<(u64, bool)> = symbols
        .iter()
        .filter(|symbol| symbol.is_function() && symbols.is_code(symbol.address))
        .map(|symbol| (symbol.address, is_interrupt_entry(symbol.name)))
        .collect();
    starts.sort_unstable_by_key(|&(address, entry)| (address, !entry));
    starts.dedup_by_key(|(address, _)| *address);

    let mut at = 0; // The first row above the function's start.
    for (number, &(start, entry)) in starts.iter().enumerate() {
        let area = symbols
            .area(start)
            .map_or(start, |area| symbols.areas[area].range.end);
        let end = starts.get(number + 1).map_or(area, |(next, _)| (*next).min(area));
        while rows.get(at).is_some_and(|(address, _)| *address <= start) {
            at += 1;
        }
        let first = at.checked_sub(1).map(|before| rows[before].1);
        let inside = rows[at..].iter().take_while(|(address, _)| *address < end);
        if first.is_none() && inside.clone().next().is_none() {
            continue;
        }
        let cie = if entry { interrupt } else { plain };
        let begin = out.len();
        out.u32(0);
        out.u32(cie);
        out.moving(start);
        out.u64(end - start);
        if entry {
            out.uleb(0); // No augmentation data.
        }
        let mut state = State::default();
        let mut place = start;
        state.go(&mut out, first.unwrap_or(NOTHING));
        let mut inside = inside.peekable();
        while let Some((address, row)) = inside.next() {
            // The last of those at one address.
            if inside.peek().is_some_and(|(next, _)| next == address) || state.row == Some(*row) {
                continue;
            }
            advance(&mut out, address - place);
            place = *address;
            state.go(&mut out, *row);
        }
        close(&mut out, begin);
        if out.len() > MAX_FRAMES {
            break;
        }
    }
    out
}

/// What holds where ORC says nothing.
const NOTHING: Row = Row {
    sp: Base::Undefined,
    sp_offset: 0,
    bp: Base::Undefined,
    bp_offset: 0,
    frame: Frame::End,
};

/// A common information entry; where it is.
fn common(out: &mut Out, interrupt: bool) -> u32 {
    let begin = out.len();
    out.u32(0);
    out.u32(u32::MAX);
    out.u8(3);
    out.bytes
        .extend_from_slice(if interrupt { b"zS\0" } else { b"\0" });
    out.uleb(1);
    out.sleb(DATA_ALIGN);
    out.uleb(u64::from(RA));
    if interrupt {
        out.uleb(0); // No augmentation data.
    }
    def_cfa(out, RSP, 8);
    offset(out, RA, -8);
    // ORC doesn't say where these are saved: better no value than a wrong one.
    for (register, _) in PT_REGS {
        out.u8(DW_CFA_UNDEFINED);
        out.u8(register);
    }
    close(out, begin);
    begin as u32
}

/// Pads an entry that began here, and writes its length.
fn close(out: &mut Out, begin: usize) {
    while !(out.len() - begin).is_multiple_of(8) {
        out.u8(DW_CFA_NOP);
    }
    out.set_u32(begin, (out.len() - begin - 4) as u32);
}

/// The rules that hold so far in an entry.
#[derive(Default)]
struct State {
    /// The row that holds.
    row: Option<Row>,
    /// The last one with rules, which hold on where the rest of a row is undefined.
    ruled: Option<Row>,
}

impl State {
    /// Writes what changes.
    fn go(&mut self, out: &mut Out, row: Row) {
        let ended = self.row.replace(row).is_some_and(|row| row.frame == Frame::End);
        if row.frame == Frame::End {
            // The outermost frame: what else is said doesn't matter.
            if !ended {
                undefined(out, RA);
            }
            return;
        }
        let before = self.ruled.replace(row);
        cfa(out, before, row);
        let frame_before = before.map_or(Frame::Call, |row| row.frame);
        if ended || row.frame != frame_before {
            frame(out, frame_before, row.frame);
        }
        let pointer = |row: Row| (row.bp, row.bp_offset, row.frame == Frame::Registers);
        // At the start rbp has its value, as it has without a rule.
        let pointer_before = before.map_or((Base::Undefined, 0, false), pointer);
        if pointer(row) != pointer_before {
            frame_pointer(out, row);
        }
    }
}

/// The canonical frame address: where the frame ends.
fn cfa(out: &mut Out, before: Option<Row>, row: Row) {
    if before.is_some_and(|before| (before.sp, before.sp_offset) == (row.sp, row.sp_offset)) {
        return;
    }
    let offset = i64::from(row.sp_offset);
    match row.sp {
        Base::Register(register @ (RSP | RBP)) => {
            let same = before.is_some_and(|before| before.sp == row.sp);
            match u64::try_from(offset) {
                Ok(offset) if same => {
                    out.u8(DW_CFA_DEF_CFA_OFFSET);
                    out.uleb(offset);
                }
                _ => def_cfa(out, register, offset),
            }
        }
        // These hold the address itself; the kernel adds nothing.
        Base::Register(register) => def_cfa(out, register, 0),
        Base::SpIndirect => expression(out, DW_CFA_DEF_CFA_EXPRESSION, None, |out| {
            out.u8(DW_OP_BREG0 + RSP);
            out.sleb(0);
            out.u8(DW_OP_DEREF);
            plus(out, offset);
        }),
        Base::BpIndirect => expression(out, DW_CFA_DEF_CFA_EXPRESSION, None, |out| {
            out.u8(DW_OP_BREG0 + RBP);
            out.sleb(offset);
            out.u8(DW_OP_DEREF);
        }),
        // Rows like that are ends.
        Base::Undefined | Base::PreviousSp => {}
    }
}

/// The return address, rsp and the general registers, by what lies at the frame's end.
fn frame(out: &mut Out, before: Frame, now: Frame) {
    match now {
        Frame::Call => {
            offset(out, RA, -8);
            if before != Frame::Call {
                for (register, _) in PT_REGS {
                    undefined(out, register);
                }
                out.u8(DW_CFA_VAL_OFFSET);
                out.uleb(u64::from(RSP));
                out.uleb(0);
            }
        }
        Frame::Registers => {
            for (register, at) in PT_REGS {
                offset(out, register, at);
            }
            offset(out, RA, PT_REGS_IP);
            offset(out, RSP, PT_REGS_SP);
        }
        Frame::Interrupt => {
            // What was interrupted still has its registers.
            for (register, _) in PT_REGS {
                out.u8(DW_CFA_SAME_VALUE);
                out.uleb(u64::from(register));
            }
            offset(out, RA, INTERRUPT_IP);
            offset(out, RSP, INTERRUPT_SP);
        }
        Frame::End => undefined(out, RA),
    }
}

fn frame_pointer(out: &mut Out, row: Row) {
    let at = i64::from(row.bp_offset);
    match row.bp {
        Base::PreviousSp => offset(out, RBP, at),
        Base::Register(RBP) => expression(out, DW_CFA_EXPRESSION, Some(RBP), |out| {
            out.u8(DW_OP_BREG0 + RBP);
            out.sleb(at);
        }),
        _ if row.frame == Frame::Registers => offset(out, RBP, PT_REGS_BP),
        _ => {
            out.u8(DW_CFA_SAME_VALUE);
            out.u8(RBP);
        }
    }
}

fn def_cfa(out: &mut Out, register: u8, offset: i64) {
    match u64::try_from(offset) {
        Ok(offset) => {
            out.u8(DW_CFA_DEF_CFA);
            out.u8(register);
            out.uleb(offset);
        }
        Err(_) if offset % DATA_ALIGN == 0 => {
            out.u8(DW_CFA_DEF_CFA_SF);
            out.u8(register);
            out.sleb(offset / DATA_ALIGN);
        }
        Err(_) => expression(out, DW_CFA_DEF_CFA_EXPRESSION, None, |out| {
            out.u8(DW_OP_BREG0 + register);
            out.sleb(offset);
        }),
    }
}

/// A register that is saved this far from the frame's end.
fn offset(out: &mut Out, register: u8, at: i64) {
    if at % DATA_ALIGN != 0 {
        // The frame's end is on the expression's stack at its start.
        expression(out, DW_CFA_EXPRESSION, Some(register), |out| plus(out, at));
    } else if at <= 0 {
        out.u8(DW_CFA_OFFSET | register);
        out.uleb((at / DATA_ALIGN) as u64);
    } else {
        out.u8(DW_CFA_OFFSET_EXTENDED_SF);
        out.u8(register);
        out.sleb(at / DATA_ALIGN);
    }
}

fn undefined(out: &mut Out, register: u8) {
    out.u8(DW_CFA_UNDEFINED);
    out.u8(register);
}

fn plus(out: &mut Out, value: i64) {
    out.u8(DW_OP_CONSTS);
    out.sleb(value);
    out.u8(DW_OP_PLUS);
}

fn expression(out: &mut Out, instruction: u8, register: Option<u8>, write: impl FnOnce(&mut Out)) {
    out.u8(instruction);
    if let Some(register) = register {
        out.u8(register);
    }
    let mut block = Out::default();
    write(&mut block);
    out.uleb(block.len() as u64);
    out.bytes.extend_from_slice(&block.bytes);
}

/// To a later address, of which there must be one.
fn advance(out: &mut Out, by: u64) {
    match by {
        0..0x40 => out.u8(DW_CFA_ADVANCE_LOC | by as u8),
        0x40..0x100 => {
            out.u8(DW_CFA_ADVANCE_LOC1);
            out.u8(by as u8);
        }
        0x100..0x1_0000 => {
            out.u8(DW_CFA_ADVANCE_LOC2);
            out.u16(by as u16);
        }
        _ => {
            out.u8(DW_CFA_ADVANCE_LOC4);
            out.u32(by as u32);
        }
    }
}
