# cmake -DSOURCE=.. -DOUTPUT=.. -DVERSION=.. -DCUDA=.. -P version.cmake: writes what `tokenferry --version` says, at every
# build, since the commit changes without CMake; only when it has changed.
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty=-modified --abbrev=12 --exclude=*
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed OR NOT commit)
  set(commit unknown)  # a release's archive has no history
endif()
if(NOT CUDA)
  set(CUDA "none, CPUs only")
endif()
file(WRITE ${OUTPUT}.new "// Written by cmake/version.cmake.
#pragma once
inline constexpr char kVersionNumber[] = \"${VERSION}\";
inline constexpr char kCommit[] = \"${commit}\";
inline constexpr char kCudaToolkit[] = \"${CUDA}\";
")
file(COPY_FILE ${OUTPUT}.new ${OUTPUT} ONLY_IF_DIFFERENT)
