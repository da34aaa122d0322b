//! Builds the NT-shaped guest.

fn main() {
    let name = std::env::args().nth(1).unwrap();
    let profile = match std::fs::read_to_string(&name) {
        Ok(t) => nt_guest::Profile::parse("file", &t),
        Err(_) => nt_guest::Profile::built_in(&name),
    };
    match profile.and_then(|p| nt_guest::header::header(&p)) {
        Ok(t) => print!("{t}"),
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    }
}
