use super::*;
use proptest::prelude::*;

/// Types by their words, and the strings that they name.
#[derive(Default)]
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Length of the strings before these.
    before: u32,
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            strings: vec![0],
            ..Builder::default()
        }
    }

    pub(crate) fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.before + self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    pub(crate) fn add(&mut self, name: &str, kind: u32, count: u32, size_or_type: u32, words: &[u32]) {
        let name = self.name(name);
        for word in [name, kind << 24 | count, size_or_type].iter().chain(words) {
            self.types.extend(word.to_le_bytes());
        }
    }

    pub(crate) fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) {
        let words: Vec<u32> = members
            .iter()
            .flat_map(|(name, of, bits)| [self.name(name), *of, *bits])
            .collect();
        self.add(name, 4, members.len() as u32, size, &words);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

/// int, u64, struct list_head, task_struct with an unnamed structure and an array, a typedef.
pub(crate) fn kernel() -> Builder {
    let mut b = Builder::new();
    b.add("int", 1, 0, 4, &[1 << 24 | 32]); // 1
    b.add("u64", 1, 0, 8, &[64]); // 2
    b.add("", 2, 0, 4, &[]); // 3: pointer to list_head
    b.structure("list_head", 16, &[("next", 3, 0), ("prev", 3, 64)]); // 4
    b.add("", 3, 0, 0, &[1, 2, 16]); // 5: int[16]
    b.structure("", 24, &[("pid", 1, 64), ("tasks", 4, 64)]); // 6
    b.structure(
        "task_struct",
        128,
        &[("state", 1, 0), ("", 6, 64), ("comm", 5, 512)],
    ); // 7
    b.add("pid_t", 8, 0, 1, &[]); // 8
    b
}

#[test]
fn members_are_found_through_unnamed_ones() {
    let btf = Btf::parse(kernel().bytes()).expect("it is BTF");
    assert_eq!(btf.len(), 8);
    let task = btf.structure("task_struct").expect("it is there");
    assert_eq!(task.size(), 128);
    assert_eq!(task.offset("state"), Some(0));
    assert_eq!(task.offset("pid"), Some(16));
    assert_eq!(task.offset("tasks.prev"), Some(24));
    assert_eq!(task.member("comm").and_then(|it| it.size()), Some(64));
    assert_eq!(task.offset("nothing"), None);
    assert_eq!(task.offset("pid.nothing"), None);
    assert!(btf.structure("int").is_none());
}

#[test]
fn a_bit_field_has_its_bits() {
    let mut b = kernel();
    let name = b.name("flag");
    b.add("flags", 4, 1, 4, &[name, 1, 3 << 24 | 5]);
    let at = b.types.len() - 24 + 7;
    b.types[at] |= 0x80;
    let btf = Btf::parse(b.bytes()).expect("it is BTF");
    let flag = btf.structure("flags").and_then(|it| it.member("flag"));
    assert_eq!(flag.map(|it| (it.bit_offset, it.bits)), Some((5, Some(3))));
}

#[test]
fn a_modules_types_go_on_where_the_kernels_end() {
    let base = Arc::new(Btf::parse(kernel().bytes()).expect("it is BTF"));
    let mut module = Builder {
        before: base.strings_end() as u32,
        ..Builder::default()
    };
    module.structure("device", 32, &[("list", 4, 128), ("owner", 7, 0)]);
    let btf = Btf::parse_split(module.bytes(), base).expect("it is BTF");
    let device = btf.structure("device").expect("it is there");
    assert_eq!(device.as_type().id(), TypeId(9));
    assert_eq!(device.offset("list.prev"), Some(24));
    assert_eq!(device.offset("owner.comm"), Some(64));
    assert!(
        btf.structure("task_struct").is_some(),
        "the kernel's are there too"
    );
}

#[test]
fn what_is_not_known_is_refused_with_its_id() {
    let mut b = kernel();
    b.add("new", 25, 0, 0, &[]);
    assert_eq!(
        Btf::parse(b.bytes()).err(),
        Some(BtfError::Type {
            id: 9,
            why: "its kind isn't known"
        })
    );
    let cut = kernel().bytes();
    assert!(Btf::parse(cut[..cut.len() - 1].to_vec()).is_err());
}

#[test]
fn types_that_lead_in_circles_end() {
    let mut b = Builder::new();
    b.add("loop", 8, 0, 1, &[]); // a typedef of itself
    let inner: Vec<(&str, u32, u32)> = vec![("", 2, 0); 1000];
    b.structure("nest", 8, &inner); // full of itself
    let btf = Btf::parse(b.bytes()).expect("it is BTF");
    assert!(btf.get(TypeId(1)).and_then(|it| it.resolved()).is_none());
    assert_eq!(btf.get(TypeId(1)).and_then(|it| it.size()), None);
    assert_eq!(btf.structure("nest").and_then(|it| it.offset("x")), None);
}

proptest! {
    #[test]
    fn spoilt_types_never_panic(
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
    ) {
        let mut bytes = kernel().bytes();
        for (place, value) in spoils {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(btf) = Btf::parse(bytes) {
            for it in btf.iter() {
                let _ = (it.name(), it.size(), it.resolved().map(|it| it.kind()));
                let _ = it.structure().and_then(|it| it.member("pid.next.comm"));
                prop_assert!(it.items().count() <= 0xffff);
            }
        }
    }
}
