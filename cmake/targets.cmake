# tf_library(NAME name SOURCES .. DEPS .. [FUZZED] [COMPUTES])   one box of the layer diagram: target tokenferry_<name>. x.cu
#   stands beside x.cc. FUZZED: it reads foreign bytes, and libFuzzer steers by its branches. COMPUTES: most of the tests' time
#   goes into its loops, and sanitizer builds optimise it, too
# tf_test(NAME name SOURCES .. DEPS .. [RANKS 1 2 3 | THREADS] [LABELS ..] [TIMEOUT s] [PROGRAMS target ..] [QUICK gtest-filter])
#   without RANKS: one process; THREADS: with several ranks as threads, which wait for each other and
#   so count as two. With RANKS: one ctest per rank count, under mpirun, with tests/support's MPI main; two as well.
#   Test names: <name> or <name>.np<ranks>. PROGRAMS are built with it, for tests that start them.
#   QUICK, or SHARE n: under the address sanitizer, test <name>.quick is the part of a `slow` test that the short runs do: what the
#   filter names, or every n-th case; under the thread sanitizer every n-th case of one labelled `tsan`.
#   LABELS: `slow` (not in the short sanitizer runs), `tsan` (also run under the thread sanitizer; `tsan_full`: only by
#   run.sh --full), `fakegpu` (test <name>.fakegpu.sm<arch> is the same with the CUDA runtime of tests/fakegpu, once for each
#   architecture: the kernels' PTX executed on the CPU), `gpu` (all that the cuda preset's short run builds and runs, of one architecture alone,
#   TF_SHORT_RUN_ARCH; they pass without a GPU), `arm64` (tests/arm64.sh runs it).
# tf_script_test(NAME name COMMAND .. [LABELS ..] [TIMEOUT s] [PROGRAMS target ..])   a test that is not GoogleTest
# tf_fuzz(NAME name SOURCES .. DEPS .. [SEEDS folder])   a libFuzzer target, built in preset `asan` (clang); its test runs it
#   for TOKENFERRY_FUZZ_SECONDS from the files in SEEDS
#
# tests_quick: every test that is not `slow`; tests_tsan, tests_gpu, tests_arm64: those with that label; fuzzers: every libFuzzer target.

set(TF_WARNINGS -Wall -Wextra -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND TF_WARNINGS -Werror=dangling)  # a view of a temporary is never meant, and GCC 12 does not see it
endif()
set(TOKENFERRY_FUZZ_SECONDS 10 CACHE STRING "how long the test of a libFuzzer target runs")

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

if(TOKENFERRY_TESTS)
  add_custom_target(tests_quick)
  add_custom_target(tests_tsan)
  add_custom_target(tests_gpu)
  add_custom_target(tests_arm64)
endif()
if(TOKENFERRY_FUZZ)
  add_custom_target(fuzzers)
endif()

# What sanitizers must not report because it is Open MPI's; folders of the source tree.
set(TF_TEST_ENVIRONMENT
  "TF_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
  "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/lsan.supp:print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1")

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

# A build without CUDA leaves the .cu files out; TF_CUDA_LAUNCHER (core/device/cuda_launcher.h) is then null.
function(tf_library)
  cmake_parse_arguments(A "FUZZED;COMPUTES" "NAME" "SOURCES;DEPS" ${ARGN})
  if(NOT TOKENFERRY_CUDA)
    list(FILTER A_SOURCES EXCLUDE REGEX "\\.cu$")
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

# Builds `target` with the groups that `labels` put it in.
function(tf_join_groups target labels)
  if(NOT "slow" IN_LIST labels)
    add_dependencies(tests_quick ${target})
  endif()
  foreach(label tsan gpu arm64)
    if(label IN_LIST labels)
      add_dependencies(tests_${label} ${target})
    endif()
  endforeach()
endfunction()

# Under a sanitizer everything takes longer: time limits of tests, in CMake and (TF_TIME_SCALE) in scripts.
set(TF_TIME_SCALE 1)
if(TOKENFERRY_SANITIZE)
  set(TF_TIME_SCALE 10)
endif()
list(APPEND TF_TEST_ENVIRONMENT "TF_TIME_SCALE=${TF_TIME_SCALE}")

# The architecture whose tests are labelled `gpu`: Hopper, where it is compiled for. They write which kernels they launch.
if(TOKENFERRY_CUDA)
  set(TF_LAUNCHED_FOLDER ${PROJECT_BINARY_DIR}/launched)
  file(MAKE_DIRECTORY ${TF_LAUNCHED_FOLDER})
  set(TF_SHORT_RUN_ARCH ${CMAKE_CUDA_ARCHITECTURES})
  list(FILTER TF_SHORT_RUN_ARCH INCLUDE REGEX "^90")
  if(NOT TF_SHORT_RUN_ARCH)
    list(GET CMAKE_CUDA_ARCHITECTURES 0 TF_SHORT_RUN_ARCH)
  endif()
endif()

# The test again, of its sources or its objects, with the fake CUDA runtime, whose ranks and streams are threads. Other labels
# than `gpu` may follow: `slow` is for what takes long to build too.
function(tf_fake_gpu_test name timeout sources deps)
  set(labels gpu)
  if(ARGC GREATER 4)
    set(labels ${ARGN})
  endif()
  add_executable(${name}.fakegpu ${sources})
  set_target_properties(${name}.fakegpu PROPERTIES TF_FAKE_CUDA ON LINKER_LANGUAGE CXX)
  target_link_libraries(${name}.fakegpu PRIVATE tf_options ${deps} tokenferry_test_fake_nccl tokenferry_test_fake_cudart GTest::gtest GTest::gmock GTest::gtest_main)
  target_precompile_headers(${name}.fakegpu REUSE_FROM tf_test_headers)
  target_compile_options(${name}.fakegpu PRIVATE ${TF_TEST_OPTIONS})
  tf_join_groups(${name}.fakegpu "${labels}")
  foreach(arch ${CMAKE_CUDA_ARCHITECTURES})
    set(arch_labels fakegpu ${labels})
    if(NOT arch STREQUAL TF_SHORT_RUN_ARCH)
      list(REMOVE_ITEM arch_labels gpu)
    endif()
    string(REGEX MATCH "^[0-9]+" arch ${arch})
    add_test(NAME ${name}.fakegpu.sm${arch} COMMAND ${name}.fakegpu)
    set_tests_properties(${name}.fakegpu.sm${arch} PROPERTIES TIMEOUT ${timeout} LABELS "${arch_labels}" PROCESSORS 2
                         ENVIRONMENT "${TF_TEST_ENVIRONMENT};TF_FAKEGPU_ARCH=${arch};TF_FAKEGPU_DEVICES=8")
    if("gpu" IN_LIST arch_labels)  # what it launches is a part of what kernels_launched_test checks
      set_property(TEST ${name}.fakegpu.sm${arch} APPEND PROPERTY ENVIRONMENT "TF_FAKEGPU_LAUNCHED=${TF_LAUNCHED_FOLDER}/${name}.txt")
      set_tests_properties(${name}.fakegpu.sm${arch} PROPERTIES FIXTURES_SETUP launched_kernels)
    endif()
  endforeach()
endfunction()

function(tf_test)
  cmake_parse_arguments(A "THREADS" "NAME;TIMEOUT;QUICK;SHARE" "SOURCES;DEPS;RANKS;LABELS;PROGRAMS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 300)
  endif()
  math(EXPR A_TIMEOUT "${TF_TIME_SCALE} * ${A_TIMEOUT}")
  set(processors 1)
  if(A_THREADS OR A_RANKS)
    set(processors 2)
  endif()
  add_executable(${A_NAME} ${A_SOURCES})
  list(LENGTH A_SOURCES num_sources)
  if(TF_UNITY_TESTS AND num_sources GREATER 1)
    set_target_properties(${A_NAME} PROPERTIES UNITY_BUILD ON)
  endif()
  target_link_libraries(${A_NAME} PRIVATE tf_options ${A_DEPS} GTest::gtest GTest::gmock)
  target_precompile_headers(${A_NAME} REUSE_FROM tf_test_headers)
  target_compile_options(${A_NAME} PRIVATE ${TF_TEST_OPTIONS})
  if(A_PROGRAMS)
    add_dependencies(${A_NAME} ${A_PROGRAMS})
  endif()
  set(quick_labels ${A_LABELS})
  set(is_tsan_share OFF)
  if(A_SHARE AND "tsan" IN_LIST A_LABELS AND TOKENFERRY_SANITIZE MATCHES "thread")
    set(is_tsan_share ON)
    list(TRANSFORM A_LABELS REPLACE "^tsan$" tsan_full)
  endif()
  if(is_tsan_share OR ((A_QUICK OR A_SHARE) AND TOKENFERRY_SANITIZE MATCHES "address"))
    list(REMOVE_ITEM quick_labels slow)
    set(quick_environment ${TF_TEST_ENVIRONMENT})
    if(A_SHARE)
      set(A_QUICK *)
      list(APPEND quick_environment GTEST_TOTAL_SHARDS=${A_SHARE} GTEST_SHARD_INDEX=0)
    endif()
    add_test(NAME ${A_NAME}.quick COMMAND ${A_NAME} --gtest_filter=${A_QUICK})
    set_tests_properties(${A_NAME}.quick PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${quick_labels}" PROCESSORS ${processors}
                         ENVIRONMENT "${quick_environment}")
  endif()
  tf_join_groups(${A_NAME} "${quick_labels}")
  if(TOKENFERRY_CUDA AND "fakegpu" IN_LIST A_LABELS)
    list(REMOVE_ITEM A_LABELS fakegpu)
    tf_fake_gpu_test(${A_NAME} ${A_TIMEOUT} $<TARGET_OBJECTS:${A_NAME}> "${A_DEPS}")
  endif()
  if(NOT A_RANKS)
    target_link_libraries(${A_NAME} PRIVATE GTest::gtest_main)
    add_test(NAME ${A_NAME} COMMAND ${A_NAME})
    set_tests_properties(${A_NAME} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}" PROCESSORS ${processors}
                         ENVIRONMENT "${TF_TEST_ENVIRONMENT}")
    return()
  endif()
  target_link_libraries(${A_NAME} PRIVATE tokenferry_test_mpi_main)
  foreach(n ${A_RANKS})
    set(labels mpi ${A_LABELS})
    if(TOKENFERRY_SANITIZE AND n GREATER 3)
      list(APPEND labels slow)
    endif()
    add_test(NAME ${A_NAME}.np${n} COMMAND ${PROJECT_SOURCE_DIR}/tests/support/mpirun.sh ${n} $<TARGET_FILE:${A_NAME}>)
    set_tests_properties(${A_NAME}.np${n} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${labels}" PROCESSORS ${processors} COST 10
                         ENVIRONMENT "${TF_TEST_ENVIRONMENT}")
  endforeach()
endfunction()

function(tf_script_test)
  cmake_parse_arguments(A "" "NAME;TIMEOUT" "COMMAND;LABELS;PROGRAMS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 300)
  endif()
  math(EXPR A_TIMEOUT "${TF_TIME_SCALE} * ${A_TIMEOUT}")
  foreach(program ${A_PROGRAMS})
    tf_join_groups(${program} "${A_LABELS}")
  endforeach()
  add_test(NAME ${A_NAME} COMMAND ${A_COMMAND} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${A_NAME} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}" ENVIRONMENT "${TF_TEST_ENVIRONMENT}")
endfunction()

function(tf_fuzz)
  cmake_parse_arguments(A "" "NAME;SEEDS" "SOURCES;DEPS" ${ARGN})
  add_executable(${A_NAME} ${A_SOURCES})
  target_link_libraries(${A_NAME} PRIVATE tf_options ${A_DEPS})
  target_compile_options(${A_NAME} PRIVATE ${TF_FUZZED_OPTIONS})
  target_link_options(${A_NAME} PRIVATE -fsanitize=fuzzer)
  add_dependencies(fuzzers ${A_NAME})
  if(A_SEEDS)
    cmake_path(ABSOLUTE_PATH A_SEEDS BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  endif()
  # New inputs go to a folder of the build; the seeds are only read.
  file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${A_NAME}.corpus)
  math(EXPR timeout "${TOKENFERRY_FUZZ_SECONDS} + 60")
  add_test(NAME ${A_NAME} COMMAND ${A_NAME} -max_total_time=${TOKENFERRY_FUZZ_SECONDS} -timeout=10 -rss_limit_mb=2048
           -print_final_stats=1 ${A_NAME}.corpus ${A_SEEDS} WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  set_tests_properties(${A_NAME} PROPERTIES TIMEOUT ${timeout} LABELS fuzz ENVIRONMENT "${TF_TEST_ENVIRONMENT}")
endfunction()
