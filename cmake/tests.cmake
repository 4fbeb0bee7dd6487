# The project's tests.
#
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
# tf_test_library(target)   compiles a library of tests as they are: with their headers, without optimisation
# tf_script_test(NAME name COMMAND .. [LABELS ..] [TIMEOUT s] [PROGRAMS target ..])   a test that is not GoogleTest
# tf_fuzz(NAME name SOURCES .. DEPS .. [SEEDS folder])   a libFuzzer target, built in preset `asan` (clang); its test runs it
#   for TOKENFERRY_FUZZ_SECONDS from the files in SEEDS
#
# tests_quick: every test that is not `slow`; tests_tsan, tests_gpu, tests_arm64: those with that label; fuzzers: every libFuzzer target.

set(TOKENFERRY_FUZZ_SECONDS 10 CACHE STRING "how long the test of a libFuzzer target runs")
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

function(tf_test_library name)
  target_precompile_headers(${name} REUSE_FROM tf_test_headers)
  target_compile_options(${name} PRIVATE ${TF_TEST_OPTIONS})
endfunction()

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
  tf_test_library(${name}.fakegpu)
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
  tf_test_library(${A_NAME})
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
