//! Arguments, printers, exit codes; the only room that prints, reads the environment or knows HOME.
