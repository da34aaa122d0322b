//! CRC32: the Castagnoli polynomial, bits reflected.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

/// Feeds `bytes` low bytes of `data` into `crc`.
pub fn crc32(crc: u32, data: u64, bytes: u32) -> u32 {
    (0..bytes).fold(crc, |crc, i| {
        TABLE[(crc as u8 ^ (data >> (8 * i)) as u8) as usize] ^ crc >> 8
    })
}
