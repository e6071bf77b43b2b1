"""The `jaxseg` command: one file per subcommand."""
