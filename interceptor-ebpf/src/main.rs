//! The kernel programs: recognise, remember, redirect.
#![no_std]
#![no_main]

/// Unreachable: the programs do not panic, and the verifier would refuse one that could.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that the programs call are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
