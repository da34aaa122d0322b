//! `pause-policy`, `save`, `fork`, `reset`.

use crate::guest::{Guest, OtherStops};
use std::fs::{self, File};
use std::io::{BufWriter, Write};

pub fn pause_policy(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    match arguments {
        [] => {}
        ["note"] => guest.other_stops = OtherStops::Note,
        ["stop"] => guest.other_stops = OtherStops::Stop,
        _ => return Err("note or stop".into()),
    }
    Ok(match guest.other_stops {
        OtherStops::Note => "when another debugger stops the guest, a note is printed\n".into(),
        OtherStops::Stop => "when another debugger stops the guest, this one stops too\n".into(),
    })
}

/// A file that exists is left alone; one that can't be completed is removed.
pub fn save(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    let [path] = arguments else {
        return Err("one file name, without spaces".into());
    };
    guest.hold();
    let save = guest.domain().save().ok_or("this domain can't be saved")?;
    let file = File::create_new(path).map_err(|error| format!("{path}: {error}"))?;
    let mut writer = BufWriter::new(file);
    let saved = save
        .save(&mut writer)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            let flushed = writer.flush().and_then(|()| writer.get_ref().sync_all());
            flushed.map_err(|error| format!("{path}: {error}"))
        });
    match saved {
        Ok(()) => Ok(format!("saved to {path}\n")),
        Err(why) => {
            drop(writer);
            let _ = fs::remove_file(path);
            Err(why)
        }
    }
}

pub fn fork(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    let [name] = arguments else {
        return Err("one name".into());
    };
    let adopt = guest
        .options
        .adopt
        .clone()
        .ok_or("this service keeps no forks; use: kdd fork")?;
    guest.hold();
    let fork = guest.domain().fork().ok_or("this domain can't be forked")?;
    let child = fork.fork(name).map_err(|error| error.to_string())?;
    Ok(adopt(child)?.trim_end().to_owned() + "\n")
}

pub fn reset(guest: &mut Guest, _: &[&str]) -> Result<String, String> {
    guest.reset()?;
    Ok("the guest is reset, and stopped\n".into())
}
