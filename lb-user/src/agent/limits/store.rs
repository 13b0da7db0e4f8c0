//! The part of the block list that was set by command, in a file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Blocks;
use super::prefix::parse_prefix;

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot read the block list {file}: {source}")]
    Read { file: PathBuf, source: io::Error },
    #[error(
        "the block list {file} is damaged ({what}); correct it, or remove it and block again what it held"
    )]
    Damaged { file: PathBuf, what: String },
    #[error(
        "the block list is in force but can't be saved in {file}, so a restart would forget the change: {source}"
    )]
    Write { file: PathBuf, source: io::Error },
}

/// What the file holds.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    sources: Vec<String>,
    clients: Vec<String>,
}

/// The file `blocked.json` of a directory.
#[derive(Debug)]
pub struct Store(PathBuf);

impl Store {
    pub fn new(directory: PathBuf) -> Self {
        Self(directory.join("blocked.json"))
    }

    /// What was saved; nothing if there is no file.
    ///
    /// # Errors
    /// It can't be read, or not understood.
    pub fn load(&self) -> Result<Blocks, StoreError> {
        let file = || self.0.clone();
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Blocks::default()),
            Err(source) => {
                return Err(StoreError::Read {
                    file: file(),
                    source,
                });
            }
        };
        let damaged = |what: String| StoreError::Damaged { file: file(), what };
        let contents: Contents =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let sources = contents
            .sources
            .iter()
            .map(|text| parse_prefix(text).map_err(|error| damaged(error.to_string())))
            .collect::<Result<_, _>>()?;
        Ok(Blocks {
            sources,
            clients: contents.clients,
        })
    }

    /// Saves it: the file is the old one or the new one, whatever happens.
    ///
    /// # Errors
    /// The file system said no; the old file is still there.
    pub fn save(&self, blocks: &Blocks) -> Result<(), StoreError> {
        self.write(blocks).map_err(|source| StoreError::Write {
            file: self.0.clone(),
            source,
        })
    }

    fn write(&self, blocks: &Blocks) -> io::Result<()> {
        let contents = Contents {
            sources: blocks.sources.iter().map(ToString::to_string).collect(),
            clients: blocks.clients.clone(),
        };
        let directory = self.0.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let new = self.0.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(serde_json::to_string_pretty(&contents)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        File::open(directory)?.sync_all()
    }
}
