"""Build time: compiles every kernel variant to an object file, without a GPU."""
