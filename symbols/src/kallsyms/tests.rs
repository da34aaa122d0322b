use super::*;
use proptest::prelude::*;

/// The address of the first byte of every image here.
const BASE: u64 = 0xffff_ffff_8100_0000;

/// A way in which some versions write their tables.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Addresses stand before the names, and not behind the tokens.
    addresses_first: bool,
    addressing: Addressing,
    /// Bytes of the count and of markers.
    word: usize,
    /// Numbers by name stand between markers and tokens.
    sequence: bool,
    align: usize,
}

const LAYOUTS: [(&str, Layout); 7] = [
    (
        "4.14 without a base",
        layout(true, Addressing::Absolute, 8, false, 8),
    ),
    (
        "4.14 to 4.19",
        layout(true, Addressing::PercpuAbsolute, 8, false, 8),
    ),
    (
        "4.20 to 6.1",
        layout(true, Addressing::PercpuAbsolute, 4, false, 8),
    ),
    (
        "6.1.y, 6.2, 6.3",
        layout(true, Addressing::PercpuAbsolute, 4, true, 8),
    ),
    (
        "6.4 to 6.14",
        layout(false, Addressing::PercpuAbsolute, 4, false, 8),
    ),
    (
        "6.15 to 6.19",
        layout(false, Addressing::BaseRelative, 4, false, 8),
    ),
    ("7.0", layout(false, Addressing::PlaceRelative, 4, false, 4)),
];

const fn layout(
    addresses_first: bool,
    addressing: Addressing,
    word: usize,
    sequence: bool,
    align: usize,
) -> Layout {
    Layout {
        addresses_first,
        addressing,
        word,
        sequence,
        align,
    }
}

/// What is in the images: address, letter, name.
fn symbols() -> Vec<(u64, char, String)> {
    let mut symbols = vec![(BASE, 'T', "_text".to_owned()), (BASE, 'T', "_stext".to_owned())];
    for number in 0..2500_u64 {
        let name = match number % 5 {
            0 => format!("__x64_sys_call_{number}"),
            1 => format!("__pfx_function_{number}"),
            2 => format!("function_{number}"),
            // Longer than a length of one byte says.
            3 => format!("{}_{number}", "QZ".repeat(70)),
            _ => "static_helper".to_owned(),
        };
        let letter = if number % 2 == 0 { 'T' } else { 't' };
        symbols.push((BASE + 0x1000 + number * 16, letter, name));
    }
    symbols
}

/// What each code stands for: itself if it is a letter that names have, or a longer text.
fn tokens() -> Vec<Vec<u8>> {
    (0..=255_u8)
        .map(|code| match code {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' => vec![code],
            1 => b"__x64_sys_".to_vec(),
            2 => b"function".to_vec(),
            3 => b"static_helper".to_vec(),
            _ => format!("x{code}").into_bytes(),
        })
        .collect()
}

fn compress(text: &str, long: bool) -> Vec<u8> {
    let mut text = text.replace("__x64_sys_", "\u{1}").replace("function", "\u{2}");
    if !long {
        // Before 6.1 names had at most 127 codes.
        text = text
            .replace("static_helper", "\u{3}")
            .replace(&"QZ".repeat(70), "QZ");
    }
    text.into_bytes()
}

struct Image(Vec<u8>);

impl Image {
    fn align(&mut self, to: usize) -> usize {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
        self.0.len()
    }

    fn word(&mut self, value: u64, size: usize) {
        self.0.extend_from_slice(&value.to_le_bytes()[..size]);
    }

    fn addresses(&mut self, layout: Layout, symbols: &[(u64, char, String)]) {
        self.align(layout.align);
        for (address, ..) in symbols {
            let value = match layout.addressing {
                Addressing::Absolute => *address,
                Addressing::PercpuAbsolute if *address < BASE => *address,
                Addressing::PercpuAbsolute => (BASE as i64 - 1 - *address as i64) as u64,
                Addressing::BaseRelative => address - BASE,
                Addressing::PlaceRelative => address.wrapping_sub(BASE + self.0.len() as u64),
            };
            self.word(value, decode::element_size(layout.addressing));
        }
        if matches!(
            layout.addressing,
            Addressing::PercpuAbsolute | Addressing::BaseRelative
        ) {
            self.align(8);
            self.word(BASE, 8);
        }
    }
}

/// An image with tables in this layout, and what should be read from it.
fn image(layout: Layout) -> (Vec<u8>, Vec<(u64, char, String)>) {
    let long = layout.sequence || !layout.addresses_first;
    let mut symbols = symbols();
    if !long {
        for (_, _, name) in &mut symbols {
            *name = name.replace(&"QZ".repeat(70), "QZ");
        }
    }
    if layout.addressing == Addressing::PercpuAbsolute {
        symbols.insert(0, (0x1fb80, 'D', "current_task".to_owned()));
    }
    let mut image = Image(vec![0x90; 5000]);
    if layout.addresses_first {
        image.addresses(layout, &symbols);
    }
    image.align(layout.align);
    image.word(symbols.len() as u64, layout.word);
    let start = image.align(layout.align);
    let mut markers = Vec::new();
    for (number, (_, letter, name)) in symbols.iter().enumerate() {
        if number % 256 == 0 {
            markers.push(image.0.len() - start);
        }
        let codes = compress(&format!("{letter}{name}"), long);
        if codes.len() < 128 {
            image.0.push(codes.len() as u8);
        } else {
            image
                .0
                .extend([codes.len() as u8 | 0x80, (codes.len() >> 7) as u8]);
        }
        image.0.extend(codes);
    }
    image.align(layout.align);
    for marker in markers {
        image.word(marker as u64, layout.word);
    }
    if layout.sequence {
        image.align(8);
        for number in 0..symbols.len() as u32 {
            image.0.extend_from_slice(&number.to_be_bytes()[1..]);
        }
    }
    image.align(layout.align);
    let mut index = Vec::new();
    let table = image.0.len();
    for token in tokens() {
        index.push(image.0.len() - table);
        image.0.extend(token);
        image.0.push(0);
    }
    image.align(layout.align);
    for offset in index {
        image.word(offset as u64, 2);
    }
    if !layout.addresses_first {
        image.addresses(layout, &symbols);
    }
    image.0.extend([0xcc; 5000]);
    (image.0, symbols)
}

fn in_image(symbols: &Kallsyms) -> bool {
    symbols.address("_text") == Some(BASE)
}

#[test]
fn every_layout_since_4_14_is_found_and_read_whole() {
    for (name, layout) in LAYOUTS {
        let (bytes, expected) = image(layout);
        let found =
            Kallsyms::find(&bytes, Some(BASE), in_image).unwrap_or_else(|error| panic!("{name}: {error}"));
        let got: Vec<_> = found
            .iter()
            .map(|symbol| (symbol.address, symbol.kind, symbol.text().into_owned()))
            .collect();
        assert_eq!(got, expected, "{name}");
        assert_eq!(found.tables().addressing, layout.addressing, "{name}");
    }
}

#[test]
fn names_lead_to_addresses_and_back() {
    let (bytes, _) = image(LAYOUTS[4].1);
    let found = Kallsyms::find(&bytes, None, in_image).expect("it is there");
    assert_eq!(found.address("function_2"), Some(BASE + 0x1000 + 32));
    assert_eq!(found.address("current_task"), Some(0x1fb80));
    assert_eq!(found.address("nothing"), None);
    assert_eq!(found.all_of_name("static_helper").count(), 500);
    let (symbol, distance) = found.nearest(BASE + 0x1000 + 32 + 5).expect("a symbol");
    assert_eq!((symbol.name, distance), (&b"function_2"[..], 5));
    // The padding before it names nothing.
    let (symbol, _) = found.nearest(BASE + 0x1000 + 16 + 5).expect("a symbol");
    assert_eq!(symbol.name, b"__x64_sys_call_0");
    assert_eq!(found.nearest(BASE + 3).expect("a symbol").0.name, b"_text");
    assert_eq!(found.end_of(BASE + 3), Some(BASE + 0x1000));
}

#[test]
fn an_image_without_tables_has_none() {
    assert_eq!(
        Kallsyms::find(&[0; 10_000], Some(BASE), |_| true).err(),
        Some(KallsymsError::NoTokens(10_000))
    );
    // Tokens, and nothing else that fits.
    let (bytes, _) = image(LAYOUTS[2].1);
    let tables = *Kallsyms::find(&bytes, None, in_image)
        .expect("it is there")
        .tables();
    let only = &bytes[tables.token_table..];
    assert_eq!(
        Kallsyms::find(only, Some(BASE), |_| true).err(),
        Some(KallsymsError::NoNames)
    );
}

/// Every entry is four bytes that could also be the count: the table seems to begin everywhere.
#[test]
fn tables_that_fit_everywhere_take_bounded_time() {
    let (bytes, _) = image(LAYOUTS[6].1);
    let tables = *Kallsyms::find(&bytes, Some(BASE), in_image)
        .expect("it is there")
        .tables();
    let count = 0x1f_0003_u32;
    let mut hostile: Vec<u8> = count.to_le_bytes().repeat(count as usize + 0x1_0000);
    hostile.extend([3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0]); // never the end
    for marker in 0..count.div_ceil(256) {
        hostile.extend((marker * 1024).to_le_bytes());
    }
    hostile.extend(&bytes[tables.token_table..tables.addresses + 64]);
    assert!(Kallsyms::find(&hostile, Some(BASE), |_| false).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn spoilt_tables_never_panic(
        which in 0..LAYOUTS.len(),
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let (mut bytes, _) = image(LAYOUTS[which].1);
        for (place, value) in spoils {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(found) = Kallsyms::find(&bytes, Some(BASE), |_| true) {
            prop_assert!(found.iter().all(|symbol| symbol.name.len() <= MAX_NAME));
            prop_assert!(found.nearest(BASE).is_some());
        }
    }
}
