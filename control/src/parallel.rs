//! Work on very many things by several threads. Its results are those of one thread: order and inputs decide, nothing else.

use std::num::NonZero;
use std::thread;

/// Threads at most: others want processors, too.
const THREADS_MAX: usize = 4;

/// Does work on parts of a list, several at once. Gives the results in the order of the parts.
pub(crate) fn in_parts<T: Sync, R: Send>(all: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let work = &work;
    thread::scope(|scope| {
        let parts = all.chunks(all.len().div_ceil(threads).max(1));
        let working: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        working.into_iter().map(|thread| thread.join().expect("the work does not panic")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_there_is_in_order() {
        for count in [0, 1, 2, 3, 4, 5, 1000] {
            let all: Vec<usize> = (0..count).collect();
            assert_eq!(in_parts(&all, <[usize]>::to_vec).concat(), all);
        }
    }
}
