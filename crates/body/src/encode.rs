//! Content codings put on, at levels that cost a gateway little.

mod brotli;
mod deflate;
mod zstd;

use crate::stage::Stage;
use crate::{Coding, Defect};

/// The stage that puts a coding on.
pub(crate) fn stage(coding: Coding) -> Result<Box<dyn Stage>, Defect> {
    Ok(match coding {
        Coding::Gzip => Box::new(deflate::Deflate::gzip()),
        Coding::Deflate => Box::new(deflate::Deflate::zlib()),
        Coding::Brotli => Box::new(brotli::Brotli::new()),
        Coding::Zstd => Box::new(zstd::Zstd::new()?),
    })
}
