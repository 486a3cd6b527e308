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

# Target jax_fa4_cute_dsl: the same for kernels that CuTe DSL compiles in process; see
# jax_fa4/emulator/cute_dsl.py, which loads it.
add_library(jax_fa4_cute_dsl MODULE
  csrc/cute_dsl/library.cc
  csrc/cute_dsl/session.cc
  csrc/runtime/backend.cc
  csrc/runtime/captured_launch.cc
  csrc/runtime/emulated_device.cc
  csrc/runtime/kernel_calls.cc
  csrc/runtime/recordings.cc)
target_compile_features(jax_fa4_cute_dsl PRIVATE cxx_std_17)
target_include_directories(jax_fa4_cute_dsl PRIVATE csrc)
target_compile_options(jax_fa4_cute_dsl
  PRIVATE -Wall -Wextra $<$<BOOL:${JAX_FA4_WERROR}>:-Werror>)
target_link_libraries(jax_fa4_cute_dsl PRIVATE jax_fa4_emulator)
target_link_options(jax_fa4_cute_dsl PRIVATE
  -static-libstdc++ -static-libgcc -s
  "LINKER:--version-script=${CMAKE_CURRENT_SOURCE_DIR}/cmake/cute_dsl_exports.map")
set_target_properties(jax_fa4_cute_dsl PROPERTIES
  LINK_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cmake/cute_dsl_exports.map")
install(TARGETS jax_fa4_cute_dsl LIBRARY DESTINATION jax_fa4/emulator)
