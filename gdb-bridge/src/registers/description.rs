//! The target description: the table as XML (GDB manual, appendix G).

use super::system::{self, SYSTEM, SYSTEM_BYTES};
use super::{Feature, Register, TABLE};
use hv_core::regs::{cr0, cr4, efer, rflags};
use std::fmt::Write;
use std::sync::OnceLock;

/// The document, made once; with the register `system` or without.
pub fn description(system: bool) -> &'static str {
    static XML: [OnceLock<String>; 2] = [const { OnceLock::new() }; 2];
    XML[usize::from(system)].get_or_init(|| {
        let mut xml = String::from(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n\
             <architecture>i386:x86-64</architecture>\n",
        );
        for (feature, name) in FEATURES {
            // Writing into a String can't fail.
            let _ = writeln!(xml, "<feature name=\"{name}\">");
            types(&mut xml, *feature);
            for (number, register) in TABLE.iter().enumerate().filter(|(_, r)| r.feature == *feature) {
                line(&mut xml, number, register);
            }
            if system && *feature == Feature::System {
                system_register(&mut xml);
            }
            xml.push_str("</feature>\n");
        }
        xml.push_str("</target>\n");
        xml
    })
}

const FEATURES: &[(Feature, &str)] = &[
    (Feature::Core, "org.gnu.gdb.i386.core"),
    (Feature::Sse, "org.gnu.gdb.i386.sse"),
    (Feature::Segments, "org.gnu.gdb.i386.segments"),
    (Feature::System, "kdd.x86.system"),
];

fn line(xml: &mut String, number: usize, register: &Register) {
    let Register { name, bits, kind, .. } = register;
    let group = match (register.feature, *kind) {
        (Feature::System, _) => " group=\"system\"",
        (Feature::Core, "int") => " group=\"float\"",
        _ => "",
    };
    let _ = writeln!(
        xml,
        "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\" regnum=\"{number}\"{group}/>"
    );
}

/// See [`super::system`].
fn system_register(xml: &mut String) {
    for (name, fields) in SYSTEM_FLAGS {
        flags(xml, &format!("x86_{name}"), 8, fields);
    }
    xml.push_str("<struct id=\"x86_system\">\n");
    for Register { name, kind, .. } in system::members() {
        let kind = match SYSTEM_FLAGS.iter().find(|(flags, _)| flags == name) {
            Some(_) => format!("x86_{name}"),
            None => (*kind).to_owned(),
        };
        let _ = writeln!(xml, "<field name=\"{name}\" type=\"{kind}\"/>");
    }
    // As the only element of a vector it stays out of `info registers`, where its fields are already.
    xml.push_str("</struct>\n<vector id=\"x86_system_vector\" type=\"x86_system\" count=\"1\"/>\n");
    let _ = writeln!(
        xml,
        "<reg name=\"system\" bitsize=\"{}\" type=\"x86_system_vector\" regnum=\"{SYSTEM}\" group=\"system\"/>",
        SYSTEM_BYTES * 8
    );
}

fn types(xml: &mut String, feature: Feature) {
    match feature {
        Feature::Core => flags(xml, "i386_eflags", 4, EFLAGS),
        Feature::Sse => {
            xml.push_str(VECTORS);
            flags(xml, "i386_mxcsr", 4, MXCSR);
        }
        Feature::Segments | Feature::System => {}
    }
}

/// A flags type of `size` bytes; each field is the bits of a mask.
fn flags(xml: &mut String, id: &str, size: u32, fields: &[(&str, u64)]) {
    let _ = writeln!(xml, "<flags id=\"{id}\" size=\"{size}\">");
    for (name, mask) in fields {
        let (start, end) = (mask.trailing_zeros(), 63 - mask.leading_zeros());
        let _ = writeln!(xml, "<field name=\"{name}\" start=\"{start}\" end=\"{end}\"/>");
    }
    xml.push_str("</flags>\n");
}

const EFLAGS: &[(&str, u64)] = &[
    ("CF", rflags::CF),
    ("", rflags::FIXED),
    ("PF", rflags::PF),
    ("AF", rflags::AF),
    ("ZF", rflags::ZF),
    ("SF", rflags::SF),
    ("TF", rflags::TF),
    ("IF", rflags::IF),
    ("DF", rflags::DF),
    ("OF", rflags::OF),
    ("IOPL", rflags::IOPL),
    ("NT", rflags::NT),
    ("RF", rflags::RF),
    ("VM", rflags::VM),
    ("AC", rflags::AC),
    ("VIF", rflags::VIF),
    ("VIP", rflags::VIP),
    ("ID", rflags::ID),
];

const MXCSR: &[(&str, u64)] = &[
    ("IE", 1 << 0),
    ("DE", 1 << 1),
    ("ZE", 1 << 2),
    ("OE", 1 << 3),
    ("UE", 1 << 4),
    ("PE", 1 << 5),
    ("DAZ", 1 << 6),
    ("IM", 1 << 7),
    ("DM", 1 << 8),
    ("ZM", 1 << 9),
    ("OM", 1 << 10),
    ("UM", 1 << 11),
    ("PM", 1 << 12),
    ("RC", 3 << 13),
    ("FZ", 1 << 15),
];

/// The registers of which `print $system` shows the bits.
const SYSTEM_FLAGS: &[(&str, &[(&str, u64)])] = &[("cr0", CR0), ("cr4", CR4), ("efer", EFER)];

const CR0: &[(&str, u64)] = &[
    ("PE", cr0::PE),
    ("MP", cr0::MP),
    ("EM", cr0::EM),
    ("TS", cr0::TS),
    ("ET", cr0::ET),
    ("NE", cr0::NE),
    ("WP", cr0::WP),
    ("AM", cr0::AM),
    ("NW", cr0::NW),
    ("CD", cr0::CD),
    ("PG", cr0::PG),
];

const CR4: &[(&str, u64)] = &[
    ("VME", cr4::VME),
    ("PVI", cr4::PVI),
    ("TSD", cr4::TSD),
    ("DE", cr4::DE),
    ("PSE", cr4::PSE),
    ("PAE", cr4::PAE),
    ("MCE", cr4::MCE),
    ("PGE", cr4::PGE),
    ("PCE", cr4::PCE),
    ("OSFXSR", cr4::OSFXSR),
    ("OSXMMEXCPT", cr4::OSXMMEXCPT),
    ("UMIP", cr4::UMIP),
    ("LA57", cr4::LA57),
    ("FSGSBASE", cr4::FSGSBASE),
    ("PCIDE", cr4::PCIDE),
    ("OSXSAVE", cr4::OSXSAVE),
    ("SMEP", cr4::SMEP),
    ("SMAP", cr4::SMAP),
];

const EFER: &[(&str, u64)] = &[
    ("SCE", efer::SCE),
    ("LME", efer::LME),
    ("LMA", efer::LMA),
    ("NXE", efer::NXE),
];

/// What gdb's own description of SSE says.
const VECTORS: &str = r#"<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/>
<vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4f"/>
<field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/>
<field name="v8_int16" type="v8i16"/>
<field name="v4_int32" type="v4i32"/>
<field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/>
</union>
"#;
