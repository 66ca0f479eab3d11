//! `enxame hash`: the ids of files, as `b3sum` prints them.

use std::io;
use std::path::Path;

use enxame_actors::base::FileId;
use enxame_actors::content::hash_path_counted;

use crate::cli::HashArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::human;
use crate::json::HashRecord;
use crate::progress::{hash_bar, hashed};
use crate::ui::Ui;

/// What is hashed before anybody would look at a bar.
const SHORT_BYTES: u64 = 256 << 20;

/// Hashes one file after the other. One that cannot be read is told of and passed over.
pub(crate) fn run(ui: &Ui, args: &HashArgs) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    // What is no file is of a size that nobody knows.
    let sizes = args.files.iter().filter_map(|path| path.metadata().ok()).filter(|file| file.is_file());
    let of_bytes: u64 = sizes.map(|file| file.len()).sum();
    let bar = (of_bytes > SHORT_BYTES && !ui.bars.is_hidden()).then(|| hash_bar(&ui.bars, of_bytes));
    let count = |bytes| {
        if let Some(bar) = &bar {
            bar.inc(bytes);
            bar.set_message(hashed(bar.position(), of_bytes));
        }
    };
    for path in &args.files {
        let shown = path.to_string_lossy();
        match hash(path, &count) {
            Ok((id, size)) if ui.json => ui.records([HashRecord { id, size, path: &shown }].iter())?,
            Ok((id, _)) => ui.result(&check_line(id, &shown))?,
            Err(error) => {
                exit = ui.fail(&Failure::new(Exit::Failed, format!("{shown}: {}", human::reason(&error))));
            }
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(exit)
}

fn hash(path: &Path, count: &(dyn Fn(u64) + Sync)) -> io::Result<(FileId, u64)> {
    hash_path_counted(if path == Path::new("-") { Path::new("/dev/stdin") } else { path }, count)
}

/// The line as `b3sum --check` reads it: a path with a backslash or a line end is escaped, and the
/// line says so with a backslash of its own.
fn check_line(id: FileId, path: &str) -> String {
    if path.contains(['\\', '\n', '\r']) {
        let path = path.replace('\\', r"\\").replace('\n', r"\n").replace('\r', r"\r");
        format!("\\{id}  {path}\n")
    } else {
        format!("{id}  {path}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_b3sum_prints() {
        // Taken from b3sum 1.8.7: printf x > FILE; b3sum FILE
        let hex = "3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "x").unwrap();
        let (id, size) = hash(&path, &|_| ()).unwrap();
        assert_eq!((id.to_string().as_str(), size), (hex, 1));
        for (path, line) in [
            ("sp ace", format!("{hex}  sp ace\n")),
            (r"a\b", format!(r"\{hex}  a\\b") + "\n"),
            ("n\nl", format!(r"\{hex}  n\nl") + "\n"),
            ("r\rl", format!(r"\{hex}  r\rl") + "\n"),
        ] {
            assert_eq!(check_line(id, path), line);
        }
    }
}
