//! Hints to the CPU, as safe functions.

/// Asks the CPU to fetch the cache line of `place` for reading. No effect where the target has no such instruction.
#[inline]
pub fn prefetch_read<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect on memory, whatever the address; SSE is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Asks the CPU to fetch the cache line of `place` for writing: no other cache has it afterwards. No effect where the target has no such
/// instruction.
#[inline]
pub fn prefetch_write<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect on memory, whatever the address. CPUs without it that run 64-bit code take PREFETCHW for no operation.
    // (The intrinsic with the hint for writing is compiled to a fetch for reading unless the whole build is for newer CPUs.)
    unsafe {
        std::arch::asm!("prefetchw [{place}]", place = in(reg) std::ptr::from_ref(place), options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
