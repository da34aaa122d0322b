//! Builds the NT-shaped guest: `nt-guest build PROFILE|FILE.json --out FOLDER`, `nt-guest list`.

use nt_guest::{NtError, Profile, build};
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: nt-guest list | header PROFILE|FILE.json | build PROFILE|FILE.json --out FOLDER";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["list"] => list(),
        ["header", profile] => Profile::load(profile).and_then(|profile| {
            print!("{}", nt_guest::header::header(&profile)?);
            Ok(())
        }),
        ["build", profile, "--out", folder] => make(profile, Path::new(folder)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nt-guest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<(), NtError> {
    for name in Profile::names() {
        let profile = Profile::built_in(name)?;
        println!(
            "{name:<16} {:<16} {} {}",
            profile.version,
            profile.arch.name(),
            profile.os
        );
    }
    Ok(())
}

fn make(profile: &str, folder: &Path) -> Result<(), NtError> {
    let profile = Profile::load(profile)?;
    if let Some(note) = &profile.note {
        eprintln!("nt-guest: {note}");
    }
    let built = build(&profile, folder)?;
    eprint!("{}", built.messages);
    for image in &built.manifest.images {
        println!(
            "{}  {} {}{:X}",
            folder.join(&image.file).display(),
            image.pdb,
            image.guid,
            image.age
        );
    }
    Ok(())
}
