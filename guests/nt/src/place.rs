//! Where everything lies in ntoskrnl.exe: symbols at their RVAs, the rest behind them.
//!
//! The linker lays sections out one behind the other, in the order of their names, each from a page's start. So the
//! image is a row of sections that are named by number: *runs* of symbols that the profile places, with empty *pads*
//! between them as long as it takes, then the *tail* with what may lie anywhere. Once linked they get the names that
//! a Windows kernel's sections have.
//!
//! The kernel's own code lies at its symbols' places too: a function of the sources is a section of its object, which
//! becomes a piece of the run, between two pieces of generated assembly. Where there is no room for it, there is a jump.
//!
//! ```text
//!  header │ pad │ run: symbols at RVAs │ pad │ run │ … │ tail: code, constants, unwind data, variables │ .reloc
//! ```

use crate::NtError;
use crate::code::{Code, Piece, body, moved_name};
use crate::profile::{Arch, Profile};
use crate::symbols::{Kind, Symbol};
use crate::types::Types;
use std::fmt::Write as _;

const PAGE: u32 = 0x1000;
/// Symbols further apart than this lie in sections of their own.
const GAP: u32 = 0x2_0000;
/// Between constants and variables of a kernel whose symbols may lie anywhere.
const TAIL_PAD: u32 = 0x2_0000;
const BREAK_INSTRUCTION: &str = "RtlpBreakWithStatusInstruction";
/// What a jump to an implementation takes.
const JUMP: u32 = 5;

/// What a section may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub write: bool,
    pub execute: bool,
}

/// A section of the image.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    /// Its name while linking: eight characters, in the order of the image.
    pub link_name: String,
    /// Its name in the image.
    pub name: String,
    pub rights: Rights,
    pub kind: SectionKind,
}

/// What a section holds.
#[derive(Clone, Debug)]
pub(crate) enum SectionKind {
    /// Nothing, so many bytes of it; room is left in front for what other objects add to the run before.
    Pad { size: u32 },
    /// Symbols from an RVA to another.
    Run { start: u32, symbols: Vec<Symbol> },
    /// What may lie anywhere, begun with these symbols.
    Tail { symbols: Vec<Symbol> },
}

/// The row of sections.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub sections: Vec<Section>,
    /// Options for the linker that put the objects' sections into these.
    pub merges: Vec<(String, String)>,
    code: Code,
}

/// A section that the sources bring, by name.
pub(crate) struct Extra {
    pub name: String,
    pub size: u32,
    pub align: u32,
    pub execute: bool,
    pub write: bool,
}

struct Run {
    start: u32,
    end: u32,
    rights: Rights,
    kvas: bool,
    symbols: Vec<Symbol>,
}

fn page(rva: u32) -> u32 {
    rva / PAGE
}

fn rights(kind: &Kind) -> Rights {
    Rights {
        write: matches!(kind, Kind::Data(_)),
        execute: kind.is_code(),
    }
}

/// Bytes that a symbol needs at its place.
fn size(symbol: &Symbol, types: &Types, arch: Arch, code: &Code) -> u32 {
    match symbol.kind.variable() {
        Some(ctype) => types.size_of(ctype),
        None => body(&symbol.name, arch)
            .map(|(_, size)| size)
            .or_else(|| code.placed.get(&symbol.name).copied())
            .unwrap_or(JUMP),
    }
}

/// A name as the object file has it.
pub(crate) fn decorated(name: &str, arch: Arch) -> String {
    match arch {
        Arch::X64 => name.to_owned(),
        Arch::X86 => format!("_{name}"),
    }
}

impl Section {
    /// Whether it holds nothing.
    pub fn is_pad(&self) -> bool {
        matches!(self.kind, SectionKind::Pad { .. })
    }
}

impl Plan {
    /// Plans the image for the symbols of a profile and the sections that the sources bring.
    pub fn new(
        profile: &Profile,
        types: &Types,
        symbols: &[Symbol],
        extras: &[Extra],
        code: Code,
    ) -> Result<Plan, NtError> {
        let runs = runs(profile, types, symbols, &code)?;
        let mut plan = Plan {
            sections: Vec::new(),
            merges: Vec::new(),
            code,
        };
        let named = |runs: &[Run], name: &str| {
            runs.iter()
                .position(|run| run.symbols.iter().any(|symbol| symbol.name == name))
        };
        let text = named(&runs, "KiSystemCall64").or_else(|| named(&runs, "KiFastCallEntry"));
        let text = text.filter(|&at| runs.get(at).is_some_and(|run| !run.rights.write));
        let data = named(&runs, "KdVersionBlock");
        let kvas = runs.iter().rposition(|run| run.kvas);

        let mut end = PAGE;
        let mut names = Names::default();
        for (at, run) in runs.into_iter().enumerate() {
            if run.start < end {
                return Err(profile.error(format!(
                    "no room in front of {:#x} for the code in KVASCODE, which reaches to {end:#x}",
                    run.start
                )));
            }
            if run.start > end {
                let size = run.start - end;
                let rights = Rights {
                    write: false,
                    execute: false,
                };
                plan.add(names.pad(), rights, SectionKind::Pad { size });
            }
            let name = if Some(at) == text {
                ".text".to_owned()
            } else if Some(at) == data {
                ".data".to_owned()
            } else {
                names.run(&run)
            };
            let (mut run_end, rights) = (run.end, run.rights);
            let mut run = run;
            if Some(at) == kvas {
                // What has no place of its own in this section is behind what has.
                let free = symbols
                    .iter()
                    .filter(|symbol| symbol.rva.is_none() && symbol.kind == Kind::Kvas)
                    .filter(|symbol| !plan.code.free.contains(&symbol.name));
                for symbol in free {
                    run_end = run_end.saturating_add(size(symbol, types, profile.arch, &plan.code));
                    run.symbols.push(symbol.clone());
                }
            }
            plan.add(
                name,
                rights,
                SectionKind::Run {
                    start: run.start,
                    symbols: run.symbols,
                },
            );
            if Some(at) == kvas {
                // The sources' own part of this section lies behind the symbols.
                for extra in extras.iter().filter(|extra| extra.name == "KVASCODE") {
                    run_end = run_end
                        .next_multiple_of(extra.align.max(1))
                        .saturating_add(extra.size);
                }
                plan.merge_into_last("KVASCODE");
            }
            end = run_end.next_multiple_of(PAGE);
        }
        plan.tail(
            profile,
            symbols,
            extras,
            text.is_some(),
            data.is_some(),
            kvas.is_some(),
        );
        Ok(plan)
    }

    fn add(&mut self, name: String, rights: Rights, kind: SectionKind) {
        let link_name = format!("kdd_s{:03}", self.sections.len());
        self.sections.push(Section {
            link_name,
            name,
            rights,
            kind,
        });
    }

    fn merge_into_last(&mut self, name: &str) {
        if let Some(last) = self.sections.last() {
            self.merges.push((name.to_owned(), last.link_name.clone()));
        }
    }

    fn tail(
        &mut self,
        profile: &Profile,
        symbols: &[Symbol],
        extras: &[Extra],
        has_text: bool,
        has_data: bool,
        has_kvas: bool,
    ) {
        let read = Rights {
            write: false,
            execute: false,
        };
        let execute = Rights {
            write: false,
            execute: true,
        };
        let write = Rights {
            write: true,
            execute: false,
        };
        let made = self.code.free.clone();
        let free = |wanted: fn(&Kind) -> bool| -> Vec<Symbol> {
            symbols
                .iter()
                .filter(|symbol| symbol.rva.is_none() && wanted(&symbol.kind))
                .filter(|symbol| !made.contains(&symbol.name))
                .cloned()
                .collect()
        };
        let tail = |symbols| SectionKind::Tail { symbols };
        let code = free(|kind| *kind == Kind::Code);
        let (own, stubs) = if has_text {
            ("POOLCODE", "PAGELK")
        } else {
            (".text", "POOLCODE")
        };
        self.add(own.to_owned(), execute, tail(Vec::new()));
        self.merge_into_last(".text");
        for extra in extras
            .iter()
            .filter(|extra| extra.execute && extra.name != "KVASCODE")
        {
            self.merge_into_last(&extra.name);
        }
        self.add(stubs.to_owned(), execute, tail(code));
        if !has_kvas {
            let kvas = free(|kind| *kind == Kind::Kvas);
            if !kvas.is_empty() || extras.iter().any(|extra| extra.name == "KVASCODE") {
                self.add("KVASCODE".to_owned(), execute, tail(kvas));
                self.merge_into_last("KVASCODE");
            }
        }
        self.add(
            ".rdata".to_owned(),
            read,
            tail(free(|kind| matches!(kind, Kind::Const(_)))),
        );
        self.merge_into_last(".rdata");
        for extra in extras.iter().filter(|extra| !extra.execute && !extra.write) {
            self.merge_into_last(&extra.name);
        }
        if profile.arch == Arch::X64 {
            self.add(".pdata".to_owned(), read, tail(Vec::new()));
            self.merge_into_last(".pdata");
        }
        if !has_text && !has_data {
            // The code of a Windows kernel is more than the guest's: what may be written lies far behind the header.
            let size = TAIL_PAD;
            self.add("Pad1".to_owned(), read, SectionKind::Pad { size });
        }
        let data = if has_data { "CACHEALI" } else { ".data" };
        self.add(
            data.to_owned(),
            write,
            tail(free(|kind| matches!(kind, Kind::Data(_)))),
        );
        self.merge_into_last(".data");
        for extra in extras.iter().filter(|extra| !extra.execute && extra.write) {
            self.merge_into_last(&extra.name);
        }
        self.add("INITKDBG".to_owned(), execute, tail(Vec::new()));
    }

    /// The assembly that makes the sections, with every symbol at its place; and the functions that lie in between. The
    /// linker puts the pieces of a section together in the order of what is behind the `$` in their names.
    pub fn assembly(&self, types: &Types, arch: Arch) -> (String, Vec<Piece>) {
        let mut pieces = Vec::new();
        let mut text = String::from("/* Generated: sections and symbols of the kernel's image. */\n");
        for section in &self.sections {
            let flags = match (section.rights.execute, section.rights.write) {
                (true, true) => "xw",
                (true, false) => "xr",
                (false, true) => "dw",
                (false, false) => "dr",
            };
            match &section.kind {
                SectionKind::Pad { size } => {
                    let _ = writeln!(text, ".section {},\"b\"\n .zero {size:#x}", section.link_name);
                }
                SectionKind::Run { start, symbols, .. } => {
                    let _ = writeln!(text, ".section {},\"{flags}\"\n .p2align 4", section.link_name);
                    let (mut at, fill) = (*start, if section.rights.execute { 0xcc } else { 0 });
                    for symbol in symbols {
                        let rva = symbol.rva.unwrap_or(at);
                        if rva > at {
                            let _ = writeln!(text, " .fill {:#x}, 1, {fill:#x}", rva - at);
                            at = rva;
                        }
                        if let Some(size) = self.code.placed.get(&symbol.name) {
                            let piece = |number: usize| format!("{}${number:05}", section.link_name);
                            let number = 2 * pieces.len() + 1;
                            pieces.push(Piece {
                                function: symbol.name.clone(),
                                section: piece(number),
                                write: section.rights.write,
                            });
                            let _ = writeln!(text, ".section {},\"{flags}\"", piece(number + 1));
                            at += size;
                            continue;
                        }
                        label(&mut text, symbol, arch);
                        // What overlaps the next symbol is left to it.
                        let next = symbols
                            .iter()
                            .filter_map(|other| other.rva)
                            .find(|&other| other > rva);
                        let shares = symbols.iter().rev().find(|other| other.rva == Some(rva));
                        if symbol.rva.is_none() || shares.is_some_and(|last| last.name == symbol.name) {
                            let room = next.map_or(u32::MAX, |next| next - rva);
                            at += content(&mut text, symbol, types, arch, room, &self.code);
                        }
                    }
                }
                SectionKind::Tail { symbols } => {
                    let fill = if section.rights.execute { 0xcc } else { 0 };
                    let _ = writeln!(
                        text,
                        ".section {},\"{flags}\"\n .p2align 4\n .fill 16, 1, {fill:#x}",
                        section.link_name
                    );
                    if section.name == "INITKDBG" {
                        let name = decorated("NtUnimplemented", arch);
                        let _ = writeln!(
                            text,
                            " .globl {name}\n .def {name}; .scl 2; .type 32; .endef\n{name}:\n int3\n jmp {name}"
                        );
                    }
                    let has = |name: &str| symbols.iter().any(|symbol| symbol.name == name);
                    for symbol in symbols {
                        let _ = writeln!(text, " .p2align 4, {fill:#x}");
                        // The instruction in DbgBreakPointWithStatus.
                        if symbol.name == BREAK_INSTRUCTION && has("DbgBreakPointWithStatus") {
                            continue;
                        }
                        label(&mut text, symbol, arch);
                        if symbol.name == "DbgBreakPointWithStatus" && has(BREAK_INSTRUCTION) {
                            if arch == Arch::X86 {
                                text.push_str(" movl 4(%esp), %eax\n");
                            }
                            let name = decorated(BREAK_INSTRUCTION, arch);
                            let _ = writeln!(
                                text,
                                " .globl {name}\n .def {name}; .scl 2; .type 32; .endef\n{name}:\n int3\n ret"
                            );
                            continue;
                        }
                        content(&mut text, symbol, types, arch, u32::MAX, &self.code);
                    }
                }
            }
        }
        (text, pieces)
    }
}

fn label(text: &mut String, symbol: &Symbol, arch: Arch) {
    let name = decorated(&symbol.name, arch);
    let _ = writeln!(text, " .globl {name}");
    if symbol.kind.is_code() {
        let _ = writeln!(text, " .def {name}; .scl 2; .type 32; .endef");
    }
    let _ = writeln!(text, "{name}:");
}

/// The bytes of a symbol, `room` of them at most.
fn content(text: &mut String, symbol: &Symbol, types: &Types, arch: Arch, room: u32, code: &Code) -> u32 {
    let size = size(symbol, types, arch, code).min(room);
    if symbol.kind.is_code() {
        match body(&symbol.name, arch) {
            Some((instructions, _)) => {
                let _ = writeln!(text, " {instructions}");
            }
            None => {
                // Always the long form: the linker doesn't choose.
                let moved = code.moved.contains(&symbol.name);
                let target = if moved {
                    moved_name(&symbol.name)
                } else {
                    "NtUnimplemented".to_owned()
                };
                let _ = writeln!(text, " jmp {}", decorated(&target, arch));
            }
        }
    } else {
        let initial = symbol.initial.iter().take(size as usize);
        let bytes: Vec<String> = initial.map(u8::to_string).collect();
        if !bytes.is_empty() {
            let _ = writeln!(text, " .byte {}", bytes.join(", "));
        }
        let _ = writeln!(text, " .zero {:#x}", size - bytes.len() as u32);
    }
    size
}

/// The placed symbols in order, as runs of what has the same rights and lies close together.
fn runs(profile: &Profile, types: &Types, symbols: &[Symbol], code: &Code) -> Result<Vec<Run>, NtError> {
    let mut placed: Vec<(u32, &Symbol)> = symbols
        .iter()
        .filter_map(|symbol| symbol.rva.map(|rva| (rva, symbol)))
        .collect();
    placed.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    let mut runs: Vec<Run> = Vec::new();
    for (at, &(rva, symbol)) in placed.iter().enumerate() {
        let mut size = size(symbol, types, profile.arch, code);
        if let Some(&(next, other)) = placed.iter().skip(at).find(|(next, _)| *next > rva)
            && next - rva < size
        {
            let is_array = symbol.kind.variable().is_some_and(|ctype| ctype.count.is_some());
            if !is_array {
                let room = next - rva;
                return Err(profile.error(format!(
                    "{} at {rva:#x} takes {size:#x} bytes, but {} follows {room:#x} behind it",
                    symbol.name, other.name
                )));
            }
            size = next - rva;
        }
        let (wanted, kvas) = (rights(&symbol.kind), symbol.kind == Kind::Kvas);
        let end = rva.saturating_add(size);
        match runs.last_mut() {
            // In the same page there is no choice: it gets the rights of both.
            Some(run) if page(rva) <= page(run.end.saturating_sub(1).max(run.start)) => {
                run.rights.write |= wanted.write;
                run.rights.execute |= wanted.execute;
                run.end = run.end.max(end);
                run.symbols.push(symbol.clone());
            }
            Some(run)
                if run.rights == wanted
                    && run.kvas == kvas
                    && (!wanted.execute || rva - run.end < GAP)
                    && rva - run.end < 16 * GAP =>
            {
                run.end = end;
                run.symbols.push(symbol.clone());
            }
            _ => {
                let start = page(rva) * PAGE;
                runs.push(Run {
                    start,
                    end,
                    rights: wanted,
                    kvas,
                    symbols: vec![symbol.clone()],
                });
            }
        }
    }
    Ok(runs)
}

/// Names of Windows' own for what isn't `.text` or `.data`.
#[derive(Default)]
struct Names {
    pads: u32,
    code: usize,
    data: usize,
}

impl Names {
    fn pad(&mut self) -> String {
        self.pads += 1;
        format!("Pad{}", self.pads)
    }

    fn run(&mut self, run: &Run) -> String {
        let next = |names: &[&str], count: &mut usize| {
            *count += 1;
            names
                .get(*count - 1)
                .map_or_else(|| format!("PAGE{count}"), |name| (*name).to_owned())
        };
        match (run.kvas, run.rights.execute, run.rights.write) {
            (true, _, false) => "KVASCODE".to_owned(),
            (_, true, _) => next(
                &["PAGE", "PAGEKD", "PAGEVRFY", "PAGEHDLS", "PAGEBGFX"],
                &mut self.code,
            ),
            (_, false, true) => next(&["ALMOSTRO", "PAGEDATA", "PAGEVRFD"], &mut self.data),
            (_, false, false) => "PROTDATA".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::symbols;
    use std::collections::BTreeMap;

    fn plan(rvas: &str) -> Result<Plan, NtError> {
        let json = format!(r#"{{"version": "10.0.19041.1", "arch": "x64", "rvas": {rvas}}}"#);
        let profile = Profile::parse("test", &json)?;
        let types = Types::new(&profile)?;
        Plan::new(&profile, &types, &symbols(&profile), &[], Code::default())
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.sections
            .iter()
            .map(|section| section.name.as_str())
            .collect()
    }

    #[test]
    fn code_and_variables_lie_in_sections_of_their_own_with_pads_between() {
        let plan =
            plan(r#"{"KiSystemCall64": 8256, "KeBugCheckEx": 2097152, "KdVersionBlock": 4198400}"#).unwrap();
        assert_eq!(
            names(&plan)[..6],
            ["Pad1", ".text", "Pad2", "PAGE", "Pad3", ".data"]
        );
        let size = |at: usize| match plan.sections[at].kind {
            SectionKind::Pad { size } => size,
            _ => 0,
        };
        assert_eq!((size(0), size(2), size(4)), (0x1000, 0x1f_d000, 0x20_0000));
    }

    #[test]
    fn what_shares_a_page_shares_its_rights() {
        let plan = plan(r#"{"KiSystemCall64": 8192, "NtBuildNumber": 8448}"#).unwrap();
        assert_eq!(
            plan.sections[1].rights,
            Rights {
                write: true,
                execute: true
            }
        );
    }

    #[test]
    fn a_function_lies_at_its_symbol_where_there_is_room() {
        let json = r#"{"version": "10.0.19041.1", "arch": "x64",
            "rvas": {"KeBugCheckEx": 8192, "KeBugCheck2": 8208, "KiPageFault": 12288}}"#;
        let profile = Profile::parse("test", json).unwrap();
        let (types, symbols) = (Types::new(&profile).unwrap(), symbols(&profile));
        let sizes = ["KeBugCheckEx", "KeBugCheck2", "DbgPrint"].map(|name| (name.to_owned(), 0x20));
        let code = Code::new(&symbols, &BTreeMap::from(sizes), Arch::X64);
        assert_eq!(code.placed.keys().collect::<Vec<_>>(), ["KeBugCheck2"]);
        assert_eq!(code.moved.iter().collect::<Vec<_>>(), ["KeBugCheckEx"]);
        let plan = Plan::new(&profile, &types, &symbols, &[], code).unwrap();
        let (text, pieces) = plan.assembly(&types, Arch::X64);
        assert_eq!(pieces.len(), 1);
        assert_eq!(
            (pieces[0].function.as_str(), pieces[0].write),
            ("KeBugCheck2", false)
        );
        assert!(text.contains("KeBugCheckEx:\n jmp KeBugCheckEx_impl\n"));
        assert!(text.contains("KiPageFault:\n jmp NtUnimplemented\n"));
        // The sources' own.
        assert!(!text.contains("KeBugCheck2:") && !text.contains("DbgPrint:"));
    }

    #[test]
    fn symbols_that_do_not_fit_are_named() {
        let why = |rvas| plan(rvas).unwrap_err().to_string();
        assert!(
            why(r#"{"KdVersionBlock": 8192, "NtBuildNumber": 8200}"#).contains("KdVersionBlock at 0x2000")
        );
        assert!(why(r#"{"KeBugCheckEx": 8192, "KeBugCheck2": 8195}"#).contains("takes 0x5 bytes"));
        // An array gives way.
        assert!(plan(r#"{"KiProcessorBlock": 8192, "NtBuildNumber": 8208}"#).is_ok());
    }
}
