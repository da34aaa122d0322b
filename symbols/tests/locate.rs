//! Finding files along a symbol path: folders, stores, caches, servers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use symbols::{Guid, Pdb, PdbId, SymbolPath};

fn sample() -> Vec<u8> {
    fs::read(
        [env!("CARGO_MANIFEST_DIR"), "tests", "data", "sample.pdb"]
            .iter()
            .collect::<PathBuf>(),
    )
    .unwrap()
}

fn id() -> PdbId {
    let pdb = Pdb::parse(sample(), None).unwrap();
    PdbId {
        name: "sample.pdb".into(),
        guid: pdb.guid(),
        age: 1,
    }
}

/// A folder of the test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kdd-symbols-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn put(&self, name: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn in_store(&self) -> PathBuf {
        self.0.join("sample.pdb").join(id().key()).join("sample.pdb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Answers `count` requests with a status line and a body; returns its address and what was asked.
fn server(count: usize, status: &'static str, body: Vec<u8>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/store", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        (0..count)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&body).unwrap();
                String::from_utf8_lossy(&request)
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    });
    (address, thread)
}

fn path(text: &str) -> SymbolPath {
    text.parse().unwrap()
}

#[test]
fn a_file_is_found_flat_and_in_stores_of_one_and_two_tiers() {
    let key = id().key();
    for place in [
        "sample.pdb".to_owned(),
        format!("sample.pdb/{key}/sample.pdb"),
        format!("sa/sample.pdb/{key}/sample.pdb"),
    ] {
        let folder = Folder::new();
        let file = folder.put(&place, &sample());
        for text in [
            format!("{}", folder.0.display()),
            format!("srv*{}", folder.0.display()),
        ] {
            let found = path(&text).locate(&id()).unwrap();
            assert_eq!(found.path, file, "{place}");
            assert_eq!(found.fetched_from, None);
        }
    }
}

#[test]
fn a_file_of_another_build_is_passed_over() {
    let (wrong, right) = (Folder::new(), Folder::new());
    let mut other = sample();
    let guid = id().guid.to_bytes();
    let at = other.windows(16).position(|bytes| bytes == guid).unwrap();
    other[at] ^= 1;
    wrong.put("sample.pdb", &other);
    let file = right.put("sample.pdb", &sample());
    let text = format!("{};{}", wrong.0.display(), right.0.display());
    assert_eq!(path(&text).locate(&id()).unwrap().path, file);
    let error = path(&wrong.0.display().to_string()).locate(&id()).unwrap_err();
    assert!(error.to_string().contains("the file there is"), "{error}");
}

#[test]
fn what_a_server_has_is_put_into_the_cache_once() {
    let (near, far) = (Folder::new(), Folder::new());
    let (address, thread) = server(1, "200 OK", sample());
    let path = path(&format!("srv*{}*{}*{address}", near.0.display(), far.0.display()));
    let found = path.locate(&id()).unwrap();
    assert_eq!(found.fetched_from.as_deref(), Some(&*address));
    assert_eq!(
        thread.join().unwrap(),
        [format!(
            "GET /store/sample.pdb/{}/sample.pdb HTTP/1.1",
            id().key()
        )]
    );
    assert_eq!(fs::read(near.in_store()).unwrap(), sample());
    assert_eq!(fs::read(far.in_store()).unwrap(), sample());
    // The server is gone; the cache has it, and nothing else was left there.
    assert_eq!(path.locate(&id()).unwrap().fetched_from, None);
    assert_eq!(path.local().locate(&id()).unwrap().path, near.in_store());
    assert_eq!(
        fs::read_dir(near.in_store().parent().unwrap()).unwrap().count(),
        1
    );
}

#[test]
fn a_cache_element_serves_all_that_follow() {
    let (cache, store) = (Folder::new(), Folder::new());
    store.put("sample.pdb", &sample());
    let path = path(&format!("cache*{};{}", cache.0.display(), store.0.display()));
    path.locate(&id()).unwrap();
    assert_eq!(path.locate(&id()).unwrap().path, cache.in_store());
}

#[test]
fn what_a_server_lacks_or_sends_wrongly_leaves_no_file() {
    for (status, body, why) in [
        ("404 Not Found", b"no".to_vec(), "not there"),
        ("200 OK", b"<html>".to_vec(), "no usable PDB file"),
        ("500 Oops", vec![], "500"),
    ] {
        let cache = Folder::new();
        let (address, thread) = server(1, status, body);
        let error = path(&format!("srv*{}*{address}", cache.0.display()))
            .locate(&id())
            .unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        thread.join().unwrap();
        assert!(!cache.in_store().exists());
        let left = fs::read_dir(cache.in_store().parent().unwrap()).unwrap().count();
        assert_eq!(left, 0, "{status}");
    }
}

#[test]
fn a_server_without_a_cache_is_not_asked() {
    // Nobody listens there: it would be another error.
    let error = path("srv*http://127.0.0.1:1/store").locate(&id()).unwrap_err();
    assert!(error.to_string().contains("cache"), "{error}");
}

#[test]
fn compressed_files_and_pointers_are_refused_with_a_reason() {
    for (name, why) in [("sample.pd_", "compressed"), ("file.ptr", "elsewhere")] {
        let folder = Folder::new();
        folder.put(Path::new("sample.pdb").join(id().key()).join(name), b"x");
        let error = path(&folder.0.display().to_string()).locate(&id()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_guests_name_never_leaves_the_folder() {
    let folder = Folder::new();
    folder.put("x/sample.pdb", &sample());
    folder.put("sample.pdb", &sample());
    let sneaky = PdbId {
        name: "../sample.pdb".into(),
        ..id()
    };
    let error = path(&folder.0.join("x").display().to_string())
        .locate(&sneaky)
        .unwrap_err();
    assert!(error.to_string().contains("no name of a file"), "{error}");
    let nobody = PdbId {
        guid: Guid(0),
        ..id()
    };
    let error = SymbolPath::default().locate(&nobody).unwrap_err();
    assert!(error.to_string().contains("which is empty"), "{error}");
}
