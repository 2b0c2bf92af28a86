//! The kernel itself out of its compressed image. QEMU starts it directly, which saves the emulated
//! processor the unpacking: 2.5 of 6 seconds.
//!
//! Layout: Documentation/x86/boot.rst of the kernel, "The Real-Mode Kernel Header".

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Setup sectors, of 512 bytes, after the boot sector; 0 means 4.
const SETUP_SECTS: usize = 0x1f1;
/// "HdrS".
const MAGIC: usize = 0x202;
/// Where the compressed kernel begins behind the setup sectors, and its length, both in bytes.
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Writes the ELF file that is in `image`, a bzImage, to `path`.
pub(super) fn extract(image: &[u8], path: &Path) -> Result<()> {
    let (program, payload, length) = payload(image)?;
    let mut packed = tempfile::tempfile()?;
    packed.write_all(payload)?;
    packed.rewind()?;
    let unpacked = File::create(path).with_context(|| path.display().to_string())?;
    let status = Command::new(program)
        .args(["--decompress", "--stdout", "--quiet"])
        .stdin(packed)
        .stdout(unpacked)
        .status()
        .with_context(|| format!("{program}, which unpacks this kernel"))?;
    let found = path.metadata()?.len();
    ensure!(
        status.success() && found == u64::from(length),
        "{program} made {found} bytes of a kernel of {length}: {status}"
    );
    Ok(())
}

/// The program that decompresses the kernel in `image`, the compressed kernel, and its length in
/// bytes once decompressed, which the kernel's build appends.
fn payload(image: &[u8]) -> Result<(&'static str, &[u8], u32)> {
    let word = |at: usize| image.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
    let find = || {
        if image.get(MAGIC..)?.first_chunk()? != b"HdrS" {
            return None;
        }
        let sectors = match *image.get(SETUP_SECTS)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = (sectors + 1) * 512 + word(PAYLOAD_OFFSET)? as usize;
        image.get(start..)?.get(..word(PAYLOAD_LENGTH)? as usize)?.split_last_chunk::<4>()
    };
    let (packed, length) = find().context("this is no bzImage with a kernel inside")?;
    let program = match packed {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => bail!("the kernel is compressed by neither xz nor zstd"),
    };
    Ok((program, packed, u32::from_le_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use super::*;

    /// One setup sector, and the payload 16 bytes behind it.
    fn image(packed: &[u8], length: u32) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[SETUP_SECTS] = 1;
        image[MAGIC..][..4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..][..4].copy_from_slice(&16_u32.to_le_bytes());
        let payload_length = packed.len() as u32 + 4;
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&payload_length.to_le_bytes());
        image.extend_from_slice(packed);
        image.extend_from_slice(&length.to_le_bytes());
        image
    }

    #[test]
    fn a_kernel_comes_out_as_it_went_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        let kernel = b"\x7fELF and a kernel".repeat(100);
        fs::write(&path, &kernel).unwrap();
        let packer = Command::new("xz")
            .args(["--check=crc32", "--stdout"])
            .arg(&path)
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        extract(&image(&packer.stdout, kernel.len() as u32), &path).unwrap();
        assert!(fs::read(&path).unwrap() == kernel);
        let error = extract(&image(&packer.stdout, 7), &path).unwrap_err();
        assert!(error.to_string().contains("1700 bytes of a kernel of 7"), "{error}");
    }

    #[test]
    fn an_image_that_is_cut_short_is_refused() {
        let whole = image(b"\xfd7zXZ and so on", 100);
        assert!(payload(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(payload(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
