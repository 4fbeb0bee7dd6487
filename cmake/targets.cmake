# How this project compiles, and its libraries.
#
# tf_library(NAME name SOURCES .. DEPS .. [FUZZED] [COMPUTES])   one box of the layer diagram: target tokenferry_<name>. x.cu
#   stands beside x.cc. FUZZED: it reads foreign bytes, and libFuzzer steers by its branches. COMPUTES: most of the tests' time
#   goes into its loops, and sanitizer builds optimise it, too

set(TF_WARNINGS -Wall -Wextra -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND TF_WARNINGS -Werror=dangling)  # a view of a temporary is never meant, and GCC 12 does not see it
endif()

add_library(tf_options INTERFACE)
target_include_directories(tf_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(tf_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${TF_WARNINGS}>)
# A product and a sum are contracted only where the code says fma: results must not depend on the compiler's mood.
target_compile_options(tf_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off> "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;-Xcompiler=-ffp-contract=off>")
if(TOKENFERRY_CUDA)
  # Tests read and execute the PTX in the objects; tests/gpu.sh packs code that is a sixth of the size. 554: a view of const
  # has a conversion to itself.
  option(TOKENFERRY_PTX_AS_TEXT "keep PTX uncompressed, for tests/fakegpu" ON)
  set(compression $<IF:$<BOOL:${TOKENFERRY_PTX_AS_TEXT}>,--no-compress,--compress-mode=size>)
  target_compile_options(tf_options INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${compression};--diag-suppress=554>")
  target_compile_definitions(tf_options INTERFACE TOKENFERRY_CUDA)
endif()
if(TOKENFERRY_SANITIZE)
  target_compile_options(tf_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${TOKENFERRY_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(tf_options INTERFACE -fsanitize=${TOKENFERRY_SANITIZE})
  # A program of 120 MB is linked in 0.5 s instead of 2.5 s, and there are a hundred.
  find_program(TF_LLD ld.lld)
  if(TF_LLD)
    target_link_options(tf_options INTERFACE -fuse-ld=lld)
  endif()
endif()

# What nearly every source file includes is parsed once, which shortens a build from nothing. A compiler cache replaces
# this; and run.sh --full compiles preset asan without it and file by file, so that a source file, and the header that it
# includes first, have to name what they use.
if(CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_DISABLE_PRECOMPILE_HEADERS ON)
endif()

# tf_precompiled(NAME name HEADERS header .. DEPS ..): compiles `headers`; others use them with REUSE_FROM.
# OPTIONS: those that they are compiled with, too.
function(tf_precompiled)
  cmake_parse_arguments(A "" "NAME" "HEADERS;DEPS;OPTIONS" ${ARGN})
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${A_NAME}.cc CONTENT "\n")
  add_library(${A_NAME} OBJECT ${CMAKE_CURRENT_BINARY_DIR}/${A_NAME}.cc)
  target_link_libraries(${A_NAME} PRIVATE tf_options ${A_DEPS})
  target_compile_options(${A_NAME} PRIVATE ${A_OPTIONS})
  target_precompile_headers(${A_NAME} PRIVATE ${A_HEADERS})
endfunction()

set(TF_COMMON_HEADERS <algorithm> <cstdint> <functional> <memory> <string> <vector>
  <absl/status/statusor.h> <absl/strings/str_cat.h> <absl/strings/str_format.h> <absl/time/time.h> <absl/types/span.h>)
set(TF_COMMON_DEPS absl::status absl::statusor absl::strings absl::str_format absl::time absl::span Threads::Threads)
tf_precompiled(NAME tf_common_headers HEADERS ${TF_COMMON_HEADERS} DEPS ${TF_COMMON_DEPS})
if(TOKENFERRY_FUZZ)
  set(TF_FUZZED_OPTIONS -fsanitize=fuzzer-no-link)
  tf_precompiled(NAME tf_fuzzed_headers HEADERS ${TF_COMMON_HEADERS} DEPS ${TF_COMMON_DEPS} OPTIONS ${TF_FUZZED_OPTIONS})
endif()
if(TOKENFERRY_SANITIZE)
  tf_precompiled(NAME tf_computing_headers HEADERS ${TF_COMMON_HEADERS} DEPS ${TF_COMMON_DEPS} OPTIONS -O1)
endif()
if(TOKENFERRY_TESTS)
  tf_precompiled(NAME tf_test_headers HEADERS <gmock/gmock.h> <gtest/gtest.h> ${TF_COMMON_HEADERS}
    DEPS GTest::gtest GTest::gmock ${TF_COMMON_DEPS})
  # The tests' own code takes longer to optimise than it then saves.
  set(TF_TEST_OPTIONS -O0)
  target_compile_options(tf_test_headers PRIVATE ${TF_TEST_OPTIONS})
endif()

# MPI_Finalize of the sanitizer builds comes before that of the MPI library.
if(TOKENFERRY_SANITIZE MATCHES "address")
  add_library(tf_finalize_leak_check STATIC ${PROJECT_SOURCE_DIR}/tests/support/finalize_leak_check.cc)
  target_link_libraries(tf_finalize_leak_check PUBLIC tf_options MPI::MPI_C)
  set(TF_MPI tf_finalize_leak_check)
else()
  set(TF_MPI MPI::MPI_C)
endif()

# Several files of a library are compiled as one (launch/scripts/build.sh asks for it): the headers, which take most of the
# time, are then read once. Names in anonymous namespaces are therefore unique within a library. Alone remain the files that
# Highway includes again for every instruction set, and those of the exchange's paths, which all have a Create.
function(tf_compile_some_alone)
  list(FILTER ARGN EXCLUDE REGEX "^/")  # generated
  foreach(source ${ARGN})
    file(STRINGS ${source} again REGEX "foreach_target\\.h" LIMIT_COUNT 1)
    if(again OR source MATCHES "_path\\.cc$")
      set_source_files_properties(${source} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    endif()
  endforeach()
endfunction()

# The .cu files of a library as one, which CMake does by itself from 3.31 on: headers cost four seconds, most kernels less.
function(tf_compile_kernels_together name sources)
  set(kernels ${${sources}})
  list(FILTER kernels INCLUDE REGEX "\\.cu$")
  list(FILTER ${sources} EXCLUDE REGEX "\\.cu$")
  list(TRANSFORM kernels REPLACE "(.+)" "#include \"${CMAKE_CURRENT_SOURCE_DIR}/\\1\"\n")
  list(JOIN kernels "" text)
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${name}_kernels.cu CONTENT "${text}")
  set(${sources} ${${sources}} ${CMAKE_CURRENT_BINARY_DIR}/${name}_kernels.cu PARENT_SCOPE)
endfunction()

# A build without CUDA leaves the .cu files out; TF_CUDA_LAUNCHER (core/device/cuda_launcher.h) is then null.
function(tf_library)
  cmake_parse_arguments(A "FUZZED;COMPUTES" "NAME" "SOURCES;DEPS" ${ARGN})
  if(NOT TOKENFERRY_CUDA)
    list(FILTER A_SOURCES EXCLUDE REGEX "\\.cu$")
  elseif(CMAKE_UNITY_BUILD AND A_SOURCES MATCHES "\\.cu")
    tf_compile_kernels_together(${A_NAME} A_SOURCES)
  endif()
  add_library(tokenferry_${A_NAME} STATIC ${A_SOURCES})
  tf_compile_some_alone(${A_SOURCES})
  # How this project compiles is not what users of an installed library compile with.
  target_link_libraries(tokenferry_${A_NAME} PUBLIC $<BUILD_INTERFACE:tf_options> ${A_DEPS})
  target_compile_features(tokenferry_${A_NAME} PUBLIC cxx_std_20)
  if(A_FUZZED AND TOKENFERRY_FUZZ)
    target_compile_options(tokenferry_${A_NAME} PRIVATE ${TF_FUZZED_OPTIONS})
    target_precompile_headers(tokenferry_${A_NAME} REUSE_FROM tf_fuzzed_headers)
  elseif(A_COMPUTES AND TOKENFERRY_SANITIZE)
    target_compile_options(tokenferry_${A_NAME} PRIVATE -O1)
    target_precompile_headers(tokenferry_${A_NAME} REUSE_FROM tf_computing_headers)
  else()
    target_precompile_headers(tokenferry_${A_NAME} REUSE_FROM tf_common_headers)
  endif()
endfunction()
