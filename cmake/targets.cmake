# tf_library(NAME name SOURCES .. DEPS ..)       one box of the layer diagram: target tokenferry_<name>
# tf_test(NAME name SOURCES .. DEPS .. [RANKS 1 2 3] [LABELS ..] [TIMEOUT s] [PROGRAMS target ..])
#   without RANKS: one process. With RANKS: one ctest per rank count, under mpirun, with tests/support's MPI main.
#   Test names: <name> or <name>.np<ranks>. PROGRAMS are built with it, for tests that start them.
#   LABELS: `slow` (not in the short sanitizer runs), `tsan` (also run under the thread sanitizer).
# tf_script_test(NAME name COMMAND .. [LABELS ..] [TIMEOUT s] [PROGRAMS target ..])   a test that is not GoogleTest
# tf_fuzz(NAME name SOURCES .. DEPS .. [SEEDS folder])   a libFuzzer target, built in preset `fuzz` only; its test runs it
#   for TOKENFERRY_FUZZ_SECONDS from the files in SEEDS
#
# tests_quick: every test that is not `slow`; tests_tsan: those labelled `tsan`; fuzzers: every libFuzzer target.

set(TF_WARNINGS -Wall -Wextra -Wno-missing-field-initializers)
set(TOKENFERRY_FUZZ_SECONDS 10 CACHE STRING "how long the test of a libFuzzer target runs")

add_library(tf_options INTERFACE)
target_include_directories(tf_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(tf_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${TF_WARNINGS}>)
# A product and a sum are contracted only where the code says fma: results must not depend on the compiler's mood.
target_compile_options(tf_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
if(TOKENFERRY_SANITIZE)
  target_compile_options(tf_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${TOKENFERRY_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(tf_options INTERFACE -fsanitize=${TOKENFERRY_SANITIZE})
endif()
if(TOKENFERRY_FUZZ)
  target_compile_options(tf_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link>)
endif()

if(TOKENFERRY_TESTS)
  add_custom_target(tests_quick)
  add_custom_target(tests_tsan)
endif()
if(TOKENFERRY_FUZZ)
  add_custom_target(fuzzers)
endif()

# What sanitizers must not report because it is Open MPI's; folders of the source tree.
set(TF_TEST_ENVIRONMENT
  "TF_SOURCE_DIR=${PROJECT_SOURCE_DIR}"
  "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/lsan.supp:print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1")

function(tf_library)
  cmake_parse_arguments(A "" "NAME" "SOURCES;DEPS" ${ARGN})
  add_library(tokenferry_${A_NAME} STATIC ${A_SOURCES})
  target_link_libraries(tokenferry_${A_NAME} PUBLIC tf_options ${A_DEPS})
endfunction()

# Builds `target` with the groups that `labels` put it in.
function(tf_join_groups target labels)
  if(NOT "slow" IN_LIST labels)
    add_dependencies(tests_quick ${target})
  endif()
  if("tsan" IN_LIST labels)
    add_dependencies(tests_tsan ${target})
  endif()
endfunction()

function(tf_test)
  cmake_parse_arguments(A "" "NAME;TIMEOUT" "SOURCES;DEPS;RANKS;LABELS;PROGRAMS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  add_executable(${A_NAME} ${A_SOURCES})
  target_link_libraries(${A_NAME} PRIVATE tf_options ${A_DEPS} GTest::gtest GTest::gmock)
  if(A_PROGRAMS)
    add_dependencies(${A_NAME} ${A_PROGRAMS})
  endif()
  tf_join_groups(${A_NAME} "${A_LABELS}")
  if(NOT A_RANKS)
    target_link_libraries(${A_NAME} PRIVATE GTest::gtest_main)
    add_test(NAME ${A_NAME} COMMAND ${A_NAME})
    set_tests_properties(${A_NAME} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}"
                         ENVIRONMENT "${TF_TEST_ENVIRONMENT}")
    return()
  endif()
  target_link_libraries(${A_NAME} PRIVATE tokenferry_test_mpi_main)
  foreach(n ${A_RANKS})
    add_test(NAME ${A_NAME}.np${n} COMMAND ${PROJECT_SOURCE_DIR}/tests/support/mpirun.sh ${n} $<TARGET_FILE:${A_NAME}>)
    set_tests_properties(${A_NAME}.np${n} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "mpi;${A_LABELS}" PROCESSORS 2
                         ENVIRONMENT "${TF_TEST_ENVIRONMENT}")
  endforeach()
endfunction()

function(tf_script_test)
  cmake_parse_arguments(A "" "NAME;TIMEOUT" "COMMAND;LABELS;PROGRAMS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
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
  set_tests_properties(${A_NAME} PROPERTIES TIMEOUT ${timeout} ENVIRONMENT "${TF_TEST_ENVIRONMENT}")
endfunction()
