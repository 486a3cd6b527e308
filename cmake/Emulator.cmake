# Target jax_fa4_emulator: runs the kernels' PTX on the CPU. A library of its own, because the
# extension is compiled for size and an interpreter wants speed.
file(GLOB_RECURSE emulator_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/emulator/*.cc")
add_library(jax_fa4_emulator STATIC ${emulator_sources})
target_compile_features(jax_fa4_emulator PRIVATE cxx_std_17)
target_include_directories(jax_fa4_emulator PRIVATE csrc)
target_compile_options(jax_fa4_emulator
  PRIVATE -Wall -Wextra $<$<BOOL:${JAX_FA4_WERROR}>:-Werror>)
set_target_properties(jax_fa4_emulator PROPERTIES
  POSITION_INDEPENDENT_CODE ON
  CXX_VISIBILITY_PRESET hidden)
