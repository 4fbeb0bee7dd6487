# cmake --install build/cpu --prefix PREFIX: the program, what it is started with, and the libraries `comm` and
# `experts` (over `core`) with their headers as the CMake package `tokenferry`. Headers name each other from the root of
# the source tree ("comm/exchange/exchange.h"), so they get a root of their own below include/.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(headers ${CMAKE_INSTALL_INCLUDEDIR}/tokenferry)
install(TARGETS tokenferry RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS tokenferry_core tokenferry_comm tokenferry_experts EXPORT tokenferry
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${headers})
foreach(box core comm experts)
  set_target_properties(tokenferry_${box} PROPERTIES EXPORT_NAME ${box})
  file(GLOB_RECURSE files RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${box}/*.h)
  list(FILTER files EXCLUDE REGEX "(-inl|/io/(json[a-z_]*|report_figures))\\.h$")  # kernels' own, and what needs a library besides
  foreach(file ${files})
    cmake_path(GET file PARENT_PATH folder)
    install(FILES ${file} DESTINATION ${headers}/${folder})
  endforeach()
endforeach()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/tokenferry)
install(EXPORT tokenferry FILE tokenferry-targets.cmake NAMESPACE tokenferry:: DESTINATION ${package})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/tokenferry-config.cmake.in tokenferry-config.cmake
  INSTALL_DESTINATION ${package})
write_basic_package_version_file(tokenferry-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tokenferry-config.cmake ${PROJECT_BINARY_DIR}/tokenferry-config-version.cmake
  DESTINATION ${package})

if(NOT CMAKE_CROSSCOMPILING)
  install(FILES ${PROJECT_BINARY_DIR}/tokenferry.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  install(FILES ${PROJECT_BINARY_DIR}/tokenferry.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
    RENAME tokenferry)
endif()
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES launch/scripts/mpirun_env.sh DESTINATION ${CMAKE_INSTALL_DATADIR}/tokenferry)
install(PROGRAMS launch/scripts/gpu_rank.sh DESTINATION ${CMAKE_INSTALL_DATADIR}/tokenferry)
install(DIRECTORY cluster-configs DESTINATION ${CMAKE_INSTALL_DATADIR}/tokenferry)
