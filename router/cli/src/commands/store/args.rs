//! The grammar of `store`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::Json;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Look at everything in the store, and change nothing
    ///
    /// Beside a running router what SQLite reads is looked at; the files themselves (the log frame by frame, the pages) only while nobody has
    /// the store. Exit code 1 if something is wrong.
    Check(Json),
    /// Bring a damaged store back: keep a copy of all its files, put flipped bits right, and else take out what can be read
    ///
    /// Nothing is changed where something would be lost, unless `--accept-loss` is said: without it the loss is told, with numbers and times.
    Repair(RepairArgs),
    /// Copy the store as it is at this moment, beside a running router too; the copy is read wholly and is on the disk at the end
    Backup(BackupArgs),
    /// Give the space of removed events back to the file system; no router may have the store
    Vacuum(VacuumArgs),
}

impl StoreCommand {
    /// Was an answer for programs asked for?
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Check(json) => json.json,
            Self::Repair(args) => args.json.json,
            Self::Backup(args) => args.json.json,
            Self::Vacuum(args) => args.json.json,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Go on with what can be read, where not everything can
    #[arg(long)]
    pub(crate) accept_loss: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The new file; one that is there is not overwritten
    #[arg(value_name = "FILE")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct VacuumArgs {
    /// Write the whole file anew, which needs twice its room while it lasts
    #[arg(long)]
    pub(crate) full: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}
