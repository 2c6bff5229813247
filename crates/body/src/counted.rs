//! `Counted`: memory as the brotli crate takes it, counted.

use std::cell::Cell;
use std::rc::Rc;

use brotli::enc::{BrotliAlloc, StandardAlloc};
use brotli::{Allocator, SliceWrapper as _};

/// See the module. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Counted {
    inner: StandardAlloc,
    bytes: Rc<Cell<usize>>,
}

impl Counted {
    /// Bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

impl<T: Clone + Default> Allocator<T> for Counted {
    type AllocatedMemory = <StandardAlloc as Allocator<T>>::AllocatedMemory;

    fn alloc_cell(&mut self, len: usize) -> Self::AllocatedMemory {
        self.bytes.set(self.bytes.get().saturating_add(len.saturating_mul(size_of::<T>())));
        self.inner.alloc_cell(len)
    }

    fn free_cell(&mut self, data: Self::AllocatedMemory) {
        let freed = data.slice().len().saturating_mul(size_of::<T>());
        self.bytes.set(self.bytes.get().saturating_sub(freed));
        <StandardAlloc as Allocator<T>>::free_cell(&mut self.inner, data);
    }
}

impl BrotliAlloc for Counted {}
