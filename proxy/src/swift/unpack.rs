//! Reads an archive that comes in pieces, in a thread of its own.

use std::io::{self, Read};

use bytes::Bytes;
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType, PaxExtensions};
use tokio::sync::mpsc;

/// Bytes of a file that are handed on at once.
const PIECE: usize = 256 * 1024;
/// Longest extended header: names and attributes of one file.
const MAX_EXTENSION: u64 = 1 << 20;
/// Their bytes are not what the file's are.
const SPARSE: &str = "sparse files are not supported";
/// Where GNU's and BSD's tar keep the attributes of a file.
const ATTRIBUTES: [&str; 2] = ["SCHILY.xattr.user.", "LIBARCHIVE.xattr.user."];

/// How an archive is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Bzip2,
}

/// What comes out of an archive: a file and then its bytes, and so on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unpacked {
    File(FileHead),
    Data(Bytes),
    /// The archive cannot be read on.
    Failed(String),
    End,
}

/// A regular file of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileHead {
    /// Its path, in no particular encoding.
    pub(super) path: Vec<u8>,
    pub(super) size: u64,
    /// Headers that its attributes stand for.
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

/// Unpacks what `pieces` brings until nobody listens any more.
pub(super) fn unpack(
    compression: Compression,
    pieces: mpsc::Receiver<Bytes>,
    files: &mpsc::Sender<Unpacked>,
) {
    let source = Pieces { pieces, current: Bytes::new() };
    let read = match compression {
        Compression::Plain => read_files(source, files),
        Compression::Gzip => read_files(MultiGzDecoder::new(source), files),
        Compression::Bzip2 => read_files(MultiBzDecoder::new(source), files),
    };
    let last = match read {
        Ok(()) => Unpacked::End,
        Err(error) => Unpacked::Failed(error.to_string()),
    };
    // Whoever stopped listening needs no end.
    let _ = files.blocking_send(last);
}

struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let piece = self.current.split_to(self.current.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn gone<T>(_: T) -> io::Error {
    io::Error::other("nobody wants the files any more")
}

/// Headers are read raw, so that none can be longer than we allow.
fn read_files(source: impl Read, files: &mpsc::Sender<Unpacked>) -> io::Result<()> {
    let mut archive = Archive::new(source);
    let mut extended = Extended::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => {
                let mut path = extension(&mut entry)?;
                path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
                extended.path = Some(path);
            }
            EntryType::XHeader => extended.read(&extension(&mut entry)?)?,
            EntryType::GNUSparse => return Err(invalid(SPARSE)),
            EntryType::GNULongLink | EntryType::XGlobalHeader => {}
            EntryType::Regular | EntryType::Continuous => {
                let extended = std::mem::take(&mut extended);
                let size = entry.header().entry_size()?;
                if extended.size.is_some_and(|said| said != size) {
                    return Err(invalid("a file is too long"));
                }
                let path = extended.path.unwrap_or_else(|| entry.path_bytes().into_owned());
                // Before there were types, a slash at the end marked a folder.
                if !path.ends_with(b"/") {
                    let head = FileHead { path, size, headers: extended.headers };
                    files.blocking_send(Unpacked::File(head)).map_err(gone)?;
                    send(&mut entry, size, files)?;
                }
            }
            _ => extended = Extended::default(),
        }
    }
    Ok(())
}

fn send(file: &mut impl Read, mut left: u64, files: &mpsc::Sender<Unpacked>) -> io::Result<()> {
    while left > 0 {
        let mut piece = Vec::with_capacity(PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
        let read = file.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a file"));
        }
        left = left.saturating_sub(read as u64);
        files.blocking_send(Unpacked::Data(piece.into())).map_err(gone)?;
    }
    Ok(())
}

fn extension(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.by_ref().take(MAX_EXTENSION + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_EXTENSION { Err(invalid("a header is too long")) } else { Ok(bytes) }
}

/// What the headers before a file say of it.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Extended {
    fn read(&mut self, pax: &[u8]) -> io::Result<()> {
        for pair in PaxExtensions::new(pax) {
            let pair = pair?;
            // Keys of attributes are UTF-8; others are none of ours.
            let Ok(key) = pair.key() else { continue };
            match key {
                "path" => self.path = Some(pair.value_bytes().to_vec()),
                key if key.starts_with("GNU.sparse.") => return Err(invalid(SPARSE)),
                "size" => self.size = pair.value().ok().and_then(|size| size.parse().ok()),
                key => {
                    let attribute = ATTRIBUTES.iter().find_map(|prefix| key.strip_prefix(prefix));
                    let name = match attribute {
                        Some("mime_type") => Some("content-type".to_owned()),
                        Some(attribute) => {
                            attribute.strip_prefix("meta.").map(|item| format!("x-object-meta-{item}"))
                        }
                        None => None,
                    };
                    self.headers.extend(name.map(|name| (name, pair.value_bytes().to_vec())));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let add = |builder: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append_data(&mut header, path, data).expect("a file");
        };
        add(&mut builder, "a", b"one");
        add(&mut builder, &"long/".repeat(60), b"");
        add(&mut builder, &format!("{}b", "long/".repeat(60)), &vec![7; PIECE + 1]);
        let pairs = [("SCHILY.xattr.user.meta.x", b"y".as_slice()), ("SCHILY.xattr.user.mime_type", b"t/p")];
        builder.append_pax_extensions(pairs).expect("attributes");
        add(&mut builder, "c", b"");
        builder.into_inner().expect("an archive")
    }

    fn unpacked(compression: Compression, bytes: Vec<u8>) -> Vec<Unpacked> {
        let (send, pieces) = mpsc::channel(1000);
        for piece in bytes.chunks(1000) {
            send.try_send(Bytes::copy_from_slice(piece)).expect("room");
        }
        drop(send);
        let (files, mut out) = mpsc::channel(100);
        unpack(compression, pieces, &files);
        drop(files);
        std::iter::from_fn(|| out.blocking_recv()).collect()
    }

    fn head(path: &str, size: u64) -> FileHead {
        FileHead { path: path.into(), size, headers: vec![] }
    }

    #[test]
    fn files_come_out_of_every_kind_of_archive() {
        let plain = archive();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).expect("compressed");
        let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip.write_all(&plain).expect("compressed");
        let archives = [
            (Compression::Plain, plain),
            (Compression::Gzip, gzip.finish().expect("compressed")),
            (Compression::Bzip2, bzip.finish().expect("compressed")),
        ];
        for (compression, bytes) in archives {
            let mut last = head("c", 0);
            last.headers.push(("x-object-meta-x".into(), b"y".to_vec()));
            last.headers.push(("content-type".into(), b"t/p".to_vec()));
            let expected = vec![
                Unpacked::File(head("a", 3)),
                Unpacked::Data(Bytes::from_static(b"one")),
                Unpacked::File(head(&format!("{}b", "long/".repeat(60)), PIECE as u64 + 1)),
                Unpacked::Data(vec![7; PIECE].into()),
                Unpacked::Data(vec![7; 1].into()),
                Unpacked::File(last),
                Unpacked::End,
            ];
            assert_eq!(unpacked(compression, bytes), expected, "{compression:?}");
        }
    }

    #[test]
    fn an_archive_that_is_cut_or_none_fails() {
        let mut cut = archive();
        cut.truncate(700);
        for bytes in [cut, vec![1; 2000]] {
            assert!(matches!(unpacked(Compression::Plain, bytes).last(), Some(Unpacked::Failed(_))));
        }
        assert!(matches!(unpacked(Compression::Gzip, archive()).last(), Some(Unpacked::Failed(_))));
    }
}
