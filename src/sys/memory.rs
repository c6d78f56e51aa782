//! Memory that the kernel sees: arenas and aligned staging buffers.

use std::io;

/// An anonymous mapping that lives as long as the pool over it.
#[derive(Debug)]
pub struct Arena {
    map: memmap2::MmapRaw,
}

impl Arena {
    /// Maps `bytes` of zeroed memory, not yet touched.
    ///
    /// # Errors
    /// Whatever mmap says.
    pub fn map(bytes: usize) -> io::Result<Self> {
        let map = memmap2::MmapOptions::new().len(bytes.max(1)).map_anon()?;
        Ok(Self { map: map.into() })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is mapped (never).
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

/// A page-aligned buffer for direct writes; registered with a ring where that is possible.
#[derive(Debug)]
pub struct StagingBuffer {
    map: memmap2::MmapMut,
    /// Its place in the ring's table of registered buffers.
    pub(crate) registered: Option<u16>,
}

impl StagingBuffer {
    /// Maps `bytes` (a multiple of 4096).
    ///
    /// # Errors
    /// Whatever mmap says.
    pub fn map(bytes: usize) -> io::Result<Self> {
        assert!(bytes.is_multiple_of(4096), "direct writes need whole blocks");
        Ok(Self { map: memmap2::MmapMut::map_anon(bytes)?, registered: None })
    }
}

impl std::ops::Deref for StagingBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl std::ops::DerefMut for StagingBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}
