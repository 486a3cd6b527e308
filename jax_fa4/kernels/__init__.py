"""Device code in CuTe DSL. Build time only: the wheel holds what it compiles to."""
