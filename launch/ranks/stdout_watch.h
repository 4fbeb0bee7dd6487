// Whether anybody still reads what rank 0 prints under mpirun.
//
// A rank's stdout leads to mpirun, which passes it on to its own. When the reader of that is gone (`mpirun .. | head`),
// mpirun alone meets the error: after the tenth it complains of SIGPIPE, and aborts the job while the ranks go on
// printing. So rank 0 looks before each write whether the pipe behind mpirun still has a reader. A process that writes
// to the pipe itself ends by SIGPIPE.
#pragma once

#include "core/status.h"

namespace tokenferry {

// On rank 0, once, before it prints and before it has threads: `stdout` becomes a stream that looks before it writes,
// and drops what nobody would read. Does nothing where it cannot look: without an mpirun of this host as parent, or
// when mpirun's stdout is no pipe.
void WatchStdout();

// Cancelled, once the stream has dropped something; OK otherwise. A command that prints while it runs returns it
// through AgreeOnStatus, so that all ranks end, which is no failure: who has closed the pipe has what they wanted.
absl::Status CheckStdoutIsRead();

}  // namespace tokenferry
