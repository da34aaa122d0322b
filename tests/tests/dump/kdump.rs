//! kdump files of ours, as our reader sees them; other readers are asked beside the ELF files.

use crate::guest::{KDUMPS, dumped, ours};

#[test]
fn our_reader_finds_the_guests_memory_page_by_page_and_its_processors() {
    let Some(guest) = dumped() else { return };
    for name in KDUMPS
        .map(|compression| compression.name())
        .into_iter()
        .chain(["flattened"])
    {
        let image = ours(&guest.path(name));
        let pages = guest.assert_same_memory(&*image, false);
        assert_eq!(image.description().pages, pages, "{name}");
        assert!(
            image
                .description()
                .os
                .as_ref()
                .is_some_and(|os| os.contains(&guest.release())),
            "{name}"
        );
        for (read, cpu) in image.processors().iter().zip(&guest.processors) {
            assert_eq!(
                (read.gpr, read.rip, read.cr3),
                (cpu.gpr, cpu.rip, cpu.cr3),
                "{name}"
            );
        }
    }
}

#[test]
fn compressed_files_are_much_smaller_than_memory() {
    let Some(guest) = dumped() else { return };
    let length = |name: &str| {
        guest
            .written
            .iter()
            .find(|(known, _)| known == name)
            .map_or(0, |(_, done)| done.length)
    };
    let [none, zlib, snappy, zstd] = KDUMPS.map(|compression| length(compression.name()));
    assert!(
        zlib * 3 < none * 2 && zstd * 3 < none * 2 && snappy < none,
        "{none} {zlib} {snappy} {zstd}"
    );
}
