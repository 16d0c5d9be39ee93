//! Where a long pass goes on after a restart.

use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A small file in a device's folder. It may be lost or old: that costs a pass at most, which is why it is not
/// synced. A device without a folder remembers nothing.
pub struct Cursor<T> {
    file: Option<PathBuf>,
    of: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Cursor<T> {
    /// The cursor that is called so.
    pub fn new(folder: Option<&Path>, name: &str) -> Cursor<T> {
        Cursor { file: folder.map(|folder| folder.join(format!("{name}.json"))), of: PhantomData }
    }

    /// What was kept; nothing if it cannot be read.
    pub fn load(&self) -> Option<T> {
        let bytes = fs::read(self.file.as_ref()?).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps a position.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn save(&self, at: &T) -> std::io::Result<()> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let bytes = serde_json::to_vec(at)?;
        let write = move || {
            let aside = file.with_extension("tmp");
            fs::write(&aside, bytes)?;
            fs::rename(&aside, &file)
        };
        tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_position_is_found_again_and_one_that_is_damaged_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let cursor = Cursor::<(u32, String)>::new(Some(folder.path()), "audit");
        assert_eq!(cursor.load(), None);
        cursor.save(&(3, "key".into())).await.expect("saved");
        cursor.save(&(4, "key".into())).await.expect("saved");
        let again = Cursor::<(u32, String)>::new(Some(folder.path()), "audit");
        assert_eq!(again.load(), Some((4, "key".into())));
        fs::write(folder.path().join("audit.json"), "{").expect("written");
        assert_eq!(again.load(), None);
        let nowhere = Cursor::<u32>::new(None, "audit");
        nowhere.save(&1).await.expect("nothing to do");
        assert_eq!(nowhere.load(), None);
    }
}
