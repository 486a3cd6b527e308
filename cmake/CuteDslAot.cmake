# jax_fa4_compile_kernels(<objects> <table> <ptx>)
#
# Compiles the kernels that JAX_FA4_VARIANTS asks for with `jax_fa4.aot` and sets <objects> to their
# object files, <table> to the generated C++ table of variants and <ptx> to the compressed PTX that
# the emulator reads. Runs whenever a source of the kernels changed; what the cache holds is copied,
# not compiled.
function(jax_fa4_compile_kernels objects_variable table_variable ptx_variable)
  set(source_dir "${CMAKE_CURRENT_SOURCE_DIR}")
  set(output_dir "${CMAKE_CURRENT_BINARY_DIR}/kernels")
  set(aot "${Python_EXECUTABLE}" -P "${source_dir}/jax_fa4/aot/bootstrap.py")
  set(selection "")
  if(JAX_FA4_VARIANTS STREQUAL "none")
    set(selection --only)
  elseif(NOT JAX_FA4_VARIANTS STREQUAL "all")
    set(selection --only ${JAX_FA4_VARIANTS})
  endif()
  set(cache "")
  if(JAX_FA4_CACHE_DIR)
    set(cache --cache "${JAX_FA4_CACHE_DIR}")
  endif()

  execute_process(
    COMMAND ${aot} --list ${selection}
    OUTPUT_VARIABLE names OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE "\n" ";" names "${names}")
  list(LENGTH names count)
  message(STATUS "Kernel variants to build: ${count}")
  list(TRANSFORM names PREPEND "${output_dir}/" OUTPUT_VARIABLE objects)
  list(TRANSFORM objects APPEND ".ptx.xz" OUTPUT_VARIABLE packed)
  list(TRANSFORM objects APPEND ".o")

  set(template "${source_dir}/cmake/variant_table.cc.in")
  set(table "${output_dir}/variant_table.cc")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS
    "${source_dir}/jax_fa4/aot/*.py"
    "${source_dir}/jax_fa4/kernels/*.py"
    "${source_dir}/jax_fa4/variants/*.py")
  add_custom_command(
    OUTPUT ${objects} ${packed} "${table}"
    COMMAND ${aot} ${selection} ${cache} --host ${CMAKE_SYSTEM_PROCESSOR}
      --output "${output_dir}" --table "${template}"
    DEPENDS ${sources} "${template}"
    COMMENT "Compiling ${count} kernel variants"
    USES_TERMINAL VERBATIM)
  set_source_files_properties(${objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)

  set(${objects_variable} ${objects} PARENT_SCOPE)
  set(${table_variable} "${table}" PARENT_SCOPE)
  set(${ptx_variable} ${packed} PARENT_SCOPE)
endfunction()
