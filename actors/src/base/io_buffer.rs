//! Memory that the kernel fills and reads as fast as it can.

use std::ops::{Deref, DerefMut};

const PAGE_BYTES: usize = 4096;
/// Where it begins in a page: far from both ends.
const START: usize = PAGE_BYTES / 2;

/// Bytes into which large pieces of files and sockets are read.
///
/// They begin in the middle of a page. glibc has large allocations begin 16 bytes behind a page's beginning,
/// and there the kernel's `rep movsb` out of page-aligned data takes three to four times as long on AMD's
/// Zen 3 (<https://xuanwo.io/2023/04-rust-std-fs-slower-than-python/>).
#[derive(Debug, Default)]
pub struct IoBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl IoBuffer {
    /// A buffer of so many bytes, all zero.
    pub fn new(len: usize) -> IoBuffer {
        // Zeroed by the system, page by page as they are used.
        let memory = vec![0; len + PAGE_BYTES];
        let in_page = memory.as_ptr().addr() % PAGE_BYTES;
        let start = (PAGE_BYTES + START - in_page) % PAGE_BYTES;
        IoBuffer { memory, start, len }
    }

    /// Makes it at least so long. What is in it stays.
    pub fn grow(&mut self, len: usize) {
        if self.len >= len {
            return;
        }
        if self.memory.len() < self.start + len {
            // Many small files come one behind the other.
            let mut grown = IoBuffer::new(len.max(2 * self.len));
            grown[..self.len].copy_from_slice(self);
            *self = grown;
        }
        self.len = len;
    }

    /// Its first bytes, to be written over: so many, and it grows if it has fewer.
    pub fn first(&mut self, len: usize) -> &mut [u8] {
        self.grow(len);
        &mut self[..len]
    }
}

impl Deref for IoBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_in_the_middle_of_a_page_and_grows_without_a_loss() {
        let mut buffer = IoBuffer::default();
        assert!(buffer.is_empty());
        for len in [1, 100, 4096, 5000, 262_144, 1 << 20] {
            let before = buffer.to_vec();
            buffer.grow(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().addr() % PAGE_BYTES, START, "{len} bytes");
            assert_eq!(buffer[..before.len()], before);
            assert!(buffer[before.len()..].iter().all(|byte| *byte == 0));
            buffer.fill(len as u8 | 1);
            buffer.grow(len - 1);
            assert_eq!(buffer.len(), len, "it never shrinks");
            assert_eq!(buffer.first(len - 1).len(), len - 1);
            assert_eq!(buffer.first(len).len(), len);
        }
    }
}
