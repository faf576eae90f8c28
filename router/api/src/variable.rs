//! Names of environment variables that a configuration may give to a command.

use crate::BuildError;

/// Variables that make usual programs load or run something else, or that the performer sets itself.
const DANGEROUS: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "EDITOR",
    "ENV",
    "GCONV_PATH",
    "GIT_ASKPASS",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_PROXY_COMMAND",
    "GIT_SEQUENCE_EDITOR",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_TEMPLATE_DIR",
    "GLIBC_TUNABLES",
    "GLOBIGNORE",
    "HOSTALIASES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LESSCLOSE",
    "LESSOPEN",
    "LOCPATH",
    "NLSPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PAGER",
    "PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHONBREAKPOINT",
    "PYTHONEXECUTABLE",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "RUBYLIB",
    "RUBYOPT",
    "RUSTC_WRAPPER",
    "SHELLOPTS",
    "SSH_ASKPASS",
    "VISUAL",
    "_JAVA_OPTIONS",
];

/// Families of such variables.
const DANGEROUS_PREFIXES: &[&str] = &["BASH_FUNC_", "DYLD_", "EVENT_ROUTER_", "GIT_CONFIG", "LD_", "MALLOC_"];

/// May a configuration give a command a variable of this name? Its value may then come from an event.
///
/// # Errors
///
/// When the name is not of the shape `[A-Z_][A-Z0-9_]*`, or one that lets its value choose what runs.
pub fn check_variable_name(name: &str) -> Result<(), BuildError> {
    let mut bytes = name.bytes();
    let begins_well = bytes.next().is_some_and(|byte| byte.is_ascii_uppercase() || byte == b'_');
    if !begins_well || !bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') {
        let message = format!("`{}` is no name for a variable", name.escape_debug());
        return Err(BuildError::at("", message).help("use `A` to `Z`, `0` to `9` and `_`, beginning with a letter or `_`"));
    }
    if DANGEROUS.contains(&name) || DANGEROUS_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        let message = format!("`{name}` cannot be given to a command: its value can choose what is loaded or run");
        return Err(BuildError::at("", message).help("choose a name of your own, or set it inside of a script that the command runs"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_allowed() {
        for name in ["A", "_", "BRANCH", "CI_FILE_2", "PYTHONUNBUFFERED", "CARGO_TARGET_DIR", "GIT_BRANCH", "ENVIRONMENT"] {
            assert!(check_variable_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_choose_what_runs_are_refused() {
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "DYLD_INSERT_LIBRARIES",
            "BASH_ENV",
            "ENV",
            "PATH",
            "IFS",
            "PYTHONPATH",
            "GIT_SSH_COMMAND",
            "GIT_CONFIG_COUNT",
            "EVENT_ROUTER_HANDLING",
        ] {
            assert!(check_variable_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn other_shapes_are_refused_and_shown_escaped() {
        for name in ["", "a", "1A", "A-B", "A=B", "A B", "BASH_FUNC_x%%", "\u{c4}", "A\0", "http_proxy"] {
            let error = check_variable_name(name).expect_err(name);
            assert!(!error.to_string().contains('\0'));
        }
        assert!(DANGEROUS.is_sorted() && DANGEROUS_PREFIXES.is_sorted());
    }
}
