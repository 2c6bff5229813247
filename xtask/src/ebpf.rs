//! `cargo xtask ebpf`: makes the XDP object that the edge carries, `ebpf/object/admit.o`, and the stamp beside it.
//!
//! The object is committed, so that `cargo build` needs nothing of this; `--check` is what keeps it honest: the stamp must
//! be that of the sources, and where the toolchain can be had, building again must give the same bytes.

mod build;
mod kernel;
mod prefix;
mod stamp;
mod toolchain;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::tools;
use crate::workspace::{self, shown};
use stamp::{Stamp, Verified};
use toolchain::Toolchain;

/// Flags of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing: fail if the committed object is not what the sources give
    #[arg(long)]
    check: bool,
}

const OBJECT: &str = "ebpf/object/admit.o";
const STAMP: &str = "ebpf/object/admit.json";

/// Builds or checks.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (root, target) = workspace::roots()?;
    if args.check { check_in(&root, &target) } else { make(&root, &target) }
}

/// Checks; the step of `cargo xtask test`.
pub(crate) fn check() -> Result<()> {
    let (root, target) = workspace::roots()?;
    check_in(&root, &target)
}

fn make(root: &Path, target: &Path) -> Result<()> {
    let toolchain = Toolchain::find(&target.join("ebpf"))?;
    let object = build::object(root, &target.join("ebpf"), &toolchain)?;
    let before = Stamp::read(&root.join(STAMP)).ok();
    let verified = if tools::is_root() { Some(kernel::verify(&object)?) } else { None };
    let now = Stamp {
        sources: stamp::sources(root)?,
        rustc: toolchain.version.clone(),
        linker: toolchain.linker_version.clone(),
        sha256: stamp::sha256(&object)?,
        bytes: object.len(),
        verified: verified.or_else(|| before.as_ref().and_then(|before| before.verified.clone())),
    };
    let path = root.join(OBJECT);
    fs::create_dir_all(path.parent().context("the object has a folder")?)?;
    fs::write(&path, &object)?;
    now.write(&root.join(STAMP))?;
    println!("{}: {}", shown(&path), now.told(before.as_ref()));
    if !tools::is_root() {
        eprintln!("not root: the kernel's verifier was not asked; its figures are those of before");
    }
    Ok(())
}

fn check_in(root: &Path, target: &Path) -> Result<()> {
    let object = fs::read(root.join(OBJECT)).with_context(|| format!("read {OBJECT}"))?;
    let stamp = Stamp::read(&root.join(STAMP))?;
    if stamp.sha256 != stamp::sha256(&object)? {
        bail!("{OBJECT} is not the object that {STAMP} speaks of; run `cargo xtask ebpf`");
    }
    if stamp.sources != stamp::sources(root)? {
        bail!("the sources of the XDP program have changed since {OBJECT} was made; run `cargo xtask ebpf`");
    }
    eprintln!("ebpf: the object belongs to these sources ({} bytes)", object.len());
    check_figures(&object, &stamp)?;
    let toolchain = match Toolchain::find(&target.join("ebpf")) {
        Ok(toolchain) => toolchain,
        Err(error) => {
            eprintln!("ebpf: NOT built again, only its stamp was checked: {error:#}");
            return Ok(());
        }
    };
    let again = build::object(root, &target.join("ebpf"), &toolchain)?;
    if again == object {
        eprintln!("ebpf: built again with {}: the same bytes", toolchain.version);
    } else if (&toolchain.version, &toolchain.linker_version) == (&stamp.rustc, &stamp.linker) {
        let place = target.join("ebpf/admit.o");
        fs::write(&place, &again)?;
        bail!("building again with the same compiler gives other bytes, see {}", shown(&place));
    } else {
        eprintln!(
            "ebpf: built again with {}; the committed object is of {}, so their bytes are not compared",
            toolchain.version, stamp.rustc
        );
        if tools::is_root() {
            kernel::verify(&again).context("the object built again")?;
        }
    }
    Ok(())
}

/// Asks the kernel's verifier, and compares with what was written down when it was the same kernel.
fn check_figures(object: &[u8], stamp: &Stamp) -> Result<()> {
    if !tools::is_root() {
        eprintln!("ebpf: not root, the kernel's verifier is NOT asked");
        return Ok(());
    }
    let now = kernel::verify(object)?;
    eprintln!("ebpf: {now}");
    match &stamp.verified {
        Some(then) if then.kernel == now.kernel && *then != now => {
            bail!("{STAMP} says {then}; run `cargo xtask ebpf` and look at the difference")
        }
        _ => Ok(()),
    }
}
