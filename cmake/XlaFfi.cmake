# Target xla_ffi_headers: the headers of XLA's FFI, found in the installed jaxlib without importing
# it (an isolated build has jaxlib and no jax).
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
    "import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec('jaxlib').origin).parent / 'include')"
  OUTPUT_VARIABLE XLA_FFI_INCLUDE_DIR OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(NOT EXISTS "${XLA_FFI_INCLUDE_DIR}/xla/ffi/api/ffi.h")
  message(FATAL_ERROR "jaxlib has no FFI headers in ${XLA_FFI_INCLUDE_DIR}")
endif()

add_library(xla_ffi_headers INTERFACE)
target_include_directories(xla_ffi_headers SYSTEM INTERFACE "${XLA_FFI_INCLUDE_DIR}")
