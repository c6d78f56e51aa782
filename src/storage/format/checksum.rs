//! CRC-32C (Castagnoli), RFC 3720 B.4: of batches, of headers, and of the chain from one batch to the next.

use crc_fast::{CrcAlgorithm, Digest};

/// What the register is XORed with at the beginning and at the end.
const INVERSION: u32 = u32::MAX;

/// The checksum of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_append(0, bytes)
}

/// The checksum of what `crc` is the checksum of, with `bytes` behind it.
#[inline]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(crc ^ INVERSION));
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_come_out() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(&[]), 0);
    }

    proptest! {
        #[test]
        fn it_is_what_another_implementation_says_in_one_piece_or_two(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000), at in any::<prop::sample::Index>(),
        ) {
            let (front, back) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(crc32c(&bytes), ::crc32c::crc32c(&bytes));
            prop_assert_eq!(crc32c_append(crc32c(front), back), crc32c(&bytes));
        }
    }
}
