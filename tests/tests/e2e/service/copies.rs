//! Saved domains and forks.

use super::{NOTHING, with_guest};
use serde_json::Value;
use tests::{Service, one_vcpu, until};

#[test]
fn a_saved_domain_comes_back_with_its_id_and_memory() {
    let Some((_, service)) = with_guest() else { return };
    service.kdd(&["pause", "vm"]).done();
    let before = hash(&service, "vm");
    let id = service.info("vm")["id"].clone();
    let file = service.scratch().path("state");
    let path = file.display().to_string();
    let saved = service.kdd(&["save", "vm", &path, "--json"]).done().json();
    assert_eq!(
        saved["bytes"].as_u64(),
        std::fs::metadata(&file).ok().map(|meta| meta.len())
    );
    // Saving changes nothing, and the same domain isn't there twice.
    assert_eq!(hash(&service, "vm"), before);
    service
        .kdd(&["create", "--restore", &path, "--name", "again"])
        .fails(1);
    let other = Service::serve(NOTHING);
    other.kdd(&["create", "--restore", &path, "--paused"]).done();
    assert_eq!(other.info("vm")["id"], id);
    assert_eq!(hash(&other, "vm"), before);
    service.kdd(&["save", "vm", "/nowhere/at/all"]).fails(1);
}

fn hash(service: &Service, domain: &str) -> Value {
    service.kdd(&["info", domain, "--hash", "--json"]).done().json()["state_hash"].clone()
}

#[test]
fn forks_are_alike_and_apart() {
    let Some((snapshot, service)) = with_guest() else {
        return;
    };
    service.kdd(&["pause", "vm"]).done();
    let forks = service
        .kdd(&["fork", "vm", "--count", "3", "--json"])
        .done()
        .json_lines();
    let names: Vec<_> = forks.iter().filter_map(|fork| fork["name"].as_str()).collect();
    assert_eq!(names, ["vm-fork-1", "vm-fork-2", "vm-fork-3"]);
    let before = hash(&service, "vm");
    assert!(names.iter().all(|name| hash(&service, name) == before));
    let banner = format!("{:x}", snapshot.symbol("init_uts_ns"));
    service.kdd(&["mem", "write", "vm-fork-2", &banner, "11"]).done();
    assert_ne!(hash(&service, "vm-fork-2"), before);
    assert_eq!(hash(&service, "vm"), before);
    assert_eq!(hash(&service, "vm-fork-3"), before);
    service.kdd(&["destroy", "vm"]).done();
    assert_eq!(hash(&service, "vm-fork-1"), before);
    service.kdd(&["unpause", "vm-fork-1"]).done();
    let time = service.state("vm-fork-1").1;
    until("guest time", || service.state("vm-fork-1").1 > time);
}

#[test]
fn a_saved_state_that_is_damaged_or_of_another_version_is_refused() {
    let Some(snapshot) = one_vcpu() else { return };
    let service = Service::serve(NOTHING);
    let mut bytes = std::fs::read(snapshot.state()).expect("the state");
    let path = service.scratch().path("state");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).expect("written");
        let line = service
            .kdd(&["create".as_ref(), "--restore".as_ref(), path.as_os_str()])
            .fails(1);
        assert!(line.contains("saved"), "{what}: {line}");
        line
    };
    let length = bytes.len();
    for at in [0, 9, 13, 40, 600, length / 2, length - 1] {
        bytes[at] ^= 0x10;
        refused(&bytes, &format!("byte {at}"));
        bytes[at] ^= 0x10;
    }
    for end in [0, 4, 20, 1000, length / 2, length - 1] {
        refused(&bytes[..end], &format!("{end} bytes"));
    }
    bytes[8] = 99;
    assert!(refused(&bytes, "version").contains("version"));
    assert!(refused(b"something else entirely", "other").contains("not a saved domain"));
    assert!(service.kdd(&["list", "--json"]).done().json_lines().is_empty());
}
