//! `tasks`.

use crate::guest::Guest;
use crate::tasks::Listing;

pub fn tasks(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    match arguments {
        [] => {}
        ["on"] => guest.listed.list(Listing::On),
        ["off"] => guest.listed.list(Listing::Off),
        ["auto"] => guest.listed.list(Listing::Auto),
        _ => return Err("on, off or auto".into()),
    }
    if guest.listed.listing == Listing::Off {
        return Ok("vCPUs alone are threads\n".into());
    }
    guest.hold();
    let tasks = guest.tasks();
    match (tasks, guest.listed.note()) {
        (Some(tasks), None) => Ok(format!("{} tasks are threads\n", tasks.pids().count())),
        (Some(tasks), Some(note)) => Ok(format!("{} tasks are threads; {note}\n", tasks.pids().count())),
        (None, Some(note)) => Ok(format!("vCPUs alone are threads; {note}\n")),
        (None, None) => match guest.target.linux() {
            Ok(_) => Ok("vCPUs alone are threads\n".into()),
            Err(error) => Ok(format!("vCPUs alone are threads: {error}\n")),
        },
    }
}
