//! Variables for a command: names from the configuration, values that event data may fill in, except where a value would choose what
//! is run.

use std::collections::BTreeMap;

use router_api::{BuildError, CommandRequest, EffectError, Scope, Template};

/// The option `env`, checked.
pub(crate) struct Environment(BTreeMap<String, Template>);

/// Variables that make the loader, a shell or an interpreter run something; beside them all that begin with `LD_`, `DYLD_` and `GIT_`.
const CHOOSERS: &[&str] = &[
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "SHELL",
    "SHELLOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYOPT",
    "RUBYLIB",
    "NODE_OPTIONS",
    "NODE_PATH",
    "JAVA_TOOL_OPTIONS",
    "PYTEST_ADDOPTS",
    "PYTEST_PLUGINS",
    "RUSTC_WRAPPER",
    "CARGO_HOME",
];

impl Environment {
    /// # Errors
    ///
    /// Every name that is none, and every template under a name through which a value could choose what is run.
    pub(crate) fn new(variables: BTreeMap<String, Template>) -> Result<Self, BuildError> {
        let mut error = BuildError::default();
        for (name, value) in &variables {
            let field = format!("env.{name}");
            let is_name =
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty();
            let problem = if !is_name {
                BuildError::at(field, format!("`{name}` is no name of a variable")).help("use letters, digits and `_`, not beginning with a digit")
            } else if !value.is_literal() && chooses(name) {
                BuildError::at(field, format!("`{name}` decides what is run, so no event may fill it in")).help("write the value without a template")
            } else {
                continue;
            };
            let _: Option<()> = error.collect(Err(problem));
        }
        error.into_result()?;
        Ok(Self(variables))
    }

    /// Adds the variables to `request`.
    ///
    /// # Errors
    ///
    /// Those of the templates.
    pub(crate) fn fill(&self, mut request: CommandRequest, scope: &Scope) -> Result<CommandRequest, EffectError> {
        for (name, value) in &self.0 {
            request = request.env(name.clone(), value.render(scope)?);
        }
        Ok(request)
    }
}

fn chooses(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    CHOOSERS.contains(&name.as_str()) || ["LD_", "DYLD_", "GIT_"].iter().any(|prefix| name.starts_with(prefix))
}
