//! A plugin *is* its configuration: the struct that a route's `with` table fills, its doc comments the reference, and a way to
//! build the handler.

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{BoxFuture, EffectPort, Handler, Program, RouteName};

/// A kind of handler that routes can name.
///
/// Derive `Deserialize` with `#[serde(deny_unknown_fields)]` and `JsonSchema`; the doc comment of the struct and of each field
/// becomes the plugin's reference, and `check` holds every route's `with` table against the schema.
#[async_trait]
pub trait Plugin: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name that routes write: `handler = "log"`. Like a route name: `[a-z][a-z0-9-]{0,62}`.
    const NAME: &'static str;

    /// Builds the handler, once for each route. It may check and prepare; it must not talk to the outside, since `check` calls
    /// it without a network.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the configuration at once, each with the field it concerns.
    async fn build(self, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError>;
}

/// Does the route act, or only record what it would do?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouteMode {
    /// Acts.
    #[default]
    Live,
    /// Runs the filter and the handler on live traffic, but records writing effects instead of performing them.
    Shadow,
}

/// What a plugin is given when a route is built.
#[derive(Clone)]
pub struct BuildContext {
    /// The route.
    pub route: RouteName,
    /// Relative paths of the configuration are relative to this directory.
    pub base_dir: PathBuf,
    /// Live or shadow.
    pub mode: RouteMode,
    /// Performs effects; here only for [`BuildContext::program`].
    pub effects: Arc<dyn EffectPort>,
}

impl BuildContext {
    /// Finds the program of a command now, so that nothing later can choose another one. `field` is named in the error.
    ///
    /// In shadow mode a program that is not there is no error: the record shows its name.
    ///
    /// # Errors
    ///
    /// When a live route's program is not found, with the places that were searched.
    pub fn program(&self, field: &str, name: &str) -> Result<Program, BuildError> {
        match (self.effects.resolve_program(name, &self.base_dir), self.mode) {
            (Ok(program), _) => Ok(program),
            (Err(_), RouteMode::Shadow) => Ok(Program::unresolved(name)),
            (Err(error), RouteMode::Live) => Err(error.under(field)),
        }
    }

    /// `path` made absolute by the configuration's directory.
    #[must_use]
    pub fn path(&self, path: impl AsRef<std::path::Path>) -> PathBuf {
        self.base_dir.join(path)
    }
}

/// One thing that is wrong with a plugin's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildProblem {
    /// The field, as a dotted path below `with`: `headers.accept`, `command.0`. Empty for the table as a whole.
    pub field: String,
    /// A lowercase sentence fragment.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// All that is wrong with a plugin's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildError {
    /// Never empty in an error.
    pub problems: Vec<BuildProblem>,
}

impl BuildError {
    /// One problem with one field (a dotted path below `with`).
    #[must_use]
    pub fn at(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { problems: vec![BuildProblem { field: field.into(), message: message.into(), help: None }] }
    }

    /// Adds what to do about the last problem.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(last) = self.problems.last_mut() {
            last.help = Some(help.into());
        }
        self
    }

    /// Puts the problems below `field`.
    #[must_use]
    pub fn under(mut self, field: &str) -> Self {
        for problem in &mut self.problems {
            problem.field = if problem.field.is_empty() { field.to_owned() } else { format!("{field}.{}", problem.field) };
        }
        self
    }

    /// Takes the value, or keeps the problems for later, so that all come to light at once.
    pub fn collect<T>(&mut self, result: Result<T, Self>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.extend(error.problems);
                None
            }
        }
    }

    /// `Ok` exactly when no problem was collected.
    ///
    /// # Errors
    ///
    /// The collected problems.
    pub fn into_result(self) -> Result<(), Self> {
        if self.problems.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            if problem.field.is_empty() {
                write!(f, "{}", problem.message)?;
            } else {
                write!(f, "`{}`: {}", problem.field, problem.message)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}

type Build = for<'a> fn(Value, &'a BuildContext) -> BoxFuture<'a, Result<Box<dyn Handler>, BuildError>>;

/// A linked plugin. [`crate::register!`] makes one.
#[derive(Clone, Copy)]
pub struct Registration {
    /// [`Plugin::NAME`].
    pub name: &'static str,
    schema: fn() -> schemars::Schema,
    build: Build,
}

impl Registration {
    /// The registration of `P`.
    #[must_use]
    pub const fn of<P: Plugin>() -> Self {
        fn schema<P: Plugin>() -> schemars::Schema {
            schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<P>()
        }

        fn build<P: Plugin>(options: Value, cx: &BuildContext) -> BoxFuture<'_, Result<Box<dyn Handler>, BuildError>> {
            Box::pin(async move {
                let plugin: P = serde_path_to_error::deserialize(options).map_err(|error| {
                    let path = error.path().to_string();
                    // The table itself is written as a dot.
                    BuildError::at(if path == "." { String::new() } else { path }, error.into_inner().to_string())
                })?;
                plugin.build(cx).await
            })
        }

        Self { name: P::NAME, schema: schema::<P>, build: build::<P> }
    }

    /// The JSON Schema of the plugin's options.
    #[must_use]
    pub fn schema(&self) -> schemars::Schema {
        (self.schema)()
    }

    /// Builds a handler from a `with` table.
    ///
    /// # Errors
    ///
    /// When the options do not fit the plugin.
    pub async fn build(&self, options: Value, cx: &BuildContext) -> Result<Box<dyn Handler>, BuildError> {
        (self.build)(options, cx).await
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("name", &self.name).finish_non_exhaustive()
    }
}

inventory::collect!(Registration);

/// Makes a plugin known to every program that links its crate.
///
/// The linker drops a crate that nothing refers to: the program must say `use my_plugin as _;`.
#[macro_export]
macro_rules! register {
    ($plugin:ty) => {
        $crate::inventory::submit! { $crate::Registration::of::<$plugin>() }
    };
}

/// The linked plugins, by name.
#[derive(Debug, Clone)]
pub struct Registry {
    plugins: Vec<Registration>,
}

/// Why the linked plugins cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Nothing is linked.
    #[error("no plugin is linked into this program: its `main.rs` needs a line such as `use plugins as _;`")]
    Empty,
    /// Two plugins have one name.
    #[error("two linked plugins are called `{0}`: rename one of them")]
    Duplicate(&'static str),
}

impl Registry {
    /// All plugins that are linked into this program, sorted by name.
    ///
    /// # Errors
    ///
    /// When there are none, or two of one name.
    pub fn linked() -> Result<Self, RegistryError> {
        Self::of(inventory::iter::<Registration>.into_iter().copied())
    }

    /// The given plugins, for tests and for programs that do without `inventory`.
    ///
    /// # Errors
    ///
    /// When there are none, or two of one name.
    pub fn of(plugins: impl IntoIterator<Item = Registration>) -> Result<Self, RegistryError> {
        let mut plugins: Vec<_> = plugins.into_iter().collect();
        // `inventory` promises no order.
        plugins.sort_by_key(|plugin| plugin.name);
        if plugins.is_empty() {
            return Err(RegistryError::Empty);
        }
        match plugins.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(RegistryError::Duplicate(pair[0].name)),
            None => Ok(Self { plugins }),
        }
    }

    /// The plugin of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Registration> {
        self.plugins.iter().find(|plugin| plugin.name == name)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Registration> {
        self.plugins.iter()
    }
}
