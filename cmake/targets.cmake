# tf_library(NAME name SOURCES .. DEPS ..)       one box of the layer diagram: target tokenferry_<name>
# tf_test(NAME name SOURCES .. DEPS .. [RANKS 1 2 3] [LABELS ..] [TIMEOUT s])
#   without RANKS: one process. With RANKS: one ctest per rank count, under mpirun, with tests/support's MPI main.
#   Test names: <name> or <name>.np<ranks>.

set(TF_WARNINGS -Wall -Wextra -Wno-missing-field-initializers)

add_library(tf_options INTERFACE)
target_include_directories(tf_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(tf_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${TF_WARNINGS}>)
# A product and a sum are contracted only where the code says fma: results must not depend on the compiler's mood.
target_compile_options(tf_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
if(TOKENFERRY_SANITIZE)
  target_compile_options(tf_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${TOKENFERRY_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(tf_options INTERFACE -fsanitize=${TOKENFERRY_SANITIZE})
endif()

function(tf_library)
  cmake_parse_arguments(A "" "NAME" "SOURCES;DEPS" ${ARGN})
  add_library(tokenferry_${A_NAME} STATIC ${A_SOURCES})
  target_link_libraries(tokenferry_${A_NAME} PUBLIC tf_options ${A_DEPS})
endfunction()

function(tf_test)
  cmake_parse_arguments(A "" "NAME;TIMEOUT" "SOURCES;DEPS;RANKS;LABELS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  add_executable(${A_NAME} ${A_SOURCES})
  target_link_libraries(${A_NAME} PRIVATE tf_options ${A_DEPS} GTest::gtest GTest::gmock)
  if(NOT A_RANKS)
    target_link_libraries(${A_NAME} PRIVATE GTest::gtest_main)
    add_test(NAME ${A_NAME} COMMAND ${A_NAME})
    set_tests_properties(${A_NAME} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}" ENVIRONMENT "TF_SOURCE_DIR=${PROJECT_SOURCE_DIR}")
    return()
  endif()
  target_link_libraries(${A_NAME} PRIVATE tokenferry_test_mpi_main)
  foreach(n ${A_RANKS})
    add_test(NAME ${A_NAME}.np${n} COMMAND ${PROJECT_SOURCE_DIR}/tests/support/mpirun.sh ${n} $<TARGET_FILE:${A_NAME}>)
    set_tests_properties(${A_NAME}.np${n} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "mpi;${A_LABELS}" PROCESSORS 2
                         ENVIRONMENT "TF_SOURCE_DIR=${PROJECT_SOURCE_DIR}")
  endforeach()
endfunction()
