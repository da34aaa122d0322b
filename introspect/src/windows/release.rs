//! What the builds are called.

/// The marketing name of a build, of the client or of the server.
pub fn name(build: u32, server: bool) -> &'static str {
    match (build, server) {
        (..7600, false) => "Windows Vista or older",
        (..7600, true) => "Windows Server 2008 or older",
        (7600..9200, false) => "Windows 7",
        (7600..9200, true) => "Windows Server 2008 R2",
        (9200..9600, false) => "Windows 8",
        (9200..9600, true) => "Windows Server 2012",
        (9600..10240, false) => "Windows 8.1",
        (9600..10240, true) => "Windows Server 2012 R2",
        (14393..17763, true) => "Windows Server 2016",
        (17763..20348, true) => "Windows Server 2019",
        // The client has no such builds.
        (20348..22000, _) | (22000..26100, true) => "Windows Server 2022",
        (26100.., true) => "Windows Server 2025",
        (10240..22000, _) => "Windows 10",
        (22000.., _) => "Windows 11",
    }
}
