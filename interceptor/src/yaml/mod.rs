//! YAML documents whose every value knows its line, read within bounds.
