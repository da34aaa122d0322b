//! Windows dumps of the NT-shaped guest, which really runs: read back by our own reader and by one that shares no
//! code with it, and broken in thousands of ways.

mod broken;
#[path = "../../../introspect/tests/nt/guest.rs"]
#[allow(dead_code)]
mod guest;
mod parser;
mod round_trip;

use dump::windows::{Kind, Options, WindowsDump};
use dump::{FileBytes, Ignore, NewFile, Stream, Written};
use guest::{Boot, Nt, images};
use introspect::windows::Windows;
use std::path::PathBuf;
use symbols::SymbolPath;

const KINDS: [Kind; 3] = [Kind::Full, Kind::BitmapFull, Kind::BitmapKernel];

/// A guest of a profile at its prompt, with two processors.
fn booted(profile: &str) -> Option<(Nt, Windows)> {
    let folder = images(profile)?;
    let boot = Boot {
        vcpus: 2,
        memory_mib: 64,
        ..Boot::default()
    };
    let nt = Nt::booted(&folder, boot);
    let windows = recognised(&nt);
    Some((nt, windows))
}

/// Its kernel, by the table of known kernels or by structure.
fn recognised(nt: &Nt) -> Windows {
    Windows::recognise(nt.guest(), &SymbolPath::default()).unwrap()
}

fn options(kind: Kind) -> Options {
    Options {
        kind,
        comment: "written by a test".to_owned(),
        ..Options::default()
    }
}

/// A dump in a file of its own.
struct Dump {
    path: PathBuf,
    written: Written,
    _folder: tempfile::TempDir,
}

impl Dump {
    fn of(nt: &Nt, windows: &Windows, options: &Options) -> Dump {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.dmp");
        let mut file = NewFile::create(&path, false).unwrap();
        let written = dump::windows::write(nt.guest(), windows, options, &mut file, &mut Ignore).unwrap();
        file.commit().unwrap();
        Dump {
            path,
            written,
            _folder: folder,
        }
    }

    fn open(&self) -> WindowsDump {
        dump::windows::open(FileBytes::open(&self.path).unwrap()).unwrap()
    }
}

/// What a stream gets.
fn streamed(nt: &Nt, windows: &Windows, options: &Options) -> Vec<u8> {
    let mut stream = Stream(Vec::new());
    dump::windows::write(nt.guest(), windows, options, &mut stream, &mut Ignore).unwrap();
    stream.0
}
