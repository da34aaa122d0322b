//! `nt_layout.h`: a profile as C declarations.

use crate::NtError;
use crate::profile::{Arch, Profile};
use crate::symbols::{Kind, Symbol, symbols};
use crate::types::{Field, Struct, Types};
use std::collections::BTreeSet;
use std::fmt::Write as _;

const BASICS: &str = r#"
typedef unsigned char UINT8;
typedef signed char INT8;
typedef unsigned short UINT16;
typedef short INT16;
typedef unsigned int UINT32;
typedef int INT32;
typedef unsigned long long UINT64;
typedef long long INT64;
typedef void VOID;
typedef void *PVOID;
typedef char CHAR;
typedef unsigned short WCHAR;
typedef UINT8 UCHAR, BOOLEAN;
typedef UINT16 USHORT;
typedef unsigned long ULONG;
typedef long LONG;
typedef UINT64 ULONG64, ULONGLONG, DWORD64;
typedef INT64 LONG64, LONGLONG;
typedef __UINTPTR_TYPE__ UINT_PTR, ULONG_PTR, SIZE_T;
typedef __INTPTR_TYPE__ INT_PTR, LONG_PTR;
typedef LONG NTSTATUS;
#define NT_IMPL(name) __attribute__((noinline, section(".text$" #name))) name
"#;

/// The text of `nt_layout.h`.
///
/// # Errors
///
/// When the profile contradicts itself.
pub fn header(profile: &Profile) -> Result<String, NtError> {
    let types = Types::new(profile)?;
    let symbols = symbols(profile);
    let mut text = String::new();
    let _ = write!(
        text,
        "/* Generated from the profile {}: {} {} */\n#pragma once\n\n",
        profile.name, profile.os, profile.version
    );
    constants(&mut text, profile);
    for (name, shape) in &types.structs {
        numbers(&mut text, name, shape);
    }
    for symbol in &symbols {
        let _ = writeln!(text, "#define HAVE_SYMBOL_{} 1", symbol.name);
    }
    text.push_str("\n#ifndef __ASSEMBLER__\n");
    text.push_str(BASICS);
    text.push('\n');
    for name in types.structs.keys().map(String::as_str).chain(["_MMPFN"]) {
        let short = name.trim_start_matches('_');
        let _ = writeln!(text, "typedef struct {name} {short}, *P{short};");
    }
    text.push_str("\n#pragma pack(push, 1)\n");
    let mut done = BTreeSet::new();
    for name in types.structs.keys() {
        structure(&mut text, name, &types, &mut done);
    }
    text.push_str("#pragma pack(pop)\n\n");
    assertions(&mut text, profile, &types);
    text.push('\n');
    variables(&mut text, &symbols);
    text.push_str("#endif\n");
    Ok(text)
}

/// C text that makes every structure's full description part of the debug information.
pub(crate) fn type_keeper(profile: &Profile) -> Result<String, NtError> {
    let types = Types::new(profile)?;
    let mut text = String::from("#include \"nt_layout.h\"\n\n");
    for name in types.structs.keys() {
        let _ = writeln!(text, "typedef char Size{name}[sizeof(struct {name})];");
    }
    Ok(text)
}

fn constants(text: &mut String, profile: &Profile) {
    let suffix = |value: u64| match profile.arch {
        Arch::X64 => format!("{value:#x}ULL"),
        Arch::X86 => format!("{value:#x}UL"),
    };
    let flag = |set: bool| u32::from(set).to_string();
    let lines = [
        ("NT_PROFILE", format!("\"{}\"", profile.name)),
        ("NT_MAJOR", profile.major().to_string()),
        ("NT_MINOR", profile.minor().to_string()),
        ("NT_BUILD", profile.build().to_string()),
        ("NT_REVISION", profile.revision().to_string()),
        ("NT_BUILD_LAB", format!("\"{}\"", profile.build_lab())),
        ("NT_CSD_VERSION", format!("{:#x}", profile.csd_version())),
        (
            if profile.arch == Arch::X64 {
                "NT_X64"
            } else {
                "NT_X86"
            },
            "1".to_owned(),
        ),
        ("NT_PAE", flag(profile.pae)),
        ("KDBG_SIZE", format!("{:#x}", profile.kdbg_size())),
        ("KDBG_ENCODED", flag(profile.kdbg_encoded())),
        ("KVA_SHADOW", flag(profile.kva_shadow())),
        ("PTE_BASE_RANDOM", flag(profile.pte_base_random())),
        ("KPCR_IN_IMAGE", flag(profile.kpcr_in_image())),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "#define {name} {value}");
    }
    // An assembler takes no suffixes.
    let start = profile.system_range_start();
    let _ = writeln!(
        text,
        "#ifdef __ASSEMBLER__\n#define SYSTEM_RANGE_START {start:#x}\n#else\n#define SYSTEM_RANGE_START {}\n#endif",
        suffix(start)
    );
}

/// The structure's size and offsets as numbers: for assembly, and to ask whether a field exists.
fn numbers(text: &mut String, name: &str, shape: &Struct) {
    let short = name.trim_start_matches('_');
    let _ = writeln!(text, "#define SIZEOF_{short} {:#x}", shape.size);
    for field in &shape.fields {
        let _ = writeln!(
            text,
            "#define HAVE_{short}_{} 1\n#define {short}_{} {:#x}",
            field.name, field.name, field.offset
        );
    }
}

/// The definition of a structure, behind those that it contains.
fn structure(text: &mut String, name: &str, types: &Types, done: &mut BTreeSet<String>) {
    let Some(shape) = types.structs.get(name) else {
        return;
    };
    if !done.insert(name.to_owned()) {
        return;
    }
    for inner in shape.fields.iter().filter_map(|field| field.ctype.embeds()) {
        structure(text, &inner, types, done);
    }
    let _ = writeln!(text, "struct {name} {{");
    let (mut end, mut spares) = (0, 0);
    let mut rest = shape.fields.as_slice();
    while let Some(first) = rest.first() {
        // Fields that overlap, directly or through others, make one union.
        let (mut count, mut reach) = (0, first.offset + first.size);
        while let Some(field) = rest.get(count)
            && (count == 0 || field.offset < reach)
        {
            reach = reach.max(field.offset + field.size);
            count += 1;
        }
        let (cluster, behind) = rest.split_at(count);
        spare(text, "    ", &mut spares, end, first.offset);
        match cluster {
            [only] => {
                let _ = writeln!(text, "    {};", only.ctype.declare(&only.name));
            }
            _ => union(text, cluster, &mut spares),
        }
        end = reach;
        rest = behind;
    }
    spare(text, "    ", &mut spares, end, shape.size);
    let _ = writeln!(text, "}};");
}

/// Overlapping fields: each alternative is a row of fields that don't overlap each other.
fn union(text: &mut String, cluster: &[Field], spares: &mut u32) {
    let start = cluster.first().map_or(0, |field| field.offset);
    let mut rows: Vec<(u32, Vec<&Field>)> = Vec::new();
    for field in cluster {
        match rows.iter_mut().find(|(end, _)| *end <= field.offset) {
            Some((end, row)) => {
                row.push(field);
                *end = field.offset + field.size;
            }
            None => rows.push((field.offset + field.size, vec![field])),
        }
    }
    text.push_str("    union {\n");
    for (_, row) in rows {
        if let [only] = row.as_slice()
            && only.offset == start
        {
            let _ = writeln!(text, "        {};", only.ctype.declare(&only.name));
            continue;
        }
        text.push_str("        struct {\n");
        let mut end = start;
        for field in row {
            spare(text, "            ", spares, end, field.offset);
            let _ = writeln!(text, "            {};", field.ctype.declare(&field.name));
            end = field.offset + field.size;
        }
        text.push_str("        };\n");
    }
    text.push_str("    };\n");
}

fn spare(text: &mut String, indent: &str, count: &mut u32, from: u32, to: u32) {
    if to > from {
        let _ = writeln!(text, "{indent}UINT8 Spare_{count}[{}];", to - from);
        *count += 1;
    }
}

fn assertions(text: &mut String, profile: &Profile, types: &Types) {
    for (name, shape) in &types.structs {
        let _ = writeln!(
            text,
            "_Static_assert(sizeof(struct {name}) == {:#x}, \"size of {name}\");",
            shape.size
        );
        for field in &shape.fields {
            offset_assertion(text, name, &field.name, field.offset);
        }
    }
    for (name, fields) in &profile.structs {
        for (path, &offset) in fields.iter().filter(|(path, _)| path.contains('.')) {
            offset_assertion(text, name, path, offset);
        }
    }
}

fn offset_assertion(text: &mut String, name: &str, path: &str, offset: u32) {
    let _ = writeln!(
        text,
        "_Static_assert(__builtin_offsetof(struct {name}, {path}) == {offset:#x}, \"offset of {name}.{path}\");"
    );
}

fn variables(text: &mut String, symbols: &[Symbol]) {
    for symbol in symbols {
        match &symbol.kind {
            Kind::Const(ctype) => {
                let _ = writeln!(text, "extern const {};", ctype.declare(&symbol.name));
            }
            Kind::Data(ctype) => {
                let _ = writeln!(text, "extern {};", ctype.declare(&symbol.name));
            }
            Kind::Code | Kind::Kvas => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(structs: &str) -> Result<String, NtError> {
        let json = format!(r#"{{"version": "10.0.19041.1", "arch": "x64", "structs": {structs}}}"#);
        header(&Profile::parse("test", &json)?)
    }

    #[test]
    fn fields_that_overlap_become_a_union_and_gaps_are_filled() {
        let text = of(r#"{"_T": {"_size": 48, "Head": 8, "Xmm0": 16, "Dr0": 24, "MxCsr": 40}}"#).unwrap();
        let wanted = "struct _T {
    UINT8 Spare_0[8];
    UINT64 Head;
    union {
        struct _M128A Xmm0;
        struct {
            UINT8 Spare_1[8];
            ULONG_PTR Dr0;
        };
    };
    UINT8 Spare_2[8];
    UINT32 MxCsr;
    UINT8 Spare_3[4];
};
";
        assert!(
            text.contains(wanted),
            "{}",
            &text[text.find("struct _T {").unwrap()..]
        );
    }

    #[test]
    fn dotted_names_are_checked_against_the_inner_structure() {
        let inner = r#""_KPROCESS": {"_size": 1080, "DirectoryTableBase": 40}"#;
        let outer = |at: u32| {
            of(&format!(
                r#"{{{inner}, "_EPROCESS": {{"_size": 2624, "Pcb": 16, "Pcb.DirectoryTableBase": {at}}}}}"#
            ))
        };
        assert!(
            outer(56)
                .unwrap()
                .contains("offsetof(struct _EPROCESS, Pcb.DirectoryTableBase) == 0x38")
        );
        assert!(
            outer(64)
                .unwrap_err()
                .to_string()
                .contains("Pcb.DirectoryTableBase")
        );
        assert!(outer(8).unwrap_err().to_string().contains("before"));
    }
}
